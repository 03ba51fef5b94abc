//! The settings: from a file, the environment and flags, with one order of precedence, checked as a whole before
//! anything starts.

use std::convert::Infallible;
use std::fmt;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use figment::providers::{Env, Format, Toml};
use figment::value::{Dict, Tag, Value};
use figment::{Figment, Provider};
use serde::Serialize;
use toml::de::DeTable;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use worker_core::Limits;
use worker_expiry::ExpirySettings;
use worker_vm::{AddressRange, DiscordToken, Links};

use crate::gateway::Intents;
use crate::mistake::{Mistake, Mistakes, Place, did_you_mean, line_of, toml_syntax};
pub use crate::objects_url::ObjectsUrl;

/// The file that is read if no other is named and it exists.
const DEFAULT_FILE: &str = "antiraid.toml";
/// What the variables of the environment begin with.
const ENV_PREFIX: &str = "ANTIRAID_";
/// Variables with the prefix that are not settings: they name the file.
const ENV_NOT_SETTINGS: [&str; 3] = ["CONFIG", "TEST_POSTGRES", "TEST_PLAYWRIGHT"];
/// The bot's token: never a flag, as everybody on a host can read those.
const TOKEN: &str = "discord.token";
/// The variable that bots' tokens are in by custom. `ANTIRAID_DISCORD_TOKEN` goes before it.
const TOKEN_VARIABLE: &str = "DISCORD_TOKEN";

/// What the program runs with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where templates and records are.
    pub database_url: DatabaseUrl,
    /// Worker threads.
    pub workers: NonZeroUsize,
    /// What bounds each worker and its tenants.
    pub limits: Limits,
    /// How records that expire are handled.
    pub expiry: ExpirySettings,
    /// The name of this process among those that handle expiry over one database.
    pub expiry_process: String,
    /// A folder in place of the built-in template and the shared library, for those who work on these.
    pub builtins_dir: Option<PathBuf>,
    /// Where people find help and the dashboard; templates ask for it.
    pub links: Links,
    /// Hosts that templates may send requests to, beside Discord's CDN.
    pub http_allowed_hosts: Vec<String>,
    /// Hosts that they may not, though they are allowed.
    pub http_denied_hosts: Vec<String>,
    /// Addresses that requests may go to though they are not public.
    pub http_addresses_allowed: Vec<AddressRange>,
    /// Where the objects of templates are.
    pub objects_url: ObjectsUrl,
    /// How Discord is reached.
    pub discord: DiscordSettings,
    /// Which events of this program's own log are shown, in the syntax of `EnvFilter`.
    pub log_filter: String,
}

/// How Discord is reached.
#[derive(Clone, Debug)]
pub struct DiscordSettings {
    /// The bot's token.
    pub token: Option<DiscordToken>,
    /// Where its REST API is.
    pub api_url: String,
    /// Where its gateway is, if not where it says itself.
    pub gateway_url: Option<String>,
    /// How many shards; 0: as many as Discord advises.
    pub shards: u32,
    /// What Discord sends.
    pub intents: IntentsSetting,
}

/// Intents as set; none: those that the templates need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IntentsSetting(pub Option<Intents>);

impl Default for DiscordSettings {
    fn default() -> Self {
        Self {
            token: None,
            api_url: "https://discord.com".into(),
            gateway_url: None,
            shards: 0,
            intents: IntentsSetting::default(),
        }
    }
}

impl fmt::Display for IntentsSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(intents) => intents.fmt(f),
            None => f.write_str("auto"),
        }
    }
}

