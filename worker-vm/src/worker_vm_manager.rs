//! The VMs of one worker.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;
use worker_core::{
    Clock, Event, EventName, Limits, StaticRef, Template, TemplateError, TemplateName, TenantId, TenantUse,
};
use worker_db::{Subscribers, WorkerCacheData};

use crate::error::VmError;
use crate::luau::compile;
use crate::luau::ffi;
use crate::luau::json::{Json, JsonError};
use crate::runtime::dispatches::{RunHandle, RunOutcome, Started};
use crate::runtime::environment::Environment;
use crate::runtime::metered::metered;
use crate::runtime::turns::{CpuAccount, Turn, Turns};
use crate::runtime::vm::{Health, Surroundings, Vm};
use crate::tenant::Tenant;
use crate::tenant_log::{LogKind, LogLine};
use crate::worker_state::WorkerState;

/// How often idle VMs and tenants are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);

/// When the budget is passed, VMs go until so much of it is free again: evicting one at a time would mean to look at all
/// VMs for each.
const EVICT_PERCENT: usize = 10;

/// Makes, keeps and drops the VMs of one worker: one a tenant, made when first needed. Clones are handles to the same VMs;
/// they stay on the worker's thread.
#[derive(Clone)]
pub struct WorkerVmManager(Rc<Inner>);

struct Inner {
    surroundings: Surroundings,
    tenants: RefCell<HashMap<TenantId, Rc<Tenant>>>,
    vms: RefCell<HashMap<TenantId, Entry>>,
    /// VMs that were replaced and in which something still runs.
    draining: RefCell<Vec<Weak<Vm>>>,
    made: Cell<u64>,
    evicted: Cell<u64>,
    broken: Cell<u64>,
    sweeping: Cell<bool>,
    logs_bytes: Cell<usize>,
}

struct Entry {
    vm: Rc<Vm>,
    /// Of which state of the tenant's templates it is.
    generation: u64,
    last_used: Cell<Instant>,
}

/// Figures of a worker's VMs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VmStats {
    /// VMs made.
    pub made: u64,
    /// VMs dropped because they were idle for long or memory was needed.
    pub evicted: u64,
    /// VMs replaced because they broke.
    pub broken: u64,
    /// Threads beside the main ones of runs that ended with an error.
    pub threads_failed: u64,
    /// VMs alive, those that drain included.
    pub live: u64,
    /// Memory of all of them, in bytes: what Luau has allocated and what native code holds.
    pub memory_bytes: u64,
}

/// The runs of one event: one for each template.
pub type Runs = SmallVec<[(TemplateName, Run); 1]>;

/// The run of one template.
#[derive(Debug)]
pub enum Run {
    /// The template cannot be loaded: none of its code ran.
    NotLoaded(TemplateError),
    /// It has ended.
    Done(RunOutcome),
    /// It goes on.
    Running(RunFuture),
}

/// The outcome of a run, when it comes. Dropping it leaves the run going, as a background thread of the template.
#[derive(Debug)]
pub struct RunFuture(tokio::sync::oneshot::Receiver<RunOutcome>);

impl Future for RunFuture {
    type Output = RunOutcome;

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<RunOutcome> {
        std::pin::Pin::new(&mut self.0)
            .poll(cx)
            .map(|outcome| outcome.unwrap_or_else(|_| Err(TemplateError::new("cancelled: the VM was dropped"))))
    }
}

impl WorkerVmManager {
    /// Without any VM.
    pub fn new(state: WorkerState, cache: WorkerCacheData, limits: StaticRef<Limits>) -> Self {
        Self(Rc::new(Inner {
            surroundings: Surroundings {
                state,
                cache,
                turns: Turns::default(),
                keys: Rc::default(),
                threads_failed: Rc::default(),
                memory_bytes: Rc::default(),
                limits,
            },
            tenants: RefCell::default(),
            vms: RefCell::default(),
            draining: RefCell::default(),
            made: Cell::new(0),
            evicted: Cell::new(0),
            broken: Cell::new(0),
            sweeping: Cell::new(false),
            logs_bytes: Cell::new(0),
        }))
    }

