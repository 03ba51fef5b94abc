//! From an event to the templates that subscribe to it, and back.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use worker_core::{
    Call, Clock, DispatchResult, Event, EventName, Limits, Moment, ReplyTo, StaticRef, TemplateError, TemplateName,
    TemplateResult, TenantId, Value, WorkerError, WorkerErrorKind, WorkerFilter, WorkerId, WorkerLike, WorkerStats,
};
use worker_db::{Lookup, Subscribers, WorkerCacheData, WorkerDb};
use worker_vm::{LogKind, LogLine, Run, Runs, WorkerVmManager};

use crate::loading::{Backlog, Load};
use crate::queues::{Held, Queued, Queues};

/// How long events of tenants out of credit may run in place each time the runtime goes round: as long as a slice.
const IN_PLACE_MAX: Duration = Duration::from_millis(1);

/// Runs the subscribers of events for the tenants of one worker. A [`WorkerLike`] that lives on the worker's thread.
/// Clones are handles to the same dispatcher; when the last one goes, it ends as if killed.
#[derive(Clone)]
pub struct WorkerDispatcher(Rc<Handle>);

struct Handle(Rc<Inner>);

/// The dispatcher as its own tasks hold it.
pub(crate) struct Inner {
    pub(crate) id: WorkerId,
    pub(crate) vms: WorkerVmManager,
    pub(crate) cache: WorkerCacheData,
    pub(crate) db: WorkerDb,
    pub(crate) filter: RefCell<WorkerFilter>,
    pub(crate) limits: StaticRef<Limits>,
    pub(crate) queues: RefCell<Queues>,
    /// Dispatches of a tenant that have started and not ended.
    pub(crate) running: RefCell<HashMap<TenantId, usize>>,
    /// What was last loaded for a tenant.
    pub(crate) loads: RefCell<HashMap<TenantId, Load>>,
    /// Tenants to be loaded when there is time.
    pub(crate) backlog: RefCell<Backlog>,
    /// Tenants whose events a task starts by turns.
    pub(crate) by_turns: RefCell<HashSet<TenantId>>,
    /// When the next `KeyResume` of this worker may be sent.
    pub(crate) next_resume: Cell<Moment>,
    pub(crate) pumping: Cell<bool>,
    /// How long events of tenants out of credit ran in place since the runtime last went round.
    in_place: Cell<Duration>,
    pub(crate) watching: Cell<bool>,
    pub(crate) state: Cell<State>,
    /// Notified when nothing waits and nothing runs.
    pub(crate) quiet: Notify,
    pub(crate) counters: Counters,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Takes events.
    Open,
    /// Finishes what it has taken.
    Draining,
    /// Does nothing more.
    Ended,
}

#[derive(Default)]
pub(crate) struct Counters {
    events: Cell<u64>,
    dispatched: Cell<u64>,
    run: Cell<u64>,
    failed: Cell<u64>,
    pub(crate) dropped: Cell<u64>,
    pub(crate) refused: Cell<u64>,
}