impl FromStr for IntentsSetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" { Ok(Self(None)) } else { text.parse().map(|intents| Self(Some(intents))) }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            database_url: DatabaseUrl("sqlite:antiraid.db".into()),
            workers: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            limits: Limits::default(),
            expiry: ExpirySettings::default(),
            expiry_process: host_name(),
            builtins_dir: None,
            // A host that is nobody's (RFC 2606): whoever runs this has their own.
            links: Links {
                support_server: "https://example.org/support".into(),
                api_url: "https://example.org/api".into(),
                frontend_url: "https://example.org".into(),
                docs_url: "https://example.org/docs".into(),
            },
            http_allowed_hosts: Vec::new(),
            http_denied_hosts: Vec::new(),
            http_addresses_allowed: Vec::new(),
            objects_url: ObjectsUrl::Folder("antiraid-objects".into()),
            discord: DiscordSettings::default(),
            log_filter: "warn".into(),
        }
    }
}

/// What this machine is called, where the system tells.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Some(name.trim()).filter(|name| !name.is_empty()).unwrap_or("antiraid").into()
}

/// Where a database is. Shown without its password.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// A database in memory, gone with the program.
    pub fn memory() -> Self {
        Self("sqlite::memory:".into())
    }

    /// A SQLite file.
    pub fn file(path: &Path) -> Self {
        Self(format!("sqlite:{}", path.display()))
    }

    /// The whole URL, with the password.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for DatabaseUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = ["sqlite:", "postgres://", "postgresql://"];
        if known.iter().any(|scheme| text.starts_with(scheme)) {
            return Ok(Self(text.into()));
        }
        Err("expected `sqlite:<file>`, `sqlite::memory:` or `postgres://<user>:<password>@<host>/<database>`".into())
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (url, query) = self.0.split_once('?').map_or((&*self.0, None), |(url, query)| (url, Some(query)));
        let password = url.split_once("://").and_then(|(scheme, rest)| {
            let (login, host) = rest.rsplit_once('@')?;
            let (user, _) = login.split_once(':')?;
            Some((scheme, user, host))
        });
        match password {
            Some((scheme, user, host)) => write!(f, "{scheme}://{user}:<redacted>@{host}")?,
            None => f.write_str(url)?,
        }
        for (i, part) in query.into_iter().flat_map(|query| query.split('&')).enumerate() {
            f.write_str(if i == 0 { "?" } else { "&" })?;
            f.write_str(if part.starts_with("password=") { "password=<redacted>" } else { part })?;
        }
        Ok(())
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One setting in force.
#[derive(Clone, Debug, Serialize)]
pub struct EffectiveSetting {
    /// Its name.
    pub key: &'static str,
    /// Its value, without secrets.
    pub value: String,
    /// Who set it: `default`, the file with its line, a variable, a flag.
    pub from: String,
    /// What it means.
    pub help: &'static str,
}

/// A setting that a flag gives.
#[derive(Clone, Debug)]
pub struct FlagSetting {
    /// The flag as it was written, for messages.
    pub flag: String,
    /// The setting's name.
    pub key: String,
    /// Its value, as text.
    pub value: String,
}

