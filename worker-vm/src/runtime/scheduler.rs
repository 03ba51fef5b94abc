//! The scheduler of a VM: which thread runs next, for how long, and what its end means.

#![expect(unsafe_code, reason = "Luau's C API")]

use std::ffi::c_int;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use worker_core::{TemplateError, Value};

use super::dispatches::RunOutcome;
use super::environment::Environment;
use super::flight_recorder;
use super::run::{self, Ran};
use super::threads::{DispatchId, Phase, Resume, Role, Thread, ThreadId, ThreadTag};
use super::vm::{Health, Vm, source_line};
use crate::error::ApiError;
use crate::luau::native::Outcome;
use crate::luau::{ffi, lua_State, stack, value};
use crate::settings;

/// The event whose results must fit a schema. Discord's names are of another shape.
const GET_SETTINGS: &str = "GetSettings";

/// How a slice ended.
pub(super) enum SliceEnd {
    Finished(c_int),
    Preempted(Vec<*mut lua_State>),
    Abandoned,
}

impl Vm {
    /// Runs a thread until it ends, suspends itself or its slice is over. Called on the clock.
    pub(super) fn slice(&self, id: ThreadId) -> SliceEnd {
        let taken = self.threads.borrow_mut().get_mut(id).map(|thread| {
            let phase = std::mem::replace(&mut thread.phase, Phase::Running);
            thread.call = None;
            (thread.state, std::mem::take(&mut thread.chain), phase, thread.tag)
        });
        let Some((state, mut chain, Phase::Ready(resume), tag)) = taken else {
            return SliceEnd::Finished(ffi::LUA_YIELD);
        };
        let environment = tag.environment;
        if flight_recorder::is_on() {
            self.with_dispatch(tag.dispatch, |dispatch| {
                flight_recorder::name(dispatch.event.as_str(), dispatch.environment.template.name.as_str());
            });
        }
        if let Resume::Start(_) = resume {
            self.no_longer_unstarted(environment);
        }
        let mut resume = Some(resume);
        loop {
            let target = chain.first().copied().unwrap_or(state);
            let ready = match resume.take() {
                Some(Resume::Arguments(count) | Resume::Start(count)) => Ok(count),
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

    pub(super) fn push_outcome(&self, target: *mut lua_State, outcome: Box<dyn Outcome>) -> Result<c_int, ()> {
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
    pub(super) fn after_slice(&self, id: ThreadId, end: SliceEnd, ran: Ran) {
        self.tenant.account.charge(ran.nanos);
        if ran.held {
            self.tenant.account.rest();
        }
        if let SliceEnd::Abandoned = end {
            self.abandoned(id);
            return;
        }
        let Some((dispatch, environment)) = self.threads.borrow_mut().get_mut(id).map(|thread| {
            thread.nanos += ran.nanos;
            (thread.tag.dispatch, thread.tag.environment)
        }) else {
            return;
        };
        if let Some(environment) = self.environment_by_number(environment) {
            match end {
                SliceEnd::Preempted(_) => environment.preempted.set(Some(id)),
                _ => self.not_preempted(&environment, id),
            }
        }
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
            // Time of the tenant's like any other.
            let (_, ran) = run::enter(self, self.limits().cpu_slice.as_nanos() as u64, || self.collect());
            self.tenant.account.charge(ran.nanos);
            if ran.held {
                self.tenant.account.rest();
            }
        }
        self.book_memory(self.memory.used());
    }

    pub(super) fn is_over_budget(&self, id: ThreadId, dispatch: DispatchId, ran: Ran) -> bool {
        let limits = self.limits();
        let used = self.with_dispatch(dispatch, |dispatch| {
            dispatch.nanos += ran.nanos;
            (!dispatch.is_left_alone()).then_some(dispatch.nanos)
        });
        let over = match used.flatten() {
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
    pub(super) fn end_over_budget(&self, id: ThreadId, dispatch: DispatchId) {
        let at = self.threads.borrow().get(id).and_then(|thread| {
            let innermost = thread.chain.first().copied().unwrap_or(thread.state);
            source_line(innermost)
        });
        let error = TemplateError { text: run::LIMIT_TEXT.into(), at, traceback: None };
        let is_dispatch = self.with_dispatch(dispatch, |dispatch| !dispatch.is_left_alone()).unwrap_or(false);
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
                self.log_error(&environment.template, None, &error);
            }
        }
    }

    /// The stacks of the VM are gone: whose code was running hears why, the others that they lost their VM.
    pub(super) fn abandoned(&self, id: ThreadId) {
        let dispatch = self.threads.borrow().get(id).map(|thread| thread.tag.dispatch);
        if let Some(dispatch) = dispatch {
            self.complete(dispatch, Err(TemplateError::new(run::LIMIT_TEXT)));
        }
        self.break_down(&TemplateError::new("cancelled: another template of the tenant broke the VM"));
    }

    /// What a thread that the scheduler resumed hands over with a bare yield goes to nobody.
    pub(super) fn discard_yielded(&self, id: ThreadId) {
        if let Some(thread) = self.threads.borrow().get(id) {
            // SAFETY: the thread is suspended.
            unsafe { ffi::lua_settop(thread.state, 0) };
        }
    }

    /// A thread suspended itself: in a call, or by a bare yield.
    pub(super) fn suspended(&self, id: ThreadId) {
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
                let out_of_memory = error.as_ref().is_some_and(is_of_memory);
                let outcome = match error {
                    Some(error) if out_of_memory => {
                        // Where it happened is as good to know as what.
                        Err(TemplateError { text: self.memory_error().text, ..error })
                    }
                    Some(error) => Err(error),
                    None => self.result_of(thread.state, thread.tag.dispatch),
                };
                self.complete(thread.tag.dispatch, outcome);
                if out_of_memory {
                    self.release(Some(thread));
                    self.break_down(&self.memory_error());
                    return;
                }
            }
            Role::Module(module) => self.module_ended(module, thread.state, status),
            Role::Plain => {
                if let (Some(error), Some(environment)) = (error, &environment) {
                    let event = self.event_of(thread.tag.dispatch);
                    self.log_error(&environment.template, event, &error);
                }
            }
        }
        self.release(Some(thread));
    }

    pub(super) fn result_of(&self, state: *mut lua_State, dispatch: DispatchId) -> RunOutcome {
        if !self.with_dispatch(dispatch, |dispatch| dispatch.value_wanted).unwrap_or(false) {
            return Ok(Value::Null);
        }
        // SAFETY: the thread has ended; its results are all that is on its stack.
        let count = unsafe { ffi::lua_gettop(state) };
        let read = || value::read_results(state, 1, count);
        let result = if run::current().is_null() {
            let (result, nanos) = run::visit(self, read);
            // No slice's time, but the tenant's all the same.
            self.tenant.account.charge_extra(nanos);
            result
        } else {
            read().0
        };
        let value = result.map_err(|error| TemplateError::new(error.to_string()))?;
        if self.event_of(dispatch).is_some_and(|event| event.as_str() == GET_SETTINGS) {
            settings::check(&value).map_err(|error| TemplateError::new(error.to_string()))?;
        }
        Ok(value)
    }

    /// Gives back what an entry held, and sees whether its template stalls without it.
    pub(super) fn release(&self, thread: Option<Thread>) {
        let Some(thread) = thread else { return };
        self.unref(thread.anchor);
        if let Some(environment) = self.environment_by_number(thread.tag.environment)
            && let Some(preempted) = environment.preempted.get()
            && preempted.serial == thread.serial
        {
            self.not_preempted(&environment, preempted);
        }
        if let Phase::Ready(Resume::Start(_)) = thread.phase {
            self.no_longer_unstarted(thread.tag.environment);
        }
        if thread.phase.is_live() {
            self.went_dead(thread.tag.environment);
        }
        self.notify_if_idle();
    }

    fn no_longer_unstarted(&self, environment: u16) {
        if let Some(environment) = self.environment_by_number(environment) {
            environment.unstarted.set(environment.unstarted.get().saturating_sub(1));
        }
    }

    /// The thread is not, or no longer, cut off half-way: those of its template that waited for it go on.
    fn not_preempted(&self, environment: &Environment, id: ThreadId) {
        if environment.preempted.get() == Some(id) {
            environment.preempted.set(None);
            // They have waited for longer than what is in the queue.
            let held_back = environment.held_back.take();
            held_back.into_iter().rev().for_each(|id| self.ready.borrow_mut().push_front(id));
            self.see_to_ready();
        }
    }

    /// One live thread of the template less: if it was the last, nobody is left to resume its suspended dispatches.
    pub(super) fn went_dead(&self, environment: u16) {
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

    pub(super) fn stall(&self, id: ThreadId) {
        let Some(thread) = self.threads.borrow_mut().remove(id) else { return };
        let text = "stalled: suspended by coroutine.yield, and no thread of the template is left to resume it";
        let at = source_line(thread.state);
        self.reset(thread.state);
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
            self.cancel_thread(state);
        }
        // It does not run: its entry was not in the phase Running, or its slice has ended.
        self.reset(thread.state);
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
            // Callers checked that it neither runs nor waits for a coroutine that does.
            None => self.reset(l),
        }
    }

