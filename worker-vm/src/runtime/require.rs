//! `require` inside a VM: each module runs once for each template.

#![expect(unsafe_code, reason = "Luau's C API")]

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, c_int, c_void};
use std::rc::Rc;
use std::sync::Arc;

use super::coroutines::break_too;
use super::environment::Environment;
use super::run;
use super::threads::{Phase, Resume, Role, ThreadId, ThreadTag};
use super::vm::Vm;
use crate::error::ApiError;
use crate::luau::compile;
use crate::luau::native::{Outcome, raise};
use crate::luau::stack::Push;
use crate::luau::{ffi, lua_State};
use crate::modules;
use crate::require_path::RequireTree;

/// Spellings of `require` that a template's environment remembers.
const SPELLINGS_MAX: usize = 4_096;

/// Bytes of a `require`: twice what a path may have.
const SPEC_BYTES_MAX: usize = 512;

/// A module of an environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ModuleId {
    environment: u16,
    number: usize,
}

/// What became of a module.
pub(crate) struct Module {
    path: Arc<str>,
    state: ModuleState,
    /// Why it could not be loaded the last time.
    failure: Option<Box<str>>,
}

enum ModuleState {
    Unloaded,
    Loading {
        waiters: Vec<ThreadId>,
        /// The module that its body waits for.
        waits_for: Option<usize>,
    },
    /// A registry reference to its value.
    Loaded(c_int),
    /// Its text is what it is: it is not compiled again.
    DoesNotCompile(Box<str>),
}

/// Which module a file means by a text: remembered, since `/init.luau` runs its requires for every event.
#[derive(Default)]
pub(crate) struct Spellings(RefCell<HashMap<Arc<str>, SpellingsOfFile>>);

/// What one file says, and the numbers of the modules that it means.
type SpellingsOfFile = HashMap<Box<str>, usize>;

enum Step {
    Value(c_int),
    Wait,
    /// The module's body was preempted while its requirer waits for it; its thread and a mark lie on the stack.
    Preempted,
}

/// A reference whose value is pushed to those that waited.
struct Reference(c_int);

impl Push for Reference {
    fn push(self, l: *mut lua_State) -> c_int {
        // SAFETY: one slot of a native function's stack.
        unsafe { ffi::lua_rawgeti_(l, ffi::LUA_REGISTRYINDEX, self.0) };
        1
    }
}

/// Pushes the function `require`. May raise.
pub(crate) fn push_function(l: *mut lua_State) {
    // SAFETY: the name is static.
    unsafe { ffi::lua_pushcclosurek(l, require, c"require".as_ptr(), 0, Some(require_continued)) }
}

unsafe extern "C-unwind" fn require(l: *mut lua_State) -> c_int {
    go_on(l, step(l))
}

/// `require` goes on: with the value it waited for above its argument, or with a body that was preempted.
unsafe extern "C-unwind" fn require_continued(l: *mut lua_State, _: c_int) -> c_int {
    // SAFETY: the stack is as `run_now` or the scheduler left it.
    unsafe {
        if ffi::lua_gettop(l) < 3 {
            return 1;
        }
        let co = ffi::lua_tothread(l, 2);
        match ffi::lua_status(co) {
            ffi::LUA_BREAK => break_too(l),
            status => go_on(l, body_came_back(Vm::current(), l, co, status)),
        }
    }
}

fn go_on(l: *mut lua_State, step: Result<Step, ApiError>) -> c_int {
    match step {
        Ok(Step::Value(reference)) => Reference(reference).push(l),
        // SAFETY: only where the thread may yield.
        Ok(Step::Wait) => unsafe {
            ffi::lua_settop(l, 1);
            ffi::lua_yield(l, 0)
        },
        Ok(Step::Preempted) => break_too(l),
        Err(error) => raise(l, error),
    }
}

