//! A Discord of one's own: a [`World`] that answers REST calls as Discord does, with its checks, permissions and
//! refusals, and tells what the gateway would tell; and servers on this host that speak Discord's protocol, so that a client
//! does not know the difference.

pub mod channel;
pub mod command;
pub mod discord_error;
pub mod fault;
pub mod form;
pub mod gateway_server;
pub mod gateway_sessions;
pub mod guild;
pub mod interaction;
pub mod invite;
pub mod loopback;
pub mod message;
pub mod message_body;
pub mod permissions;
pub mod request;
pub mod rest_limits;
pub mod rest_server;
pub mod webhook;
pub mod world;

mod auto_moderation;
mod channels;
mod guilds;
mod messages;
mod routes;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::sync::broadcast;

use fault::Faults;
use gateway_sessions::{GatewayConfig, GatewaySessions};
use rest_limits::{RestLimits, RestRules};
use world::{World, WorldConfig};

/// What a simulated Discord begins with.
#[derive(Clone, Debug, Default)]
pub struct SimulatorConfig {
    /// Who and what there is.
    pub world: WorldConfig,
    /// How often REST may be called.
    pub rest: RestRules,
    /// How the gateway behaves.
    pub gateway: GatewayConfig,
}

/// A simulated Discord that clients connect to. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct Simulator(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    // Locks are taken in this order.
    world: Mutex<World>,
    sessions: Mutex<GatewaySessions>,
    limits: Mutex<RestLimits>,
    faults: Mutex<Faults>,
    notices: broadcast::Sender<Arc<str>>,
}

/// Notices that a watcher may be behind; a slower one misses some.
const NOTICES_BEHIND_MAX: usize = 4_096;

impl Simulator {
    /// A world of its own.
    pub fn new(config: SimulatorConfig) -> Self {
        Self(Arc::new(Inner {
            world: Mutex::new(World::new(&config.world)),
            sessions: Mutex::new(GatewaySessions::new(config.gateway)),
            limits: Mutex::new(RestLimits::new(config.rest)),
            faults: Mutex::new(Faults::default()),
            notices: broadcast::Sender::new(NOTICES_BEHIND_MAX),
        }))
    }

    /// Looks at the world, or changes it: at the moment that it is, and everybody hears of what happened before anything
    /// else happens.
    pub fn with_world<R>(&self, f: impl FnOnce(&mut World) -> R) -> R {
        let mut world = lock(&self.0.world);
        world.set_now(unix_ms());
        let result = f(&mut world);
        let happenings = world.take_happenings();
        if !happenings.is_empty() {
            let bot = world.bot();
            let mut sessions = lock(&self.0.sessions);
            for happening in &happenings {
                sessions.tell(happening, bot);
                self.notice(
                    "happening",
                    || json!({"name": happening.name, "guild": happening.guild, "data": happening.data}),
                );
            }
        }
        result
    }

    /// What happens from now on, each as a JSON document with a `kind`: for a page that shows it.
    pub fn watch(&self) -> broadcast::Receiver<Arc<str>> {
        self.0.notices.subscribe()
    }

    /// Tells those who watch.
    pub fn notice(&self, kind: &str, data: impl FnOnce() -> Value) {
        if self.0.notices.receiver_count() > 0 {
            let text: Arc<str> = json!({"kind": kind, "data": data()}).to_string().into();
            // The last watcher may have gone just now.
            let _ = self.0.notices.send(text);
        }
    }

    fn sessions(&self) -> MutexGuard<'_, GatewaySessions> {
        lock(&self.0.sessions)
    }

    fn limits(&self) -> MutexGuard<'_, RestLimits> {
        lock(&self.0.limits)
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        lock(&self.0.faults)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The clock on the wall.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis().try_into().unwrap_or(u64::MAX))
}