    /// The clock that the VMs live by.
    pub fn clock(&self) -> &Clock {
        self.0.surroundings.state.clock()
    }

    /// Whether the tenant may run at once, or has to wait for its [`turn`](Self::turn).
    pub fn in_credit(&self, tenant: TenantId) -> bool {
        self.account(tenant, CpuAccount::in_credit)
    }

    /// Whether the tenant has CPU time left of its share; if not, its turn comes when it has again.
    pub fn within_share(&self, tenant: TenantId) -> bool {
        self.account(tenant, CpuAccount::within_share)
    }

    /// Asks the tenant's account; a tenant without one has used nothing.
    fn account(&self, tenant: TenantId, ask: impl FnOnce(&CpuAccount) -> bool) -> bool {
        // By its VM, which is what the event needs next anyway.
        if let Some(entry) = self.0.vms.borrow().get(&tenant) {
            return ask(&entry.vm.tenant.account);
        }
        self.0.tenants.borrow().get(&tenant).is_none_or(|tenant| ask(&tenant.account))
    }

    /// Waits until it is the tenant's turn to run for a slice.
    pub async fn turn(&self, tenant: TenantId) -> Turn {
        let account = self.tenant(tenant).account.clone();
        self.0.surroundings.turns.wait(&account).await
    }

    /// Starts the event in each of the templates; those that end within their first slice have ended when this returns.
    /// Returns `None` where code must be compiled first: [`prepare`](Self::prepare), then start again.
    pub fn try_start(
        &self,
        tenant: TenantId,
        subscribers: &Subscribers,
        event: &Event,
        values_wanted: bool,
    ) -> Result<Option<Runs>, VmError> {
        let vm = self.vm(tenant, subscribers.tenant().generation())?;
        let mut environments = SmallVec::<[_; 1]>::new();
        for (position, template) in subscribers.indices().zip(subscribers.templates()) {
            match self.environment(&vm, position, template) {
                Ok(environment) => environments.push(Ok(environment)),
                Err(EnvironmentError::NotCompiled) => return Ok(None),
                Err(EnvironmentError::Failed(error)) => environments.push(Err((template.name.clone(), error))),
            }
        }
        let data = match Json::parse(event.data()) {
            Ok(data) => data,
            Err(error) => {
                let error = TemplateError::new(match error {
                    JsonError::TooDeep => "too_large: depth".to_owned(),
                    JsonError::Syntax(error) => format!("invalid_argument: event data is not JSON: {error}"),
                });
                let failed = |template: &Arc<Template>| (template.name.clone(), Run::Done(Err(error.clone())));
                return Ok(Some(subscribers.templates().map(failed).collect()));
            }
        };
        let mut runs = Runs::new();
        let mut dictionary = self.0.surroundings.keys.borrow_mut();
        let mut keys = dictionary.event(event.name());
        for environment in environments {
            runs.push(match environment {
                Err((name, error)) => (name, Run::NotLoaded(error)),
                Ok(environment) => {
                    keys.rewind();
                    let started = vm.start(&environment, event, &data, &mut keys, values_wanted);
                    let run = match started {
                        Started::Done(outcome) => Run::Done(outcome),
                        Started::Running(RunHandle { outcome }) => Run::Running(RunFuture(outcome)),
                    };
                    (environment.template.name.clone(), run)
                }
            });
        }
        self.used(tenant);
        Ok(Some(runs))
    }

