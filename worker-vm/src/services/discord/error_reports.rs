//! Errors of templates, written to where people see them.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moka::sync::Cache;
use serde_json::json;
use serenity::http::{LightMethod, Route};
use tokio::sync::mpsc;
use worker_core::{
    EventName, Quota, RatelimitFamily, RatelimitRules, Ratelimits, Snowflake, SourceLine, StaticRef, TemplateName,
    TenantId,
};
use worker_db::WorkerDb;

use super::lookups::{Lookups, Place};
use super::rest::{Authority, Ids, RestRequest};
use crate::error::ApiError;
use crate::services::Home;

/// Reports that wait; what comes then is dropped.
const WAITING_MAX: usize = 256;
/// Reports to one channel: so many at once, and so many in the period.
const CHANNEL_MAX: NonZeroU32 = NonZeroU32::new(5).expect("because 5 is not 0");
const CHANNEL_PERIOD: Duration = Duration::from_secs(60);
/// Reports of the process, beside everything else that it asks of Discord.
const PROCESS_MAX: NonZeroU32 = NonZeroU32::new(120).expect("because 120 is not 0");
const PROCESS_PERIOD: Duration = Duration::from_secs(60);
/// Channels whose share is remembered.
const CHANNELS_MAX: u64 = 50_000;
/// Characters of an embed's description and title, below Discord's 4,096 and 256.
const TEXT_CHARS_MAX: usize = 3_800;
const TITLE_CHARS_MAX: usize = 200;
/// The colour of what went wrong.
const RED: u32 = 0x00D8_3C3E;

/// How a template failed, for the people of its guild.
#[derive(Clone, Debug)]
pub(crate) struct ErrorReport {
    pub(crate) tenant: TenantId,
    pub(crate) template: TemplateName,
    /// Where the template's errors go, if it says.
    pub(crate) channel: Option<Snowflake>,
    pub(crate) event: Option<EventName>,
    pub(crate) at: Option<SourceLine>,
    /// With the traceback, if there is one.
    pub(crate) text: String,
}

/// Takes reports and writes them elsewhere, in their time. Clones share the queue.
#[derive(Clone)]
pub(crate) struct ErrorReports(Arc<Inner>);

struct Inner {
    queue: mpsc::Sender<(ErrorReport, WorkerDb)>,
    receiver: parking_lot::Mutex<Option<mpsc::Receiver<(ErrorReport, WorkerDb)>>>,
    writer: Writer,
    home: Home,
}

/// What writes the reports.
#[derive(Clone)]
struct Writer {
    lookups: Lookups,
    operator: Option<Snowflake>,
    shares: Arc<Shares>,
    written: Arc<AtomicU64>,
    dropped: Arc<AtomicU64>,
}

struct Shares {
    process: Ratelimits,
    channels: Cache<u64, Arc<Ratelimits>>,
    rules: StaticRef<RatelimitRules>,
}

impl Shares {
    fn new() -> Self {
        let rules = |max, period| {
            StaticRef::new(RatelimitRules::unlimited().with_global(RatelimitFamily::Discord, [Quota::per(max, period)]))
        };
        Self {
            process: Ratelimits::new(rules(PROCESS_MAX, PROCESS_PERIOD)),
            channels: Cache::builder().max_capacity(CHANNELS_MAX).time_to_idle(CHANNEL_PERIOD).build(),
            rules: rules(CHANNEL_MAX, CHANNEL_PERIOD),
        }
    }

    fn take(&self, channel: Snowflake) -> bool {
        let of_channel = self.channels.get_with(channel.get(), || Arc::new(Ratelimits::new(self.rules.clone())));
        let take = |limits: &Ratelimits| limits.take(RatelimitFamily::Discord, "error report", 1).is_ok();
        take(&of_channel) && take(&self.process)
    }
}

impl ErrorReports {
    pub(super) fn new(lookups: Lookups, operator: Option<Snowflake>, home: Home) -> Self {
        let (queue, receiver) = mpsc::channel(WAITING_MAX);
        let writer = Writer {
            lookups,
            operator,
            shares: Arc::new(Shares::new()),
            written: Arc::default(),
            dropped: Arc::default(),
        };
        Self(Arc::new(Inner { queue, receiver: parking_lot::Mutex::new(Some(receiver)), writer, home }))
    }

