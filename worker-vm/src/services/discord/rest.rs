//! One request to Discord: sent when its limits allow it, answered in bounded time and size.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest_of_serenity::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest_of_serenity::{Client, Response, redirect};
use serde::Deserialize;
use serenity::constants::USER_AGENT;
use serenity::http::{Http, HttpBuilder, LightMethod, Route};
use serenity::model::id::ApplicationId;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use worker_core::TenantId;

use super::buckets::{self, Buckets, LimitHeaders};
use super::tenant_shares::TenantShares;
use super::{DiscordConfig, DiscordStats};
use crate::error::ApiError;
use crate::luau::json;

/// Bytes of an answer.
pub(crate) const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Characters of Discord's message in an error.
const MESSAGE_CHARS_MAX: usize = 500;
/// How often a request is sent that is refused for its rate.
const TRIES_MAX: u32 = 3;
/// What a refusal costs that does not say how long to wait.
const WAIT_UNKNOWN: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// The client. Clones share it.
#[derive(Clone)]
pub(crate) struct Rest(Arc<Inner>);

struct Inner {
    /// Holds the token and the address; its own rate limits are off, see [`Buckets`].
    http: Http,
    client: Client,
    buckets: Buckets,
    shares: TenantShares,
    revoked: watch::Sender<bool>,
    timeout: Duration,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    requests: AtomicU64,
    invalid: AtomicU64,
    refused: AtomicU64,
    rate_limited: AtomicU64,
    unanswered: AtomicU64,
}

/// What routes are made of. Only those that a route asks for are set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ids {
    pub(crate) application: u64,
    pub(crate) guild: u64,
    pub(crate) channel: u64,
    pub(crate) message: u64,
    pub(crate) user: u64,
    pub(crate) role: u64,
    pub(crate) rule: u64,
    pub(crate) target: u64,
    pub(crate) webhook: u64,
    pub(crate) interaction: u64,
    pub(crate) command: u64,
    /// A code, a token or a reaction; safe within a path.
    pub(crate) text: String,
}

/// By what right a request is made: a token in the path says nothing of the bot's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Authority {
    Bot,
    /// The token of an interaction, whose requests Discord does not count in the global limit, or of a webhook.
    Path,
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct RestRequest {
    pub(crate) method: LightMethod,
    pub(crate) route: fn(&Ids) -> Route<'_>,
    pub(crate) ids: Ids,
    /// Not yet encoded.
    pub(crate) query: Vec<(&'static str, String)>,
    pub(crate) body: Option<Vec<u8>>,
    /// For the audit log.
    pub(crate) reason: Option<String>,
    pub(crate) authority: Authority,
}

/// Why there is no answer, or which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RestError {
    /// Discord refused.
    Refused { status: u16, code: u64, message: String },
    /// Nothing came, or not in time.
    Unanswered,
    /// It is not sent: too much of the tenant's, or of all, has been refused.
    TooManyRefused,
    /// It is not sent: too many wait already.
    TooManyWaiting,
    /// It is not sent: its turn comes too late.
    TooLate(Duration),
    /// The answer is too large.
    TooLarge,
}

impl RestRequest {
    pub(crate) fn get(route: fn(&Ids) -> Route<'_>, ids: Ids) -> Self {
        Self {
            method: LightMethod::Get,
            route,
            ids,
            query: Vec::new(),
            body: None,
            reason: None,
            authority: Authority::Bot,
        }
    }
}

impl RestError {
    /// Discord says that there is no such thing.
    pub(crate) fn is_absent(&self) -> bool {
        matches!(self, Self::Refused { status: 404, code: 10_000..20_000, .. })
    }

    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}

impl From<RestError> for ApiError {
    fn from(error: RestError) -> Self {
        match error {
            RestError::Refused { status, code, message } => Self::discord(format_args!("{status} {code} {message}")),
            RestError::Unanswered => Self::unavailable("discord"),
            RestError::TooManyRefused => {
                Self::unavailable("discord (too many requests were refused in the last ten minutes)")
            }
            RestError::TooManyWaiting => Self::unavailable("discord (too many calls wait for it)"),
            RestError::TooLate(wait) => {
                let seconds = wait.as_secs_f64().ceil();
                Self::unavailable(format_args!("discord (its rate limit asks to wait {seconds} s)"))
            }
            RestError::TooLarge => Self::too_large(format_args!("answer (at most {ANSWER_BYTES_MAX} bytes)")),
        }
    }
}

#[derive(Default, Deserialize)]
struct Refusal {
    #[serde(default)]
    code: u64,
    #[serde(default)]
    message: String,
    retry_after: Option<f64>,
    #[serde(default)]
    global: bool,
}

