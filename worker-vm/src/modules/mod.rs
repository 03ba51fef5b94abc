//! The modules that `require` knows by name (template API, sections 14.4 to 14.9), and the native types they give.

pub(crate) mod datetime;
pub(crate) mod interop;
pub(crate) mod lazy;
pub(crate) mod luau;
pub(crate) mod lune_datetime;
pub(crate) mod typesext;

use crate::luau::lua_State;

/// Pushes a module as a table. May raise.
type PushModule = fn(*mut lua_State);

/// The modules by name.
const MODULES: [(&str, PushModule); 5] = [
    ("@antiraid/datetime", datetime::push_module),
    ("@antiraid/interop", interop::push_module),
    ("@antiraid/luau", luau::push_module),
    ("@antiraid/typesext", typesext::push_module),
    ("@lune/datetime", lune_datetime::push_module),
];

/// Modules of the template API that this version does not have: a type file of the same name must not pass for them.
const NOT_BUILT: [&str; 3] = ["@antiraid/datamgmt", "@lune/regex", "@lune/serde"];

/// The missing module that a `require` means.
pub(crate) fn not_built(spec: &str) -> Option<&'static str> {
    NOT_BUILT.into_iter().find(|name| name.eq_ignore_ascii_case(spec))
}

/// The registered module that a `require` means; names ignore case.
pub(crate) fn registered(spec: &str) -> Option<&'static str> {
    MODULES.iter().map(|(name, _)| *name).find(|name| name.eq_ignore_ascii_case(spec))
}

/// Pushes a registered module's table. May raise.
pub(crate) fn push(l: *mut lua_State, name: &str) {
    if let Some((_, push)) = MODULES.iter().find(|(module, _)| *module == name) {
        push(l);
    }
}
