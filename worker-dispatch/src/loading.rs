//! Loading templates: when an event needs them, when they have changed, and again when the database did not answer.

use std::collections::{HashSet, VecDeque};
use std::error::Error;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use worker_core::{TemplateName, TenantId, WorkerError, WorkerErrorKind};
use worker_db::{Change, DbError, TenantTemplates};
use worker_vm::LogKind;

use crate::queues::Held;
use crate::worker_dispatcher::{Inner, State, count};

/// Between two tenants that are loaded though no event of theirs waits: when the worker starts, or when a shop template
/// of many tenants has changed.
const BACKLOG_PACE: Duration = Duration::from_millis(5);

/// Before the database is asked again after it did not answer; doubled each time.
const RETRY_WAIT: Duration = Duration::from_secs(1);

/// The longest such wait.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(30);

/// What was last loaded for a tenant.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// What the templates are, to tell a change from a mere second load; `None`: whatever comes is a change.
    fingerprint: Option<u64>,
    /// Counts the changes.
    pub(crate) serial: u64,
    /// Templates whose failure to load is in the log already.
    reported: HashSet<TemplateName>,
}

/// Tenants to be loaded one after the other, each once.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    order: VecDeque<TenantId>,
    tenants: HashSet<TenantId>,
    working: bool,
}

impl Inner {
    /// Loads the tenant's templates; its events wait until that is done.
    pub(crate) fn ensure_loaded(self: &Rc<Self>, tenant: TenantId) {
        if self.queues.borrow().held(tenant) != Held::Loading {
            self.queues.borrow_mut().hold(tenant, Held::Loading);
            let this = self.clone();
            tokio::task::spawn_local(async move { this.load(tenant).await });
        }
    }

    /// Whether it could be loaded. The tenant is held while it is.
    async fn load(self: &Rc<Self>, tenant: TenantId) -> bool {
        let is_current = |templates: &Rc<TenantTemplates>| {
            self.cache.loaded(tenant).is_some_and(|current| Rc::ptr_eq(&current, templates))
        };
        let loaded = loop {
            match self.cache.load(tenant).await {
                // It was changed while it was read: what came may be of before.
                Ok(templates) if !is_current(&templates) && self.state.get() != State::Ended => {}
                loaded => break loaded,
            }
        };
        match &loaded {
            Ok(templates) => self.loaded(tenant, templates),
            Err(error) => self.not_loaded(tenant, error),
        }
        self.release(tenant, Held::Loading);
        loaded.is_ok()
    }

    fn loaded(self: &Rc<Self>, tenant: TenantId, templates: &TenantTemplates) {
        let fingerprint = fingerprint(templates);
        let serial = {
            let mut loads = self.loads.borrow_mut();
            let load = loads.entry(tenant).or_default();
            if load.fingerprint.replace(fingerprint) == Some(fingerprint) {
                return;
            }
            load.serial += 1;
            load.reported.clear();
            load.serial
        };
        // Now, and not when the next event comes: a template that is gone must not run on in the background.
        self.vms.retire(tenant);
        for bad in templates.bad() {
            self.vms.log(tenant, LogKind::Error, TemplateName::new(&bad.name).ok(), None, &bad.to_string());
            tracing::warn!(%tenant, template = bad.name, "template row skipped: {}", bad.reason);
        }
        if templates.templates().iter().any(|template| wants_key_resume(&template.events)) {
            self.send_key_resumes(tenant, serial);
        }
    }

    fn not_loaded(self: &Rc<Self>, tenant: TenantId, error: &DbError) {
        tracing::error!(%tenant, error = error as &dyn Error, "templates cannot be loaded");
        let waiting = self.queues.borrow_mut().take_all_of(tenant);
        for queued in waiting {
            if !queued.reply_to.is_wanted() {
                count(&self.counters.dropped);
            }
            let context = format!("the templates of {tenant} cannot be loaded");
            let refusal = WorkerError::new(WorkerErrorKind::Storage, context).with_source(error.clone());
            queued.reply_to.send(Err(refusal));
        }
        if self.loads.borrow().contains_key(&tenant) {
            self.load_later([tenant]);
        }
    }

    /// Whether an error of loading should go to the log: every event meets it again, the log has it once.
    pub(crate) fn is_news(&self, tenant: TenantId, template: &TemplateName) -> bool {
        self.loads.borrow_mut().get_mut(&tenant).is_none_or(|load| load.reported.insert(template.clone()))
    }

