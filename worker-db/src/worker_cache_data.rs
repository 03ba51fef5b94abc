//! What a worker keeps of the store for the tenants it owns.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, Shared, WeakShared};
use worker_core::{ContentHash, Event, Limits, StaticRef, Template, TemplateFiles, TemplateName, TenantId};

use crate::tenant_templates::TenantTemplates;
use crate::{BadTemplateRow, DbError, SharedCache, Subscribers, TemplateRow, WorkerDb};

/// The templates of tenants, loaded when first asked for. One for each worker, on its thread; clones share it.
///
/// It does not listen for changes itself: whoever does calls [`invalidate`](Self::invalidate).
#[derive(Clone)]
pub struct WorkerCacheData(Rc<Inner>);

struct Inner {
    db: WorkerDb,
    shared: SharedCache,
    builtins: Option<Arc<Template>>,
    /// What a tenant without templates of its own has.
    common: Rc<TenantTemplates>,
    bounds: CacheBounds,
    tenants: RefCell<HashMap<TenantId, Entry>>,
    /// What invalidated tenants had, until the next load: one that finds the same gives these again, so that the tenant's
    /// VM lives on. Never the common ones.
    stale: RefCell<HashMap<TenantId, Rc<TenantTemplates>>>,
    /// Bytes of the files of all in `tenants` and `stale`.
    files_bytes: Cell<usize>,
    /// Thousands of tenants have templates of the same names: they share the texts.
    names: RefCell<HashSet<TemplateName>>,
    loading: RefCell<HashMap<TenantId, Loading>>,
    /// Counts look-ups and loads: the clock of "least recently used", and the ticket of a load.
    ticks: Cell<u64>,
}

struct Entry {
    templates: Rc<TenantTemplates>,
    last_used: Cell<u64>,
}

type LoadResult = Result<Rc<TenantTemplates>, DbError>;
type Load = LocalBoxFuture<'static, LoadResult>;

/// A load under way. Those who wait for it keep it alive, so it ends with the last of them.
struct Loading {
    ticket: u64,
    load: WeakShared<Load>,
}

/// What a worker keeps at most. Beyond it, tenants that were not asked for the longest go.
#[derive(Clone, Copy, Debug)]
pub struct CacheBounds {
    /// Tenants.
    pub tenants_max: usize,
    /// Bytes of their templates' files, counted for each tenant that has them.
    pub files_bytes_max: usize,
}

/// Who an event is for.
#[derive(Debug)]
pub enum Lookup {
    /// The tenant must be [loaded](WorkerCacheData::load) first.
    NotLoaded,
    /// No template of the tenant subscribes to it.
    Nobody,
    /// These.
    Subscribers(Subscribers),
}

impl WorkerCacheData {
    /// An empty cache over the store. It may hold as many tenants as a big worker owns, and files up to a quarter of what
    /// the worker's VMs may use.
    pub fn new(db: WorkerDb, shared: SharedCache, builtins: Option<Arc<Template>>, limits: StaticRef<Limits>) -> Self {
        let bounds = CacheBounds { tenants_max: 100_000, files_bytes_max: limits.worker_memory_bytes_max / 4 };
        Self::with_bounds(db, shared, builtins, bounds)
    }

    /// An empty cache with bounds of its own.
    pub fn with_bounds(
        db: WorkerDb,
        shared: SharedCache,
        builtins: Option<Arc<Template>>,
        bounds: CacheBounds,
    ) -> Self {
        Self(Rc::new(Inner {
            common: Rc::new(TenantTemplates::new(builtins.iter().cloned().collect(), Vec::new())),
            db,
            shared,
            builtins,
            bounds,
            tenants: RefCell::default(),
            stale: RefCell::default(),
            files_bytes: Cell::new(0),
            names: RefCell::default(),
            loading: RefCell::default(),
            ticks: Cell::new(0),
        }))
    }

    /// Who the event is for: one hash look-up and a few comparisons, without allocation.
    pub fn lookup(&self, tenant: TenantId, event: &Event) -> Lookup {
        let tenants = self.0.tenants.borrow();
        let Some(entry) = tenants.get(&tenant) else { return Lookup::NotLoaded };
        entry.last_used.set(self.0.tick());
        let indices = entry.templates.subscribers(event);
        if indices.is_empty() {
            return Lookup::Nobody;
        }
        Lookup::Subscribers(Subscribers::new(entry.templates.clone(), indices))
    }

    /// The tenant's templates, if they are loaded.
    pub fn loaded(&self, tenant: TenantId) -> Option<Rc<TenantTemplates>> {
        self.0.tenants.borrow().get(&tenant).map(|entry| entry.templates.clone())
    }