fn step(l: *mut lua_State) -> Result<Step, ApiError> {
    let vm = Vm::current();
    let Some(spec) = crate::luau::stack::bytes(l, 1).and_then(|spec| std::str::from_utf8(spec).ok()) else {
        return Err(ApiError::require("expected a string"));
    };
    if spec.len() > SPEC_BYTES_MAX {
        return Err(ApiError::require(format_args!("more than {SPEC_BYTES_MAX} bytes name no module")));
    }
    if spec.eq_ignore_ascii_case(modules::test::NAME) {
        modules::test::check_access(vm)?;
        return registered_module(vm, l, modules::test::NAME).map(Step::Value);
    }
    if let Some(name) = modules::registered(spec) {
        return registered_module(vm, l, name).map(Step::Value);
    }
    let (environment, from) = caller(vm, l).ok_or_else(|| ApiError::require("called from outside of any template"))?;
    let number = match environment.spellings.find(&from, spec) {
        Some(number) => number,
        None => {
            let library = vm.surroundings.state.library();
            let tree = RequireTree { own: &environment.template.files, library };
            let path = tree.resolve(&from, spec).map_err(ApiError::from)?;
            let number = environment.module_number(&path);
            environment.spellings.remember(from, spec, number);
            number
        }
    };
    load(vm, l, &environment, number)
}

fn registered_module(vm: &Vm, l: *mut lua_State, name: &'static str) -> Result<c_int, ApiError> {
    if let Some(&reference) = vm.registered_modules.borrow().get(name) {
        return Ok(reference);
    }
    modules::push(l, name);
    // SAFETY: the module's table is on top; all templates of the tenant share it, so none may change it.
    let reference = unsafe {
        ffi::lua_setreadonly(l, -1, 1);
        let reference = ffi::lua_ref(l, -1);
        ffi::lua_settop(l, -2);
        reference
    };
    vm.registered_modules.borrow_mut().insert(name, reference);
    Ok(reference)
}

/// The template function that calls a native function: its environment and its file.
pub(crate) fn caller(vm: &Vm, l: *mut lua_State) -> Option<(Rc<Environment>, Arc<str>)> {
    for level in 1..16 {
        // SAFETY: a zeroed lua_Debug is valid; `f` pushes the function, which is popped; strings are copied at once.
        unsafe {
            if ffi::lua_checkstack(l, 3) == 0 {
                return None;
            }
            let mut debug: ffi::lua_Debug = std::mem::zeroed();
            if ffi::lua_getinfo(l, level, c"sf".as_ptr(), &raw mut debug) == 0 {
                return None;
            }
            if ffi::lua_iscfunction(l, -1) != 0 {
                ffi::lua_settop(l, -2);
                continue;
            }
            ffi::lua_getfenv(l, -1);
            let globals: *const c_void = ffi::lua_topointer(l, -1);
            ffi::lua_settop(l, -3);
            let environment = vm.environment_by_globals(globals)?;
            let source = CStr::from_ptr(debug.source).to_str().ok()?;
            let source = source.trim_start_matches('=');
            // A chunk of `@antiraid/luau` is no file, whatever it calls itself: it is read as if it stood in the entry.
            let file = if source.starts_with(modules::luau::SOURCE_PREFIX) { "/init.luau" } else { source };
            return Some((environment, file.into()));
        }
    }
    None
}

fn load(vm: &Vm, l: *mut lua_State, environment: &Rc<Environment>, number: usize) -> Result<Step, ApiError> {
    let path = {
        let modules = environment.modules.borrow();
        let module = &modules[number];
        match &module.state {
            ModuleState::Loaded(reference) => return Ok(Step::Value(*reference)),
            ModuleState::DoesNotCompile(text) => return Err(ApiError::verbatim(&**text)),
            ModuleState::Loading { .. } => {
                drop(modules);
                return wait_for(vm, l, environment, number);
            }
            ModuleState::Unloaded => module.path.clone(),
        }
    };
    let module = ModuleId { environment: environment.number, number };
    match vm.surroundings.state.bytecode_now(&environment.template.files, &path) {
        Some(Ok(bytecode)) => run_now(vm, l, environment, module, &path, &bytecode),
        Some(Err(error)) => {
            let text = error.to_string();
            environment.modules.borrow_mut()[number].state = ModuleState::DoesNotCompile(text.as_str().into());
            Err(ApiError::verbatim(text))
        }
        None => compile_first(vm, l, environment, module, path),
    }
}

