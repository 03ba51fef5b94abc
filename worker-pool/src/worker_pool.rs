//! Many workers that act as one.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::RwLock;
use tokio::runtime::Handle;
use tokio::time::timeout;
use worker_core::{
    Call, Reply, ReplyTo, Routing, TenantId, WorkerError, WorkerErrorKind, WorkerFilter, WorkerId, WorkerLike,
    WorkerStats,
};

use crate::Poolable;
use crate::moving::Moving;

/// How long a member may take to finish what it has of the tenants that it gives up. What takes longer goes on there, as
/// after a reload, while the new owner begins.
const HAND_OVER_MAX: Duration = Duration::from_secs(10);

/// How many workers a pool has, and of which kind.
#[derive(Clone, Debug)]
pub struct WorkerPoolConfig<C> {
    /// The members of the pool.
    pub workers: NonZeroUsize,
    /// The configuration of each.
    pub worker: C,
}

/// Many workers that act as one: each tenant's calls go to the member that owns it. A pool is [`Poolable`] itself.
pub struct WorkerPool<T: Poolable>(Arc<Inner<T>>);

struct Inner<T: Poolable> {
    id: WorkerId,
    routing: Routing,
    /// Of members that are still to come.
    worker: T::Config,
    table: RwLock<Table<T>>,
    /// Held by who changes the members.
    changing: tokio::sync::Mutex<()>,
    /// Where the answers of the members are gathered.
    runtime: Handle,
    dropped: AtomicU64,
    refused: AtomicU64,
}

/// Who gets which call. Whoever submits one holds it for reading, so that nothing is under way when it is changed.
struct Table<T> {
    /// The tenants of the pool.
    filter: WorkerFilter,
    /// In the order of routing.
    members: Members<T>,
    /// While tenants move from one member to another.
    moving: Option<Moving>,
    /// Whether it was drained or killed.
    has_ended: bool,
}

type Members<T> = Arc<[Arc<T>]>;

impl<T: Poolable> WorkerPool<T> {
    /// The members as they are now, in the order of routing.
    pub fn members(&self) -> Arc<[Arc<T>]> {
        Arc::clone(&self.0.table.read().members)
    }

    /// Replaces all members, one after the other, each in good order: events of its tenants wait meanwhile, and none is
    /// lost. Stops at the first that does not come back.
    pub async fn replace_all(&self) -> Result<(), WorkerError> {
        let _changing = self.0.changing.lock().await;
        for member in &*self.members() {
            member.replace().await?;
        }
        Ok(())
    }

    /// Replaces the member that owns the tenant.
    pub async fn replace_owner(&self, tenant: TenantId) -> Result<(), WorkerError> {
        let _changing = self.0.changing.lock().await;
        let members = self.members();
        members[owner(self.0.routing, tenant, &members)].replace().await
    }

    /// Makes the pool one of so many members. It must route with [`Routing::Rendezvous`], so that few tenants move: when
    /// it grows, the share of those who are new, and no others; when it shrinks, the tenants of those who leave.
    ///
    /// Other tenants feel nothing. Those that move have one owner at any time: their events wait (in a queue with a bound)
    /// until the old owner has finished what it had of them, and then go to the new one in the order in which they came.
    /// Their records that expire are claimed by the new owner from then on, and they get their `KeyResume`. It goes on if
    /// this future is dropped. If new members do not start, all stays as it was.
    ///
    /// Ids of new members follow those of the last: a pool that is a member itself should not grow, as its neighbours
    /// have these.
    pub async fn resize(&self, workers: NonZeroUsize) -> Result<(), WorkerError> {
        if !matches!(self.0.routing, Routing::Rendezvous { .. }) {
            let context =
                "only a pool that routes by rendezvous can be resized: in this one nearly all tenants would move";
            return Err(WorkerError::new(WorkerErrorKind::BadRequest, context));
        }
        let inner = Arc::clone(&self.0);
        let resized = self.0.runtime.spawn(async move { inner.resize(workers).await });
        resized.await.unwrap_or_else(|error| {
            let context = format!("pool {} was not resized", self.0.id);
            Err(WorkerError::new(WorkerErrorKind::Internal, context).with_source(error))
        })
    }
}