    /// The tenant's templates, loaded unless they are: however many ask at once, one query.
    pub async fn load(&self, tenant: TenantId) -> Result<Rc<TenantTemplates>, DbError> {
        match self.loaded(tenant) {
            Some(templates) => Ok(templates),
            None => self.0.loading(tenant).await,
        }
    }

    /// Takes the tenant's templates for changed: the next look-up must load them. What a load under way brings is not kept.
    pub fn invalidate(&self, tenant: TenantId) {
        self.0.loading.borrow_mut().remove(&tenant);
        let removed = self.0.tenants.borrow_mut().remove(&tenant);
        if let Some(entry) = removed {
            self.0.keep_stale(tenant, entry);
        }
    }

    /// The same for all tenants: for a listener that has lost changes.
    pub fn invalidate_all(&self) {
        self.0.loading.borrow_mut().clear();
        for (tenant, entry) in self.0.tenants.take() {
            self.0.keep_stale(tenant, entry);
        }
    }

    /// How many tenants are loaded.
    pub fn len(&self) -> usize {
        self.0.tenants.borrow().len()
    }

    /// Whether no tenant is loaded.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The store beneath.
    pub fn db(&self) -> &WorkerDb {
        &self.0.db
    }

    /// The code that the process shares.
    pub fn shared(&self) -> &SharedCache {
        &self.0.shared
    }
}

impl Inner {
    /// Names that are kept to be shared. Beyond it all are forgotten and gathered anew: those in use stay shared.
    const NAMES_MAX: usize = 4_096;

    fn tick(&self) -> u64 {
        let tick = self.ticks.get() + 1;
        self.ticks.set(tick);
        tick
    }

    /// The load under way for the tenant, or a new one.
    fn loading(self: &Rc<Self>, tenant: TenantId) -> Shared<Load> {
        let mut loading = self.loading.borrow_mut();
        if let Some(load) = loading.get(&tenant).and_then(|loading| loading.load.upgrade()) {
            return load;
        }
        let ticket = self.tick();
        let inner = self.clone();
        let load = async move {
            let _tidy = Tidy { inner: &inner, tenant, ticket };
            let templates = inner.fetch(tenant).await?;
            // Unless it was invalidated meanwhile: then what was read may be of before the change.
            if inner.is_current(tenant, ticket) {
                inner.insert(tenant, templates.clone());
            }
            Ok(templates)
        };
        let load = load.boxed_local().shared();
        if let Some(weak) = load.downgrade() {
            loading.insert(tenant, Loading { ticket, load: weak });
        }
        load
    }

    fn is_current(&self, tenant: TenantId, ticket: u64) -> bool {
        self.loading.borrow().get(&tenant).is_some_and(|loading| loading.ticket == ticket)
    }

    async fn fetch(&self, tenant: TenantId) -> LoadResult {
        let stored = self.db.tenant_templates(tenant).await?;
        if stored.rows.is_empty() && stored.bad.is_empty() {
            return Ok(self.common.clone());
        }
        let (mut templates, mut bad) = (Vec::with_capacity(stored.rows.len() + 1), stored.bad);
        let mut builtins = self.builtins.clone();
        let running = stored.rows.iter().filter(|row| !row.paused);
        let files = self.files(running.filter_map(|row| row.content)).await?;
        for mut row in stored.rows {
            row.name = self.shared_name(row.name);
            let Some(hash) = row.content else {
                builtins = builtins.and_then(|builtins| with_row(&builtins, row));
                continue;
            };
            if row.paused {
                continue;
            }
            match files.get(&hash) {
                Some(Ok(files)) => templates.push(Arc::new(template(row, files.clone()))),
                Some(Err(reason)) => bad.push(BadTemplateRow { name: row.name.to_string(), reason: reason.clone() }),
                None => bad.push(BadTemplateRow { name: row.name.to_string(), reason: "it has no files".into() }),
            }
        }
        templates.extend(builtins);
        let fresh = TenantTemplates::new(templates, bad);
        let stale = self.stale.borrow();
        let unchanged = stale.get(&tenant).filter(|stale| stale.is_same(&fresh));
        Ok(unchanged.cloned().unwrap_or_else(|| Rc::new(fresh)))
    }

    /// The name, with the text that others of this name have.
    fn shared_name(&self, name: TemplateName) -> TemplateName {
        let mut names = self.names.borrow_mut();
        if let Some(known) = names.get(&name) {
            return known.clone();
        }
        if names.len() >= Self::NAMES_MAX {
            names.clear();
        }
        names.insert(name.clone());
        name
    }

