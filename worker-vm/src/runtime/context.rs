//! `ctx`: what a template may do, and the way to its plugins (template API, section 2).
//!
//! The object costs two small allocations an event: a userdata that shares its template's [`ContextCore`], and a copy of
//! the class's metatable, which holds the event and, once read, the plugins. The collector sees the event there, so a
//! `ctx` that is kept keeps its event, and one that is stored inside its own event is still collected with it.

#![expect(unsafe_code, reason = "Luau's C API")]

use std::ffi::{CStr, c_int, c_void};
use std::rc::Rc;
use std::sync::Arc;

use worker_core::{Capabilities, Template, TemplateOrigin};

use super::held::Held;
use super::vm::Vm;
use crate::error::ApiError;
use crate::luau::class::{Object, tags};
use crate::luau::native::{self, Call, raise};
use crate::luau::stack::{self, List, Push, push_bytes, set_field};
use crate::luau::{ffi, lua_State};
use crate::modules::datetime::rfc3339;
use crate::plugins::discord::{DiscordPlugin, DiscordRecorder};
use crate::plugins::kv::Kv;
use crate::plugins::objects::ObjectStorage;
use crate::plugins::{captcha, http};
use crate::vmdatastores::DataStores;

/// What a context is, beside its event: shared by all contexts of a template, and by what is reached through them.
pub(crate) struct ContextCore {
    pub(crate) template: Arc<Template>,
    /// The capabilities in force.
    pub(crate) caps: Capabilities,
    /// In place of this one, for plugins that a limited context of an old template does not limit (template API, A30).
    unlimited: Option<Rc<ContextCore>>,
    /// What a limited context takes: a script may make any number of them.
    _held: Option<Held>,
}

impl ContextCore {
    pub(crate) fn new(template: Arc<Template>, caps: Capabilities) -> Self {
        Self { template, caps, unlimited: None, _held: None }
    }

    /// The context whose capabilities count for plugins other than `KV`, `DataStores` and `ObjectStorage`.
    fn for_other_plugins(this: &Rc<Self>) -> Rc<Self> {
        this.unlimited.as_ref().unwrap_or(this).clone()
    }

    /// The capability is held, or an error that names it.
    pub(crate) fn require(&self, capability: &str) -> Result<(), ApiError> {
        if self.caps.holds(capability) { Ok(()) } else { Err(ApiError::missing_capability(capability)) }
    }
}

/// The field of a context's metatable that holds its event.
pub(super) const EVENT: &CStr = c"__event";

/// Makes the metatable that each context gets a copy of. May raise.
pub(crate) fn make_metatable(l: *mut lua_State) -> c_int {
    // SAFETY: LUA_MINSTACK is enough: what is pushed is stored at once.
    unsafe {
        ffi::lua_setuserdatadtor(l, tags::CONTEXT, Some(destroy));
        ffi::lua_createtable(l, 0, 8);
        "TemplateContext".push(l);
        set_field(l, -2, c"__type");
        false.push(l);
        set_field(l, -2, c"__metatable");
        // A place for the event, so that setting it grows nothing.
        false.push(l);
        set_field(l, -2, EVENT);
        ffi::lua_createtable(l, 0, 4);
        native::push_function(l, c"event", |call: &Call| {
            context(call, 1)?;
            Ok(EventOf)
        });
        set_field(l, -2, c"event");
        native::push_function(l, c"has_cap", |call: &Call| Ok(context(call, 1)?.caps.holds(call.str(2, "cap")?)));
        set_field(l, -2, c"has_cap");
        native::push_function(l, c"has_any_cap", |call: &Call| {
            let context = context(call, 1)?;
            let (caps, max) = (call.strings(2, "caps")?, call.vm().limits().templates.caps_max);
            if caps.len() > max {
                return Err(ApiError::too_large(format_args!("caps (at most {max})")));
            }
            Ok(caps.iter().any(|cap| context.caps.holds(cap)))
        });
        set_field(l, -2, c"has_any_cap");
        native::push_function(l, c"withlimits", with_limits);
        set_field(l, -2, c"withlimits");
        ffi::lua_setreadonly(l, -1, 1);
        ffi::lua_pushcclosurek(l, index, c"TemplateContext".as_ptr(), 1, None);
        set_field(l, -2, c"__index");
        ffi::lua_ref(l, -1)
    }
}