    /// Takes the tenant's templates for changed, whatever they are.
    pub(crate) fn reload(self: &Rc<Self>, tenant: TenantId) {
        self.cache.invalidate(tenant);
        self.loads.borrow_mut().entry(tenant).or_default().fingerprint = None;
        self.vms.retire(tenant);
        self.ensure_loaded(tenant);
    }

    /// Follows the changes that others make to the templates of this worker's tenants, for as long as the dispatcher
    /// lives.
    pub(crate) fn follow_changes(self: &Rc<Self>) {
        let mut changes = self.db.changes();
        let weak = Rc::downgrade(self);
        tokio::task::spawn_local(async move {
            loop {
                let change = changes.recv().await;
                let Some(this) = weak.upgrade() else { return };
                match change {
                    Ok(Change::Templates { tenant }) => this.changed(tenant),
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => this.all_changed(),
                    Err(RecvError::Closed) => return,
                }
            }
        });
    }

    fn changed(self: &Rc<Self>, tenant: TenantId) {
        if !self.owns(tenant) {
            return;
        }
        let is_known = self.loads.borrow().contains_key(&tenant) || self.cache.loaded(tenant).is_some();
        self.cache.invalidate(tenant);
        if is_known {
            self.load_later([tenant]);
        }
    }

    fn all_changed(self: &Rc<Self>) {
        self.cache.invalidate_all();
        let known: Vec<_> = self.loads.borrow().keys().copied().collect();
        self.load_later(known);
    }

    /// Loads tenants that no event waits for, one after the other. Who is not loaded because the database does not
    /// answer stays on the list.
    pub(crate) fn load_later(self: &Rc<Self>, tenants: impl IntoIterator<Item = TenantId>) {
        let mut backlog = self.backlog.borrow_mut();
        let backlog = &mut *backlog;
        backlog.order.extend(tenants.into_iter().filter(|tenant| backlog.tenants.insert(*tenant)));
        if backlog.order.is_empty() || std::mem::replace(&mut backlog.working, true) {
            return;
        }
        let (weak, clock) = (Rc::downgrade(self), self.vms.clock().clone());
        tokio::task::spawn_local(async move {
            let mut retry_wait = RETRY_WAIT;
            loop {
                let wait = {
                    let Some(this) = weak.upgrade() else { return };
                    if this.work_off_one().await {
                        retry_wait = RETRY_WAIT;
                        BACKLOG_PACE
                    } else {
                        let wait = retry_wait;
                        retry_wait = (retry_wait * 2).min(RETRY_WAIT_MAX);
                        wait
                    }
                };
                clock.rest(wait).await;
                let Some(this) = weak.upgrade() else { return };
                let mut backlog = this.backlog.borrow_mut();
                if backlog.order.is_empty() || this.state.get() != State::Open {
                    backlog.working = false;
                    return;
                }
            }
        });
    }

    /// Loads the next tenant of the backlog. Whether it could be.
    async fn work_off_one(self: &Rc<Self>) -> bool {
        let tenant = {
            let mut backlog = self.backlog.borrow_mut();
            let Some(tenant) = backlog.order.pop_front() else { return true };
            backlog.tenants.remove(&tenant);
            tenant
        };
        let is_known = self.loads.borrow().contains_key(&tenant);
        if is_known && self.cache.loaded(tenant).is_some() {
            return true;
        }
        let is_loading = self.queues.borrow().held(tenant) == Held::Loading;
        let is_loaded = !is_loading && {
            self.queues.borrow_mut().hold(tenant, Held::Loading);
            self.load(tenant).await
        };
        if !is_loaded {
            // Being loaded for an event is not loaded yet.
            self.load_later([tenant]);
        }
        is_loaded || is_loading
    }

    /// Asks the database until it answers, unless the dispatcher ends before.
    pub(crate) async fn ask<T>(&self, what: &'static str, ask: impl AsyncFn() -> Result<T, DbError>) -> Option<T> {
        let mut wait = RETRY_WAIT;
        while self.state.get() == State::Open {
            match ask().await {
                Ok(answer) => return Some(answer),
                Err(error) => tracing::error!(worker = %self.id, error = &error as &dyn Error, "{what}"),
            }
            self.vms.clock().rest(wait).await;
            wait = (wait * 2).min(RETRY_WAIT_MAX);
        }
        None
    }
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
