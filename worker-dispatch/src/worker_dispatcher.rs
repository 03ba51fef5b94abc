//! From an event to the templates that subscribe to it, and back.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::sync::{Notify, broadcast};
use tokio::time::Instant;
use worker_core::{
    Call, DispatchResult, Event, EventName, Limits, ReplyTo, StaticRef, TemplateError, TemplateName, TemplateResult,
    TenantId, WorkerError, WorkerErrorKind, WorkerFilter, WorkerId, WorkerLike, WorkerStats,
};
use worker_db::{Change, Lookup, Subscribers, TenantTemplates, WorkerCacheData, WorkerDb};
use worker_vm::{LogKind, Run, Runs, WorkerVmManager};

use crate::queues::{Held, Pushed, Queued, Queues};

/// How long the pump starts events before it lets the runtime do other things.
const PUMP_TIME: Duration = Duration::from_micros(200);

/// Runs the subscribers of events for the tenants of one worker. A [`WorkerLike`] that lives on the worker's thread;
/// clones are handles to the same dispatcher.
#[derive(Clone)]
pub struct WorkerDispatcher(Rc<Inner>);

struct Inner {
    id: WorkerId,
    vms: WorkerVmManager,
    cache: WorkerCacheData,
    db: WorkerDb,
    filter: WorkerFilter,
    limits: StaticRef<Limits>,
    queues: RefCell<Queues>,
    /// Dispatches of a tenant that have started and not ended.
    running: RefCell<HashMap<TenantId, usize>>,
    /// What was last loaded for a tenant, to tell a change of its templates from a mere reload.
    fingerprints: RefCell<HashMap<TenantId, u64>>,
    pumping: Cell<bool>,
    state: Cell<State>,
    quiet: Notify,
    counters: Counters,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Draining,
    Ended,
}

#[derive(Default)]
struct Counters {
    events: Cell<u64>,
    dispatched: Cell<u64>,
    run: Cell<u64>,
    failed: Cell<u64>,
    dropped: Cell<u64>,
    refused: Cell<u64>,
}