    /// Compiles and loads what [`try_start`](Self::try_start) needs and does not have yet: large files off this thread.
    /// What cannot be compiled is known then, and the runs say so.
    pub async fn prepare(&self, tenant: TenantId, subscribers: &Subscribers) {
        let _busy = self.clock().busy();
        for (position, template) in subscribers.indices().zip(subscribers.templates()) {
            if template.files.get("init.luau").is_none() {
                continue;
            }
            // What the compiler takes is the tenant's; waiting for a thread, or for whoever compiles the same, is not.
            let (account, elsewhere) = (self.tenant(tenant).account.clone(), Arc::<AtomicU64>::default());
            let compiling = self.0.surroundings.state.bytecode_timed(&template.files, ENTRY, elsewhere.clone());
            let compiled = metered(account.clone(), compiling).await;
            account.charge(elsewhere.load(Ordering::Relaxed));
            let Ok(vm) = self.vm(tenant, subscribers.tenant().generation()) else { return };
            let Ok(environment) = vm.environment_for(position, template) else { return };
            match compiled {
                // No room is found again where it is started.
                Ok(bytecode) => drop(load_entry(&vm, &environment, &bytecode)),
                Err(error) => environment.set_load_error(TemplateError {
                    text: error.to_string().into(),
                    at: Some(error.at),
                    traceback: None,
                }),
            }
            // A tenant may have many: others come in between.
            tokio::task::yield_now().await;
        }
    }

    /// The tenant's templates have changed: what runs may end within the drain time, the next event gets a new VM.
    pub fn retire(&self, tenant: TenantId) {
        let entry = self.0.vms.borrow_mut().remove(&tenant);
        if let Some(entry) = entry {
            self.drain(entry.vm);
        }
    }

    /// Waits until nothing runs any more in any VM.
    pub async fn until_idle(&self) {
        loop {
            let busy = self.0.vms.borrow().values().find(|entry| !entry.vm.is_idle()).map(|entry| entry.vm.clone());
            let draining = || self.0.draining.borrow().iter().filter_map(Weak::upgrade).find(|vm| !vm.is_idle());
            let Some(vm) = busy.or_else(draining) else { return };
            vm.until_idle().await;
        }
    }

    /// Drops all VMs: what runs in them ends with `cancelled: `.
    pub fn cancel_all(&self) {
        let entries: Vec<_> = self.0.vms.borrow_mut().drain().collect();
        for (_, entry) in entries {
            entry.vm.cancel();
        }
        let draining = std::mem::take(&mut *self.0.draining.borrow_mut());
        for vm in draining.iter().filter_map(Weak::upgrade) {
            vm.cancel();
        }
    }

    /// Adds a line to the tenant's log.
    pub fn log(
        &self,
        tenant: TenantId,
        kind: LogKind,
        template: Option<TemplateName>,
        event: Option<EventName>,
        text: &str,
    ) {
        self.tenant(tenant).log.push(kind, template, event, text);
    }

    /// Puts an error of a template into the tenant's log, and to where people see it: the template's error channel, if
    /// there is a bot.
    pub fn log_error(
        &self,
        tenant: TenantId,
        template: &TemplateName,
        event: Option<EventName>,
        error: &TemplateError,
    ) {
        let surroundings = &self.0.surroundings;
        let templates = surroundings.cache.loaded(tenant);
        let channel = templates.and_then(|templates| templates.get(template)?.error_channel);
        surroundings.log_error(&self.tenant(tenant), template, channel, event, error);
    }

    /// The lines of the tenant's log, oldest first.
    pub fn log_lines(&self, tenant: TenantId) -> Vec<LogLine> {
        self.0.tenants.borrow().get(&tenant).map(|tenant| tenant.log.lines()).unwrap_or_default()
    }

    /// Figures of now.
    pub fn stats(&self) -> VmStats {
        let draining = self.0.draining.borrow().iter().filter(|vm| vm.strong_count() > 0).count();
        VmStats {
            made: self.0.made.get(),
            evicted: self.0.evicted.get(),
            broken: self.0.broken.get(),
            threads_failed: self.0.surroundings.threads_failed.get(),
            live: (self.0.vms.borrow().len() + draining) as u64,
            memory_bytes: self.0.surroundings.memory_bytes.get() as u64,
        }
    }

