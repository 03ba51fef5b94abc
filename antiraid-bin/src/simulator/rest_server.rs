//! Discord's REST interface over HTTP.

use std::time::Instant;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use serde_json::{Value, json};

use super::discord_error::DiscordError;
use super::fault::RestFault;
use super::gateway_sessions::GatewaySessions;
use super::request::{Reply, Request};
use super::rest_limits::{Allowed, BucketState};
use super::routes::{decode_header, has_own_token};
use super::{Simulator, unix_ms};

/// The largest body: Discord's limit for uploads is larger, but there are none.
const BODY_BYTES_MAX: usize = 4 << 20;
/// The longest reason.
const REASON_CHARS_MAX: usize = 512;

/// The routes below `/api`, as Discord has them: with the version, or without.
pub fn router(simulator: Simulator) -> Router {
    Router::new().route("/api/{*path}", any(call)).layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).with_state(simulator)
}

async fn call(
    State(simulator): State<Simulator>,
    method: Method,
    uri: Uri,
    Query(query): Query<Vec<(String, String)>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let begun = Instant::now();
    let path = uri.path().strip_prefix("/api").unwrap_or_default();
    let path = strip_version(path);
    let delay = simulator.faults().rest_delay;
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let response = answer(&simulator, &method, path, &query, &headers, &body);
    let status = response.status().as_u16();
    simulator.notice("call", || {
        json!({
            "method": method.as_str(), "path": path, "status": status, "micros": begun.elapsed().as_micros() as u64,
            "reason": reason(&headers).ok().flatten(), "at": unix_ms(),
            "body": serde_json::from_slice::<Value>(&body).ok(),
        })
    });
    response
}

/// `/v10/channels/1` is `/channels/1`.
fn strip_version(path: &str) -> &str {
    let Some((version, _)) = path.get(1..).and_then(|rest| rest.split_once('/')) else { return path };
    let is_version = version.strip_prefix('v').is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    if is_version { &path[1 + version.len()..] } else { path }
}

fn answer(
    simulator: &Simulator,
    method: &Method,
    path: &str,
    query: &[(String, String)],
    headers: &HeaderMap,
    body: &Bytes,
) -> Response {
    match simulator.faults().next_rest() {
        Some(RestFault::Status(status)) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let what = json!({"message": format!("{status}"), "code": 0});
            return (status, axum::Json(what)).into_response();
        }
        Some(RestFault::RateLimit { retry_after_ms, global }) => return too_many(retry_after_ms, global, None),
        None => {}
    }
    let (is_bot, bot) = simulator.with_world(|world| {
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        (given.strip_prefix("Bot ") == Some(world.token()), world.bot())
    });
    if !is_bot && !has_own_token(path) && path != "/gateway" {
        return refuse(&DiscordError::unauthorized());
    }
    let state = match simulator.limits().take(method.as_str(), path, unix_ms()) {
        Allowed::Yes(state) => state,
        Allowed::NotInBucket(state) => return too_many(state.reset_after_ms, false, Some(&state)),
        Allowed::NotAtAll(millis) => return too_many(millis, true, None),
    };
    let mut response = match read(headers, body) {
        Err(error) => refuse(&error),
        Ok((body, reason)) => match (method, path) {
            (&Method::GET, "/gateway" | "/gateway/bot") => {
                let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("127.0.0.1");
                gateway(&simulator.sessions(), host, path)
            }
            _ => {
                let (method, reason) = (method.as_str(), reason.as_deref());
                let request = Request { actor: bot, method, path, query, body: &body, reason };
                match simulator.with_world(|world| world.answer(&request)) {
                    Ok(Reply { status, body }) => {
                        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
                        match body {
                            Some(body) => (status, axum::Json(body)).into_response(),
                            None => status.into_response(),
                        }
                    }
                    Err(error) => refuse(&error),
                }
            }
        },
    };
    if let Some(state) = state {
        tell_limits(response.headers_mut(), &state);
    }
    response
}