    /// Closes a Lua thread that does not run. Another one may wait for it and have been preempted with it: that one goes on
    /// without it, and what it waited for itself is closed as well, since nothing else need hold that.
    fn reset(&self, state: *mut lua_State) {
        // Only who was cut off half-way has a chain, and that is one thread of a template at most.
        let cut_off: Vec<ThreadId> =
            self.environments.borrow().iter().filter_map(|environment| environment.preempted.get()).collect();
        let waited_for: Vec<*mut lua_State> = {
            let mut threads = self.threads.borrow_mut();
            let cut = cut_off.into_iter().find_map(|id| {
                let thread = threads.get_mut(id)?;
                let place = thread.chain.iter().position(|&member| member == state)?;
                // The last one is the entry's own thread, which its own `close` sees to.
                (place + 1 < thread.chain.len()).then(|| thread.chain.drain(..=place).collect())
            });
            cut.unwrap_or_default()
        };
        for inner in waited_for.into_iter().filter(|&inner| inner != state) {
            self.cancel_thread(inner);
        }
        // Shrinking its stack takes a new block before it gives the old one back: at the limit that would raise, with
        // nobody to catch it.
        // SAFETY: the thread does not run.
        self.memory.unlimited(|| unsafe { ffi::lua_resetthread(state) });
    }