    /// The tenants that have used the most CPU time, the greatest first, with the memory of their VMs.
    pub fn greatest_users(&self, users_max: usize) -> Vec<TenantUse> {
        let (tenants, vms) = (self.0.tenants.borrow(), self.0.vms.borrow());
        let uses = tenants.iter().map(|(&id, tenant)| TenantUse {
            tenant: id,
            cpu_micros: tenant.account.total().as_micros().try_into().unwrap_or(u64::MAX),
            memory_bytes: vms.get(&id).map_or(0, |entry| entry.vm.memory().used() as u64),
        });
        let mut uses: Vec<_> = uses.collect();
        uses.sort_unstable_by_key(|used| (std::cmp::Reverse((used.cpu_micros, used.memory_bytes)), used.tenant));
        uses.truncate(users_max);
        uses
    }

    fn tenant(&self, id: TenantId) -> Rc<Tenant> {
        let surroundings = &self.0.surroundings;
        let make = || Rc::new(Tenant::new(id, &surroundings.limits, surroundings.state.ratelimits()));
        self.0.tenants.borrow_mut().entry(id).or_insert_with(make).clone()
    }

    /// The VM of the tenant for this state of its templates, made if there is none that is good.
    fn vm(&self, tenant: TenantId, generation: u64) -> Result<Rc<Vm>, VmError> {
        if let Some(entry) = self.0.vms.borrow().get(&tenant)
            && entry.generation == generation
            && entry.vm.health() == Health::Good
        {
            return Ok(entry.vm.clone());
        }
        let old = self.0.vms.borrow_mut().remove(&tenant);
        if let Some(entry) = old {
            if entry.vm.health() == Health::Broken {
                self.0.broken.set(self.0.broken.get() + 1);
            } else {
                self.drain(entry.vm);
            }
        }
        let vm = Vm::new(self.tenant(tenant), self.0.surroundings.clone())?;
        self.0.made.set(self.0.made.get() + 1);
        let entry = Entry { vm: vm.clone(), generation, last_used: Cell::new(Instant::now()) };
        self.0.vms.borrow_mut().insert(tenant, entry);
        self.start_sweeping();
        Ok(vm)
    }

    /// Notes that the tenant's VM was used, and makes room if all VMs hold too much.
    fn used(&self, tenant: TenantId) {
        if let Some(entry) = self.0.vms.borrow().get(&tenant) {
            entry.last_used.set(Instant::now());
        }
        if self.0.surroundings.memory_bytes.get() > self.0.surroundings.limits.worker_memory_bytes_max {
            self.evict_least_recently_used(tenant);
        }
    }

    fn evict_least_recently_used(&self, keep: TenantId) {
        let budget = self.0.surroundings.limits.worker_memory_bytes_max;
        let target = budget - budget / 100 * EVICT_PERCENT;
        let mut idle: Vec<_> = {
            let vms = self.0.vms.borrow();
            let idle = vms.iter().filter(|(tenant, entry)| **tenant != keep && entry.vm.is_idle());
            idle.map(|(tenant, entry)| (entry.last_used.get(), *tenant)).collect()
        };
        idle.sort_unstable();
        for (_, tenant) in idle {
            if self.0.surroundings.memory_bytes.get() <= target {
                break;
            }
            self.evict(tenant);
        }
    }

    fn evict(&self, tenant: TenantId) {
        let entry = self.0.vms.borrow_mut().remove(&tenant);
        if entry.is_some() {
            self.0.evicted.set(self.0.evicted.get() + 1);
        }
    }

    /// Lets a VM that was taken out of service end what runs in it, for as long as the drain time.
    fn drain(&self, vm: Rc<Vm>) {
        vm.retire();
        if vm.is_idle() {
            return;
        }
        let mut draining = self.0.draining.borrow_mut();
        draining.retain(|vm| vm.strong_count() > 0);
        draining.push(Rc::downgrade(&vm));
        let time = self.0.surroundings.limits.vm_drain_timeout;
        tokio::task::spawn_local(async move {
            if tokio::time::timeout(time, vm.until_idle()).await.is_err() {
                vm.cancel();
            }
        });
    }