fn read(headers: &HeaderMap, body: &Bytes) -> Result<(Value, Option<String>), DiscordError> {
    let reason = reason(headers)?;
    if body.is_empty() {
        return Ok((Value::Null, reason));
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("application/json");
    if kind.starts_with("multipart/") {
        return Err(DiscordError::not_simulated("uploads:", kind.split(';').next().unwrap_or(kind)));
    }
    let body = serde_json::from_slice(body).map_err(|_| DiscordError::bad_json())?;
    Ok((body, reason))
}

fn reason(headers: &HeaderMap) -> Result<Option<String>, DiscordError> {
    let Some(reason) = headers.get("x-audit-log-reason") else { return Ok(None) };
    let reason = decode_header(&String::from_utf8_lossy(reason.as_bytes()));
    if reason.chars().count() > REASON_CHARS_MAX {
        let mut errors = super::discord_error::FormErrors::default();
        let message = format!("Must be {REASON_CHARS_MAX} or fewer in length.");
        errors.add(&["reason".into()], "BASE_TYPE_MAX_LENGTH", message);
        return Err(DiscordError::invalid_form(errors));
    }
    Ok((!reason.is_empty()).then_some(reason))
}

fn gateway(sessions: &GatewaySessions, host: &str, path: &str) -> Response {
    let url = format!("ws://{host}");
    let answer = match path {
        "/gateway" => json!({"url": url}),
        _ => json!({
            "url": url, "shards": sessions.config().shards,
            "session_start_limit": {
                "total": 1000, "remaining": 1000_u64.saturating_sub(sessions.identified()), "reset_after": 86_400_000,
                "max_concurrency": sessions.config().max_concurrency,
            },
        }),
    };
    axum::Json(answer).into_response()
}

fn refuse(error: &DiscordError) -> Response {
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::BAD_REQUEST);
    (status, axum::Json(error.body())).into_response()
}

fn too_many(retry_after_ms: u64, global: bool, state: Option<&BucketState>) -> Response {
    let seconds = retry_after_ms as f64 / 1000.0;
    let body = json!({"message": "You are being rate limited.", "retry_after": seconds, "global": global});
    let mut response = (StatusCode::TOO_MANY_REQUESTS, axum::Json(body)).into_response();
    let headers = response.headers_mut();
    put(headers, "retry-after", &(seconds.ceil() as u64).to_string());
    put(headers, "x-ratelimit-scope", if global { "global" } else { "user" });
    if global {
        put(headers, "x-ratelimit-global", "true");
    }
    // Discord's answers come by way of this; clients take those that did not for a ban of their address.
    put(headers, "via", "1.1 simulator");
    if let Some(state) = state {
        tell_limits(headers, state);
    }
    response
}

fn tell_limits(headers: &mut HeaderMap, state: &BucketState) {
    let seconds = |millis: u64| format!("{}.{:03}", millis / 1000, millis % 1000);
    put(headers, "x-ratelimit-limit", &state.limit.to_string());
    put(headers, "x-ratelimit-remaining", &state.remaining.to_string());
    put(headers, "x-ratelimit-reset", &seconds(state.reset_ms));
    put(headers, "x-ratelimit-reset-after", &seconds(state.reset_after_ms));
    put(headers, "x-ratelimit-bucket", &bucket_hash(&state.bucket));
}

/// A name that tells nothing, as Discord's, and is the same for a route whatever it is about.
fn bucket_hash(bucket: &str) -> String {
    let route: String =
        bucket.split('/').map(|part| if part.bytes().all(|b| b.is_ascii_digit()) { "-" } else { part }).collect();
    let hash = route
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    format!("{hash:016x}")
}

fn put(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

#[cfg(test)]
mod tests {
    use super::strip_version;

    #[test]
    fn versions_are_taken_off() {
        assert_eq!(strip_version("/v10/channels/1"), "/channels/1");
        assert_eq!(strip_version("/channels/1"), "/channels/1");
        assert_eq!(strip_version("/v10"), "/v10");
        assert_eq!(strip_version("/voice/regions"), "/voice/regions");
    }
}
