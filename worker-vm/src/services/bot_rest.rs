//! Discord's REST API for the program itself: who the bot is, how many shards it needs, which commands it has. Templates do
//! not come here.

use std::fmt;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use reqwest::{Client, Method, StatusCode};
use serde_json::Value;

use crate::plugins::http::{plain_client, tls};

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// The longest that a rate limit is waited out; a longer one is an error.
const RATE_LIMIT_WAIT_MAX: Duration = Duration::from_secs(30);
/// How often a request is made again for a rate limit.
const RATE_LIMITS_MAX: u32 = 5;
/// The longest answer.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// The version of the API.
const API: &str = "api/v10";

/// Makes ring the cryptography of everything in this process that asks rustls for its default, as the gateway does.
pub fn use_ring_for_tls() {
    // An error means that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A client of Discord's REST API in the name of the bot. Clones share its connections.
#[derive(Clone)]
pub struct BotRest {
    client: Client,
    api_url: String,
    authorization: HeaderValue,
}

/// Why Discord did not answer as it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BotRestError {
    /// The token is not one of a bot, or it was revoked.
    #[error("Discord refuses the token (401): it is wrong, or was reset")]
    Unauthorized,
    /// Another refusal, in Discord's words.
    #[error("Discord refuses {what} ({status}): {why}")]
    Refused {
        /// Method and path.
        what: String,
        /// The status of the answer.
        status: u16,
        /// What the answer says.
        why: String,
    },
    /// A rate limit that is too long to wait for.
    #[error("Discord's rate limit: {what} may be asked again in {}s", .retry_after.as_secs())]
    RateLimited {
        /// Method and path.
        what: String,
        /// When.
        retry_after: Duration,
    },
    /// No answer.
    #[error("Discord cannot be reached for {what}")]
    Unreachable {
        /// Method and path.
        what: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// An answer that is none.
    #[error("Discord's answer to {what} cannot be read: {why}")]
    BadAnswer {
        /// Method and path.
        what: String,
        /// What is wrong with it.
        why: String,
    },
}

impl BotRestError {
    /// Whether the same request may succeed later.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::RateLimited { .. } | Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => *status >= 500,
            Self::Unauthorized | Self::BadAnswer { .. } => false,
        }
    }
}

impl BotRest {
    /// A client of the API at this URL, which has no version and no path. Nothing is sent yet. `None` if the token cannot be
    /// one, as it has characters that no header can hold.
    pub fn new(api_url: &str, token: &str) -> Option<Self> {
        let mut authorization = HeaderValue::from_str(&format!("Bot {}", token.trim())).ok()?;
        authorization.set_sensitive(true);
        let client = plain_client(tls(Vec::new()))
            .timeout(REQUEST_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("because these settings go together");
        Some(Self { client, api_url: api_url.trim_end_matches('/').to_owned(), authorization })
    }

    /// Reads what is at this path.
    pub async fn get(&self, path: &str) -> Result<Value, BotRestError> {
        self.call(Method::GET, path, None).await
    }

    /// Puts the value there.
    pub async fn put(&self, path: &str, body: &Value) -> Result<Value, BotRestError> {
        self.call(Method::PUT, path, Some(body)).await
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, BotRestError> {
        let what = || format!("{method} {path}");
        for limits in 0.. {
            let mut request = (self.client.request(method.clone(), format!("{}/{API}{path}", self.api_url)))
                .header(AUTHORIZATION, self.authorization.clone())
                .header(USER_AGENT, concat!("DiscordBot (antiraid, ", env!("CARGO_PKG_VERSION"), ")"));
            if let Some(body) = body {
                request = request.header(CONTENT_TYPE, "application/json").body(body.to_string());
            }
            let unreachable = |source| BotRestError::Unreachable { what: what(), source };
            let mut response = request.send().await.map_err(unreachable)?;
            let status = response.status();
            let retry_after = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
            let mut bytes = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
                bytes.extend_from_slice(&chunk);
                if bytes.len() > ANSWER_BYTES_MAX {
                    let why = format!("more than {ANSWER_BYTES_MAX} bytes");
                    return Err(BotRestError::BadAnswer { what: what(), why });
                }
            }
            match status {
                StatusCode::NO_CONTENT => return Ok(Value::Null),
                status if status.is_success() => {
                    let bad =
                        |error: serde_json::Error| BotRestError::BadAnswer { what: what(), why: error.to_string() };
                    return serde_json::from_slice(&bytes).map_err(bad);
                }
                StatusCode::UNAUTHORIZED => return Err(BotRestError::Unauthorized),
                StatusCode::TOO_MANY_REQUESTS => {
                    let retry_after = Duration::try_from_secs_f64(retry_after.unwrap_or(1.0)).unwrap_or(Duration::MAX);
                    if retry_after > RATE_LIMIT_WAIT_MAX || limits >= RATE_LIMITS_MAX {
                        return Err(BotRestError::RateLimited { what: what(), retry_after });
                    }
                    tokio::time::sleep(retry_after).await;
                }
                status => {
                    const CHARS_MAX: usize = 1_000;
                    let why = String::from_utf8_lossy(&bytes).chars().take(CHARS_MAX).collect();
                    return Err(BotRestError::Refused { what: what(), status: status.as_u16(), why });
                }
            }
        }
        unreachable!("because a request is made again only so often")
    }
}

impl fmt::Debug for BotRest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BotRest").field("api_url", &self.api_url).finish_non_exhaustive()
    }
}
