//! One tenant's Luau VM and its scheduler.

#![expect(unsafe_code, reason = "Luau's C API")]

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::ffi::{c_int, c_void};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use worker_core::{Event, EventName, Limits, SourceLine, StaticRef, Template, TemplateError, TemplateName, Value};

use super::environment::Environment;
use super::run::{self, Ran};
use super::threads::{DispatchId, Phase, Resume, Role, Thread, ThreadId, ThreadTag, Threads};
use super::turns::Turns;
use super::{context, environment, sandbox, starter};
use crate::error::{ApiError, VmError};
use crate::luau::alloc::{self, Memory};
use crate::luau::json::Json;
use crate::luau::keys::{EventKeys, KeyDictionary};
use crate::luau::native::Outcome;
use crate::luau::stack::{self, Kind};
use crate::luau::{ffi, lua_State, value};
use crate::tenant::Tenant;
use crate::tenant_log::LogKind;
use crate::worker_state::WorkerState;
use worker_db::WorkerCacheData;

/// What a run of a template came to.
pub(crate) type RunOutcome = Result<Value, TemplateError>;

/// A started run.
pub(crate) enum Started {
    /// It ended within its first slice.
    Done(RunOutcome),
    /// It goes on; the outcome comes here.
    Running(RunHandle),
}

/// The end through which a run's outcome comes.
pub(crate) struct RunHandle {
    pub(crate) outcome: oneshot::Receiver<RunOutcome>,
}

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
    pub(crate) limits: StaticRef<Limits>,
}

/// The Luau VM of one tenant.
pub(crate) struct Vm {
    main: *mut lua_State,
    weak: Weak<Self>,
    memory: Box<Memory>,
    pub(crate) tenant: Rc<Tenant>,
    pub(crate) surroundings: Surroundings,
    array_metatable: Cell<c_int>,
    array_metatable_pointer: Cell<*const c_void>,
    pub(crate) environment_metatable: Cell<c_int>,
    context_metatable: Cell<c_int>,
    starter: Cell<c_int>,
    /// `ctx.store`, made when first read.
    pub(crate) store: OnceCell<c_int>,
    pub(crate) registered_modules: RefCell<HashMap<&'static str, c_int>>,
    environments: RefCell<Vec<Rc<Environment>>>,
    environments_by_position: RefCell<Vec<Option<Rc<Environment>>>>,
    environment_of_globals: RefCell<HashMap<*const c_void, u16>>,
    threads: RefCell<Threads>,
    dispatches: RefCell<Vec<Option<Dispatch>>>,
    dispatches_free: RefCell<Vec<usize>>,
    dispatches_live: Cell<usize>,
    next_serial: Cell<u32>,
    ready: RefCell<VecDeque<ThreadId>>,
    driving: Cell<bool>,
    /// Coroutines that exist, scripts' own included.
    coroutines: Cell<usize>,
    health: Cell<Health>,
    idle: Notify,
}

struct Dispatch {
    id: DispatchId,
    environment: Rc<Environment>,
    event: EventName,
    nanos: u64,
    value_wanted: bool,
    finished: Option<RunOutcome>,
    reply: Option<oneshot::Sender<RunOutcome>>,
}

/// An error that a protected call ended with.
#[derive(Debug)]
pub(crate) enum LuaFailure {
    Memory,
    Error(String),
}

/// How a slice ended.
enum SliceEnd {
    Finished(c_int),
    Preempted(Vec<*mut lua_State>),
    Abandoned,
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
            next_serial: Cell::new(0),
            ready: RefCell::default(),
            driving: Cell::new(false),
            coroutines: Cell::new(0),
            health: Cell::new(Health::Good),
            idle: Notify::new(),
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

    /// Collects all garbage.
    pub(crate) fn collect(&self) {
        // SAFETY: at a safe point, or while nothing runs.
        unsafe { ffi::lua_gc(self.main, ffi::LUA_GCCOLLECT, 0) };
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
        while !self.is_idle() {
            self.idle.notified().await;
        }
    }