/// The member that owns the tenant.
fn owner<T>(routing: Routing, tenant: TenantId, members: &[T]) -> usize {
    let size = NonZeroUsize::new(members.len()).expect("because a pool has at least one member");
    routing.owner(tenant, size)
}

impl<T: Poolable> Inner<T> {
    /// Asks all members, and answers with what they said.
    fn ask_all<A: Send + 'static, B: Send + 'static>(
        &self,
        members: &[Arc<T>],
        ask: impl Fn(&T) -> Reply<A>,
        reply_to: ReplyTo<B>,
        sum: impl FnOnce(Vec<A>) -> B + Send + 'static,
    ) {
        // Asked here and now: `submit` keeps the order of calls.
        let replies: Vec<_> = members.iter().map(|member| ask(member)).collect();
        self.runtime.spawn(async move { reply_to.send(gather(replies).await.map(sum)) });
    }

    fn stats(&self, table: &Table<T>, reply_to: ReplyTo<WorkerStats>) {
        let own = WorkerStats {
            events_dropped: self.dropped.load(Relaxed),
            events_refused: self.refused.load(Relaxed),
            events_queued: table.moving.as_ref().map_or(0, Moving::waiting) as u64,
            ..WorkerStats::default()
        };
        self.ask_all(&table.members, T::stats, reply_to, |all| {
            all.iter().fold(own, |mut sum, stats| {
                sum += stats;
                sum
            })
        });
    }

    fn own(&self, table: &mut Table<T>, filter: WorkerFilter, reply_to: ReplyTo<()>) {
        let replies = self.hand_out(&table.members, &filter, table.members.len());
        table.filter = filter;
        self.runtime.spawn(async move { reply_to.send(gather(replies).await.map(|_| ())) });
    }

    /// Tells these members, which are the first of a pool of `size`, what they own of what the pool does.
    fn hand_out(&self, members: &[Arc<T>], filter: &WorkerFilter, size: usize) -> Vec<Reply<()>> {
        let size = NonZeroUsize::new(size).expect("because a pool has at least one member");
        let own = |(index, member): (usize, &Arc<T>)| member.own(filter.member(self.routing, index, size));
        members.iter().enumerate().map(own).collect()
    }

    /// Dispatches and reloads.
    fn route(&self, table: &Table<T>, tenant: TenantId, call: Call) {
        let index = owner(self.routing, tenant, &table.members);
        let Some(moving) = table.moving.as_ref().filter(|moving| moving.moves(self.routing, tenant)) else {
            return table.members[index].submit(call);
        };
        if let Some(call) = moving.put(call) {
            match &call {
                Call::Dispatch { reply_to, .. } if !reply_to.is_wanted() => self.dropped.fetch_add(1, Relaxed),
                _ => self.refused.fetch_add(1, Relaxed),
            };
            let context = format!("{tenant} moves to another worker of pool {}, and too much waits", self.id);
            call.refuse(WorkerError::new(WorkerErrorKind::Overloaded, context));
        }
    }

    /// Calls for all members.
    fn tell_all(&self, table: &mut Table<T>, call: Call) {
        match call {
            Call::Drain { reply_to } => {
                table.has_ended = true;
                self.ask_all(&table.members, T::drain, reply_to, |_| ());
            }
            Call::Kill { reply_to } => {
                table.has_ended = true;
                self.ask_all(&table.members, T::kill, reply_to, |_| ());
            }
            Call::Own { filter, reply_to } => self.own(table, filter, reply_to),
            call => call.refuse(WorkerError::new(WorkerErrorKind::Internal, "a pool does not know this call")),
        }
    }

    fn gone(&self) -> WorkerError {
        WorkerError::new(WorkerErrorKind::WorkerGone, format!("pool {} has ended", self.id))
    }

