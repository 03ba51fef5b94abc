//! One tenant's Luau VM and its scheduler.

#![expect(unsafe_code, reason = "Luau's C API")]

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::ffi::{c_int, c_void};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use tokio::sync::Notify;
use worker_core::{Clock, EventName, Limits, Snowflake, SourceLine, StaticRef, Template, TemplateError, TemplateName};

use super::dispatches::Dispatch;
use super::environment::Environment;
use super::run;
use super::threads::{ThreadId, ThreadTag, Threads};
use super::turns::Turns;
use super::{context, environment, sandbox, starter};
use crate::error::VmError;
use crate::luau::alloc::{self, Memory};
use crate::luau::keys::KeyDictionary;
use crate::luau::stack::{self, Kind};
use crate::luau::{ffi, lua_State};
use crate::services::ErrorReport;
use crate::tenant::Tenant;
use crate::tenant_log::LogKind;
use crate::worker_state::WorkerState;
use worker_db::WorkerCacheData;

/// Why nothing more can be started in a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// All is well.
    Good,
    /// Replaced by a newer one: what runs may end.
    Retired,
    /// Out of memory, or given up: its state is not to be trusted.
    Broken,
}

/// What the layer gives every VM of a worker.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) state: WorkerState,
    pub(crate) cache: WorkerCacheData,
    pub(crate) turns: Turns,
    pub(crate) keys: Rc<RefCell<KeyDictionary>>,
    /// Counts what [`Vm::log_error`] logs.
    pub(crate) threads_failed: Rc<Cell<u64>>,
    /// What all VMs hold.
    pub(crate) memory_bytes: Rc<Cell<usize>>,
    pub(crate) limits: StaticRef<Limits>,
}

/// The Luau VM of one tenant.
pub(crate) struct Vm {
    pub(super) main: *mut lua_State,
    pub(super) weak: Weak<Self>,
    pub(super) memory: Box<Memory>,
    /// What [`Surroundings::memory_bytes`] counts of it.
    pub(super) memory_booked: Cell<usize>,
    pub(crate) tenant: Rc<Tenant>,
    pub(crate) surroundings: Surroundings,
    pub(super) array_metatable: Cell<c_int>,
    pub(super) array_metatable_pointer: Cell<*const c_void>,
    pub(crate) environment_metatable: Cell<c_int>,
    pub(super) context_metatable: Cell<c_int>,
    pub(super) starter: Cell<c_int>,
    /// `ctx.store`, made when first read.
    pub(crate) store: OnceCell<c_int>,
    pub(crate) registered_modules: RefCell<HashMap<&'static str, c_int>>,
    pub(super) environments: RefCell<Vec<Rc<Environment>>>,
    pub(super) environments_by_position: RefCell<Vec<Option<Rc<Environment>>>>,
    pub(super) environment_of_globals: RefCell<HashMap<*const c_void, u16>>,
    pub(super) threads: RefCell<Threads>,
    pub(super) dispatches: RefCell<Vec<Option<Dispatch>>>,
    /// Slots that no dispatch has, each with the first of its serial numbers that none had yet.
    pub(super) dispatches_free: RefCell<Vec<(usize, u32)>>,
    pub(super) dispatches_live: Cell<usize>,
    pub(super) ready: RefCell<VecDeque<ThreadId>>,
    pub(super) driving: Cell<bool>,
    /// Coroutines that exist, scripts' own included.
    pub(super) coroutines: Cell<usize>,
    pub(super) health: Cell<Health>,
    pub(super) idle: Notify,
    /// Whether anybody ever waited for [`idle`](Self::idle).
    pub(super) idle_awaited: Cell<bool>,
}

/// An error that a protected call ended with.
#[derive(Debug)]
pub(crate) enum LuaFailure {
    Memory,
    Error(String),
}