    /// Files from the shared cache, and the rest in one query.
    async fn files(
        &self,
        hashes: impl Iterator<Item = ContentHash>,
    ) -> Result<HashMap<ContentHash, Result<Arc<TemplateFiles>, String>>, DbError> {
        let (mut found, mut missing) = (HashMap::new(), Vec::new());
        for hash in hashes {
            match self.shared.files(&hash) {
                Some(files) => drop(found.insert(hash, Ok(files))),
                None => missing.push(hash),
            }
        }
        for (hash, files) in self.db.contents(&missing).await? {
            if let Ok(files) = &files {
                self.shared.insert_files(files.clone());
            }
            found.insert(hash, files);
        }
        Ok(found)
    }

    fn insert(&self, tenant: TenantId, templates: Rc<TenantTemplates>) {
        self.remove(tenant);
        self.files_bytes.set(self.files_bytes.get() + self.weight(&templates));
        let last_used = Cell::new(self.tick());
        self.tenants.borrow_mut().insert(tenant, Entry { templates, last_used });
        self.shrink();
    }

    fn keep_stale(&self, tenant: TenantId, entry: Entry) {
        if !Rc::ptr_eq(&entry.templates, &self.common) {
            self.stale.borrow_mut().insert(tenant, entry.templates);
        }
    }

    fn remove(&self, tenant: TenantId) {
        let entry = self.tenants.borrow_mut().remove(&tenant).map(|entry| entry.templates);
        let stale = self.stale.borrow_mut().remove(&tenant);
        for templates in entry.into_iter().chain(stale) {
            self.files_bytes.set(self.files_bytes.get() - self.weight(&templates));
        }
    }

    /// The bytes of a tenant's files; those that all tenants have cost nothing more.
    fn weight(&self, templates: &Rc<TenantTemplates>) -> usize {
        if Rc::ptr_eq(templates, &self.common) { 0 } else { templates.files_bytes() }
    }

    /// Beyond the bounds, drops what is stale, then the least recently used eighth, until within them. By eighths, because
    /// finding the least recently used looks at all: so it is paid for once in many loads, and a look-up has no list to
    /// keep in order.
    fn shrink(&self) {
        if self.is_beyond_bounds() {
            for templates in self.stale.take().into_values() {
                self.files_bytes.set(self.files_bytes.get() - self.weight(&templates));
            }
        }
        while self.is_beyond_bounds() {
            let count = self.tenants.borrow().len();
            // The last one is in use, however large it is.
            if count <= 1 {
                return;
            }
            let mut by_age: Vec<(u64, TenantId)> =
                self.tenants.borrow().iter().map(|(tenant, entry)| (entry.last_used.get(), *tenant)).collect();
            let goes = (count / 8).max(1);
            by_age.select_nth_unstable(goes - 1);
            for (_, tenant) in &by_age[..goes] {
                self.remove(*tenant);
            }
        }
    }

    fn is_beyond_bounds(&self) -> bool {
        let count = self.tenants.borrow().len() + self.stale.borrow().len();
        count > self.bounds.tenants_max || self.files_bytes.get() > self.bounds.files_bytes_max
    }
}

/// Forgets a load that has ended or was given up, unless another one took its place.
struct Tidy<'a> {
    inner: &'a Inner,
    tenant: TenantId,
    ticket: u64,
}

impl Drop for Tidy<'_> {
    fn drop(&mut self) {
        if self.inner.is_current(self.tenant, self.ticket) {
            self.inner.loading.borrow_mut().remove(&self.tenant);
        }
    }
}

/// The built-in template with what the tenant's row changes: more events, an error channel. Paused, it is off.
fn with_row(builtins: &Template, row: TemplateRow) -> Option<Arc<Template>> {
    if row.paused {
        return None;
    }
    Some(Arc::new(Template {
        events: builtins.events.iter().chain(&*row.events).cloned().collect(),
        error_channel: row.error_channel.or(builtins.error_channel),
        created_at: row.created_at,
        updated_at: row.updated_at,
        ..builtins.clone()
    }))
}

fn template(row: TemplateRow, files: Arc<TemplateFiles>) -> Template {
    Template {
        name: row.name,
        files,
        events: row.events,
        allowed_caps: row.allowed_caps,
        error_channel: row.error_channel,
        compat: row.compat,
        origin: row.origin,
        created_at: row.created_at,
        updated_at: row.updated_at,
    }
}