    async fn start_members(
        &self,
        indices: std::ops::Range<usize>,
        filter: impl Fn(usize) -> WorkerFilter,
        size: NonZeroUsize,
    ) -> Result<Vec<Arc<T>>, WorkerError> {
        let (id, ids) = (self.id, T::ids(&self.worker));
        let starts = indices.map(|index| {
            // Below 2^32: see `ids`.
            let member = WorkerId::new(id.get() + 1 + ids * index as u32);
            let start = T::start(member, filter(index), self.routing.nested(size), &self.worker);
            async move {
                start.await.map(Arc::new).map_err(|error| {
                    let context = format!("member {index} (worker {member}) of pool {id} did not start");
                    WorkerError::new(error.kind(), context).with_source(error)
                })
            }
        });
        let (mut members, mut failures) = (Vec::new(), Vec::new());
        for started in join_all(starts).await {
            match started {
                Ok(member) => members.push(member),
                Err(error) => failures.push(error),
            }
        }
        match failures.into_iter().next() {
            None => Ok(members),
            Some(error) => {
                kill_all(&members).await;
                Err(error)
            }
        }
    }

    async fn resize(&self, workers: NonZeroUsize) -> Result<(), WorkerError> {
        let _changing = self.changing.lock().await;
        let (old, filter) = {
            let table = self.table.read();
            (Arc::clone(&table.members), table.filter.clone())
        };
        let (before, after) = (old.len(), workers.get());
        if before == after {
            return Ok(());
        }
        // They own nobody yet: each tenant has one owner.
        let new = self.start_members(before.min(after)..after, |_| WorkerFilter::nobody(), workers);
        let new = if after > before { new.await? } else { Vec::new() };
        let has_ended = {
            let mut table = self.table.write();
            if !table.has_ended {
                table.moving = Some(Moving::new(before, after));
            }
            table.has_ended
        };
        if has_ended {
            kill_all(&new).await;
            return Err(self.gone());
        }
        let (staying, leaving) = old.split_at(before.min(after));
        let given_up = self.hand_out(staying, &filter, after);
        let left = leaving.iter().map(|member| timeout(HAND_OVER_MAX, member.drain()));
        let given_up = given_up.into_iter().map(|reply| timeout(HAND_OVER_MAX, reply));
        let (given_up, _) = tokio::join!(join_all(given_up), join_all(left));
        // Who has ended has nothing of them.
        let slow = given_up.iter().filter(|answer| answer.is_err()).count();
        if slow > 0 {
            tracing::warn!(pool = %self.id, members = slow, "tenants move while code of theirs runs on in their old worker");
        }
        kill_all(leaving).await;
        let members: Members<T> = staying.iter().cloned().chain(new.iter().cloned()).collect();
        let new_filter = |index: usize| filter.member(self.routing, before + index, workers);
        let taken = join_all(new.iter().enumerate().map(|(index, member)| member.own(new_filter(index)))).await;
        let failed = taken.into_iter().find_map(Result::err);
        if failed.is_some() {
            // As it was; nobody is leaving, as there are new ones.
            let _ = gather(self.hand_out(&old, &filter, before)).await;
        }
        {
            let mut table = self.table.write();
            let moving = table.moving.take();
            table.members = if failed.is_some() { Arc::clone(&old) } else { members };
            let (waiting, later) = moving.map(Moving::into_calls).unwrap_or_default();
            let is_killed = later.iter().any(|call| matches!(call, Call::Kill { .. }));
            for call in waiting {
                match &call {
                    Call::Dispatch { tenant, .. } | Call::Reload { tenant, .. } if !is_killed => {
                        let tenant = *tenant;
                        self.route(&table, tenant, call);
                    }
                    _ => call.refuse(self.gone()),
                }
            }
            // What was asked of all meanwhile, and is also meant for those who are new.
            later.into_iter().for_each(|call| self.tell_all(&mut table, call));
        }
        match failed {
            None => Ok(()),
            Some(error) => {
                kill_all(&new).await;
                let context = format!("pool {} has as many workers as before", self.id);
                Err(WorkerError::new(error.kind(), context).with_source(error))
            }
        }
    }
}