impl Vm {
    /// Makes a VM with its standard globals.
    pub(crate) fn new(tenant: Rc<Tenant>, surroundings: Surroundings) -> Result<Rc<Self>, VmError> {
        sandbox::set_process_flags();
        let limit = surroundings.limits.vm_memory_bytes_max;
        let no_memory = VmError::NoMemory { limit_bytes: limit };
        let memory = Box::new(Memory::new(limit));
        let ud = (&raw const *memory).cast_mut().cast::<c_void>();
        // SAFETY: the allocator's account is boxed and outlives the state: fields of `Vm` are dropped after `drop`.
        let main = unsafe { ffi::lua_newstate(alloc::allocate, ud) };
        if main.is_null() {
            return Err(no_memory);
        }
        let vm = Rc::new_cyclic(|weak| Self {
            main,
            weak: weak.clone(),
            memory,
            memory_booked: Cell::new(0),
            tenant,
            surroundings,
            array_metatable: Cell::new(0),
            array_metatable_pointer: Cell::new(std::ptr::null()),
            environment_metatable: Cell::new(0),
            context_metatable: Cell::new(0),
            starter: Cell::new(0),
            store: OnceCell::new(),
            registered_modules: RefCell::default(),
            environments: RefCell::default(),
            environments_by_position: RefCell::default(),
            environment_of_globals: RefCell::default(),
            threads: RefCell::default(),
            dispatches: RefCell::default(),
            dispatches_free: RefCell::default(),
            dispatches_live: Cell::new(0),
            ready: RefCell::default(),
            driving: Cell::new(false),
            coroutines: Cell::new(0),
            health: Cell::new(Health::Good),
            idle: Notify::new(),
            idle_awaited: Cell::new(false),
        });
        vm.memory.set_callbacks(vm.callbacks());
        let set_up = vm.protect(|l| {
            sandbox::set_up(&vm, l);
            vm.context_metatable.set(context::make_metatable(l));
            vm.starter.set(starter::make(l, vm.context_metatable.get(), &vm.surroundings.keys.borrow()));
        });
        // SAFETY: the state is alive; the field is set from its own thread while nothing runs.
        unsafe { (*vm.callbacks()).userthread = Some(on_thread) };
        set_up.map_err(|_| no_memory)?;
        Ok(vm)
    }