    /// Takes a report, and never waits: what is too much is dropped and counted.
    pub(crate) fn report(&self, report: ErrorReport, db: &WorkerDb) {
        let inner = &*self.0;
        let Some(channel) = report.channel.or(inner.writer.operator) else { return };
        if !inner.writer.shares.take(channel) || inner.queue.try_send((report, db.clone())).is_err() {
            inner.writer.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if let Some(mut receiver) = inner.receiver.lock().take() {
            let writer = inner.writer.clone();
            let begun = inner.home.begin(async move {
                while let Some((report, db)) = receiver.recv().await {
                    writer.write(report, &db).await;
                }
            });
            if let Err(error) = begun {
                tracing::error!(%error, "errors of templates are not written to their channels");
            }
        }
    }

    /// How many were written, and how many dropped.
    pub(super) fn figures(&self) -> (u64, u64) {
        let writer = &self.0.writer;
        (writer.written.load(Ordering::Relaxed), writer.dropped.load(Ordering::Relaxed))
    }
}

impl Writer {
    async fn write(&self, report: ErrorReport, db: &WorkerDb) {
        if let Some(channel) = report.channel {
            match self.write_to(channel, &report, Whose::Tenants).await {
                Ok(()) => return self.count_written(),
                Err(Failed::Gone) => {
                    if let Err(error) = db.forget_error_channel(report.tenant, channel).await {
                        tracing::warn!(tenant = %report.tenant, %error, "an error channel that is gone could not be forgotten");
                    }
                }
                Err(Failed::Other(error)) => {
                    tracing::debug!(tenant = %report.tenant, %error, "an error was not written to its channel");
                }
            }
        }
        let told = match self.operator {
            Some(channel) => self.write_to(channel, &report, Whose::Operators).await.is_ok(),
            None => false,
        };
        if told {
            self.count_written();
        } else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn count_written(&self) {
        self.written.fetch_add(1, Ordering::Relaxed);
    }

    async fn write_to(&self, channel: Snowflake, report: &ErrorReport, whose: Whose) -> Result<(), Failed> {
        if whose == Whose::Tenants {
            // A row may have been written when nobody could check it.
            let place = Place::of(report.tenant).map_err(|_| Failed::Gone)?;
            self.lookups
                .find_channel(place, channel.get())
                .await
                .map_err(|error| if error.is_wrong_guild() { Failed::Gone } else { Failed::Other(error) })?;
        }
        let request = RestRequest {
            method: LightMethod::Post,
            route: |ids| Route::ChannelMessages { channel_id: ids.channel.into() },
            ids: Ids { channel: channel.get(), ..Ids::default() },
            query: Vec::new(),
            body: Some(message(report, whose)),
            reason: None,
            authority: Authority::Bot,
        };
        match self.lookups.rest().send(report.tenant, &request).await {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.status(), Some(403 | 404)) => Err(Failed::Gone),
            Err(error) => Err(Failed::Other(error.into())),
        }
    }
}

/// Whose channel it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Tenants,
    Operators,
}

enum Failed {
    /// There is no such channel in the guild, or the bot may not write there.
    Gone,
    Other(ApiError),
}

/// The message: an embed that mentions nobody.
fn message(report: &ErrorReport, whose: Whose) -> Vec<u8> {
    let mut fields = Vec::new();
    let mut field = |name: &str, value: String| {
        fields.push(json!({ "name": name, "value": format!("`{}`", plain(&value, TITLE_CHARS_MAX)), "inline": true }));
    };
    if let Some(at) = &report.at {
        field("Where", format!("{}:{}", at.path, at.line));
    }
    if let Some(event) = &report.event {
        field("Event", event.to_string());
    }
    if whose == Whose::Operators {
        field("Tenant", report.tenant.to_string());
    }
    let text = plain(&report.text, TEXT_CHARS_MAX);
    let message = json!({
        "embeds": [{
            "title": format!("{} failed", plain(report.template.as_str(), TITLE_CHARS_MAX)),
            "description": format!("```\n{text}\n```"),
            "color": RED,
            "fields": fields,
        }],
        "allowed_mentions": { "parse": [] },
    });
    message.to_string().into_bytes()
}

/// Text that cannot end the code it stands in, shortened.
fn plain(text: &str, chars_max: usize) -> String {
    let text = text.replace('`', "\u{2CB}");
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(text: &str) -> ErrorReport {
        ErrorReport {
            tenant: TenantId::guild(7),
            template: TemplateName::new("greeter").unwrap(),
            channel: None,
            event: None,
            at: Some(SourceLine { path: "/init.luau".into(), line: 3 }),
            text: text.to_owned(),
        }
    }

    #[test]
    fn the_message_fits_and_mentions_nobody() {
        let long = "@everyone ```".repeat(2_000);
        let message: serde_json::Value = serde_json::from_slice(&message(&report(&long), Whose::Operators)).unwrap();
        assert_eq!(message["allowed_mentions"]["parse"], json!([]));
        let embed = &message["embeds"][0];
        let description = embed["description"].as_str().unwrap();
        assert!(description.chars().count() <= 4_096);
        assert_eq!(description.matches("```").count(), 2, "the text does not leave its block");
        assert_eq!(embed["fields"][0]["value"], "`/init.luau:3`");
        assert_eq!(embed["fields"][1]["value"], "`guild:7`");
    }

    #[test]
    fn a_channel_has_a_share() {
        let shares = Shares::new();
        let taken = |channel| (0..50).filter(|_| shares.take(Snowflake::new(channel))).count();
        assert_eq!((taken(1), taken(2)), (5, 5));
    }
}
