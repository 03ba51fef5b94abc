//! What runs on this thread now: the bridge between Luau's hooks and the VM.

#![expect(unsafe_code, reason = "Luau's C API")]

use std::cell::{Cell, RefCell};
use std::ffi::c_int;
use std::ptr;
use std::sync::Arc;

use super::flight_recorder;
use super::turns::HELD_NANOS_MAX;
use super::vm::Vm;
use super::watchdog::{self, Slot};
use crate::luau::{ffi, lua_State, stack};

/// How long after its end code that cannot yield may go on unwinding before the VM is given up.
/// In unit tests none: no script is known that catches the end for so long, and giving up must work all the same.
const UNWIND_MAX_NANOS: u64 = if cfg!(test) { 0 } else { 20_000_000 };

/// What a script reads that could not be ended in a better way. It cannot catch it for long: every next step raises
/// again until it is where it can be closed.
pub(crate) const LIMIT_TEXT: &str = "Script execution time limit exceeded";

/// The state of the worker thread that Luau's hooks need.
pub(crate) struct Run {
    vm: Cell<*const Vm>,
    slot: RefCell<Option<Arc<Slot>>>,
    /// Above 0 while a coroutine was resumed from code that cannot yield: then nothing below can be preempted either.
    unyieldable_resumes: Cell<u32>,
    /// The threads that were preempted together, innermost first.
    chain: RefCell<Vec<*mut lua_State>>,
    /// CPU time at which code that cannot yield was first asked to.
    unyielding_since: Cell<u64>,
    ticks_seen: Cell<u64>,
    /// Code that cannot yield is over its budget: everything is being raised out of it.
    ending: Cell<bool>,
}

thread_local! {
    static RUN: Run = const {
        Run {
            vm: Cell::new(ptr::null()),
            slot: RefCell::new(None),
            unyieldable_resumes: Cell::new(0),
            chain: RefCell::new(Vec::new()),
            unyielding_since: Cell::new(0),
            ticks_seen: Cell::new(0),
            ending: Cell::new(false),
        }
    };
}

/// Why everything on the VM's stack was unwound at once.
pub(crate) struct VmAbandoned;

/// What became of the time that a VM was given.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ran {
    /// Nanoseconds that passed.
    pub(crate) nanos: u64,
    /// Whether code that cannot yield ran out of its budget.
    pub(crate) ended: bool,
    /// Whether it held the thread for much longer than its slice.
    pub(crate) held: bool,
}

/// The VM that runs on this thread, or null.
pub(crate) fn current() -> *const Vm {
    RUN.with(|run| run.vm.get())
}

/// Lets the VM run in `f`, on the clock. Native calls inside find it by [`current`].
pub(crate) fn enter<R>(vm: &Vm, slice_nanos: u64, f: impl FnOnce() -> R) -> (R, Ran) {
    RUN.with(|run| {
        let before = run.vm.replace(vm);
        debug_assert!(before.is_null(), "VMs do not run inside each other");
        run.unyieldable_resumes.set(0);
        run.unyielding_since.set(0);
        run.ending.set(false);
        let slot = run.slot.borrow_mut().get_or_insert_with(Slot::register).clone();
        let start = watchdog::now();
        slot.arm(vm.callbacks(), start + slice_nanos);
        flight_recorder::enter(vm.tenant.id);
        let leave = Leave { run, slot: &slot, vm };
        let result = f();
        drop(leave);
        let nanos = watchdog::now() - start;
        // Time in which the machine did something else is nobody's fault.
        let held = nanos > HELD_NANOS_MAX && slot.cpu_time_over() > HELD_NANOS_MAX;
        (result, Ran { nanos, ended: run.ending.get(), held })
    })
}

/// Makes the VM findable for native code that Luau calls outside of any script (loading, closing).
pub(crate) fn visit<R>(vm: &Vm, f: impl FnOnce() -> R) -> R {
    RUN.with(|run| {
        let before = run.vm.replace(vm);
        let result = f();
        run.vm.set(before);
        result
    })
}

struct Leave<'a> {
    run: &'a Run,
    slot: &'a Slot,
    vm: &'a Vm,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        flight_recorder::leave();
        self.slot.disarm();
        // SAFETY: the VM is alive and nothing of it runs.
        unsafe { (*self.vm.callbacks()).interrupt = None };
        self.run.vm.set(ptr::null());
    }
}