    fn start_sweeping(&self) {
        if self.0.sweeping.replace(true) {
            return;
        }
        let weak = Rc::downgrade(&self.0);
        tokio::task::spawn_local(async move {
            loop {
                tokio::time::sleep(SWEEP_INTERVAL).await;
                let Some(inner) = weak.upgrade() else { break };
                Self(inner).sweep();
            }
        });
    }

    fn sweep(&self) {
        let limits = &self.0.surroundings.limits;
        let now = Instant::now();
        let idle: Vec<_> = {
            let vms = self.0.vms.borrow();
            let old = |entry: &Entry| now.saturating_duration_since(entry.last_used.get()) >= limits.vm_idle_timeout;
            vms.iter().filter(|(_, entry)| old(entry) && entry.vm.is_idle()).map(|(tenant, _)| *tenant).collect()
        };
        idle.into_iter().for_each(|tenant| self.evict(tenant));
        let vms = self.0.vms.borrow();
        let mut tenants = self.0.tenants.borrow_mut();
        tenants.retain(|id, tenant| vms.contains_key(id) || Rc::strong_count(tenant) > 1 || !tenant.is_forgettable());
        let mut logs: usize = tenants.values().map(|tenant| tenant.log.bytes()).sum();
        while logs > limits.logs_bytes_max {
            let Some(longest) = tenants.values().max_by_key(|tenant| tenant.log.bytes()) else { break };
            let before = longest.log.bytes();
            longest.log.halve();
            logs -= before - longest.log.bytes();
        }
        self.0.logs_bytes.set(logs);
    }

    /// The environment of a template with its entry loaded.
    fn environment(
        &self,
        vm: &Rc<Vm>,
        position: usize,
        template: &Arc<Template>,
    ) -> Result<Rc<Environment>, EnvironmentError> {
        let environment = vm.environment_for(position, template).map_err(EnvironmentError::Failed)?;
        if environment.entry() != 0 {
            return Ok(environment);
        }
        if let Some(error) = environment.load_error() {
            return Err(EnvironmentError::Failed(error));
        }
        if template.files.get("init.luau").is_none() {
            return Err(EnvironmentError::Failed(TemplateError::new("not_found: /init.luau")));
        }
        let state = &self.0.surroundings.state;
        let Some(bytecode) = state.bytecode_at_hand(&template.files, ENTRY) else {
            return Err(EnvironmentError::NotCompiled);
        };
        load_entry(vm, &environment, &bytecode).map_err(EnvironmentError::Failed)?;
        Ok(environment)
    }
}

/// Loads the function of `/init.luau` into its template's environment.
fn load_entry(vm: &Vm, environment: &Environment, bytecode: &[u8]) -> Result<(), TemplateError> {
    let loaded = vm.protect(|l| {
        #[expect(unsafe_code, reason = "Luau's C API")]
        // SAFETY: LUA_MINSTACK is enough; the function is on top when it is loaded.
        unsafe {
            ffi::lua_rawgeti_(l, ffi::LUA_REGISTRYINDEX, environment.globals);
            compile::load(l, ENTRY, bytecode);
            ffi::lua_ref(l, -1)
        }
    });
    match loaded {
        Ok(reference) => {
            environment.set_entry(reference);
            Ok(())
        }
        Err(_) => Err(TemplateError::new("memory: no room to load the template within the tenant's memory limit")),
    }
}

/// Where every run begins.
const ENTRY: &str = "/init.luau";

enum EnvironmentError {
    NotCompiled,
    Failed(TemplateError),
}

impl Drop for Inner {
    fn drop(&mut self) {
        for (_, entry) in self.vms.get_mut().drain() {
            entry.vm.cancel();
        }
    }
}