impl Config {
    /// Reads all layers: flags above the environment above the file above defaults. A `file` that is named must exist.
    /// Also tells where each setting comes from.
    pub fn load(file: Option<&Path>, flags: &[FlagSetting]) -> Result<(Self, Vec<EffectiveSetting>), Mistakes> {
        let mut mistakes = Mistakes::none();
        let file = match ConfigFile::read(file) {
            Ok(file) => file,
            Err(found) => {
                mistakes.extend(found);
                None
            }
        };
        let mut layers = Figment::new();
        if let Some(file) = &file {
            layers = layers.merge(Toml::string(&file.text));
        }
        layers = layers.merge(token_variable()).merge(environment());
        for flag in flags {
            if flag.key == TOKEN {
                let what = format!(
                    "a token is not given by a flag, which everybody on this host can read: set {TOKEN_VARIABLE}"
                );
                mistakes.add(Mistake::new(Place::new(&flag.flag), what));
            }
            // Read as in the environment: a number if it looks like one, else text.
            let value: Value = flag.value.parse().unwrap_or_else(|never: Infallible| match never {});
            layers = layers.merge((&*flag.key, value));
        }
        let place = |key: &str, tag: Tag| place(&layers, key, tag, file.as_ref(), flags);

        let mut config = Self::default();
        let mut effective = Vec::new();
        for setting in SETTINGS {
            let given = layers.find_value(setting.key).ok();
            let from = given.as_ref().map(|value| place(setting.key, value.tag()));
            if let (Some(value), Some(from)) = (&given, &from)
                && let Err(expected) = (setting.field)(&mut config).set(value, &setting.range)
            {
                let what = format!("`{}`: {expected}, not {}", setting.key, shown(value, setting));
                mistakes.add(Mistake::new(from.clone(), what));
            }
            effective.push(EffectiveSetting {
                key: setting.key,
                value: (setting.field)(&mut config).to_string(),
                from: from.map_or_else(|| "default".into(), |from| from.to_string()),
                help: setting.help,
            });
        }
        // The layer of flags is in figment's profile for all profiles, the others are in the default one.
        for layer in layers.data().unwrap_or_default().values() {
            unknown_keys(layer, "", &mut |key, tag| {
                mistakes.add(Mistake::new(place(key, tag), not_a_setting(key)));
            });
        }
        config.check_against_each_other(&mut mistakes);
        mistakes.or((config, effective))
    }

    /// All settings as text, with secrets: for a worker process, which gets them through a pipe.
    pub fn to_settings(&self) -> Vec<(String, String)> {
        let mut config = self.clone();
        let settings = SETTINGS.iter().map(|setting| {
            let value = match (setting.field)(&mut config) {
                Field::Url(url) => url.expose().to_owned(),
                Field::Token(token) => token.as_ref().map_or("", |token| token.expose()).to_owned(),
                field => field.to_string(),
            };
            (setting.key.to_owned(), value)
        });
        settings.collect()
    }

    /// The settings that [`to_settings`](Self::to_settings) gave, and nothing of this process's own surroundings.
    pub fn from_settings(settings: &[(String, String)]) -> Result<Self, Mistakes> {
        let mut config = Self::default();
        let mut mistakes = Mistakes::none();
        for (key, text) in settings {
            let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key) else {
                mistakes.add(Mistake::new(Place::new("the parent's settings"), not_a_setting(key)));
                continue;
            };
            let value = match (setting.field)(&mut config) {
                Field::Url(_) | Field::Filter(_) | Field::Dir(_) | Field::Link(_) | Field::Token(_) => {
                    Value::from(text.as_str())
                }
                _ => text.parse().unwrap_or_else(|never: Infallible| match never {}),
            };
            if let Err(expected) = (setting.field)(&mut config).set(&value, &setting.range) {
                mistakes.add(Mistake::new(Place::new("the parent's settings"), format!("`{key}`: {expected}")));
            }
        }
        mistakes.or(config)
    }

    /// What no setting can know of itself.
    fn check_against_each_other(&self, mistakes: &mut Mistakes) {
        let mut at_most = |small: u128, large: u128, names: [&str; 2]| {
            if small > large {
                let what = format!("`limits.{}` must not be above `limits.{}`", names[0], names[1]);
                mistakes.add(Mistake::new(Place::new("settings"), what));
            }
        };
        let limits = &self.limits;
        at_most(
            limits.vm_memory_bytes_max as u128,
            limits.worker_memory_bytes_max as u128,
            ["vm_memory_mib_max", "worker_memory_mib_max"],
        );
        at_most(
            limits.tenant_queue_max as u128,
            limits.worker_queue_max as u128,
            ["tenant_queue_max", "worker_queue_max"],
        );
        at_most(
            limits.cpu_slice.as_nanos(),
            limits.unyielding_cpu_max.as_nanos(),
            ["cpu_slice_ms", "unyielding_cpu_ms_max"],
        );
    }
}

/// One thing that may be set. The table of them is the only place that knows their names.
struct Setting {
    key: &'static str,
    /// For numbers: what is accepted.
    range: RangeInclusive<u64>,
    help: &'static str,
    field: fn(&mut Config) -> Field<'_>,
}

