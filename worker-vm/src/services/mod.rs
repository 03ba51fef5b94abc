//! What the VMs of a process use outside of it, and the runtime on which that runs.

mod bot_rest;
mod discord;
mod home;

use std::sync::Arc;

use tokio::sync::Semaphore;

pub use self::bot_rest::{BotRest, BotRestError, use_ring_for_tls};
pub(crate) use self::discord::{Authority, ErrorReport, Ids, Place, RestError, RestRequest, percent_encoded};
pub use self::discord::{Discord, DiscordConfig, DiscordStats, DiscordToken};
pub(crate) use self::home::Home;
use crate::plugins::http::{HttpConfig, HttpSender};
use crate::plugins::objects::{ObjectsConfig, ObjectsError, TenantObjects};

/// Captchas that are drawn at once in a process.
const CAPTCHAS_AT_ONCE_MAX: usize = 2;

/// The HTTP client, the object store and what bounds long native work, for all VMs of a process. Clones share them.
#[derive(Clone)]
pub struct Services(Arc<Inner>);

struct Inner {
    home: Home,
    http: HttpSender,
    objects: TenantObjects,
    captchas: Arc<Semaphore>,
    discord: Option<Discord>,
}

/// How the services of a process are set up. The default reaches Discord's CDN and keeps objects in memory.
#[derive(Clone, Debug, Default)]
pub struct ServicesConfig {
    /// `ctx.HTTPClient`.
    pub http: HttpConfig,
    /// `ctx.ObjectStorage`.
    pub objects: ObjectsConfig,
    /// `ctx.Discord`; without it there is none.
    pub discord: Option<DiscordConfig>,
}

impl Services {
    /// Sets them up. Nothing is connected before it is used.
    pub fn new(config: ServicesConfig) -> Result<Self, ObjectsError> {
        let home = Home::default();
        let objects = TenantObjects::new(config.objects, home.clone())?;
        let captchas = Arc::new(Semaphore::new(CAPTCHAS_AT_ONCE_MAX));
        let discord = config.discord.map(|config| Discord::new(config, home.clone()));
        Ok(Self(Arc::new(Inner { http: HttpSender::new(config.http), home, objects, captchas, discord })))
    }

    /// The objects of all tenants.
    pub fn objects(&self) -> &TenantObjects {
        &self.0.objects
    }

    /// Discord, if there is a bot.
    pub fn discord(&self) -> Option<&Discord> {
        self.0.discord.as_ref()
    }

    pub(crate) fn http(&self) -> &HttpSender {
        &self.0.http
    }

    pub(crate) fn home(&self) -> &Home {
        &self.0.home
    }

    pub(crate) fn captchas(&self) -> &Arc<Semaphore> {
        &self.0.captchas
    }
}

impl Default for Services {
    fn default() -> Self {
        Self::new(ServicesConfig::default()).expect("because a store in memory needs nothing")
    }
}