/// Pushes a context for the event on top of the stack, above it. May raise.
pub(crate) fn push(vm: &Vm, l: *mut lua_State, core: Rc<ContextCore>) {
    // SAFETY: the block is made for an Rc and filled at once; its destructor is its tag's. The event is below it.
    unsafe {
        let block = ffi::lua_newuserdatatagged(l, size_of::<Rc<ContextCore>>(), tags::CONTEXT);
        block.cast::<Rc<ContextCore>>().write(core);
        ffi::lua_rawgeti_(l, ffi::LUA_REGISTRYINDEX, vm.context_metatable());
        ffi::lua_clonetable(l, -1);
        ffi::lua_remove(l, -2);
        ffi::lua_pushvalue(l, -3);
        set_field(l, -2, EVENT);
        ffi::lua_setmetatable(l, -2);
    }
}

unsafe extern "C" fn destroy(_: *mut lua_State, block: *mut c_void) {
    // SAFETY: called once, by the collector, for a block that `push` filled.
    unsafe { block.cast::<Rc<ContextCore>>().drop_in_place() }
}

fn read<'a>(l: *mut lua_State, idx: c_int) -> Option<&'a Rc<ContextCore>> {
    // SAFETY: only `push` makes userdata with this tag.
    unsafe { ffi::lua_touserdatatagged(l, idx, tags::CONTEXT).cast::<Rc<ContextCore>>().as_ref() }
}

fn context(call: &Call, index: c_int) -> Result<&Rc<ContextCore>, ApiError> {
    read(call.state(), index).ok_or_else(|| ApiError::invalid_argument("self (expected a TemplateContext)"))
}

/// Pushes the event of the context that is argument 1.
struct EventOf;

impl Push for EventOf {
    fn push(self, l: *mut lua_State) -> c_int {
        // SAFETY: argument 1 is a context, whose metatable is its own.
        unsafe {
            ffi::lua_getmetatable(l, 1);
            ffi::lua_rawgetfield(l, -1, EVENT.as_ptr());
        }
        1
    }
}

/// A context with fewer capabilities for the same event as argument 1's.
struct Limited(Rc<ContextCore>);

impl Push for Limited {
    fn push(self, l: *mut lua_State) -> c_int {
        EventOf.push(l);
        push(Vm::current(), l, self.0);
        // SAFETY: room for a few values; argument 1 is the parent and the child is on top, each with its own metatable.
        unsafe {
            let child = ffi::lua_gettop(l);
            if let Some(parent) = read(l, 1) {
                // `data` is the parent's, whoever reads it first.
                kept(l, c"data", |l| push_script_data(l, parent));
                ffi::lua_getmetatable(l, child);
                ffi::lua_insert(l, -2);
                set_field(l, -2, c"data");
            }
            ffi::lua_settop(l, child);
        }
        1
    }
}

fn with_limits(call: &Call) -> Result<Limited, ApiError> {
    let parent = context(call, 1)?;
    let mut wanted = call.table_field(2, c"capabilities", |call, index| call.strings(index, "capabilities"))?;
    let max = call.vm().limits().templates.caps_max;
    if wanted.len() > max {
        return Err(ApiError::too_large(format_args!("capabilities (at most {max})")));
    }
    for capability in &wanted {
        parent.require(capability)?;
    }
    wanted.sort_unstable();
    wanted.dedup();
    let bytes = wanted.iter().map(|capability| capability.len() + size_of::<Box<str>>()).sum::<usize>();
    let held = Held::new(call.vm().weak(), bytes + size_of::<ContextCore>())
        .ok_or_else(|| ApiError::memory("no room for a context"))?;
    let caps = wanted.into_iter().map(String::into_boxed_str).collect();
    let template = parent.template.clone();
    let unlimited = (!template.compat.limits_every_plugin()).then(|| ContextCore::for_other_plugins(parent));
    Ok(Limited(Rc::new(ContextCore { template, caps, unlimited, _held: Some(held) })))
}