/// Runs a module's body at once, inside of the call that requires it, as the script would itself.
fn run_now(
    vm: &Vm,
    l: *mut lua_State,
    environment: &Rc<Environment>,
    module: ModuleId,
    path: &str,
    bytecode: &[u8],
) -> Result<Step, ApiError> {
    // SAFETY: a native function's stack has room; the thread stays on it, above the argument, while the body runs.
    let co = unsafe {
        ffi::lua_settop(l, 1);
        ffi::lua_newthread(l)
    };
    let tag = ThreadTag::of(l);
    ThreadTag::new(environment.number, tag.dispatch).set(co);
    let loaded = vm.protect(|main| {
        // SAFETY: the function is moved to a new thread, which has room.
        unsafe {
            ffi::lua_rawgeti_(main, ffi::LUA_REGISTRYINDEX, environment.globals);
            compile::load(main, path, bytecode);
            ffi::lua_xmove(main, co, 1);
        }
        vm.entry_for(co, Phase::Running)
    });
    let id = loaded.map_err(|_| ApiError::verbatim("not enough memory"))??;
    vm.set_role(id, Role::Module(module));
    environment.modules.borrow_mut()[module.number].state =
        ModuleState::Loading { waiters: Vec::new(), waits_for: None };
    set_waits_for(vm, l, environment, Some(module.number));
    match run::nested_resume(l, co, 0) {
        ffi::LUA_BREAK => {
            // SAFETY: room for a mark.
            unsafe { ffi::lua_pushlightuserdata(l, std::ptr::null_mut()) };
            Ok(Step::Preempted)
        }
        status => body_came_back(vm, l, co, status),
    }
}

/// The body that ran inside of `require` has come back: to its end, or because it waits for something.
fn body_came_back(vm: &Vm, l: *mut lua_State, co: *mut lua_State, status: c_int) -> Result<Step, ApiError> {
    let Some(Role::Module(module)) = vm.role_of(co) else {
        return Err(ApiError::require("the module's thread was closed"));
    };
    let environment = vm.environment_by_number(module.environment).ok_or_else(|| ApiError::require("gone"))?;
    vm.came_back(co, status);
    let settled = {
        let mut modules = environment.modules.borrow_mut();
        let module = &mut modules[module.number];
        match module.state {
            ModuleState::Loaded(reference) => Some(Ok(Step::Value(reference))),
            ModuleState::Unloaded | ModuleState::DoesNotCompile(_) => {
                Some(Err(ApiError::verbatim(module.failure.take().unwrap_or_default())))
            }
            ModuleState::Loading { .. } => None,
        }
    };
    if let Some(settled) = settled {
        set_waits_for(vm, l, &environment, None);
        return settled;
    }
    // SAFETY: `l` is the calling thread.
    if unsafe { ffi::lua_isyieldable(l) } == 0 {
        vm.cancel_thread(co);
        return Err(ApiError::require("a module that waits cannot be loaded from a metamethod or a callback"));
    }
    wait_for(vm, l, &environment, module.number)
}

/// Notes for which module the body that `l` runs, if it runs one, waits.
fn set_waits_for(vm: &Vm, l: *mut lua_State, environment: &Environment, number: Option<usize>) {
    if let Some(mine) = vm.module_of_thread(l)
        && mine.environment == environment.number
        && let ModuleState::Loading { waits_for, .. } = &mut environment.modules.borrow_mut()[mine.number].state
    {
        *waits_for = number;
    }
}