    // ---- environments

    /// The environment of the template at this position among the tenant's, if it has been made.
    pub(crate) fn environment_at(&self, position: usize) -> Option<Rc<Environment>> {
        self.environments_by_position.borrow().get(position)?.clone()
    }

    /// Makes the environment of the template at this position.
    pub(crate) fn make_environment(
        &self,
        position: usize,
        template: &Arc<Template>,
    ) -> Result<Rc<Environment>, TemplateError> {
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
    fn take_failure(&self, status: c_int) -> LuaFailure {
        let failure = if status == ffi::LUA_ERRMEM {
            LuaFailure::Memory
        } else {
            LuaFailure::Error(error_text(self.main))
        };
        // SAFETY: the error object is on top.
        unsafe { ffi::lua_settop(self.main, -2) };
        failure
    }

    fn failure_error(&self, failure: &LuaFailure) -> TemplateError {
        match failure {
            LuaFailure::Memory => self.memory_error(),
            LuaFailure::Error(text) => TemplateError::new(text.as_str()),
        }
    }

    fn memory_error(&self) -> TemplateError {
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

    // ---- dispatches

    /// Starts a run of the template for the event. The environment's entry must be loaded.
    pub(crate) fn start(
        &self,
        environment: &Rc<Environment>,
        event: &Event,
        data: &Json,
        keys: &mut EventKeys<'_>,
        value_wanted: bool,
    ) -> Started {
        if self.health.get() == Health::Broken {
            return Started::Done(Err(TemplateError::new("cancelled: the VM is gone")));
        }
        let Some(id) = self.new_dispatch_id() else {
            return Started::Done(Err(TemplateError::new("quota_exceeded: too many runs at once")));
        };
        let slice = self.limits().cpu_slice.as_nanos() as u64;
        let (started, ran) = run::enter(self, slice, || {
            let (state, anchor) = starter::start(self, environment, event, data, keys)?;
            let tag = ThreadTag::new(environment.number, id);
            // `evt` and `ctx`.
            let resume = Phase::Ready(Resume::Arguments(2));
            let Some(main) = self.threads.borrow_mut().insert(state, anchor, tag, resume, Role::Main) else {
                self.unref(anchor);
                return Err(LuaFailure::Error("quota_exceeded: threads".into()));
            };
            environment.live.set(environment.live.get() + 1);
            self.put_dispatch(Dispatch {
                id,
                environment: environment.clone(),
                event: event.name().clone(),
                nanos: 0,
                value_wanted,
                finished: None,
                reply: None,
            });
            let end = self.slice(main);
            Ok((main, end))
        });
        match started {
            Err(failure) => {
                self.tenant.account.charge(ran.nanos);
                self.release_dispatch_slot(id);
                if matches!(failure, LuaFailure::Memory) {
                    self.break_down();
                }
                Started::Done(Err(self.failure_error(&failure)))
            }
            Ok((main, end)) => {
                self.after_slice(main, end, ran);
                let mut dispatches = self.dispatches.borrow_mut();
                let dispatch = dispatches[id.slot()].as_mut().filter(|dispatch| dispatch.id == id);
                let Some(dispatch) = dispatch else {
                    return Started::Done(Err(TemplateError::new("cancelled: the VM is gone")));
                };
                if let Some(outcome) = dispatch.finished.take() {
                    dispatches[id.slot()] = None;
                    drop(dispatches);
                    self.release_dispatch_slot(id);
                    return Started::Done(outcome);
                }
                let (sender, outcome) = oneshot::channel();
                dispatch.reply = Some(sender);
                Started::Running(RunHandle { outcome })
            }
        }
    }

    fn new_dispatch_id(&self) -> Option<DispatchId> {
        let slot = match self.dispatches_free.borrow_mut().pop() {
            Some(slot) => slot,
            None => {
                let mut dispatches = self.dispatches.borrow_mut();
                if dispatches.len() >= DispatchId::SLOTS_MAX - 1 {
                    return None;
                }
                dispatches.push(None);
                dispatches.len() - 1
            }
        };
        self.dispatches_live.set(self.dispatches_live.get() + 1);
        self.next_serial.set(self.next_serial.get().wrapping_add(1) & 0xF_FFFF);
        Some(DispatchId::new(slot, self.next_serial.get()))
    }

    fn put_dispatch(&self, dispatch: Dispatch) {
        let slot = dispatch.id.slot();
        self.dispatches.borrow_mut()[slot] = Some(dispatch);
    }

    fn release_dispatch_slot(&self, id: DispatchId) {
        self.dispatches_free.borrow_mut().push(id.slot());
        self.dispatches_live.set(self.dispatches_live.get() - 1);
        self.notify_if_idle();
    }

    fn notify_if_idle(&self) {
        if self.health.get() != Health::Good && self.is_idle() {
            self.idle.notify_waiters();
        }
    }

    fn with_dispatch<R>(&self, id: DispatchId, f: impl FnOnce(&mut Dispatch) -> R) -> Option<R> {
        let mut dispatches = self.dispatches.borrow_mut();
        dispatches.get_mut(id.slot())?.as_mut().filter(|dispatch| dispatch.id == id).map(f)
    }

    /// The event that a dispatch is for, while it lives.
    pub(crate) fn event_of(&self, id: DispatchId) -> Option<EventName> {
        self.with_dispatch(id, |dispatch| dispatch.event.clone())
    }

    /// Ends a dispatch with its outcome. Its other threads go on in the background.
    fn complete(&self, id: DispatchId, outcome: RunOutcome) {
        let mut outcome = Some(outcome);
        let reply = self.with_dispatch(id, |dispatch| {
            if dispatch.reply.is_none() && dispatch.finished.is_none() {
                // Still in `start`, which picks it up.
                dispatch.finished = outcome.take();
            }
            dispatch.reply.take()
        });
        if let (Some(Some(reply)), Some(outcome)) = (reply, outcome) {
            let dispatch = self.dispatches.borrow_mut()[id.slot()].take();
            self.release_dispatch_slot(id);
            if let (Err(outcome), Some(dispatch)) = (reply.send(outcome), dispatch) {
                // Nobody waits any more: it timed out. The reference promises the error to the log.
                if let Err(error) = outcome {
                    self.log_error(&dispatch.environment.template.name, Some(dispatch.event), &error);
                }
            }
        }
    }

    // ---- slices

    /// Runs a thread until it ends, suspends itself or its slice is over. Called on the clock.
    fn slice(&self, id: ThreadId) -> SliceEnd {
        let taken = self.threads.borrow_mut().get_mut(id).map(|thread| {
            let phase = std::mem::replace(&mut thread.phase, Phase::Running);
            thread.call = None;
            (thread.state, std::mem::take(&mut thread.chain), phase)
        });
        let Some((state, mut chain, Phase::Ready(resume))) = taken else {
            return SliceEnd::Finished(ffi::LUA_YIELD);
        };
        let mut resume = Some(resume);
        loop {
            let target = chain.first().copied().unwrap_or(state);
            let ready = match resume.take() {
                Some(Resume::Arguments(count)) => Ok(count),
                Some(Resume::Outcome(outcome)) => self.push_outcome(target, outcome),
                Some(Resume::Preempted) | None => Ok(0),
            };
            // A panic that comes out of here is either `VmAbandoned` or a fault of ours in a place that must not have
            // one; the stacks of the VM are gone either way.
            let status = catch_unwind(AssertUnwindSafe(|| {
                // SAFETY: `target` is suspended or new, with its arguments or the error on top.
                unsafe {
                    match ready {
                        Ok(count) => ffi::lua_resume_(target, std::ptr::null_mut(), count),
                        Err(()) => ffi::lua_resumeerror(target, std::ptr::null_mut()),
                    }
                }
            }));
            match status {
                Err(panic) => {
                    if !panic.is::<run::VmAbandoned>() {
                        ApiError::from_panic(&*panic);
                    }
                    return SliceEnd::Abandoned;
                }
                Ok(ffi::LUA_BREAK) => {
                    // The new chain ends with `target`; those that wait for `target` follow.
                    let mut broken = run::take_chain();
                    broken.extend(chain.into_iter().skip(1));
                    return SliceEnd::Preempted(broken);
                }
                Ok(status) if target == state => return SliceEnd::Finished(status),
                // One that others wait for has come to its end or suspended itself: on with who waits for it.
                Ok(_) => {
                    chain.remove(0);
                }
            }
        }
    }

    fn push_outcome(&self, target: *mut lua_State, outcome: Box<dyn Outcome>) -> Result<c_int, ()> {
        let pushed = self.protect(|l| {
            let result = outcome.push_outcome(l);
            let count = result.unwrap_or(1);
            // SAFETY: the values are on top of `l`; room on the target is made first, which raises if there is none.
            unsafe {
                if ffi::lua_checkstack(target, count + 1) == 0 {
                    stack::push_bytes(l, b"not enough memory");
                    ffi::lua_error(l);
                }
                ffi::lua_xmove(l, target, count);
            }
            result
        });
        match pushed {
            Ok(result) => result,
            Err(_) => {
                // Not even the result fits: the thread gets Luau's own error instead. A short literal is interned
                // at most once, and if that fails as well, nil is raised.
                let text = self.protect(|l| {
                    stack::push_bytes(l, b"not enough memory");
                    // SAFETY: one value is moved; a suspended thread has room for one.
                    unsafe { ffi::lua_xmove(l, target, 1) };
                });
                if text.is_err() {
                    // SAFETY: as above.
                    unsafe { ffi::lua_pushnil(target) };
                }
                Err(())
            }
        }
    }

    /// Books a slice and decides how the thread goes on.
    fn after_slice(&self, id: ThreadId, end: SliceEnd, ran: Ran) {
        self.tenant.account.charge(ran.nanos);
        if let SliceEnd::Abandoned = end {
            self.break_down();
            return;
        }
        let Some(dispatch) = self.threads.borrow_mut().get_mut(id).map(|thread| {
            thread.nanos += ran.nanos;
            thread.tag.dispatch
        }) else {
            return;
        };
        let over = self.is_over_budget(id, dispatch, ran);
        match end {
            SliceEnd::Abandoned => {}
            SliceEnd::Preempted(chain) => {
                if let Some(thread) = self.threads.borrow_mut().get_mut(id) {
                    thread.chain = chain;
                    thread.phase = Phase::Ready(Resume::Preempted);
                }
                if over {
                    self.end_over_budget(id, dispatch);
                } else {
                    self.enqueue(id);
                }
            }
            SliceEnd::Finished(ffi::LUA_YIELD) => {
                if over {
                    self.end_over_budget(id, dispatch);
                } else {
                    self.discard_yielded(id);
                    self.suspended(id);
                }
            }
            // What ended by itself in its last slice has ended.
            SliceEnd::Finished(status) => {
                if over && ran.ended {
                    self.end_over_budget(id, dispatch);
                } else {
                    self.ended(id, status);
                }
            }
        }
        if self.memory.wants_collection() && self.health.get() != Health::Broken {
            self.collect();
        }
    }

    fn is_over_budget(&self, id: ThreadId, dispatch: DispatchId, ran: Ran) -> bool {
        let limits = self.limits();
        let used = self.with_dispatch(dispatch, |dispatch| {
            dispatch.nanos += ran.nanos;
            dispatch.nanos
        });
        let over = match used {
            Some(nanos) => nanos > limits.dispatch_cpu_max.as_nanos() as u64,
            // A background thread.
            None => {
                let nanos = self.threads.borrow().get(id).map_or(0, |thread| thread.nanos);
                nanos > limits.background_cpu_max.as_nanos() as u64
            }
        };
        over || ran.ended
    }

    /// Closes everything of a dispatch, or the one background thread, in a way that no script can catch.
    fn end_over_budget(&self, id: ThreadId, dispatch: DispatchId) {
        const TEXT: &str = "Script execution time limit exceeded";
        let at = self.threads.borrow().get(id).and_then(|thread| {
            let innermost = thread.chain.first().copied().unwrap_or(thread.state);
            source_line(innermost)
        });
        let error = TemplateError { text: TEXT.into(), at, traceback: None };
        let is_dispatch = self.with_dispatch(dispatch, |_| ()).is_some();
        if is_dispatch {
            let ids = self.threads.borrow().ids(|thread| thread.tag.dispatch == dispatch);
            self.complete(dispatch, Err(error));
            for id in ids {
                self.close(id);
            }
        } else {
            let environment = self.threads.borrow().get(id).map(|thread| thread.tag.environment);
            self.close(id);
            if let Some(environment) = environment.and_then(|number| self.environment_by_number(number)) {
                self.log_error(&environment.template.name, None, &error);
            }
        }
    }

    /// What a thread that the scheduler resumed hands over with a bare yield goes to nobody.
    fn discard_yielded(&self, id: ThreadId) {
        if let Some(thread) = self.threads.borrow().get(id) {
            // SAFETY: the thread is suspended.
            unsafe { ffi::lua_settop(thread.state, 0) };
        }
    }

    /// A thread suspended itself: in a call, or by a bare yield.
    fn suspended(&self, id: ThreadId) {
        let mut threads = self.threads.borrow_mut();
        let Some(thread) = threads.get_mut(id) else { return };
        if !matches!(thread.phase, Phase::Running) {
            // In a call: its end resumes it.
            return;
        }
        let role = thread.role;
        drop(threads);
        if role == Role::Plain {
            // Whoever holds the coroutine may resume it; the scheduler has nothing more to do with it.
            let thread = self.threads.borrow_mut().remove(id);
            self.release(thread);
        } else {
            self.set_phase(id, Phase::Parked);
        }
    }

    /// A thread came to its end.
    pub(crate) fn ended(&self, id: ThreadId, status: c_int) {
        let Some(thread) = self.threads.borrow_mut().remove(id) else { return };
        let environment = self.environment_by_number(thread.tag.environment);
        let error = (status != ffi::LUA_OK).then(|| self.error_of(thread.state, status));
        match thread.role {
            Role::Main => {
                let outcome = match error {
                    Some(error) => Err(error),
                    None => self.result_of(thread.state, thread.tag.dispatch),
                };
                self.complete(thread.tag.dispatch, outcome);
                if status == ffi::LUA_ERRMEM {
                    self.release(Some(thread));
                    self.break_down();
                    return;
                }
            }
            Role::Module(module) => self.module_ended(module, thread.state, status),
            Role::Plain => {
                if let (Some(error), Some(environment)) = (error, &environment) {
                    let event = self.event_of(thread.tag.dispatch);
                    self.log_error(&environment.template.name, event, &error);
                }
            }
        }
        self.release(Some(thread));
    }

    fn result_of(&self, state: *mut lua_State, dispatch: DispatchId) -> RunOutcome {
        if !self.with_dispatch(dispatch, |dispatch| dispatch.value_wanted).unwrap_or(false) {
            return Ok(Value::Null);
        }
        // SAFETY: the thread has ended; its results are all that is on its stack.
        let count = unsafe { ffi::lua_gettop(state) };
        let read = || value::read_results(state, 1, count);
        let result = if run::current().is_null() { run::visit(self, read) } else { read() };
        result.map_err(|error| TemplateError::new(error.to_string()))
    }

    /// Gives back what an entry held, and sees whether its template stalls without it.
    fn release(&self, thread: Option<Thread>) {
        let Some(thread) = thread else { return };
        self.unref(thread.anchor);
        if thread.phase.is_live() {
            self.went_dead(thread.tag.environment);
        }
        self.notify_if_idle();
    }

    /// One live thread of the template less: if it was the last, nobody is left to resume its suspended dispatches.
    fn went_dead(&self, environment: u16) {
        let Some(environment) = self.environment_by_number(environment) else { return };
        environment.live.set(environment.live.get().saturating_sub(1));
        if environment.live.get() > 0 {
            return;
        }
        let number = environment.number;
        let parked = |role: fn(Role) -> bool| {
            self.threads.borrow().ids(|thread| {
                thread.tag.environment == number && matches!(thread.phase, Phase::Parked) && role(thread.role)
            })
        };
        for id in parked(|role| matches!(role, Role::Module(_))) {
            self.stall(id);
        }
        // Who waited for those modules has their error now, and lives.
        if environment.live.get() == 0 {
            for id in parked(|role| role == Role::Main) {
                self.stall(id);
            }
        }
    }

    fn stall(&self, id: ThreadId) {
        let Some(thread) = self.threads.borrow_mut().remove(id) else { return };
        let text = "stalled: suspended by coroutine.yield, and no thread of the template is left to resume it";
        let at = source_line(thread.state);
        // SAFETY: the thread is suspended.
        unsafe { ffi::lua_resetthread(thread.state) };
        match thread.role {
            Role::Main => {
                let error = TemplateError { text: text.into(), at, traceback: None };
                self.complete(thread.tag.dispatch, Err(error));
            }
            Role::Module(module) => self.module_failed(module, text),
            Role::Plain => {}
        }
        self.release(Some(thread));
    }

    /// Closes a thread for good: its timer and its call are dropped, nothing of it runs again.
    pub(crate) fn close(&self, id: ThreadId) {
        let Some(thread) = self.threads.borrow_mut().remove(id) else { return };
        // Inner ones first: an outer one may hold the last reference to them.
        for &state in thread.chain.iter().filter(|&&state| state != thread.state) {
            // SAFETY: a preempted coroutine does not run.
            unsafe { ffi::lua_resetthread(state) };
            if let Some(inner) = self.threads.borrow().find(state) {
                self.close(inner);
            }
        }
        // SAFETY: it does not run: its entry was not in the phase Running, or its slice has ended.
        unsafe { ffi::lua_resetthread(thread.state) };
        match thread.role {
            Role::Main => {
                self.complete(thread.tag.dispatch, Err(TemplateError::new("cancelled: its main thread was closed")));
            }
            Role::Module(module) => self.module_failed(module, "cancelled: the module's thread was closed"),
            Role::Plain => {}
        }
        self.release(Some(thread));
    }

    /// Closes a thread that does not run, whether or not the scheduler knows it.
    pub(crate) fn cancel_thread(&self, l: *mut lua_State) {
        match self.find_thread(l) {
            Some(id) => self.close(id),
            // SAFETY: callers checked that it neither runs nor waits for a coroutine that does.
            None => unsafe { ffi::lua_resetthread(l) },
        }
    }

    // ---- the scheduler

    /// Puts a ready thread into the queue and sees that somebody works it off.
    fn enqueue(&self, id: ThreadId) {
        self.ready.borrow_mut().push_back(id);
        if !self.driving.replace(true) {
            let vm = self.rc();
            tokio::task::spawn_local(async move { vm.drive().await });
        }
    }

    async fn drive(&self) {
        let mut in_a_row = 0;
        loop {
            let Some(id) = self.ready.borrow_mut().pop_front() else { break };
            let preempted = match self.threads.borrow().get(id) {
                Some(thread) => matches!(thread.phase, Phase::Ready(Resume::Preempted)),
                None => continue,
            };
            let turn = if preempted || !self.tenant.account.in_credit() {
                Some(self.surroundings.turns.wait(&self.tenant.account).await)
            } else {
                None
            };
            if self.health.get() == Health::Broken {
                break;
            }
            let slice = self.limits().cpu_slice.as_nanos() as u64;
            let (end, ran) = run::enter(self, slice, || self.slice(id));
            self.after_slice(id, end, ran);
            drop(turn);
            in_a_row += 1;
            if in_a_row % 16 == 0 {
                tokio::task::yield_now().await;
            }
        }
        self.driving.set(false);
        self.notify_if_idle();
    }

    /// Suspends the calling thread until the future is done. The caller yields right after.
    pub(crate) fn begin_call(
        &self,
        l: *mut lua_State,
        future: impl Future<Output = Box<dyn Outcome>> + 'static,
    ) -> Result<(), ApiError> {
        let id = self.entry_for(l, Phase::Waiting)?;
        let vm = self.weak();
        let task = tokio::task::spawn_local(async move {
            let outcome = future.await;
            if let Some(vm) = vm.upgrade() {
                vm.make_ready(id, Resume::Outcome(outcome));
            }
        });
        if let Some(thread) = self.threads.borrow_mut().get_mut(id) {
            thread.call = Some(task.abort_handle());
        }
        Ok(())
    }

    /// The entry of a thread, made if it has none, in this phase from now on.
    pub(crate) fn entry_for(&self, l: *mut lua_State, phase: Phase) -> Result<ThreadId, ApiError> {
        let found = self.threads.borrow().find(l);
        if let Some(id) = found {
            self.set_phase(id, phase);
            return Ok(id);
        }
        if self.threads.borrow().len() >= self.limits().threads_max {
            return Err(ApiError::quota_exceeded("threads"));
        }
        // SAFETY: pushes the thread on its own stack and takes a reference; may raise, like every native function's
        // pushes. Asked for by native functions only, whose stack has room.
        let anchor = unsafe {
            if ffi::lua_checkstack(l, 1) == 0 {
                return Err(ApiError::memory("no room on the stack"));
            }
            ffi::lua_pushthread(l);
            let anchor = ffi::lua_ref(l, -1);
            ffi::lua_settop(l, -2);
            anchor
        };
        let tag = ThreadTag::of(l);
        let live = phase.is_live();
        let Some(id) = self.threads.borrow_mut().insert(l, anchor, tag, phase, Role::Plain) else {
            self.unref(anchor);
            return Err(ApiError::quota_exceeded("threads"));
        };
        if live {
            self.came_alive(tag.environment);
        }
        Ok(id)
    }

    /// Moves a thread to another phase and keeps the count of its template's live threads.
    fn set_phase(&self, id: ThreadId, phase: Phase) {
        let live = phase.is_live();
        let Some((was_live, environment)) = self.threads.borrow_mut().get_mut(id).map(|thread| {
            let was_live = std::mem::replace(&mut thread.phase, phase).is_live();
            (was_live, thread.tag.environment)
        }) else {
            return;
        };
        match (was_live, live) {
            (false, true) => self.came_alive(environment),
            (true, false) => self.went_dead(environment),
            _ => {}
        }
    }

    fn came_alive(&self, environment: u16) {
        if let Some(environment) = self.environment_by_number(environment) {
            environment.live.set(environment.live.get() + 1);
        }
    }

    /// What a thread waits for has come.
    pub(crate) fn make_ready(&self, id: ThreadId, resume: Resume) {
        let waits = self.threads.borrow_mut().get_mut(id).is_some_and(|thread| {
            thread.call = None;
            thread.nanos = 0;
            matches!(thread.phase, Phase::Waiting | Phase::Requiring)
        });
        if waits {
            self.set_phase(id, Phase::Ready(resume));
            self.enqueue(id);
        }
    }

    /// Schedules a thread on whose stack a function and `count` arguments lie (or the arguments, if it is suspended).
    pub(crate) fn schedule(&self, l: *mut lua_State, count: c_int, role: Role) -> Result<ThreadId, ApiError> {
        let id = self.entry_for(l, Phase::Ready(Resume::Arguments(count)))?;
        if role != Role::Plain
            && let Some(thread) = self.threads.borrow_mut().get_mut(id)
        {
            thread.role = role;
        }
        self.enqueue(id);
        Ok(id)
    }

    /// As [`schedule`](Self::schedule), after a time.
    pub(crate) fn schedule_after(&self, l: *mut lua_State, count: c_int, wait: Duration) -> Result<(), ApiError> {
        let id = self.entry_for(l, Phase::Waiting)?;
        let vm = self.weak();
        let task = tokio::task::spawn_local(async move {
            tokio::time::sleep(wait).await;
            if let Some(vm) = vm.upgrade() {
                vm.make_ready(id, Resume::Arguments(count));
            }
        });
        if let Some(thread) = self.threads.borrow_mut().get_mut(id) {
            thread.call = Some(task.abort_handle());
        }
        Ok(())
    }

    /// What the end of a thread means, if the scheduler knows it.
    pub(crate) fn role_of(&self, l: *mut lua_State) -> Option<Role> {
        self.role_by_id(self.find_thread(l)?)
    }

    /// What the end of a thread means.
    pub(crate) fn role_by_id(&self, id: ThreadId) -> Option<Role> {
        self.threads.borrow().get(id).map(|thread| thread.role)
    }

    /// What the scheduler knows of a thread.
    pub(crate) fn find_thread(&self, l: *mut lua_State) -> Option<ThreadId> {
        self.threads.borrow().find(l)
    }

    /// Whether only the scheduler may resume the thread.
    pub(crate) fn is_scheduled(&self, l: *mut lua_State) -> bool {
        let threads = self.threads.borrow();
        threads.find(l).and_then(|id| threads.get(id)).is_some_and(|thread| !matches!(thread.phase, Phase::Parked))
    }

    /// A script is about to resume a suspended dispatch's thread itself.
    pub(crate) fn unpark(&self, l: *mut lua_State) {
        if let Some(id) = self.find_thread(l) {
            self.set_phase(id, Phase::Running);
        }
    }

    /// A thread that a script resumed has come back to it with this status.
    pub(crate) fn came_back(&self, l: *mut lua_State, status: c_int) {
        let Some(id) = self.find_thread(l) else { return };
        match status {
            ffi::LUA_YIELD => self.suspended(id),
            ffi::LUA_BREAK => {}
            _ => self.ended(id, status),
        }
    }

    // ---- the end of a VM

    /// What runs may end; nothing new is started here.
    pub(crate) fn retire(&self) {
        if self.health.get() == Health::Good {
            self.health.set(Health::Retired);
        }
    }

    /// The VM is not to be trusted any more: all that runs in it ends with an error, none of its code runs again.
    pub(crate) fn break_down(&self) {
        self.health.set(Health::Broken);
        self.cancel_all(&self.memory_or_gone());
    }

    /// Ends all that runs.
    pub(crate) fn cancel(&self) {
        self.health.set(Health::Broken);
        self.cancel_all(&TemplateError::new("cancelled: the VM was dropped"));
    }

    fn memory_or_gone(&self) -> TemplateError {
        if self.memory.used() > self.memory.limit() / 2 {
            self.memory_error()
        } else {
            TemplateError::new("cancelled: another template of the tenant broke the VM")
        }
    }

    fn cancel_all(&self, error: &TemplateError) {
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
    fn error_of(&self, state: *mut lua_State, status: c_int) -> TemplateError {
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
            self.log_error(&environment.template.name, self.event_of(tag.dispatch), &error);
        }
    }

    /// Puts a template's error into the tenant's log.
    pub(crate) fn log_error(&self, template: &TemplateName, event: Option<EventName>, error: &TemplateError) {
        let text = match &error.traceback {
            Some(traceback) => format!("{error}\n{traceback}"),
            None => error.to_string(),
        };
        self.tenant.log.push(LogKind::Error, Some(template.clone()), event, &text);
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.cancel_all(&TemplateError::new("cancelled: the VM was dropped"));
        // SAFETY: nothing runs: who runs a VM holds it. Destructors of native objects may look for the current VM.
        run::visit(self, || unsafe { ffi::lua_close(self.main) });
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
        Kind::String => String::from_utf8_lossy(stack::bytes(l, -1).unwrap_or_default()).into_owned(),
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
fn source_line(l: *mut lua_State) -> Option<SourceLine> {
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