/// `ctx[name]`. Upvalue 1 is the table of methods.
unsafe extern "C-unwind" fn index(l: *mut lua_State) -> c_int {
    let Some(core) = read(l, 1) else {
        raise(l, ApiError::invalid_argument("self (expected a TemplateContext)"));
    };
    // SAFETY: raw reads with room for a few values; the key is argument 2.
    unsafe {
        ffi::lua_pushvalue(l, 2);
        if ffi::lua_rawget(l, ffi::lua_upvalueindex(1)) != ffi::LUA_TNIL {
            return 1;
        }
    }
    let Some(name) = stack::bytes(l, 2) else { return 0 };
    match name {
        b"KV" => kept(l, c"KV", |l| Object(Kv::new(core.clone())).push(l)),
        b"DataStores" => kept(l, c"DataStores", |l| Object(DataStores::new(core.clone())).push(l)),
        b"ObjectStorage" => kept(l, c"ObjectStorage", |l| Object(ObjectStorage::new(core.clone())).push(l)),
        b"HTTPClient" => kept(l, c"HTTPClient", |l| http::push_client(l, ContextCore::for_other_plugins(core))),
        b"ImageCaptcha" => kept(l, c"ImageCaptcha", captcha::push_plugin),
        b"data" => kept(l, c"data", |l| push_script_data(l, core)),
        b"store" => push_store(l),
        b"guild_id" => Vm::current().tenant.id.snowflake().to_string().push(l),
        b"template_name" => core.template.name.as_str().push(l),
        b"owner_guild_id" => owner(core).push(l),
        b"allowed_caps" => kept(l, c"allowed_caps", |l| {
            List(core.caps.iter().map(str::to_owned).collect()).push(l);
            // SAFETY: the list is on top.
            unsafe { ffi::lua_setreadonly(l, -1, 1) };
            1
        }),
        b"memory_limit" => (Vm::current().memory().limit() as f64).push(l),
        b"current_user" => match Vm::current().surroundings.state.current_user() {
            Some(user) => kept(l, c"current_user", |l| {
                user.as_ref().push(l);
                1
            }),
            None => raise(l, ApiError::unavailable("current_user (no Discord connection)")),
        },
        b"Discord" if Vm::current().surroundings.state.recorder().is_some() => {
            kept(l, c"Discord", |l| Object(DiscordRecorder::new(ContextCore::for_other_plugins(core))).push(l))
        }
        b"Discord" if Vm::current().surroundings.state.discord().is_some() => {
            kept(l, c"Discord", |l| Object(DiscordPlugin::new(ContextCore::for_other_plugins(core))).push(l))
        }
        b"HTTPServer" | b"Discord" => raise(l, ApiError::unavailable(String::from_utf8_lossy(name))),
        _ => Option::<&str>::None.push(l),
    }
}

fn owner(core: &ContextCore) -> Option<String> {
    match &core.template.origin {
        TemplateOrigin::Shop { owner, .. } => owner.map(|owner| owner.to_string()),
        TemplateOrigin::Tenant | TemplateOrigin::Builtin => None,
    }
}

/// Pushes what the context's metatable keeps under the name, made by `make` the first time. May raise.
fn kept(l: *mut lua_State, name: &CStr, make: impl FnOnce(*mut lua_State) -> c_int) -> c_int {
    // SAFETY: argument 1 is a context, whose metatable is its own; one value is made, kept and left on top.
    unsafe {
        ffi::lua_getmetatable(l, 1);
        if ffi::lua_rawgetfield(l, -1, name.as_ptr()) != ffi::LUA_TNIL {
            return 1;
        }
        ffi::lua_settop(l, -2);
        make(l);
        ffi::lua_pushvalue(l, -1);
        set_field(l, -3, name);
    }
    1
}

/// `ctx.store`: one table for all templates of the tenant, as long as its VM lives. May raise.
fn push_store(l: *mut lua_State) -> c_int {
    let vm = Vm::current();
    // SAFETY: one slot; the reference is the VM's own.
    unsafe {
        if let Some(&reference) = vm.store.get() {
            ffi::lua_rawgeti_(l, ffi::LUA_REGISTRYINDEX, reference);
        } else {
            ffi::lua_createtable(l, 0, 0);
            let _ = vm.store.set(ffi::lua_ref(l, -1));
        }
    }
    1
}

/// `ctx.data`: ScriptData. May raise.
fn push_script_data(l: *mut lua_State, core: &ContextCore) -> c_int {
    let template = &core.template;
    let (shop_name, description) = match &template.origin {
        TemplateOrigin::Shop { name, description, .. } => (Some(name.clone()), description.clone()),
        TemplateOrigin::Tenant | TemplateOrigin::Builtin => (None, None),
    };
    // SAFETY: LUA_MINSTACK is enough: each value is stored at once.
    unsafe { ffi::lua_createtable(l, 0, 11) };
    let set = |name: &CStr, value: Option<String>| {
        if let Some(value) = value {
            push_bytes(l, value.as_bytes());
            set_field(l, -2, name);
        }
    };
    set(c"guild_id", Some(Vm::current().tenant.id.snowflake().to_string()));
    set(c"name", Some(template.name.to_string()));
    set(c"description", description.as_deref().map(str::to_owned));
    set(c"shop_name", shop_name.as_deref().map(str::to_owned));
    set(c"shop_owner", owner(core));
    set(c"error_channel", template.error_channel.map(|channel| channel.to_string()));
    set(c"lang", Some("luau".to_owned()));
    set(c"created_at", Some(rfc3339(template.created_at)));
    set(c"updated_at", Some(rfc3339(template.updated_at)));
    List(template.events.iter().map(ToString::to_string).collect()).push(l);
    set_field(l, -2, c"events");
    List(core.caps.iter().map(str::to_owned).collect()).push(l);
    set_field(l, -2, c"allowed_caps");
    1
}
