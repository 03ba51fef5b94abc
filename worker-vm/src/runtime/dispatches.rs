//! Dispatches: runs of a template for an event, from their start to their outcome.

use std::rc::Rc;

use tokio::sync::oneshot;
use worker_core::{Event, EventName, TemplateError, Value};

use super::environment::Environment;
use super::threads::{DispatchId, Phase, Resume, Role, ThreadTag};
use super::vm::{Health, LuaFailure, Vm};
use super::{run, starter};
use crate::luau::json::Json;
use crate::luau::keys::EventKeys;

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

/// A run that has not ended.
pub(super) struct Dispatch {
    pub(super) id: DispatchId,
    pub(super) environment: Rc<Environment>,
    pub(super) event: EventName,
    pub(super) nanos: u64,
    pub(super) value_wanted: bool,
    pub(super) finished: Option<RunOutcome>,
    pub(super) reply: Option<oneshot::Sender<RunOutcome>>,
}

impl Dispatch {
    /// Whether its caller has stopped waiting: then its threads are background threads, each with a budget of its own.
    pub(super) fn is_left_alone(&self) -> bool {
        self.reply.as_ref().is_some_and(oneshot::Sender::is_closed)
    }
}

impl Vm {
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
            let resume = Phase::Ready(Resume::Start(2));
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
            // Not while another thread of the template is cut off half-way, and not before those that came earlier.
            let at_once = environment.preempted.get().is_none() && environment.unstarted.get() == 0;
            environment.unstarted.set(environment.unstarted.get() + 1);
            let end = at_once.then(|| self.slice(main));
            Ok((main, end))
        });
        match started {
            Err(failure) => {
                self.tenant.account.charge(ran.nanos);
                self.release_dispatch_slot(id);
                if matches!(failure, LuaFailure::Memory) {
                    self.break_down(&self.memory_error());
                }
                Started::Done(Err(self.failure_error(&failure)))
            }
            Ok((main, end)) => {
                match end {
                    Some(end) => self.after_slice(main, end, ran),
                    None => {
                        self.tenant.account.charge(ran.nanos);
                        self.enqueue(main);
                    }
                }
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

    pub(super) fn new_dispatch_id(&self) -> Option<DispatchId> {
        let free = self.dispatches_free.borrow_mut().pop();
        let (slot, serial) = match free {
            Some(free) => free,
            None => {
                let mut dispatches = self.dispatches.borrow_mut();
                if dispatches.len() >= DispatchId::SLOTS_MAX - 1 {
                    if self.dispatches_live.get() < dispatches.len() {
                        // After four thousand million dispatches the numbers of some slots are used up: a new VM has new
                        // ones.
                        self.retire();
                    }
                    return None;
                }
                dispatches.push(None);
                (dispatches.len() - 1, 0)
            }
        };
        self.dispatches_live.set(self.dispatches_live.get() + 1);
        Some(DispatchId::new(slot, serial))
    }

    pub(super) fn put_dispatch(&self, dispatch: Dispatch) {
        let slot = dispatch.id.slot();
        self.dispatches.borrow_mut()[slot] = Some(dispatch);
    }

    pub(super) fn release_dispatch_slot(&self, id: DispatchId) {
        let next = id.serial() + 1;
        if next < DispatchId::SERIALS_MAX {
            self.dispatches_free.borrow_mut().push((id.slot(), next));
        }
        self.dispatches_live.set(self.dispatches_live.get() - 1);
        self.notify_if_idle();
    }

    pub(super) fn notify_if_idle(&self) {
        if self.idle_awaited.get() && self.is_idle() {
            self.idle.notify_waiters();
        }
    }

    pub(super) fn with_dispatch<R>(&self, id: DispatchId, f: impl FnOnce(&mut Dispatch) -> R) -> Option<R> {
        let mut dispatches = self.dispatches.borrow_mut();
        dispatches.get_mut(id.slot())?.as_mut().filter(|dispatch| dispatch.id == id).map(f)
    }

    /// The event that a dispatch is for, while it lives.
    pub(crate) fn event_of(&self, id: DispatchId) -> Option<EventName> {
        self.with_dispatch(id, |dispatch| dispatch.event.clone())
    }

    /// Ends a dispatch with its outcome. Its other threads go on in the background.
    pub(super) fn complete(&self, id: DispatchId, outcome: RunOutcome) {
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
            // Nobody waits any more: it timed out. The reference promises the error to the log.
            if let (Err(Err(error)), Some(dispatch)) = (reply.send(outcome), dispatch) {
                self.log_error(&dispatch.environment.template, Some(dispatch.event), &error);
            }
        }
    }
}