fn count(counter: &Cell<u64>) {
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
        let changes = db.changes();
        let this = Self(Rc::new(Inner {
            id,
            vms,
            cache,
            db,
            filter,
            queues: RefCell::new(Queues::new(&limits)),
            limits,
            running: RefCell::default(),
            fingerprints: RefCell::default(),
            pumping: Cell::new(false),
            state: Cell::new(State::Open),
            quiet: Notify::new(),
            counters: Counters::default(),
        }));
        tokio::task::spawn_local(follow_changes(Rc::downgrade(&this.0), changes));
        this
    }

    /// The lines of the tenant's log, oldest first.
    pub fn log_lines(&self, tenant: TenantId) -> Vec<worker_vm::LogLine> {
        self.0.vms.log_lines(tenant)
    }

    pub(crate) fn db(&self) -> &WorkerDb {
        &self.0.db
    }

    pub(crate) fn filter(&self) -> &WorkerFilter {
        &self.0.filter
    }

    // ---- one event

    fn take_in(&self, tenant: TenantId, event: Event, reply_to: ReplyTo<DispatchResult>) {
        let counters = &self.0.counters;
        count(&counters.events);
        if self.0.state.get() != State::Open {
            reply_to.send(Err(WorkerError::new(WorkerErrorKind::WorkerGone, "the worker takes no more events")));
            return;
        }
        if !self.0.filter.owns(tenant) {
            let context = format!("worker {} does not own {tenant}", self.0.id);
            reply_to.send(Err(WorkerError::new(WorkerErrorKind::BadRequest, context)));
            return;
        }
        let lookup = self.0.cache.lookup(tenant, &event);
        if let Lookup::Nobody = lookup {
            reply_to.send(Ok(DispatchResult::default()));
            return;
        }
        count(&counters.dispatched);
        let deadline = Instant::now() + self.0.limits.dispatch_timeout;
        let queued = Queued { event, reply_to, deadline };
        match lookup {
            Lookup::Subscribers(subscribers)
                if !self.0.queues.borrow().is_waiting(tenant) && self.0.vms.in_credit(tenant) =>
            {
                self.start(tenant, &subscribers, queued);
            }
            _ => self.enqueue(tenant, queued),
        }
    }

    fn enqueue(&self, tenant: TenantId, queued: Queued) {
        let pushed = self.0.queues.borrow_mut().push(tenant, queued);
        match pushed {
            Pushed::Queued => {}
            Pushed::Displaced(other) => self.refuse(other),
            Pushed::Refused(queued) => {
                self.refuse(queued);
                return;
            }
        }
        self.pump();
    }

    /// No room: a caller that waits is told, an event for its own sake is dropped and counted.
    fn refuse(&self, queued: Queued) {
        if queued.reply_to.is_wanted() {
            count(&self.0.counters.refused);
            let context = "too many events wait to be started";
            queued.reply_to.send(Err(WorkerError::new(WorkerErrorKind::Overloaded, context)));
        } else {
            count(&self.0.counters.dropped);
        }
    }

    /// Starts an event in its subscribers. What ends within a slice is answered at once.
    fn start(&self, tenant: TenantId, subscribers: &Subscribers, queued: Queued) {
        if queued.reply_to.is_abandoned() {
            return;
        }
        let wanted = queued.reply_to.is_wanted();
        let runs = match self.0.vms.try_start(tenant, subscribers, &queued.event, wanted) {
            Ok(Some(runs)) => runs,
            Ok(None) => {
                self.compile_first(tenant, subscribers.clone(), queued);
                return;
            }
            Err(error) => {
                let context = format!("no VM for {tenant}");
                queued.reply_to.send(Err(WorkerError::new(WorkerErrorKind::Internal, context).with_source(error)));
                return;
            }
        };
        self.0.counters.run.set(self.0.counters.run.get() + runs.len() as u64);
        if runs.iter().all(|(_, run)| matches!(run, Run::Done(_))) {
            let finished = runs.into_iter().map(|(template, run)| match run {
                Run::Done(outcome) => self.result(tenant, queued.event.name(), template, outcome),
                Run::Running(_) => unreachable!("because all runs are done"),
            });
            let templates = finished.collect();
            queued.reply_to.send(Ok(DispatchResult { templates }));
            return;
        }
        self.started(tenant);
        let this = self.clone();
        tokio::task::spawn_local(async move {
            let templates = this.finish(tenant, queued.event.name(), runs, queued.deadline).await;
            queued.reply_to.send(Ok(DispatchResult { templates }));
            this.ended(tenant);
        });
    }

    async fn finish(&self, tenant: TenantId, event: &EventName, runs: Runs, deadline: Instant) -> Vec<TemplateResult> {
        let mut templates = Vec::with_capacity(runs.len());
        for (template, run) in runs {
            let outcome = match run {
                Run::Done(outcome) => outcome,
                Run::Running(run) => tokio::time::timeout_at(deadline, run).await.unwrap_or_else(|_| {
                    let seconds = self.0.limits.dispatch_timeout.as_secs_f64();
                    let text = format!("timeout: not finished within {seconds} s; it goes on in the background");
                    Err(TemplateError::new(text))
                }),
            };
            templates.push(self.result(tenant, event, template, outcome));
        }
        templates
    }

    /// A template's result; its error goes to the tenant's log as well.
    fn result(
        &self,
        tenant: TenantId,
        event: &EventName,
        template: TemplateName,
        outcome: Result<worker_core::Value, TemplateError>,
    ) -> TemplateResult {
        if let Err(error) = &outcome {
            count(&self.0.counters.failed);
            let text = match &error.traceback {
                Some(traceback) => format!("{error}\n{traceback}"),
                None => error.to_string(),
            };
            self.0.vms.log(tenant, LogKind::Error, Some(template.clone()), Some(event.clone()), &text);
        }
        TemplateResult { template, outcome }
    }

    fn started(&self, tenant: TenantId) {
        let full = {
            let mut running = self.0.running.borrow_mut();
            let running = running.entry(tenant).or_default();
            *running += 1;
            *running >= self.0.limits.tenant_dispatches_max
        };
        if full && self.0.queues.borrow().held(tenant) == Held::No {
            self.0.queues.borrow_mut().hold(tenant, Held::Full);
        }
    }

    fn ended(&self, tenant: TenantId) {
        let below = {
            let mut all = self.0.running.borrow_mut();
            let Some(running) = all.get_mut(&tenant) else { return };
            *running -= 1;
            let below = *running < self.0.limits.tenant_dispatches_max;
            if *running == 0 {
                all.remove(&tenant);
            }
            below
        };
        if below && self.0.queues.borrow().held(tenant) == Held::Full {
            self.0.queues.borrow_mut().hold(tenant, Held::No);
            self.pump();
        }
        self.notify_if_quiet();
    }

    // ---- events that wait

    /// Sees that somebody starts the events that wait.
    fn pump(&self) {
        if !self.0.pumping.replace(true) {
            let this = self.clone();
            tokio::task::spawn_local(async move { this.run_pump().await });
        }
    }

    async fn run_pump(&self) {
        let mut since = Instant::now();
        loop {
            let next = self.0.queues.borrow_mut().pop();
            let Some((tenant, queued)) = next else { break };
            self.next(tenant, queued);
            if since.elapsed() >= PUMP_TIME {
                tokio::task::yield_now().await;
                since = Instant::now();
            }
        }
        self.0.pumping.set(false);
        self.notify_if_quiet();
    }

    /// Starts an event whose turn it is, or sees to what it needs first.
    fn next(&self, tenant: TenantId, queued: Queued) {
        if self.is_late(&queued) {
            late(queued);
            return;
        }
        match self.0.cache.lookup(tenant, &queued.event) {
            Lookup::Nobody => queued.reply_to.send(Ok(DispatchResult::default())),
            Lookup::NotLoaded => {
                self.0.queues.borrow_mut().push_front(tenant, queued);
                self.ensure_loaded(tenant);
            }
            Lookup::Subscribers(subscribers) => {
                if self.0.vms.in_credit(tenant) {
                    self.start(tenant, &subscribers, queued);
                } else {
                    {
                        let mut queues = self.0.queues.borrow_mut();
                        queues.push_front(tenant, queued);
                        queues.hold(tenant, Held::OutOfCredit);
                    }
                    let this = self.clone();
                    tokio::task::spawn_local(async move { this.start_by_turns(tenant).await });
                }
            }
        }
    }

    fn is_late(&self, queued: &Queued) -> bool {
        queued.reply_to.is_wanted() && Instant::now() >= queued.deadline
    }

    /// Starts the events of a tenant that has used up its credit: one a turn.
    async fn start_by_turns(&self, tenant: TenantId) {
        loop {
            let turn = self.0.vms.turn(tenant).await;
            if self.0.queues.borrow().held(tenant) != Held::OutOfCredit {
                return;
            }
            let next = self.0.queues.borrow_mut().pop_of(tenant);
            let Some(queued) = next else { break };
            if self.is_late(&queued) {
                late(queued);
                continue;
            }
            match self.0.cache.lookup(tenant, &queued.event) {
                Lookup::Nobody => queued.reply_to.send(Ok(DispatchResult::default())),
                Lookup::NotLoaded => {
                    self.0.queues.borrow_mut().push_front(tenant, queued);
                    drop(turn);
                    break;
                }
                Lookup::Subscribers(subscribers) => self.start(tenant, &subscribers, queued),
            }
            drop(turn);
            if self.0.vms.in_credit(tenant) || self.is_full(tenant) {
                break;
            }
        }
        let held = if self.is_full(tenant) { Held::Full } else { Held::No };
        if self.0.queues.borrow().held(tenant) == Held::OutOfCredit {
            self.0.queues.borrow_mut().hold(tenant, held);
        }
        self.pump();
    }

    fn is_full(&self, tenant: TenantId) -> bool {
        self.0.running.borrow().get(&tenant).is_some_and(|running| *running >= self.0.limits.tenant_dispatches_max)
    }

    // ---- loading

    /// Loads the tenant's templates if they are not; its events wait until that is done.
    pub(crate) fn ensure_loaded(&self, tenant: TenantId) {
        if self.0.queues.borrow().held(tenant) == Held::Loading {
            return;
        }
        self.0.queues.borrow_mut().hold(tenant, Held::Loading);
        let this = self.clone();
        tokio::task::spawn_local(async move {
            match this.0.cache.load(tenant).await {
                Ok(templates) => this.loaded(tenant, &templates),
                Err(error) => this.not_loaded(tenant, &error),
            }
            this.release(tenant);
        });
    }

    fn loaded(&self, tenant: TenantId, templates: &TenantTemplates) {
        let fingerprint = fingerprint(templates);
        if self.0.fingerprints.borrow_mut().insert(tenant, fingerprint) == Some(fingerprint) {
            return;
        }
        for bad in templates.bad() {
            self.0.vms.log(tenant, LogKind::Error, TemplateName::new(&bad.name).ok(), None, &bad.to_string());
            tracing::warn!(%tenant, template = bad.name, "template row skipped: {}", bad.reason);
        }
        if templates.templates().iter().any(|template| wants_key_resume(&template.events)) {
            self.send_key_resumes(tenant);
        }
    }

    fn not_loaded(&self, tenant: TenantId, error: &worker_db::DbError) {
        tracing::error!(%tenant, "templates cannot be loaded: {error}");
        let waiting = self.0.queues.borrow_mut().take_all_of(tenant);
        for queued in waiting {
            if !queued.reply_to.is_wanted() {
                count(&self.0.counters.dropped);
            }
            let context = format!("the templates of {tenant} cannot be loaded: {error}");
            queued.reply_to.send(Err(WorkerError::new(WorkerErrorKind::Storage, context)));
        }
    }

    /// Compiles what an event needs, off this thread if it is much, while the tenant's events wait.
    fn compile_first(&self, tenant: TenantId, subscribers: Subscribers, queued: Queued) {
        {
            let mut queues = self.0.queues.borrow_mut();
            queues.push_front(tenant, queued);
            queues.hold(tenant, Held::Loading);
        }
        let this = self.clone();
        tokio::task::spawn_local(async move {
            this.0.vms.prepare(&subscribers).await;
            this.release(tenant);
        });
    }

    fn release(&self, tenant: TenantId) {
        if self.0.queues.borrow().held(tenant) == Held::Loading {
            self.0.queues.borrow_mut().hold(tenant, Held::No);
        }
        self.pump();
    }

    fn reload(&self, tenant: TenantId) {
        self.0.cache.invalidate(tenant);
        self.0.fingerprints.borrow_mut().remove(&tenant);
        self.0.vms.retire(tenant);
        self.ensure_loaded(tenant);
    }

    // ---- the end

    fn is_quiet(&self) -> bool {
        self.0.queues.borrow().len() == 0 && self.0.running.borrow().is_empty()
    }

    fn notify_if_quiet(&self) {
        if self.is_quiet() {
            self.0.quiet.notify_waiters();
        }
    }

    fn drain(&self, reply_to: ReplyTo<()>) {
        if self.0.state.get() == State::Open {
            self.0.state.set(State::Draining);
        }
        let this = self.clone();
        tokio::task::spawn_local(async move {
            while !this.is_quiet() {
                let notified = this.0.quiet.notified();
                if this.is_quiet() {
                    break;
                }
                notified.await;
            }
            this.0.vms.until_idle().await;
            this.0.state.set(State::Ended);
            reply_to.send(Ok(()));
        });
    }

    fn kill(&self) {
        self.0.state.set(State::Ended);
        let waiting = self.0.queues.borrow_mut().take_all();
        for queued in waiting {
            let context = "the worker was ended before the event was started";
            queued.reply_to.send(Err(WorkerError::new(WorkerErrorKind::WorkerGone, context)));
        }
        self.0.vms.cancel_all();
    }
}