pub(crate) fn count(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

impl WorkerDispatcher {
    /// A dispatcher for the tenants that `filter` owns. Must be called on a runtime that spawns local tasks.
    pub fn new(
        id: WorkerId,
        vms: WorkerVmManager,
        cache: WorkerCacheData,
        db: WorkerDb,
        filter: WorkerFilter,
        limits: StaticRef<Limits>,
    ) -> Self {
        let now = vms.clock().moment();
        let inner = Rc::new(Inner {
            id,
            vms,
            cache,
            db,
            filter: RefCell::new(filter),
            queues: RefCell::new(Queues::new(&limits)),
            limits,
            running: RefCell::default(),
            loads: RefCell::default(),
            backlog: RefCell::default(),
            by_turns: RefCell::default(),
            next_resume: Cell::new(now),
            pumping: Cell::new(false),
            in_place: Cell::new(Duration::ZERO),
            watching: Cell::new(false),
            state: Cell::new(State::Open),
            quiet: Notify::new(),
            counters: Counters::default(),
        });
        inner.follow_changes();
        Self(Rc::new(Handle(inner)))
    }

    /// Loads the tenants of this worker that have records to resume, one after the other, so that each gets its
    /// `KeyResume` events. To be called once, when the worker starts.
    pub fn resume_keys(&self) {
        self.0.0.load_resumable();
    }

    /// Puts an error into the tenant's log that is no template's, but of the event.
    pub fn report(&self, tenant: TenantId, event: &EventName, text: &str) {
        self.0.0.vms.log(tenant, LogKind::Error, None, Some(event.clone()), text);
    }

    /// The lines of the tenant's log, oldest first.
    pub fn log_lines(&self, tenant: TenantId) -> Vec<LogLine> {
        self.0.0.vms.log_lines(tenant)
    }
}

impl WorkerLike for WorkerDispatcher {
    fn id(&self) -> WorkerId {
        self.0.0.id
    }

    fn submit(&self, call: Call) {
        let inner = &self.0.0;
        match call {
            Call::Dispatch { tenant, event, reply_to } => inner.take_in(tenant, event, reply_to),
            Call::Reload { tenant, reply_to } => reply_to.send(inner.may_take(tenant).map(|()| inner.reload(tenant))),
            Call::Stats { reply_to } => reply_to.send(Ok(inner.stats())),
            Call::Health { reply_to } => reply_to.send(match inner.state.get() {
                State::Open | State::Draining => Ok(()),
                State::Ended => Err(WorkerError::new(WorkerErrorKind::WorkerGone, "the worker has ended")),
            }),
            Call::Own { filter, reply_to } => inner.own(filter, reply_to),
            Call::Drain { reply_to } => inner.drain(reply_to),
            Call::Kill { reply_to } => inner.kill(reply_to),
            other => {
                other.refuse(WorkerError::new(WorkerErrorKind::BadRequest, "a call that this worker does not know"))
            }
        }
    }
}

impl fmt::Debug for WorkerDispatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &self.0.0;
        f.debug_struct("WorkerDispatcher").field("id", &inner.id).field("state", &inner.state).finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Inner {
    /// Takes an event in: it is answered here, started, or queued.
    pub(crate) fn take_in(self: &Rc<Self>, tenant: TenantId, event: Event, reply_to: ReplyTo<DispatchResult>) {
        count(&self.counters.events);
        if let Err(error) = self.may_take(tenant) {
            reply_to.send(Err(error));
            return;
        }
        let lookup = self.cache.lookup(tenant, &event);
        if let Lookup::Nobody = lookup {
            reply_to.send(Ok(DispatchResult::default()));
            return;
        }
        let queued = Queued { event, reply_to, deadline: deadline(self.vms.clock(), self.limits.dispatch_timeout) };
        match lookup {
            Lookup::Subscribers(subscribers) if !self.queues.borrow().is_waiting(tenant) => {
                if self.vms.in_credit(tenant) {
                    self.start(tenant, &subscribers, queued);
                } else if self.in_place.get() < IN_PLACE_MAX && self.vms.within_share(tenant) {
                    self.start_in_place(tenant, &subscribers, queued);
                } else {
                    self.enqueue(tenant, queued);
                }
            }
            _ => self.enqueue(tenant, queued),
        }
    }

    /// Starts an event of a tenant that is out of credit before anything else had its chance: for a short time in all,
    /// until the runtime has gone round once. A tenant that has the thread to itself is spared the way through the
    /// queue, and one that floods it is not.
    fn start_in_place(self: &Rc<Self>, tenant: TenantId, subscribers: &Subscribers, queued: Queued) {
        let start = std::time::Instant::now();
        self.start(tenant, subscribers, queued);
        let before = self.in_place.replace(self.in_place.get() + start.elapsed());
        if before.is_zero() {
            let this = self.clone();
            tokio::task::spawn_local(async move {
                tokio::task::yield_now().await;
                this.in_place.set(Duration::ZERO);
            });
        }
    }

    fn may_take(&self, tenant: TenantId) -> Result<(), WorkerError> {
        if self.state.get() != State::Open {
            return Err(WorkerError::new(WorkerErrorKind::WorkerGone, "the worker takes no more calls"));
        }
        if !self.owns(tenant) {
            let context = format!("worker {} does not own {tenant}", self.id);
            return Err(WorkerError::new(WorkerErrorKind::BadRequest, context));
        }
        Ok(())
    }

    /// Starts an event in its subscribers. What ends within a slice is answered at once.
    pub(crate) fn start(self: &Rc<Self>, tenant: TenantId, subscribers: &Subscribers, queued: Queued) {
        if queued.reply_to.is_abandoned() {
            return;
        }
        let wanted = queued.reply_to.is_wanted();
        let runs = match self.vms.try_start(tenant, subscribers, &queued.event, wanted) {
            Ok(Some(runs)) => runs,
            Ok(None) => {
                self.compile_first(tenant, subscribers.clone(), queued);
                return;
            }
            Err(error) => {
                tracing::error!(%tenant, event = %queued.event.name(), "no VM: {error}");
                let context = format!("no VM for {tenant}");
                queued.reply_to.send(Err(WorkerError::new(WorkerErrorKind::Internal, context).with_source(error)));
                return;
            }
        };
        count(&self.counters.dispatched);
        self.counters.run.set(self.counters.run.get() + runs.len() as u64);
        if !runs.iter().any(|(_, run)| matches!(run, Run::Running(_))) {
            let ended = runs.into_iter().filter_map(|(template, run)| match run {
                Run::Done(outcome) => Some(self.result(tenant, queued.event.name(), template, outcome)),
                Run::NotLoaded(error) => Some(self.not_loaded_result(tenant, queued.event.name(), template, error)),
                Run::Running(_) => None,
            });
            let templates = ended.collect();
            queued.reply_to.send(Ok(DispatchResult { templates }));
            return;
        }
        self.started(tenant);
        let this = self.clone();
        tokio::task::spawn_local(async move {
            let templates = this.finish(tenant, &queued, runs).await;
            queued.reply_to.send(match this.state.get() {
                State::Open | State::Draining => Ok(DispatchResult { templates }),
                State::Ended => {
                    let context = "the worker was ended while the event was handled";
                    Err(WorkerError::new(WorkerErrorKind::WorkerGone, context))
                }
            });
            this.ended(tenant);
        });
    }

    /// The results of all runs, or of those that have ended by the deadline: the others go on in the background.
    async fn finish(&self, tenant: TenantId, queued: &Queued, runs: Runs) -> Vec<TemplateResult> {
        let mut templates = Vec::with_capacity(runs.len());
        for (template, run) in runs {
            let outcome = match run {
                Run::Done(outcome) => outcome,
                Run::NotLoaded(error) => {
                    templates.push(self.not_loaded_result(tenant, queued.event.name(), template, error));
                    continue;
                }
                Run::Running(run) => match self.vms.clock().before(queued.deadline, run).await {
                    Some(outcome) => outcome,
                    None if queued.reply_to.is_wanted() && !queued.reply_to.is_abandoned() => {
                        let seconds = self.limits.dispatch_timeout.as_secs_f64();
                        let text = format!("timeout: not finished within {seconds} s; it goes on in the background");
                        Err(TemplateError::new(text))
                    }
                    // Nobody waits, so it is no failure to be slow.
                    None => continue,
                },
            };
            templates.push(self.result(tenant, queued.event.name(), template, outcome));
        }
        templates
    }

    /// A template's result; its error goes to the tenant's log as well.
    fn result(
        &self,
        tenant: TenantId,
        event: &EventName,
        template: TemplateName,
        outcome: Result<Value, TemplateError>,
    ) -> TemplateResult {
        if let Err(error) = &outcome {
            count(&self.counters.failed);
            self.log(tenant, event, &template, error);
        }
        TemplateResult { template, outcome }
    }

    /// The result of a template that cannot be loaded.
    fn not_loaded_result(
        &self,
        tenant: TenantId,
        event: &EventName,
        template: TemplateName,
        error: TemplateError,
    ) -> TemplateResult {
        count(&self.counters.failed);
        if self.is_news(tenant, &template) {
            self.log(tenant, event, &template, &error);
        }
        TemplateResult { template, outcome: Err(error) }
    }

    fn log(&self, tenant: TenantId, event: &EventName, template: &TemplateName, error: &TemplateError) {
        self.vms.log_error(tenant, template, Some(event.clone()), error);
    }

    /// A dispatch of the tenant runs on.
    fn started(&self, tenant: TenantId) {
        *self.running.borrow_mut().entry(tenant).or_default() += 1;
        if self.is_full(tenant) && self.queues.borrow().held(tenant) == Held::No {
            self.queues.borrow_mut().hold(tenant, Held::Full);
        }
    }

    /// A dispatch of the tenant that ran on has ended.
    fn ended(self: &Rc<Self>, tenant: TenantId) {
        {
            let mut running = self.running.borrow_mut();
            let Some(count) = running.get_mut(&tenant) else { return };
            *count -= 1;
            if *count == 0 {
                running.remove(&tenant);
            }
        }
        self.release(tenant, Held::Full);
    }

    /// Whether the tenant has as many dispatches running as it may.
    pub(crate) fn is_full(&self, tenant: TenantId) -> bool {
        let max = self.limits.tenant_dispatches_max.max(1);
        self.running.borrow().get(&tenant).is_some_and(|running| *running >= max)
    }

    fn stats(&self) -> WorkerStats {
        let (counters, vms) = (&self.counters, self.vms.stats());
        WorkerStats {
            workers: 1,
            events: counters.events.get(),
            events_dispatched: counters.dispatched.get(),
            templates_run: counters.run.get(),
            templates_failed: counters.failed.get(),
            threads_failed: vms.threads_failed,
            events_dropped: counters.dropped.get(),
            events_refused: counters.refused.get(),
            events_queued: self.queues.borrow().len() as u64,
            vms_made: vms.made,
            vms_evicted: vms.evicted,
            vms_broken: vms.broken,
            vms_live: vms.live,
            vm_memory_bytes: vms.memory_bytes,
            tenants: self.vms.greatest_users(WorkerStats::TENANTS_MAX),
            ..WorkerStats::default()
        }
    }
}

/// So long from now, or as good as never.
fn deadline(clock: &Clock, timeout: Duration) -> Moment {
    const FAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
    clock.moment() + timeout.min(FAR)
}