    /// The VM whose code calls. The reference is good until that call returns; [`Vm::rc`] keeps the VM.
    pub(crate) fn current() -> &'static Self {
        let vm = run::current();
        assert!(!vm.is_null(), "native functions are called by a running VM only");
        // SAFETY: the scheduler holds the VM while it runs; callers do not keep the reference beyond their call.
        unsafe { &*vm }
    }

    /// A handle that keeps the VM.
    pub(crate) fn rc(&self) -> Rc<Self> {
        self.weak.upgrade().expect("because a VM that runs is held by who runs it")
    }

    pub(crate) fn weak(&self) -> Weak<Self> {
        self.weak.clone()
    }

    pub(crate) fn clock(&self) -> &Clock {
        self.surroundings.state.clock()
    }

    /// Whether the file is a spec that the harness runs in this VM: a module that need not return anything.
    pub(crate) fn is_spec(&self, path: &str) -> bool {
        path.ends_with(".spec.luau")
            && self.surroundings.state.harness().is_some_and(|harness| harness.host().is_some())
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.surroundings.limits
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    pub(crate) fn health(&self) -> Health {
        self.health.get()
    }

    /// The registry reference of the list metatable.
    pub(crate) fn array_metatable(&self) -> c_int {
        self.array_metatable.get()
    }

    /// The address of the list metatable, to compare with.
    pub(crate) fn array_metatable_pointer(&self) -> *const c_void {
        self.array_metatable_pointer.get()
    }

    pub(crate) fn set_array_metatable(&self, reference: c_int, pointer: *const c_void) {
        self.array_metatable.set(reference);
        self.array_metatable_pointer.set(pointer);
    }

    pub(crate) fn context_metatable(&self) -> c_int {
        self.context_metatable.get()
    }

    /// The registry reference of the function that starts runs.
    pub(crate) fn starter(&self) -> c_int {
        self.starter.get()
    }

    pub(crate) fn callbacks(&self) -> *mut ffi::lua_Callbacks {
        // SAFETY: the state is alive for as long as `self`.
        unsafe { ffi::lua_callbacks(self.main) }
    }

    /// How many coroutines exist, garbage included.
    pub(crate) fn coroutines(&self) -> usize {
        self.coroutines.get()
    }

    /// Books what the VM holds now among what all hold.
    pub(super) fn book_memory(&self, used: usize) {
        let before = self.memory_booked.replace(used);
        let all = &self.surroundings.memory_bytes;
        all.set(all.get() + used - before);
    }

    /// Collects all garbage.
    pub(crate) fn collect(&self) {
        // SAFETY: at a safe point, or while nothing runs.
        let collect = || unsafe { ffi::lua_gc(self.main, ffi::LUA_GCCOLLECT, 0) };
        // The hook that counts threads must find the VM.
        if run::current().is_null() {
            run::visit(self, collect)
        } else {
            collect()
        };
        self.memory.collected();
    }

    /// Collects if enough was allocated since the last time.
    pub(crate) fn collect_if_wanted(&self) -> bool {
        let wanted = self.memory.wants_collection();
        if wanted {
            self.collect();
        }
        wanted
    }

    /// Whether nothing runs, waits or sleeps in it.
    pub(crate) fn is_idle(&self) -> bool {
        self.dispatches_live.get() == 0 && self.threads.borrow().len() == 0
    }

    /// Waits until the VM is idle.
    pub(crate) async fn until_idle(&self) {
        self.idle_awaited.set(true);
        while !self.is_idle() {
            self.idle.notified().await;
        }
    }

    // ---- environments

    /// The environment of the template at this position among the tenant's, made when first asked for.
    pub(crate) fn environment_for(
        &self,
        position: usize,
        template: &Arc<Template>,
    ) -> Result<Rc<Environment>, TemplateError> {
        if let Some(Some(environment)) = self.environments_by_position.borrow().get(position) {
            return Ok(environment.clone());
        }
        let number = self.environments.borrow().len() as u16;
        let made = self.protect(|l| environment::make_globals(self, l));
        let (globals, pointer) = made.map_err(|failure| self.failure_error(&failure))?;
        let environment = Rc::new(Environment::new(number, template.clone(), globals));
        self.environments.borrow_mut().push(environment.clone());
        let mut by_position = self.environments_by_position.borrow_mut();
        if by_position.len() <= position {
            by_position.resize(position + 1, None);
        }
        by_position[position] = Some(environment.clone());
        self.environment_of_globals.borrow_mut().insert(pointer, number);
        Ok(environment)
    }

    /// The environment with this number.
    pub(crate) fn environment_by_number(&self, number: u16) -> Option<Rc<Environment>> {
        self.environments.borrow().get(usize::from(number)).cloned()
    }

    /// The environment whose table of globals this is.
    pub(crate) fn environment_by_globals(&self, globals: *const c_void) -> Option<Rc<Environment>> {
        let number = *self.environment_of_globals.borrow().get(&globals)?;
        self.environment_by_number(number)
    }

    // ---- protected calls

    /// Runs `f` in a protected call on the main thread. No script runs in it.
    pub(crate) fn protect<R>(&self, f: impl FnOnce(*mut lua_State) -> R) -> Result<R, LuaFailure> {
        struct Job<F, R> {
            f: Option<F>,
            result: Option<R>,
        }
        unsafe extern "C-unwind" fn job<F: FnOnce(*mut lua_State) -> R, R>(l: *mut lua_State) -> c_int {
            // SAFETY: the only argument is the pointer that `lua_cpcall` passes on.
            unsafe {
                let job = &mut *ffi::lua_tolightuserdata(l, 1).cast::<Job<F, R>>();
                ffi::lua_settop(l, 0);
                let f = job.f.take().expect("because a job is run once");
                job.result = Some(f(l));
            }
            0
        }
        let mut data = Job { f: Some(f), result: None };
        fn job_of<F: FnOnce(*mut lua_State) -> R, R>(_: &Job<F, R>) -> ffi::lua_CFunction {
            job::<F, R>
        }
        let (function, pointer) = (job_of(&data), (&raw mut data).cast());
        // SAFETY: `data` lives through the call.
        let run = || unsafe { ffi::lua_cpcall(self.main, function, pointer) };
        let status = if run::current().is_null() { run::visit(self, run) } else { run() };
        if status == ffi::LUA_OK {
            return Ok(data.result.expect("because the job returned"));
        }
        Err(self.take_failure(status))
    }

    /// Calls the function of a registry reference with a pointer, in a protected call on the main thread. The VM runs.
    pub(crate) fn call_protected(&self, function: c_int, argument: *mut c_void) -> Result<(), LuaFailure> {
        // SAFETY: the main thread, on which nothing else runs, has room for a function and its argument: it was made
        // with room for forty values and never holds more than a few.
        unsafe {
            ffi::lua_rawgeti_(self.main, ffi::LUA_REGISTRYINDEX, function);
            ffi::lua_pushlightuserdata(self.main, argument);
            match ffi::lua_pcall(self.main, 1, 0, 0) {
                ffi::LUA_OK => Ok(()),
                status => Err(self.take_failure(status)),
            }
        }
    }

    /// What a protected call on the main thread ended with.
    pub(super) fn take_failure(&self, status: c_int) -> LuaFailure {
        let failure =
            if status == ffi::LUA_ERRMEM { LuaFailure::Memory } else { LuaFailure::Error(error_text(self.main)) };
        // SAFETY: the error object is on top.
        unsafe { ffi::lua_settop(self.main, -2) };
        failure
    }

    pub(super) fn failure_error(&self, failure: &LuaFailure) -> TemplateError {
        match failure {
            LuaFailure::Memory => self.memory_error(),
            LuaFailure::Error(text) => TemplateError::new(text.as_str()),
        }
    }

    pub(super) fn memory_error(&self) -> TemplateError {
        TemplateError::new(format!(
            "memory: the tenant's templates went over {} bytes and lost their state",
            self.memory.limit()
        ))
    }

    /// Gives a registry reference back.
    pub(crate) fn unref(&self, reference: c_int) {
        // SAFETY: clears a slot of the registry; allocates nothing.
        unsafe { ffi::lua_unref(self.main, reference) };
    }

    // ---- the end of a VM

    /// What runs may end; nothing new is started here.
    pub(crate) fn retire(&self) {
        if self.health.get() == Health::Good {
            self.health.set(Health::Retired);
        }
    }

    /// The VM is not to be trusted any more: all that runs in it ends with an error, none of its code runs again.
    pub(crate) fn break_down(&self, reason: &TemplateError) {
        self.health.set(Health::Broken);
        self.cancel_all(reason);
    }

    /// Ends all that runs.
    pub(crate) fn cancel(&self) {
        self.health.set(Health::Broken);
        self.cancel_all(&TemplateError::new("cancelled: the VM was dropped"));
    }

    pub(super) fn cancel_all(&self, error: &TemplateError) {
        self.ready.borrow_mut().clear();
        let ids = self.threads.borrow().ids(|_| true);
        for id in ids {
            // The Lua threads are left as they are: the state is closed as a whole.
            self.threads.borrow_mut().remove(id);
        }
        let live: Vec<_> = self.dispatches.borrow().iter().flatten().map(|dispatch| dispatch.id).collect();
        for id in live {
            if self.with_dispatch(id, |dispatch| dispatch.finished.is_none()).unwrap_or(false) {
                self.complete(id, Err(error.clone()));
            }
        }
        self.notify_if_idle();
        self.idle.notify_waiters();
    }

    // ---- errors

    /// The error that a thread ended with.
    pub(super) fn error_of(&self, state: *mut lua_State, status: c_int) -> TemplateError {
        if status == ffi::LUA_ERRMEM {
            return TemplateError { at: source_line(state), ..self.memory_error() };
        }
        let (at, traceback) = trace(state);
        TemplateError { text: error_text(state).into(), at, traceback }
    }

    /// Logs how a thread ended that no entry stands for.
    pub(crate) fn log_thread_error(&self, state: *mut lua_State, status: c_int) {
        let tag = ThreadTag::of(state);
        if let Some(environment) = self.environment_by_number(tag.environment) {
            let error = self.error_of(state, status);
            self.log_error(&environment.template, self.event_of(tag.dispatch), &error);
        }
    }

    /// Puts the error of a thread that no caller hears of into the tenant's log, and to where people see it.
    pub(crate) fn log_error(&self, template: &Template, event: Option<EventName>, error: &TemplateError) {
        self.surroundings.log_error(&self.tenant, &template.name, template.error_channel, event, error);
        let failed = &self.surroundings.threads_failed;
        failed.set(failed.get() + 1);
    }
}