impl Rest {
    pub(super) fn new(config: &DiscordConfig) -> Self {
        let client = Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .user_agent(USER_AGENT)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build()
            .expect("because rustls needs nothing of the host");
        let mut http = HttpBuilder::new(config.token.expose())
            .client(client.clone())
            .ratelimiter_disabled(true)
            .application_id(ApplicationId::new(config.application_id.get().max(1)));
        if let Some(url) = &config.api_url {
            http = http.proxy(url);
        }
        Self(Arc::new(Inner {
            http: http.build(),
            client,
            buckets: Buckets::new(config.requests_per_second),
            shares: TenantShares::new(config.invalid_requests_per_tenant, config.invalid_requests),
            revoked: watch::Sender::new(false),
            timeout: config.request_timeout,
            counters: Counters::default(),
        }))
    }

    /// Sends the request in the tenant's name. To be run to its end, or what Discord refuses is not counted.
    pub(crate) async fn send(&self, tenant: TenantId, request: &RestRequest) -> Result<Bytes, RestError> {
        let deadline = Instant::now() + self.0.timeout;
        let Some(_waiting) = self.0.shares.wait(tenant) else {
            self.0.counters.refused.fetch_add(1, Ordering::Relaxed);
            return Err(RestError::TooManyWaiting);
        };
        match timeout_at(deadline, self.send_until(tenant, request, deadline)).await {
            Ok(answer) => answer,
            Err(_) => {
                self.0.counters.unanswered.fetch_add(1, Ordering::Relaxed);
                Err(RestError::Unanswered)
            }
        }
    }

    /// Whether something may be looked up in the tenant's name; if so it counts.
    pub(super) fn take_lookup(&self, tenant: TenantId) -> bool {
        self.0.shares.take_lookup(tenant)
    }

    pub(super) fn token_revoked(&self) -> watch::Receiver<bool> {
        self.0.revoked.subscribe()
    }

    pub(super) fn stats(&self) -> DiscordStats {
        let (load, counters) = (|counter: &AtomicU64| counter.load(Ordering::Relaxed), &self.0.counters);
        DiscordStats {
            requests: load(&counters.requests),
            invalid_requests: load(&counters.invalid),
            refused: load(&counters.refused),
            rate_limited: load(&counters.rate_limited),
            unanswered: load(&counters.unanswered),
            ..DiscordStats::default()
        }
    }

    async fn send_until(&self, tenant: TenantId, request: &RestRequest, end: Instant) -> Result<Bytes, RestError> {
        let (inner, bucket) = (&*self.0, (request.route)(&request.ids).ratelimiting_bucket());
        let mut tries = 0;
        loop {
            tries += 1;
            if *inner.revoked.borrow() {
                return Err(RestError::Unanswered);
            }
            let permit = inner.buckets.enter(request.method, bucket, end).await.map_err(RestError::TooLate)?;
            if request.authority == Authority::Bot {
                inner.buckets.enter_all(end).await.map_err(RestError::TooLate)?;
            }
            // Asked last: many may have waited, and have been refused meanwhile.
            let Some(under_way) = inner.shares.begin(tenant) else {
                inner.counters.refused.fetch_add(1, Ordering::Relaxed);
                return Err(RestError::TooManyRefused);
            };
            inner.counters.requests.fetch_add(1, Ordering::Relaxed);
            let response = self.execute(request).await?;
            let (status, limits) = (response.status().as_u16(), limit_headers(response.headers()));
            let is_shared = header(response.headers(), "x-ratelimit-scope") == Some("shared");
            let is_global = response.headers().contains_key("x-ratelimit-global");
            let after: Option<f64> = header(response.headers(), "retry-after").and_then(|text| text.parse().ok());
            if status == 401 || status == 403 || status == 429 && !is_shared {
                inner.shares.count(tenant);
                inner.counters.invalid.fetch_add(1, Ordering::Relaxed);
            }
            drop(under_way);
            if status == 401 && request.authority == Authority::Bot && self.is_revoked().await {
                inner.revoked.send_replace(true);
            }
            if status != 429 {
                permit.answered(limits).await;
            } else {
                inner.counters.rate_limited.fetch_add(1, Ordering::Relaxed);
                let refusal = refusal(response).await;
                let wait = refusal.retry_after.or(after).and_then(buckets::wait).unwrap_or(WAIT_UNKNOWN);
                if is_global || refusal.global {
                    inner.buckets.close(wait);
                    permit.answered(limits).await;
                } else {
                    permit.refused(wait).await;
                }
                if tries >= TRIES_MAX || Instant::now() + wait > end {
                    return Err(RestError::Refused { status, code: refusal.code, message: message(refusal.message) });
                }
                continue;
            }
            if !(200..300).contains(&status) {
                let Refusal { code, message: text, .. } = refusal(response).await;
                return Err(RestError::Refused { status, code, message: message(text) });
            }
            return body(response).await;
        }
    }