/// The chain of threads that the last preemption suspended, innermost first.
pub(crate) fn take_chain() -> Vec<*mut lua_State> {
    RUN.with(|run| std::mem::take(&mut *run.chain.borrow_mut()))
}

/// Adds a thread that was preempted because the one it waits for was.
pub(crate) fn chain_push(l: *mut lua_State) {
    RUN.with(|run| run.chain.borrow_mut().push(l));
}

/// Resumes `co` from `l`, so that the hook knows whether all of it may be preempted.
pub(crate) fn nested_resume(l: *mut lua_State, co: *mut lua_State, args: c_int) -> c_int {
    // SAFETY: the caller checked that `co` can be resumed and has its arguments on top.
    unsafe {
        if ffi::lua_isyieldable(l) != 0 {
            return ffi::lua_resume_(co, l, args);
        }
        let _counted = UnyieldableResume::begin();
        ffi::lua_resume_(co, l, args)
    }
}

/// Runs what may not be cut off at the end of the slice: a call of Lua code from native code that waits for its results.
pub(crate) fn unpreempted<R>(f: impl FnOnce() -> R) -> R {
    let _counted = UnyieldableResume::begin();
    f()
}

/// Counts for as long as it lives, also when what it is for raises.
struct UnyieldableResume;

impl UnyieldableResume {
    fn begin() -> Self {
        RUN.with(|run| run.unyieldable_resumes.set(run.unyieldable_resumes.get() + 1));
        Self
    }
}

impl Drop for UnyieldableResume {
    fn drop(&mut self) {
        RUN.with(|run| run.unyieldable_resumes.set(run.unyieldable_resumes.get().saturating_sub(1)));
    }
}

enum Action {
    /// Go on.
    Continue,
    /// Suspend all that runs; the scheduler goes on with it in its next turn.
    Preempt,
    /// Raise the end of the budget.
    Raise,
    /// It caught that for too long.
    Abandon,
}

/// Luau's interrupt hook, set by the watchdog when a slice is over.
///
/// # Safety
/// Called by Luau with the thread that runs.
pub(crate) unsafe extern "C-unwind" fn interrupt(l: *mut lua_State, gc: c_int) {
    if gc >= 0 {
        return;
    }
    // SAFETY: `l` is the running thread.
    let yieldable = unsafe { ffi::lua_isyieldable(l) } != 0;
    match RUN.with(|run| run.over_slice(l, yieldable)) {
        Action::Continue => {}
        Action::Preempt => {
            // SAFETY: it may yield, as was asked; breaking suspends it here, and the hook is not needed any more.
            unsafe {
                (*ffi::lua_callbacks(l)).interrupt = None;
                ffi::lua_break(l);
            }
        }
        Action::Raise => {
            stack::push_bytes(l, LIMIT_TEXT.as_bytes());
            // SAFETY: the message is on top.
            unsafe { ffi::lua_error(l) }
        }
        // No handler of Luau's catches this: it unwinds to `Vm::resume`, which gives the VM up.
        Action::Abandon => std::panic::resume_unwind(Box::new(VmAbandoned)),
    }
}

/// A safe point in native code. Luau has one wherever its own code calls a function; so this is for functions that native
/// code calls, and does nothing where the caller's own safe point follows. May raise.
pub(crate) fn safe_point(l: *mut lua_State) {
    // SAFETY: `l` is the running thread; the watchdog writes the field as a whole, see there.
    unsafe {
        if (*ffi::lua_callbacks(l)).interrupt.is_some() && ffi::lua_isyieldable(l) == 0 {
            interrupt(l, -1);
        }
    }
}

impl Run {
    fn over_slice(&self, l: *mut lua_State, yieldable: bool) -> Action {
        let vm = self.vm.get();
        if vm.is_null() {
            return Action::Continue;
        }
        // SAFETY: set by `enter` for as long as the VM runs; the hook is at a safe point, where collecting is allowed.
        let collected = unsafe { &*vm }.collect_if_wanted();
        // The slice may have ended during the collection: who collects all the time must not go on for ever.
        if collected && !self.slot.borrow().as_ref().is_some_and(|slot| slot.is_over()) {
            // SAFETY: `l` is the running thread.
            unsafe { (*ffi::lua_callbacks(l)).interrupt = None };
            return Action::Continue;
        }
        if yieldable && self.unyieldable_resumes.get() == 0 {
            let mut chain = self.chain.borrow_mut();
            chain.clear();
            chain.push(l);
            return Action::Preempt;
        }
        let ticks = self.slot.borrow().as_ref().map_or(0, |slot| slot.ticks());
        let new_tick = self.ticks_seen.replace(ticks) != ticks;
        if !new_tick && !self.ending.get() {
            return Action::Continue;
        }
        let now = watchdog::thread_cpu_time();
        if self.unyielding_since.get() == 0 {
            self.unyielding_since.set(now);
            return Action::Continue;
        }
        let spent = now.saturating_sub(self.unyielding_since.get());
        // SAFETY: set by `enter` for as long as the VM runs.
        let budget = unsafe { &*vm }.limits().unyielding_cpu_max.as_nanos() as u64;
        if spent > budget + UNWIND_MAX_NANOS {
            self.ending.set(true);
            return Action::Abandon;
        }
        if spent > budget {
            self.ending.set(true);
            return Action::Raise;
        }
        Action::Continue
    }
}

