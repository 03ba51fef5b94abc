//! Many workers that act as one.

use std::fmt;
use std::num::NonZeroUsize;

use futures_util::future::join_all;
use tokio::runtime::Handle;
use worker_core::{
    Call, Reply, ReplyTo, Routing, TenantId, WorkerError, WorkerErrorKind, WorkerFilter, WorkerId, WorkerLike,
    WorkerStats,
};

use crate::Poolable;

/// How many workers a pool has, and of which kind.
#[derive(Clone, Debug)]
pub struct WorkerPoolConfig<C> {
    /// The members of the pool.
    pub workers: NonZeroUsize,
    /// The configuration of each.
    pub worker: C,
}

/// Many workers that act as one: each tenant's calls go to the member that owns it. A pool is [`Poolable`] itself.
pub struct WorkerPool<T> {
    id: WorkerId,
    routing: Routing,
    members: Box<[T]>,
    /// Where the answers of the members are gathered.
    runtime: Handle,
}

impl<T: Poolable> WorkerPool<T> {
    /// The members, in the order of routing.
    pub fn members(&self) -> &[T] {
        &self.members
    }

    /// Replaces all members, one after the other, each in good order: events of its tenants wait meanwhile, and none is
    /// lost. Stops at the first that does not come back.
    pub async fn replace_all(&self) -> Result<(), WorkerError> {
        for member in &self.members {
            member.replace().await?;
        }
        Ok(())
    }

    /// Replaces the member that owns the tenant.
    pub async fn replace_owner(&self, tenant: TenantId) -> Result<(), WorkerError> {
        self.owner(tenant).replace().await
    }

    fn owner(&self, tenant: TenantId) -> &T {
        let size = NonZeroUsize::new(self.members.len()).expect("because a pool is started with at least one member");
        &self.members[self.routing.owner(tenant, size)]
    }

    /// Asks all members, and answers with what they said.
    fn ask_all<A: Send + 'static, B: Send + 'static>(
        &self,
        ask: impl Fn(&T) -> Reply<A>,
        reply_to: ReplyTo<B>,
        sum: impl FnOnce(Vec<A>) -> B + Send + 'static,
    ) {
        // Asked here and now: `submit` keeps the order of calls.
        let replies: Vec<_> = self.members.iter().map(ask).collect();
        self.runtime.spawn(async move { reply_to.send(gather(replies).await.map(sum)) });
    }
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
        self.id
    }

    fn submit(&self, call: Call) {
        match call {
            Call::Dispatch { tenant, .. } | Call::Reload { tenant, .. } => self.owner(tenant).submit(call),
            Call::Stats { reply_to } => self.ask_all(T::stats, reply_to, |all| {
                all.iter().fold(WorkerStats::default(), |mut sum, stats| {
                    sum += stats;
                    sum
                })
            }),
            Call::Drain { reply_to } => self.ask_all(T::drain, reply_to, |_| ()),
            Call::Kill { reply_to } => self.ask_all(T::kill, reply_to, |_| ()),
            call => call.refuse(WorkerError::new(WorkerErrorKind::Internal, "a pool does not know this call")),
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
        let ids = T::ids(&config.worker);
        let starts = (0..size.get()).map(|index| {
            // Below 2^32: see `ids`.
            let member = WorkerId::new(id.get() + 1 + ids * index as u32);
            let start = T::start(member, filter.member(routing, index, size), routing.nested(size), &config.worker);
            async move {
                start.await.map_err(|error| {
                    let context = format!("member {index} (worker {member}) of pool {id} did not start");
                    WorkerError::new(error.kind(), context).with_source(error)
                })
            }
        });
        let (mut members, mut failures) = (Vec::with_capacity(size.get()), Vec::new());
        for started in join_all(starts).await {
            match started {
                Ok(member) => members.push(member),
                Err(error) => failures.push(error),
            }
        }
        if let Some(error) = failures.into_iter().next() {
            // Whether they could be killed matters to nobody: none has taken a call.
            let _ = join_all(members.iter().map(T::kill)).await;
            return Err(error);
        }
        Ok(Self { id, routing, members: members.into(), runtime: Handle::current() })
    }
}

impl<T> fmt::Debug for WorkerPool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, routing, members, runtime: _ } = self;
        f.debug_struct("WorkerPool")
            .field("id", id)
            .field("routing", routing)
            .field("members", &members.len())
            .finish_non_exhaustive()
    }
}