/// Whether they could be killed matters to nobody: they have no tenants.
async fn kill_all<T: Poolable>(members: &[Arc<T>]) {
    join_all(members.iter().map(|member| member.kill())).await;
}

/// The answers of the members that are there. One that has ended adds nothing to a sum and needs no ending; if all have,
/// so has the pool.
async fn gather<A>(replies: Vec<Reply<A>>) -> Result<Vec<A>, WorkerError> {
    let mut answers = Vec::with_capacity(replies.len());
    let mut gone = None;
    for answer in join_all(replies).await {
        match answer {
            Ok(answer) => answers.push(answer),
            Err(error) if error.kind() == WorkerErrorKind::WorkerGone => gone = Some(error),
            Err(error) => return Err(error),
        }
    }
    match gone {
        Some(error) if answers.is_empty() => Err(error),
        _ => Ok(answers),
    }
}

impl<T: Poolable> WorkerLike for WorkerPool<T> {
    fn id(&self) -> WorkerId {
        self.0.id
    }

    fn submit(&self, call: Call) {
        let inner = &self.0;
        match call {
            Call::Dispatch { tenant, .. } | Call::Reload { tenant, .. } => {
                let table = inner.table.read();
                if table.has_ended { call.refuse(inner.gone()) } else { inner.route(&table, tenant, call) }
            }
            Call::Stats { reply_to } => inner.stats(&inner.table.read(), reply_to),
            Call::Health { reply_to } => {
                let replies: Vec<_> = inner.table.read().members.iter().map(|member| member.health()).collect();
                inner.runtime.spawn(async move {
                    // One that does not run is a fault of the whole.
                    let answers: Result<Vec<()>, _> = join_all(replies).await.into_iter().collect();
                    reply_to.send(answers.map(|_| ()));
                });
            }
            call => {
                let mut table = inner.table.write();
                match &table.moving {
                    None => inner.tell_all(&mut table, call),
                    Some(moving) => {
                        let ends = matches!(call, Call::Drain { .. } | Call::Kill { .. });
                        if let Call::Kill { .. } = call {
                            // So that what is waited for comes soon.
                            let now = |member: &Arc<T>| member.submit(Call::Kill { reply_to: ReplyTo::nobody() });
                            table.members.iter().for_each(now);
                        }
                        moving.put_later(call);
                        table.has_ended |= ends;
                    }
                }
            }
        }
    }
}

impl<T: Poolable> Poolable for WorkerPool<T> {
    type Config = WorkerPoolConfig<T::Config>;

    fn ids(config: &Self::Config) -> u32 {
        let members = config.workers.get().try_into().unwrap_or(u32::MAX);
        T::ids(&config.worker).saturating_mul(members).saturating_add(1)
    }

    async fn replace(&self) -> Result<(), WorkerError> {
        self.replace_all().await
    }

    /// Starts all members at the same time. If one does not start, the others are killed. Must be called in a tokio
    /// runtime, which must live as long as the pool: it gathers there what its members answer.
    async fn start(
        id: WorkerId,
        filter: WorkerFilter,
        routing: Routing,
        config: &Self::Config,
    ) -> Result<Self, WorkerError> {
        let size = config.workers;
        let inner = Inner {
            id,
            routing,
            worker: config.worker.clone(),
            table: RwLock::new(Table { filter: filter.clone(), members: Arc::new([]), moving: None, has_ended: false }),
            changing: tokio::sync::Mutex::default(),
            runtime: Handle::current(),
            dropped: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        };
        let members = inner.start_members(0..size.get(), |index| filter.member(routing, index, size), size).await?;
        inner.table.write().members = members.into();
        Ok(Self(Arc::new(inner)))
    }
}

impl<T: Poolable> fmt::Debug for WorkerPool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { id, routing, .. } = &*self.0;
        f.debug_struct("WorkerPool")
            .field("id", id)
            .field("routing", routing)
            .field("members", &self.members().len())
            .finish_non_exhaustive()
    }
}