/// Suspends the requirer until the module is compiled, off this thread, and its body has run.
fn compile_first(
    vm: &Vm,
    l: *mut lua_State,
    environment: &Rc<Environment>,
    module: ModuleId,
    path: Arc<str>,
) -> Result<Step, ApiError> {
    // First, since it may raise: a module that is `Loading` must have somebody who loads it.
    vm.entry_for(l, Phase::Running)?;
    environment.modules.borrow_mut()[module.number].state =
        ModuleState::Loading { waiters: Vec::new(), waits_for: None };
    // The load counts as alive: what it brings may resume who is suspended.
    environment.live.set(environment.live.get() + 1);
    if let Err(error) = wait_for(vm, l, environment, module.number) {
        environment.modules.borrow_mut()[module.number].state = ModuleState::Unloaded;
        environment.live.set(environment.live.get() - 1);
        return Err(error);
    }
    let tag = ThreadTag::of(l);
    let bytecode = vm.surroundings.state.bytecode(&environment.template.files, &path);
    let (vm, busy) = (vm.weak(), vm.clock().busy());
    tokio::task::spawn_local(async move {
        let _busy = busy;
        let bytecode = bytecode.await;
        let Some(vm) = vm.upgrade() else { return };
        match bytecode {
            Ok(bytecode) => vm.run_module(module, &path, &bytecode, tag),
            Err(error) => vm.module_failed(module, &error.to_string()),
        }
        vm.went_dead(module.environment);
    });
    Ok(Step::Wait)
}

fn wait_for(vm: &Vm, l: *mut lua_State, environment: &Environment, number: usize) -> Result<Step, ApiError> {
    // SAFETY: `l` is the calling thread.
    if unsafe { ffi::lua_isyieldable(l) } == 0 {
        return Err(ApiError::require("the module is still being loaded, and a metamethod or callback cannot wait"));
    }
    let mine = vm.module_of_thread(l).filter(|module| module.environment == environment.number);
    if let Some(mine) = mine {
        let mut modules = environment.modules.borrow_mut();
        let mut next = Some(number);
        while let Some(at) = next {
            if at == mine.number {
                return Err(ApiError::require(format_args!("cycle: {} requires itself", modules[at].path)));
            }
            next = match &modules[at].state {
                ModuleState::Loading { waits_for, .. } => *waits_for,
                _ => None,
            };
        }
        if let ModuleState::Loading { waits_for, .. } = &mut modules[mine.number].state {
            *waits_for = Some(number);
        }
    }
    let id = vm.entry_for(l, Phase::Requiring)?;
    if let ModuleState::Loading { waiters, .. } = &mut environment.modules.borrow_mut()[number].state {
        waiters.push(id);
    }
    Ok(Step::Wait)
}

impl Environment {
    /// The number of the module at this path, given when it is first asked for.
    fn module_number(&self, path: &str) -> usize {
        if let Some(&number) = self.module_numbers.borrow().get(path) {
            return number;
        }
        let path: Arc<str> = path.into();
        let mut modules = self.modules.borrow_mut();
        modules.push(Module { path: path.clone(), state: ModuleState::Unloaded, failure: None });
        self.module_numbers.borrow_mut().insert(path, modules.len() - 1);
        modules.len() - 1
    }
}

impl Spellings {
    fn find(&self, from: &str, spec: &str) -> Option<usize> {
        self.0.borrow().get(from)?.get(spec).copied()
    }

    fn remember(&self, from: Arc<str>, spec: &str, number: usize) {
        let mut spellings = self.0.borrow_mut();
        // A script may make up spellings without end; those beyond the limit are resolved each time.
        if spellings.values().map(HashMap::len).sum::<usize>() < SPELLINGS_MAX {
            spellings.entry(from).or_default().insert(spec.into(), number);
        }
    }
}