    /// Asks who the bot is: were one answer of another request enough, whoever finds a request that Discord answers with
    /// 401 could end the program.
    async fn is_revoked(&self) -> bool {
        let who = RestRequest::get(|_| Route::UserMe, Ids::default());
        self.0.counters.requests.fetch_add(1, Ordering::Relaxed);
        matches!(self.execute(&who).await, Ok(response) if response.status().as_u16() == 401)
    }

    /// serenity's own `Request::build` is not used: it shows the body and the path, tokens included, to whoever traces.
    async fn execute(&self, request: &RestRequest) -> Result<Response, RestError> {
        const DISCORD: &str = "https://discord.com";
        let inner = &*self.0;
        let path = (request.route)(&request.ids).path();
        let base = inner.http.proxy.as_deref().map_or(DISCORD, |url| url.trim_end_matches('/'));
        let mut url = format!("{base}{}", path.strip_prefix(DISCORD).unwrap_or(&path));
        for (place, (name, value)) in request.query.iter().enumerate() {
            let before = if place == 0 { '?' } else { '&' };
            // Writing to a string cannot fail.
            let _ = write!(url, "{before}{name}={}", percent_encoded(value));
        }
        let mut builder = inner.client.request(request.method.reqwest_method(), url);
        if let Ok(mut token) = HeaderValue::try_from(inner.http.token()) {
            token.set_sensitive(true);
            builder = builder.header(AUTHORIZATION, token);
        }
        if let Some(reason) = &request.reason {
            builder = builder.header("x-audit-log-reason", percent_encoded(reason));
        }
        builder = match &request.body {
            Some(body) => builder.header(CONTENT_TYPE, "application/json").body(body.clone()),
            // Discord wants a length where there could be a body.
            None if request.method == LightMethod::Get => builder,
            None => builder.header(CONTENT_LENGTH, 0),
        };
        builder.send().await.map_err(|error| {
            // The address may hold a token.
            let error = error.without_url();
            tracing::warn!(error = &error as &dyn std::error::Error, "Discord did not answer");
            inner.counters.unanswered.fetch_add(1, Ordering::Relaxed);
            RestError::Unanswered
        })
    }
}

/// The body of an answer, as it comes; what is announced of its size is not believed.
async fn bounded(mut response: Response, bytes_max: usize) -> Result<Bytes, RestError> {
    let mut body = BytesMut::new();
    loop {
        match response.chunk().await {
            Ok(None) => return Ok(body.freeze()),
            Ok(Some(chunk)) if body.len() + chunk.len() > bytes_max => return Err(RestError::TooLarge),
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Err(_) => return Err(RestError::Unanswered),
        }
    }
}

/// The body of a good answer: JSON, of a depth that may be read, or nothing.
async fn body(response: Response) -> Result<Bytes, RestError> {
    let body = bounded(response, ANSWER_BYTES_MAX).await?;
    let is_json = || serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_ok();
    if body.is_empty() || json::depth(&body) < json::DEPTH_MAX && is_json() {
        return Ok(body);
    }
    tracing::warn!(bytes = body.len(), "Discord answered with what is no JSON");
    Err(RestError::Unanswered)
}

/// What a bad answer says; one of a proxy may say nothing.
async fn refusal(response: Response) -> Refusal {
    const BYTES_MAX: usize = 64 << 10;
    match bounded(response, BYTES_MAX).await {
        Ok(body) => serde_json::from_slice(&body).unwrap_or_default(),
        Err(_) => Refusal::default(),
    }
}

fn message(text: String) -> String {
    if text.is_empty() {
        return "(no message)".to_owned();
    }
    text.chars().take(MESSAGE_CHARS_MAX).collect()
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn limit_headers(headers: &HeaderMap) -> LimitHeaders {
    fn number<T: std::str::FromStr>(headers: &HeaderMap, name: &str) -> Option<T> {
        header(headers, name)?.parse().ok()
    }
    LimitHeaders {
        limit: number(headers, "x-ratelimit-limit"),
        remaining: number(headers, "x-ratelimit-remaining"),
        reset_after: number(headers, "x-ratelimit-reset-after"),
    }
}

/// As in a path or a query: all but unreserved characters.
pub(crate) fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte.into());
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}