#[cfg(test)]
mod tests {
    use worker_core::{
        Capabilities, CompatDate, Event, Limits, RatelimitRules, StaticRef, TemplateError, TemplateFiles,
        TemplateLimits, TemplateName, TenantId, Value,
    };
    use worker_db::{DbConfig, Lookup, NewTemplate, SharedCache, SharedCacheConfig, WorkerCacheData, WorkerDb};

    use crate::{Links, Run, WorkerState, WorkerVmManager};

    const TENANT: TenantId = TenantId::guild(1 << 22);

    async fn manager() -> (WorkerVmManager, WorkerCacheData) {
        let db = WorkerDb::connect("sqlite::memory:", DbConfig::default()).await.unwrap();
        let source = "local evt = ...
            if not evt.data.spin then task.wait(0.05) return 'ok' end
            return setmetatable({}, {__index = function() while true do end end}).x";
        let template = NewTemplate {
            name: TemplateName::new("t").unwrap(),
            files: [("init.luau".to_owned(), source.to_owned())].into(),
            events: vec!["MESSAGE".into()],
            allowed_caps: Capabilities::default(),
            error_channel: None,
            compat: CompatDate::NEWEST,
            paused: false,
        };
        db.template_create(TENANT, template).await.unwrap();
        let (shared, limits) = (SharedCache::new(SharedCacheConfig::default()), StaticRef::new(Limits::default()));
        let cache = WorkerCacheData::new(db.clone(), shared.clone(), None, limits.clone());
        let library = TemplateFiles::new(Vec::<(&str, &str)>::new(), &TemplateLimits::default()).unwrap();
        let links = Links {
            support_server: String::new(),
            api_url: String::new(),
            frontend_url: String::new(),
            docs_url: String::new(),
        };
        let rules = StaticRef::new(RatelimitRules::default());
        let state = WorkerState::new(db, shared, library.into(), rules, links);
        cache.load(TENANT).await.unwrap();
        (WorkerVmManager::new(state, cache.clone(), limits), cache)
    }

    async fn start(vms: &WorkerVmManager, cache: &WorkerCacheData, data: &'static str) -> Run {
        let event = Event::discord("MESSAGE_CREATE", data.as_bytes().into());
        let Lookup::Subscribers(subscribers) = cache.lookup(TENANT, &event) else { panic!("subscribed") };
        vms.prepare(TENANT, &subscribers).await;
        vms.try_start(TENANT, &subscribers, &event, true).unwrap().unwrap().remove(0).1
    }

    async fn outcome(run: Run) -> Result<Value, TemplateError> {
        match run {
            Run::NotLoaded(error) => Err(error),
            Run::Done(outcome) => outcome,
            Run::Running(future) => future.await,
        }
    }

    #[test]
    fn a_vm_whose_stacks_were_unwound_is_given_up_and_replaced() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default())
            .unwrap();
        runtime.block_on(async {
            let (vms, cache) = manager().await;
            let bystander = start(&vms, &cache, "{}").await;
            let error = outcome(start(&vms, &cache, r#"{"spin":true}"#).await).await.unwrap_err();
            assert_eq!(&*error.text, super::LIMIT_TEXT);
            let lost = outcome(bystander).await.unwrap_err();
            assert!(lost.text.starts_with("cancelled: "), "{lost}");
            assert_eq!(outcome(start(&vms, &cache, "{}").await).await, Ok(Value::from("ok")));
            let stats = vms.stats();
            assert_eq!((stats.made, stats.broken, stats.live), (2, 1, 1));
        });
    }
}