impl Surroundings {
    /// Puts an error of a template into the tenant's log, and to where people see it: its error channel, if there is a bot.
    pub(crate) fn log_error(
        &self,
        tenant: &Tenant,
        template: &TemplateName,
        channel: Option<Snowflake>,
        event: Option<EventName>,
        error: &TemplateError,
    ) {
        let text = match &error.traceback {
            Some(traceback) => format!("{error}\n{traceback}"),
            None => error.to_string(),
        };
        tenant.log.push(LogKind::Error, Some(template.clone()), event.clone(), &text);
        if let Some(discord) = self.state.discord() {
            let report = ErrorReport {
                tenant: tenant.id,
                template: template.clone(),
                channel,
                event,
                at: error.at.clone(),
                text,
            };
            discord.reports().report(report, self.state.db());
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.cancel_all(&TemplateError::new("cancelled: the VM was dropped"));
        // SAFETY: nothing runs: who runs a VM holds it. Destructors of native objects may look for the current VM.
        run::visit(self, || unsafe { ffi::lua_close(self.main) });
        self.book_memory(0);
        if self.memory.was_large() {
            alloc::give_back();
        }
    }
}

/// Luau's hook for threads that are made (with their maker) and collected (without one).
unsafe extern "C-unwind" fn on_thread(parent: *mut lua_State, thread: *mut lua_State) {
    let vm = run::current();
    if !parent.is_null() {
        let tag = ThreadTag::of(parent);
        ThreadTag::new(tag.environment, tag.dispatch).set(thread);
    }
    if !vm.is_null() {
        // SAFETY: the VM that makes or collects the thread is the current one.
        let coroutines = unsafe { &(*vm).coroutines };
        coroutines.set(if parent.is_null() { coroutines.get().saturating_sub(1) } else { coroutines.get() + 1 });
    }
}

/// The error object on top of a thread's stack as text, cut to what a log line holds.
pub(crate) fn error_text(l: *mut lua_State) -> String {
    const TEXT_MAX: usize = 4 << 10;
    let text = match stack::kind(l, -1) {
        Kind::String => {
            // One byte more than is kept: so a longer text is seen to be cut.
            let bytes = stack::bytes(l, -1).unwrap_or_default();
            String::from_utf8_lossy(&bytes[..bytes.len().min(TEXT_MAX + 1)]).into_owned()
        }
        Kind::Number => stack::number(l, -1).unwrap_or_default().to_string(),
        Kind::Nil | Kind::None => "error without a message (nil)".into(),
        kind => format!("error object is a {}, not a string", kind.name()),
    };
    if text.len() <= TEXT_MAX {
        return text;
    }
    let end = (0..=TEXT_MAX).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    format!("{}…", &text[..end])
}

/// The innermost line of a template on a thread's stack.
pub(super) fn source_line(l: *mut lua_State) -> Option<SourceLine> {
    trace(l).0
}

/// The innermost line and the calls on a thread's stack.
fn trace(l: *mut lua_State) -> (Option<SourceLine>, Option<Arc<str>>) {
    use std::fmt::Write;
    const FRAMES_MAX: c_int = 16;
    let mut at = None;
    let mut text = String::new();
    for level in 0..FRAMES_MAX {
        // SAFETY: a zeroed lua_Debug is valid; the strings that it points to live as long as the function, and are
        // copied at once.
        unsafe {
            let mut debug: ffi::lua_Debug = std::mem::zeroed();
            if ffi::lua_getinfo(l, level, c"sln".as_ptr(), &raw mut debug) == 0 {
                break;
            }
            if debug.currentline <= 0 || debug.short_src.is_null() {
                continue;
            }
            let path = std::ffi::CStr::from_ptr(debug.short_src).to_string_lossy();
            let line = debug.currentline as u32;
            if at.is_none() {
                at = Some(SourceLine { path: path.as_ref().into(), line });
            }
            let separator = if text.is_empty() { "" } else { "\n" };
            let _ = write!(text, "{separator}{path}:{line}");
            if !debug.name.is_null() {
                let _ = write!(text, " function {}", std::ffi::CStr::from_ptr(debug.name).to_string_lossy());
            }
        }
    }
    (at, (!text.is_empty()).then(|| text.into()))
}