/// Nobody waits any more for an event that never started.
fn late(queued: Queued) {
    let context = "the event waited for its turn for longer than its caller waits";
    queued.reply_to.send(Err(WorkerError::new(WorkerErrorKind::TimedOut, context)));
}

/// Whether these subscriptions ask for `KeyResume`, of any scope.
fn wants_key_resume(events: &[Box<str>]) -> bool {
    events.iter().any(|event| {
        let name = event.split('[').next().unwrap_or_default();
        name == "KeyResume" || name == "AntiRaid"
    })
}

/// What a tenant's templates are, as one number.
fn fingerprint(templates: &TenantTemplates) -> u64 {
    let mut hasher = DefaultHasher::new();
    for template in templates.templates() {
        template.name.hash(&mut hasher);
        template.files.hash().hash(&mut hasher);
        template.events.hash(&mut hasher);
        template.updated_at.as_microsecond().hash(&mut hasher);
    }
    for bad in templates.bad() {
        bad.name.hash(&mut hasher);
        bad.reason.hash(&mut hasher);
    }
    hasher.finish()
}

/// Changes that others make to the templates of this worker's tenants, for as long as the dispatcher lives.
async fn follow_changes(dispatcher: Weak<Inner>, mut changes: broadcast::Receiver<Change>) {
    loop {
        let change = changes.recv().await;
        let Some(inner) = dispatcher.upgrade() else { return };
        match change {
            Ok(Change::Templates { tenant }) if inner.filter.owns(tenant) => inner.cache.invalidate(tenant),
            Ok(_) => {}
            Err(broadcast::error::RecvError::Lagged(_)) => inner.cache.invalidate_all(),
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

impl WorkerLike for WorkerDispatcher {
    fn id(&self) -> WorkerId {
        self.0.id
    }

    fn submit(&self, call: Call) {
        match call {
            Call::Dispatch { tenant, event, reply_to } => self.take_in(tenant, event, reply_to),
            Call::Reload { reply_to, .. } if self.0.state.get() != State::Open => {
                reply_to.send(Err(WorkerError::new(WorkerErrorKind::WorkerGone, "the worker takes no more calls")));
            }
            Call::Reload { tenant, reply_to } => {
                self.reload(tenant);
                reply_to.send(Ok(()));
            }
            Call::Stats { reply_to } => reply_to.send(Ok(self.stats_now())),
            Call::Drain { reply_to } => self.drain(reply_to),
            Call::Kill { reply_to } => {
                self.kill();
                reply_to.send(Ok(()));
            }
            other => other.refuse(WorkerError::new(WorkerErrorKind::BadRequest, "a call that this worker does not know")),
        }
    }
}

impl WorkerDispatcher {
    fn stats_now(&self) -> WorkerStats {
        let (counters, vms) = (&self.0.counters, self.0.vms.stats());
        WorkerStats {
            workers: 1,
            events: counters.events.get(),
            events_dispatched: counters.dispatched.get(),
            templates_run: counters.run.get(),
            templates_failed: counters.failed.get(),
            events_dropped: counters.dropped.get(),
            events_refused: counters.refused.get(),
            events_queued: self.0.queues.borrow().len() as u64,
            vms_made: vms.made,
            vms_evicted: vms.evicted,
            vms_broken: vms.broken,
            vms_live: vms.live,
            vm_memory_bytes: vms.memory_bytes,
            restarts: 0,
        }
    }
}