impl Vm {
    /// Starts a module's body in a thread of its own.
    fn run_module(&self, module: ModuleId, path: &str, bytecode: &[u8], tag: ThreadTag) {
        let Some(environment) = self.environment_by_number(module.environment) else { return };
        let scheduled = self.protect(|l| {
            // SAFETY: the thread gets the function and stays on the stack until its entry anchors it.
            unsafe {
                let co = ffi::lua_newthread(l);
                ThreadTag::new(tag.environment, tag.dispatch).set(co);
                ffi::lua_rawgeti_(l, ffi::LUA_REGISTRYINDEX, environment.globals);
                compile::load(l, path, bytecode);
                ffi::lua_xmove(l, co, 1);
                self.schedule(co, 0, Role::Module(module))
            }
        });
        match scheduled {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => self.module_failed(module, &error.to_string()),
            Err(_) => self.module_failed(module, "not enough memory"),
        }
    }

    /// The module whose body the thread runs.
    fn module_of_thread(&self, l: *mut lua_State) -> Option<ModuleId> {
        match self.role_of(l)? {
            Role::Module(module) => Some(module),
            Role::Main | Role::Plain => None,
        }
    }

    /// A module's body came to its end.
    pub(crate) fn module_ended(&self, module: ModuleId, state: *mut lua_State, status: c_int) {
        if status != ffi::LUA_OK {
            let text = super::vm::error_text(state);
            self.module_failed(module, &text);
            return;
        }
        let path =
            self.environment_by_number(module.environment).map(|e| e.modules.borrow()[module.number].path.clone());
        // SAFETY: the thread has ended; its results are all that is on its stack.
        let mut count = unsafe { ffi::lua_gettop(state) };
        if count == 0 && path.as_deref().is_some_and(|path| self.is_spec(path)) {
            // SAFETY: the thread has ended, with nothing on its stack, which has room.
            unsafe { ffi::lua_pushboolean(state, 1) };
            count = 1;
        }
        if count != 1 {
            let path = path.as_deref().unwrap_or_default();
            self.module_failed(module, &format!("require: {path} returns {count} values, a module returns one"));
            return;
        }
        let reference = self.protect(|l| {
            // SAFETY: one value is moved to a stack that has room, and taken a reference to.
            unsafe {
                ffi::lua_xmove(state, l, 1);
                ffi::lua_ref(l, -1)
            }
        });
        match reference {
            Ok(reference) => self.module_settled(module, ModuleState::Loaded(reference), || Ok(Reference(reference))),
            Err(_) => self.module_failed(module, "not enough memory"),
        }
    }

    /// A module could not be loaded: those that wait get the error, and the next to require it tries again.
    pub(crate) fn module_failed(&self, module: ModuleId, text: &str) {
        if let Some(environment) = self.environment_by_number(module.environment) {
            environment.modules.borrow_mut()[module.number].failure = Some(text.into());
        }
        self.module_settled(module, ModuleState::Unloaded, || Err::<Reference, _>(ApiError::verbatim(text)));
    }

    fn module_settled(&self, module: ModuleId, state: ModuleState, outcome: impl Fn() -> Result<Reference, ApiError>) {
        let Some(environment) = self.environment_by_number(module.environment) else { return };
        let before = std::mem::replace(&mut environment.modules.borrow_mut()[module.number].state, state);
        if let ModuleState::Loading { waiters, .. } = before {
            for waiter in waiters {
                if let Some(Role::Module(waiting)) = self.role_by_id(waiter)
                    && let Some(module) = environment.modules.borrow_mut().get_mut(waiting.number)
                    && let ModuleState::Loading { waits_for, .. } = &mut module.state
                {
                    *waits_for = None;
                }
                let outcome: Box<dyn Outcome> = Box::new(outcome());
                self.make_ready(waiter, Resume::Outcome(outcome));
            }
        }
    }
}
