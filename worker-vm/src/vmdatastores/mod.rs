//! `ctx.DataStores`: stores by name, each a table of functions (template API, section 6).

#![expect(unsafe_code, reason = "Luau's C API")]

mod copy_data_store;
mod links_store;
mod stats_store;
mod template_store;

use std::ffi::{CStr, c_int};
use std::rc::Rc;

use worker_core::RatelimitFamily;

use crate::error::ApiError;
use crate::luau::class::{self, Class, ClassBuilder, Object, tags};
use crate::luau::native::{self, Call};
use crate::luau::stack::{List, Push, PushBox, set_field};
use crate::luau::{ffi, lua_State};
use crate::runtime::context::ContextCore;

/// Every store, in the order in which iterating names them.
static STORES: [Store; 4] = [copy_data_store::STORE, links_store::STORE, stats_store::STORE, template_store::STORE];

/// What a store is: the same for all contexts.
struct Store {
    name: &'static CStr,
    /// Whether its methods need capabilities.
    needs_caps: bool,
    methods: &'static [Method],
}

/// A method's name, and what pushes it as a function with the value on top, the [`DataStore`], as its upvalue.
type Method = (&'static CStr, fn(*mut lua_State, &'static CStr));

impl Store {
    fn name(&self) -> &'static str {
        text(self.name)
    }
}

fn text(name: &'static CStr) -> &'static str {
    name.to_str().expect("because all names are ASCII")
}

/// The data stores of a context, by name.
pub(crate) struct DataStores {
    context: Rc<ContextCore>,
}

impl DataStores {
    pub(crate) fn new(context: Rc<ContextCore>) -> Self {
        Self { context }
    }
}

impl Class for DataStores {
    const TAG: c_int = tags::DATA_STORES;
    const NAME: &'static str = "DataStores";
    const C_NAME: &'static CStr = c"DataStores";
    const HAS_FIELDS: bool = true;

    fn field(&self, _: &Call, name: &str) -> Result<Option<Box<dyn PushBox>>, ApiError> {
        let store = STORES.iter().find(|store| store.name() == name);
        Ok(store.map(|store| Box::new(DataStore { context: self.context.clone(), store }) as Box<dyn PushBox>))
    }

    fn register(class: &mut ClassBuilder) {
        class.meta(c"__iter", |call: &Call| {
            call.object::<Self>(1, "self")?;
            Ok(NextName)
        });
    }
}

/// Pushes the function that a `for` loop calls for the next name. Its second argument is the last name.
struct NextName;

impl Push for NextName {
    fn push(self, l: *mut lua_State) -> c_int {
        native::push_function(l, c"next", |call: &Call| {
            let mut names = STORES.iter().map(Store::name);
            if let Some(last) = call.str_opt(2, "name")? {
                names.by_ref().find(|name| *name == last);
            }
            Ok(names.next())
        });
        1
    }
}

/// A store as a context sees it: what its functions have as their upvalue. Pushed by [`DataStores`], as argument 1, it is
/// the table of these functions, made once.
#[derive(Clone)]
struct DataStore {
    context: Rc<ContextCore>,
    store: &'static Store,
}

impl Class for DataStore {
    const TAG: c_int = tags::DATA_STORE;
    const NAME: &'static str = "DataStore";
    const C_NAME: &'static CStr = c"DataStore";
}

impl Push for DataStore {
    fn push(self, l: *mut lua_State) -> c_int {
        class::push_kept(l, 1, self.store, |l| self.push_table(l));
        1
    }
}

impl DataStore {
    /// May raise.
    fn push_table(&self, l: *mut lua_State) {
        let own: [Method; 4] = [
            (c"need_caps", push_needs_caps),
            (c"needs_caps", push_needs_caps),
            (c"needed_caps", push_needs_caps),
            (c"methods", |l, name| {
                native::push_closure(l, name, 1, |call: &Call| {
                    let names = this(call)?.store.methods.iter().map(|(name, _)| text(name));
                    Ok(List(names.collect()))
                });
            }),
        ];
        // SAFETY: raises if there is no room; each function takes the copy of the upvalue on top, and is stored at once.
        unsafe {
            ffi::lua_rawcheckstack(l, 4);
            ffi::lua_createtable(l, 0, (self.store.methods.len() + own.len() + 1) as c_int);
            self.store.name().push(l);
            set_field(l, -2, c"name");
            Object(self.clone()).push(l);
            for (name, push) in own.iter().chain(self.store.methods) {
                ffi::lua_pushvalue(l, -1);
                push(l, name);
                set_field(l, -3, name);
            }
            ffi::lua_settop(l, -2);
            ffi::lua_setreadonly(l, -1, 1);
        }
    }
}

fn push_needs_caps(l: *mut lua_State, name: &'static CStr) {
    native::push_closure(l, name, 1, |call: &Call| {
        call.str(1, "op")?;
        Ok(this(call)?.store.needs_caps)
    });
}

/// The store that a called function belongs to.
fn this(call: &Call) -> Result<&DataStore, ApiError> {
    call.upvalue(1).ok_or_else(|| ApiError::internal(&"a function of a data store without its store"))
}

/// Lets a call of a method in, after its arguments were read: it needs the capability, and counts in the rate limits.
fn admit<'a>(call: &'a Call, method: &str) -> Result<&'a Rc<ContextCore>, ApiError> {
    let DataStore { context, store } = this(call)?;
    let bucket = format!("{}:{method}", store.name());
    let capability = format!("datastore:{bucket}");
    if store.needs_caps && !context.caps.holds(&format!("datastore:{}", store.name())) {
        context.require(&capability)?;
    }
    call.vm().tenant.ratelimits.take(RatelimitFamily::DataStores, &bucket, 1)?;
    Ok(context)
}
