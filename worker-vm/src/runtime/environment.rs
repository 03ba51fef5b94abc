//! What a template has for itself inside the tenant's VM: its globals, its modules, its entry.

#![expect(unsafe_code, reason = "Luau's C API")]

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::ffi::{c_int, c_void};
use std::rc::Rc;
use std::sync::Arc;

use worker_core::{Template, TemplateError};

use super::context::ContextCore;
use super::require::{Module, Spellings};
use super::threads::ThreadId;
use super::vm::Vm;
use crate::error::ApiError;
use crate::luau::stack::{self, Kind, Push};
use crate::luau::{ffi, lua_State};

/// The environment of one template.
pub(crate) struct Environment {
    pub(crate) number: u16,
    pub(crate) template: Arc<Template>,
    /// The context of its dispatches: capabilities and plugins are the same for each.
    pub(crate) context: Rc<ContextCore>,
    /// Registry reference of its table of globals.
    pub(crate) globals: c_int,
    /// Registry reference of the function of `/init.luau`; 0 until it is loaded.
    entry: Cell<c_int>,
    /// Why its entry cannot be loaded.
    load_error: RefCell<Option<TemplateError>>,
    /// Modules by number, and their numbers by absolute path.
    pub(crate) modules: RefCell<Vec<Module>>,
    pub(crate) module_numbers: RefCell<HashMap<Arc<str>, usize>>,
    pub(crate) spellings: Spellings,
    /// Threads that run, are ready, wait or sleep.
    pub(crate) live: Cell<u32>,
    /// The thread that was cut off at the end of its slice: until it has come to a point where it yields by itself, no
    /// other thread of the template runs, so that scripts never see each other half-way.
    pub(crate) preempted: Cell<Option<ThreadId>>,
    /// Ready threads that wait for that.
    pub(crate) held_back: RefCell<VecDeque<ThreadId>>,
    /// Dispatches that could not be run when they came: later ones wait behind them.
    pub(crate) unstarted: Cell<u32>,
}

impl Environment {
    pub(crate) fn new(number: u16, template: Arc<Template>, globals: c_int) -> Self {
        let context = Rc::new(ContextCore::new(template.clone(), template.allowed_caps.clone()));
        Self {
            number,
            template,
            context,
            globals,
            entry: Cell::new(0),
            load_error: RefCell::new(None),
            modules: RefCell::default(),
            module_numbers: RefCell::default(),
            spellings: Spellings::default(),
            live: Cell::new(0),
            preempted: Cell::new(None),
            unstarted: Cell::new(0),
            held_back: RefCell::default(),
        }
    }

    /// The registry reference of the entry; 0 if it is not loaded.
    pub(crate) fn entry(&self) -> c_int {
        self.entry.get()
    }

    pub(crate) fn load_error(&self) -> Option<TemplateError> {
        self.load_error.borrow().clone()
    }

    pub(crate) fn set_load_error(&self, error: TemplateError) {
        *self.load_error.borrow_mut() = Some(error);
    }

    pub(crate) fn set_entry(&self, reference: c_int) {
        self.entry.set(reference);
    }
}

/// Makes a template's table of globals: its reference and its address. May raise.
pub(crate) fn make_globals(vm: &Vm, l: *mut lua_State) -> (c_int, *const c_void) {
    // SAFETY: LUA_MINSTACK is enough for what is pushed; indices are of what was pushed here.
    unsafe {
        ffi::lua_createtable(l, 0, 4);
        ffi::lua_pushvalue(l, -1);
        stack::set_field(l, -2, c"_G");
        ffi::lua_rawgeti_(l, ffi::LUA_REGISTRYINDEX, vm.environment_metatable.get());
        ffi::lua_setmetatable(l, -2);
        // Reads of standard functions may be resolved when code is loaded: standard names cannot be overwritten.
        ffi::lua_setsafeenv(l, -1, 1);
        let reference = ffi::lua_ref(l, -1);
        let pointer = ffi::lua_topointer(l, -1);
        (reference, pointer)
    }
}

/// Makes the one metatable of all tables of globals: reading falls back to the standard globals, and standard names
/// cannot be written. May raise.
pub(crate) fn make_metatable(l: *mut lua_State) -> c_int {
    // SAFETY: as above.
    unsafe {
        ffi::lua_createtable(l, 0, 3);
        ffi::lua_pushvalue(l, ffi::LUA_GLOBALSINDEX);
        stack::set_field(l, -2, c"__index");
        ffi::lua_pushcclosurek(l, new_global, c"__newindex".as_ptr(), 0, None);
        stack::set_field(l, -2, c"__newindex");
        false.push(l);
        stack::set_field(l, -2, c"__metatable");
        ffi::lua_setreadonly(l, -1, 1);
        ffi::lua_ref(l, -1)
    }
}

/// `__newindex` of a table of globals: called for names that it does not have yet.
unsafe extern "C-unwind" fn new_global(l: *mut lua_State) -> c_int {
    // SAFETY: called with table, name and value; raw accesses at these indices.
    unsafe {
        ffi::lua_pushvalue(l, 2);
        ffi::lua_rawget(l, ffi::LUA_GLOBALSINDEX);
        if stack::kind(l, -1) != Kind::Nil {
            let name = stack::bytes(l, 2).map(String::from_utf8_lossy).unwrap_or_default().into_owned();
            let error = ApiError::invalid_argument(format_args!("the standard global `{name}` cannot be written"));
            drop(name);
            crate::luau::native::raise(l, error);
        }
        ffi::lua_settop(l, 3);
        ffi::lua_rawset(l, 1);
    }
    0
}