    /// Puts a ready thread into the queue and sees that somebody works it off.
    pub(super) fn enqueue(&self, id: ThreadId) {
        self.ready.borrow_mut().push_back(id);
        self.see_to_ready();
    }

    fn see_to_ready(&self) {
        if !self.ready.borrow().is_empty() && !self.driving.replace(true) {
            let vm = self.rc();
            let busy = self.clock().busy();
            tokio::task::spawn_local(async move {
                vm.drive().await;
                drop(busy);
            });
        }
    }

    pub(super) async fn drive(&self) {
        let mut in_a_row = 0;
        loop {
            let Some(id) = self.ready.borrow_mut().pop_front() else { break };
            let (preempted, environment) = match self.threads.borrow().get(id) {
                Some(thread) => (matches!(thread.phase, Phase::Ready(Resume::Preempted)), thread.tag.environment),
                None => continue,
            };
            if let Some(environment) = self.environment_by_number(environment)
                && environment.preempted.get().is_some_and(|preempted| preempted != id)
            {
                environment.held_back.borrow_mut().push_back(id);
                continue;
            }
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
            if in_a_row % 4 == 0 && !self.ready.borrow().is_empty() {
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
        let (vm, busy) = (self.weak(), self.clock().busy());
        let task = tokio::task::spawn_local(async move {
            let outcome = future.await;
            if let Some(vm) = vm.upgrade() {
                vm.make_ready(id, Resume::Outcome(outcome));
            }
            drop(busy);
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
    pub(super) fn set_phase(&self, id: ThreadId, phase: Phase) {
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

    pub(super) fn came_alive(&self, environment: u16) {
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
        let (vm, clock, busy) = (self.weak(), self.clock().clone(), self.clock().busy());
        let task = tokio::task::spawn_local(async move {
            clock.sleep(wait).await;
            if let Some(vm) = vm.upgrade() {
                vm.make_ready(id, Resume::Arguments(count));
            }
            drop(busy);
        });
        if let Some(thread) = self.threads.borrow_mut().get_mut(id) {
            thread.call = Some(task.abort_handle());
        }
        Ok(())
    }

    /// Says what the end of a thread means.
    pub(crate) fn set_role(&self, id: ThreadId, role: Role) {
        if let Some(thread) = self.threads.borrow_mut().get_mut(id) {
            thread.role = role;
        }
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
}

/// Whether an error is one of memory, wherever it was raised: Luau's own text, or the class of native code.
fn is_of_memory(error: &TemplateError) -> bool {
    &*error.text == "not enough memory" || error.text.starts_with("memory: ")
}