/// Where a setting is kept, and in which unit it is written.
enum Field<'a> {
    Url(&'a mut DatabaseUrl),
    Filter(&'a mut String),
    Dir(&'a mut Option<PathBuf>),
    Link(&'a mut String),
    Hosts(&'a mut Vec<String>),
    Addresses(&'a mut Vec<AddressRange>),
    Objects(&'a mut ObjectsUrl),
    Token(&'a mut Option<DiscordToken>),
    Gateway(&'a mut Option<String>),
    Intents(&'a mut IntentsSetting),
    Name(&'a mut String),
    Count32(&'a mut u32),
    Threads(&'a mut NonZeroUsize),
    Count(&'a mut usize),
    Rows(&'a mut u64),
    Kib(&'a mut usize),
    Mib(&'a mut usize),
    Mib64(&'a mut u64),
    Millis(&'a mut Duration),
    Secs(&'a mut Duration),
}

/// No range: the setting is not a number.
const TEXT: RangeInclusive<u64> = 0..=0;

#[rustfmt::skip]
const SETTINGS: &[Setting] = {
    use Field::*;
    const fn setting(key: &'static str, range: RangeInclusive<u64>, help: &'static str, field: fn(&mut Config) -> Field<'_>) -> Setting {
        Setting { key, range, help, field }
    }
    &[
        setting("database.url", TEXT, "where templates and records are: sqlite:<file> or postgres://…", |c| Url(&mut c.database_url)),
        setting("workers", 1..=1_024, "worker threads; the default is one a core", |c| Threads(&mut c.workers)),
        setting("log.filter", TEXT, "what this program logs to stderr: error, warn, info, debug, trace, or target=level,…", |c| Filter(&mut c.log_filter)),
        setting("builtins_dir", TEXT, "a folder in place of the built-in template and library, for work on these; empty: none", |c| Dir(&mut c.builtins_dir)),
        setting("links.support_server", TEXT, "where people get help; templates may show it", |c| Link(&mut c.links.support_server)),
        setting("links.api_url", TEXT, "the HTTP API; templates may show it", |c| Link(&mut c.links.api_url)),
        setting("links.frontend_url", TEXT, "the dashboard; templates may show it", |c| Link(&mut c.links.frontend_url)),
        setting("links.docs_url", TEXT, "the documentation; templates may show it", |c| Link(&mut c.links.docs_url)),
        setting("http.allowed_hosts", TEXT, "hosts that templates may send requests to, with commas between them; Discord's CDN always", |c| Hosts(&mut c.http_allowed_hosts)),
        setting("http.denied_hosts", TEXT, "hosts that they may not, though they are allowed", |c| Hosts(&mut c.http_denied_hosts)),
        setting("http.addresses_allowed", TEXT, "private addresses that requests may go to, such as 10.1.0.0/16: for tests and your own services", |c| Addresses(&mut c.http_addresses_allowed)),
        setting("objects.url", TEXT, "where templates' objects are: file:<folder>, memory: or s3://<bucket>?endpoint=…&region=…", |c| Objects(&mut c.objects_url)),
        setting("discord.token", TEXT, "the bot's token, also in the variable DISCORD_TOKEN; never a flag", |c| Token(&mut c.discord.token)),
        setting("discord.api_url", TEXT, "where Discord's REST API is: for a proxy or a simulator", |c| Link(&mut c.discord.api_url)),
        setting("discord.gateway_url", TEXT, "where Discord's gateway is, wss://… or ws://…; empty: where the API says", |c| Gateway(&mut c.discord.gateway_url)),
        setting("discord.shards", 0..=16_384, "shards in all, for worker processes a multiple of their number; 0: as many as Discord advises", |c| Count32(&mut c.discord.shards)),
        setting("discord.intents", TEXT, "which events Discord sends: names of intents with commas between them, or auto: those that templates need", |c| Intents(&mut c.discord.intents)),
        setting("limits.vm_memory_mib_max", 2..=4_096, "Luau and native memory of a tenant", |c| Mib(&mut c.limits.vm_memory_bytes_max)),
        setting("limits.worker_memory_mib_max", 16..=1_048_576, "Luau memory of all VMs of one worker thread, so in all so many times workers; beyond it idle ones go", |c| Mib(&mut c.limits.worker_memory_bytes_max)),
        setting("limits.vm_idle_timeout_s", 1..=604_800, "a VM that nothing ran in for so long goes", |c| Secs(&mut c.limits.vm_idle_timeout)),
        setting("limits.vm_drain_timeout_s", 1..=3_600, "how long code of a replaced VM may go on", |c| Secs(&mut c.limits.vm_drain_timeout)),
        setting("limits.dispatch_cpu_ms_max", 10..=600_000, "CPU time of one event in one template", |c| Millis(&mut c.limits.dispatch_cpu_max)),
        setting("limits.background_cpu_ms_max", 10..=600_000, "CPU time of a background thread each time it is resumed", |c| Millis(&mut c.limits.background_cpu_max)),
        setting("limits.unyielding_cpu_ms_max", 1..=10_000, "CPU time of code that cannot yield, in one stretch", |c| Millis(&mut c.limits.unyielding_cpu_max)),
        setting("limits.cpu_slice_ms", 1..=1_000, "how long a script runs before others get their turn", |c| Millis(&mut c.limits.cpu_slice)),
        setting("limits.tenant_cpu_s_max", 1..=86_400, "CPU time of a tenant in limits.tenant_cpu_window_s; beyond it the tenant is put off", |c| Secs(&mut c.limits.tenant_cpu_max)),
        setting("limits.tenant_cpu_window_s", 1..=86_400, "the window of limits.tenant_cpu_s_max", |c| Secs(&mut c.limits.tenant_cpu_window)),
        setting("limits.dispatch_timeout_s", 1..=3_600, "how long the caller of an event waits, in all", |c| Secs(&mut c.limits.dispatch_timeout)),
        setting("limits.threads_max", 1..=1_000_000, "coroutines of a tenant that are alive", |c| Count(&mut c.limits.threads_max)),
        setting("limits.tenant_queue_max", 1..=1_000_000, "events of a tenant that wait to be started", |c| Count(&mut c.limits.tenant_queue_max)),
        setting("limits.worker_queue_max", 1..=1_000_000, "events of a worker that wait to be started", |c| Count(&mut c.limits.worker_queue_max)),
        setting("limits.tenant_dispatches_max", 1..=1_000_000, "events of a tenant that have started and not ended", |c| Count(&mut c.limits.tenant_dispatches_max)),
        setting("limits.log_lines_max", 1..=1_000_000, "lines of a tenant's log", |c| Count(&mut c.limits.log_lines_max)),
        setting("limits.kv_rows_max", 1..=u64::MAX >> 1, "records of a tenant", |c| Rows(&mut c.limits.kv.rows_max)),
        setting("limits.kv_mib_max", 1..=1 << 40, "keys, scopes and values of a tenant", |c| Mib64(&mut c.limits.kv.bytes_max)),
        setting("limits.objects_max", 1..=1_000_000, "objects of a tenant", |c| Rows(&mut c.limits.objects.objects_max)),
        setting("limits.objects_mib_max", 1..=1 << 40, "all objects of a tenant", |c| Mib64(&mut c.limits.objects.bytes_max)),
        setting("limits.templates_max", 1..=10_000, "templates of a tenant", |c| Count(&mut c.limits.templates.templates_max)),
        setting("limits.template_kib_max", 1..=65_536, "all files of a template", |c| Kib(&mut c.limits.templates.template_bytes_max)),
        setting("expiry.process", TEXT, "the name under which this process handles expiry: the same after a restart, another for each process over one database; the default is the host's", |c| Name(&mut c.expiry_process)),
        setting("expiry.lease_s", 1..=3_600, "how long an expired record is nobody else's after a process took it and vanished", |c| Secs(&mut c.expiry.lease)),
        setting("expiry.attempts_max", 1..=100, "attempts at KeyExpiry before a record becomes a dead letter", |c| Count32(&mut c.expiry.attempts_max)),
        setting("expiry.backoff_ms", 10..=3_600_000, "between the first attempt at KeyExpiry and the second; four times as long each time after", |c| Millis(&mut c.expiry.backoff_first)),
        setting("expiry.backoff_s_max", 1..=86_400, "the longest wait between two attempts at KeyExpiry", |c| Secs(&mut c.expiry.backoff_max)),
        setting("expiry.poll_ms", 100..=60_000, "how often a worker looks for records that other processes wrote", |c| Millis(&mut c.expiry.poll)),
        setting("expiry.window_max", 1_024..=1_048_576, "records of a worker that are due soon and kept in memory", |c| Count(&mut c.expiry.window_max)),
        setting("expiry.tenant_handlers_max", 1..=1_024, "KeyExpiry events of a tenant that are handled at once", |c| Count(&mut c.expiry.tenant_handlers_max)),
    ]
};

impl Field<'_> {
    /// Takes the value, or says what was expected.
    fn set(self, value: &Value, range: &RangeInclusive<u64>) -> Result<(), String> {
        let text = || value.as_str().ok_or_else(|| "expected text in quotes".to_owned());
        let number = || match whole(value).and_then(|number| u64::try_from(number).ok()) {
            Some(number) if range.contains(&number) => Ok(number),
            _ => Err(format!("expected a whole number from {} to {}", range.start(), range.end())),
        };
        // Ranges keep what follows from overflowing.
        match self {
            Self::Url(field) => *field = text()?.parse()?,
            Self::Filter(field) => {
                let filter = text()?;
                check_filter(filter)?;
                *field = filter.into();
            }
            Self::Dir(field) => *field = Some(text()?).filter(|dir| !dir.is_empty()).map(PathBuf::from),
            Self::Link(field) => {
                let link = text()?;
                if !["https://", "http://"].iter().any(|scheme| link.starts_with(scheme)) {
                    return Err("expected a link that begins with https:// or http://".into());
                }
                *field = link.into();
            }
            Self::Hosts(field) => {
                let hosts: Vec<_> = list(text()?).map(str::to_owned).collect();
                if let Some(wrong) = hosts.iter().find(|host| !is_host(host)) {
                    return Err(format!(
                        "expected names of hosts such as `api.example.org`, without more: `{wrong}` is none"
                    ));
                }
                *field = hosts;
            }
            Self::Addresses(field) => *field = list(text()?).map(str::parse).collect::<Result<_, String>>()?,
            Self::Objects(field) => *field = text()?.parse()?,
            Self::Token(field) => {
                let token = text().map_err(|_| "expected a bot's token".to_owned())?.trim();
                if token.bytes().any(|byte| !byte.is_ascii_graphic()) {
                    return Err("expected a bot's token, which has no spaces".into());
                }
                *field = if token.is_empty() { None } else { Some(DiscordToken::new(token)) };
            }
            Self::Gateway(field) => {
                let url = text()?;
                let is_url = ["wss://", "ws://"].iter().any(|scheme| {
                    let rest = url.strip_prefix(scheme).unwrap_or_default();
                    !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_graphic())
                });
                if !is_url && !url.is_empty() {
                    return Err("expected a URL that begins with wss:// or ws://".into());
                }
                *field = if is_url { Some(url.into()) } else { None };
            }
            Self::Intents(field) => *field = text()?.parse()?,
            Self::Name(field) => {
                let name = text()?;
                if name.is_empty() || name.contains('\0') {
                    return Err("expected a name".into());
                }
                *field = name.into();
            }
            Self::Count32(field) => *field = u32::try_from(number()?).unwrap_or(u32::MAX),
            Self::Threads(field) => *field = NonZeroUsize::new(number()? as usize).unwrap_or(NonZeroUsize::MIN),
            Self::Count(field) => *field = number()? as usize,
            Self::Rows(field) => *field = number()?,
            Self::Kib(field) => *field = (number()? as usize) << 10,
            Self::Mib(field) => *field = (number()? as usize) << 20,
            Self::Mib64(field) => *field = number()? << 20,
            Self::Millis(field) => *field = Duration::from_millis(number()?),
            Self::Secs(field) => *field = Duration::from_secs(number()?),
        }
        Ok(())
    }
}

impl fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => url.fmt(f),
            Self::Filter(text) | Self::Link(text) | Self::Name(text) => text.fmt(f),
            Self::Hosts(hosts) => hosts.join(",").fmt(f),
            Self::Addresses(ranges) => ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(",").fmt(f),
            Self::Objects(url) => url.fmt(f),
            Self::Token(token) => f.write_str(if token.is_some() { "<redacted>" } else { "" }),
            Self::Gateway(url) => f.write_str(url.as_deref().unwrap_or_default()),
            Self::Intents(intents) => intents.fmt(f),
            Self::Dir(dir) => dir.as_deref().map_or(Ok(()), |dir| dir.display().fmt(f)),
            Self::Threads(count) => count.fmt(f),
            Self::Count(count) => count.fmt(f),
            Self::Count32(count) => count.fmt(f),
            Self::Rows(count) => count.fmt(f),
            Self::Kib(bytes) => (**bytes >> 10).fmt(f),
            Self::Mib(bytes) => (**bytes >> 20).fmt(f),
            Self::Mib64(bytes) => (**bytes >> 20).fmt(f),
            Self::Millis(time) => time.as_millis().fmt(f),
            Self::Secs(time) => time.as_secs().fmt(f),
        }
    }
}

/// The file as it was read.
struct ConfigFile {
    path: PathBuf,
    text: String,
}

impl ConfigFile {
    fn read(named: Option<&Path>) -> Result<Option<Self>, Vec<Mistake>> {
        let path = named.unwrap_or(Path::new(DEFAULT_FILE));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => return Ok(None),
            Err(error) => return Err(vec![Mistake::in_file(path, format!("cannot be read: {error}"))]),
        };
        match DeTable::parse_recoverable(&text) {
            (_, errors) if !errors.is_empty() => Err(toml_syntax(path, &text, &errors)),
            _ => Ok(Some(Self { path: path.into(), text })),
        }
    }

    /// The line of the key, or of the section it would be in.
    fn line(&self, key: &str) -> Option<usize> {
        let document = DeTable::parse(&self.text).ok()?;
        let mut table = document.get_ref();
        let mut line = None;
        for part in key.split('.') {
            let Some((name, value)) = table.iter().find(|(name, _)| name.get_ref() == part) else { break };
            line = Some(line_of(&self.text, name.span().start));
            match value.get_ref().as_table() {
                Some(inner) => table = inner,
                None => break,
            }
        }
        line
    }
}

/// The variables of the environment. `ANTIRAID_` and a key in capitals, with `_` for `.`, is that key's variable.
fn environment() -> Env {
    Env::prefixed(ENV_PREFIX).filter(|name| !ENV_NOT_SETTINGS.iter().any(|&other| name == other)).map(|name| {
        let known = SETTINGS.iter().find(|setting| *name == *variable_part(setting.key));
        // What is no setting keeps its name, so that the mistake can be named.
        known.map_or_else(|| name.into(), |setting| setting.key.into())
    })
}

/// The token where bots have it by custom.
fn token_variable() -> Env {
    Env::raw().only(&[TOKEN_VARIABLE]).map(|_| TOKEN.into())
}

/// What the variable of the key is called, after the prefix.
fn variable_part(key: &str) -> String {
    key.replace('.', "_").to_ascii_uppercase()
}

/// Who gave the value with this tag.
fn place(layers: &Figment, key: &str, tag: Tag, file: Option<&ConfigFile>, flags: &[FlagSetting]) -> Place {
    let layer = layers.get_metadata(tag).map_or("", |layer| &*layer.name);
    if layer.contains(ENV_PREFIX) {
        return Place::new(format!("{ENV_PREFIX}{}", variable_part(key)));
    }
    // The only other layer of variables.
    if layer.contains("environment variable") {
        return Place::new(TOKEN_VARIABLE);
    }
    match file.filter(|_| layer.contains("TOML")) {
        Some(file) => file.line(key).map_or_else(|| Place::file(&file.path), |line| Place::line(&file.path, line)),
        // The last flag wins, as it does among the layers.
        None => Place::new(flags.iter().rfind(|flag| flag.key == key).map_or(key, |flag| &flag.flag)),
    }
}

/// Calls `found` with each key that is not a setting.
fn unknown_keys(dict: &Dict, prefix: &str, found: &mut impl FnMut(&str, Tag)) {
    for (name, value) in dict {
        let key = format!("{prefix}{name}");
        match value {
            _ if SETTINGS.iter().any(|setting| setting.key == key) => {}
            Value::Dict(_, inner) => unknown_keys(inner, &format!("{key}."), found),
            _ => found(&key, value.tag()),
        }
    }
}

fn not_a_setting(key: &str) -> String {
    let keys = || SETTINGS.iter().map(|setting| setting.key);
    let in_section: Vec<_> =
        keys().filter(|known| known.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'))).collect();
    if let Some(example) = in_section.first() {
        return format!("`{key}` is a section, not a setting; write for example `{example}`");
    }
    // In a variable `_` stands for `.` too.
    let hint = match did_you_mean(key, keys()) {
        hint if hint.is_empty() => "; `antiraid config` lists all settings".into(),
        hint => hint,
    };
    format!("`{key}` is not a setting{hint}")
}

/// The value as a whole number. A file gives signed ones, the environment unsigned ones where it can.
fn whole(value: &Value) -> Option<i128> {
    let number = value.to_num()?;
    number.to_i128().or_else(|| number.to_u128().and_then(|number| number.try_into().ok()))
}

/// The entries of a text with commas between them.
fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|entry| !entry.is_empty())
}

/// Whether this is the name of a host alone: an entry with a scheme, a port or a star would never match, unnoticed.
fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    text.split('.').all(is_label) && text.bytes().any(|byte| byte.is_ascii_alphabetic())
}

/// Whether the filter means something. `EnvFilter` takes a misspelt level for the name of a target.
fn check_filter(filter: &str) -> Result<(), String> {
    let is_directive = |part: &str| part.contains(['=', '[']) || part.parse::<LevelFilter>().is_ok();
    match EnvFilter::try_new(filter) {
        Ok(_) if filter.split(',').all(is_directive) => Ok(()),
        _ => Err("expected levels such as `info` or `warn,worker_vm=debug`".into()),
    }
}

/// The value for a message; what may hold a password is not shown.
fn shown(value: &Value, setting: &Setting) -> String {
    match value {
        _ if ["database.url", "objects.url", TOKEN].contains(&setting.key) => "what is there".into(),
        Value::String(_, text) => format!("{text:?}"),
        Value::Char(_, c) => format!("{:?}", c.to_string()),
        Value::Bool(_, b) => b.to_string(),
        Value::Num(_, number) => match (whole(value), number.to_f64()) {
            (Some(whole), _) => whole.to_string(),
            (None, float) => float.unwrap_or_default().to_string(),
        },
        Value::Empty(..) => "nothing".into(),
        Value::Dict(..) => "a table".into(),
        Value::Array(..) => "a list".into(),
    }
}
