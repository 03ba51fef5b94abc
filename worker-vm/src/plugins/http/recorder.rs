//! Stands in for all servers while templates are tested: keeps what is sent, and answers as it was told to.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use worker_core::{Clock, Value};

use super::sender::{Answer, Body};
use crate::error::ApiError;
use crate::harness::AnswerFunction;

/// What was sent, and how it is answered. Clones are handles to the same record.
#[derive(Clone, Debug, Default)]
pub struct HttpRecorder(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    requests: Vec<HttpRequest>,
    bytes: usize,
    answers: BTreeMap<(String, String), VecDeque<HttpAnswer>>,
}

/// A request that was allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRequest {
    /// `GET` and the like.
    pub method: String,
    /// Where to.
    pub url: String,
    /// Its headers, names in lower case; of several with one name the last.
    pub headers: BTreeMap<String, String>,
    /// Its body.
    pub body: Option<Bytes>,
}

/// An answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpAnswer {
    /// What a server says.
    Response {
        /// The status, from 100 to 999.
        status: u16,
        /// Headers; those that are none are left out.
        headers: Vec<(String, String)>,
        /// The body.
        body: Bytes,
    },
    /// The text of the error that sending raises.
    Error(String),
    /// What the function says when it is called with the request, read by [`HttpAnswer::from_value`].
    Function(AnswerFunction),
}

impl HttpAnswer {
    /// An answer as specs write it: `{ error }`, or `{ status?, headers?, body?, json? }`.
    pub fn from_value(value: &Value) -> Result<Self, String> {
        let fields = match value {
            Value::Map(fields) => fields,
            Value::List(items) if items.is_empty() => &BTreeMap::new(),
            _ => return Err("an answer is no table".into()),
        };
        let text = |name: &str, value: &Value| match value {
            Value::Text(text) => Ok(text.clone()),
            _ => Err(format!("{name} of an answer (expected a text)")),
        };
        if let Some(error) = fields.get("error") {
            return text("error", error).map(Self::Error);
        }
        let status = match fields.get("status") {
            None | Some(Value::Null) => 200,
            Some(Value::Integer(status @ 100..=999)) => *status as u16,
            Some(_) => return Err("status of an answer (expected a number from 100 to 999)".into()),
        };
        let headers = match fields.get("headers") {
            Some(Value::Map(headers)) => headers
                .iter()
                .map(|(name, value)| Ok((name.clone(), text(name, value)?)))
                .collect::<Result<_, String>>()?,
            _ => Vec::new(),
        };
        let body = match (fields.get("body"), fields.get("json")) {
            (Some(Value::Text(body)), None) => Bytes::from(body.clone()),
            (Some(Value::Bytes(body) | Value::Buffer(body)), None) => body.clone(),
            (None, Some(json)) => Bytes::from(json.to_json_untyped().map_err(|error| error.to_string())?),
            (None, None) => Bytes::new(),
            _ => return Err("an answer has either a body, which is a text or a buffer, or json".into()),
        };
        Ok(Self::Response { status, headers, body })
    }
}

impl HttpRequest {
    /// The request as specs see it.
    pub fn into_value(self) -> Value {
        let headers = self.headers.into_iter().map(|(name, value)| (name, Value::Text(value)));
        let text = |body: Bytes| match String::from_utf8(body.to_vec()) {
            Ok(text) => Value::Text(text),
            Err(_) => Value::Bytes(body),
        };
        Value::from([
            ("method", self.method.into()),
            ("url", self.url.into()),
            ("headers", Value::Map(headers.collect())),
            ("body", self.body.map_or(Value::Null, text)),
        ])
    }
}

async fn answered(clock: Clock, request: &HttpRequest, answer: HttpAnswer) -> Result<Answer, ApiError> {
    let answer = match answer {
        HttpAnswer::Function(function) => {
            let said = function.ask(clock, vec![request.clone().into_value()]).await?;
            HttpAnswer::from_value(&said).map_err(ApiError::invalid_argument)?
        }
        known => known,
    };
    match answer {
        HttpAnswer::Error(text) => Err(ApiError::verbatim(text)),
        HttpAnswer::Response { status, headers, body } => {
            let status = StatusCode::from_u16(status)
                .map_err(|_| ApiError::invalid_argument("status of the test's answer (expected 100 to 999)"))?;
            let header = |(name, value): (String, String)| {
                Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?))
            };
            let headers: HeaderMap = headers.into_iter().filter_map(header).collect();
            Ok(Answer { status, headers, content_length: Some(body.len() as u64), body: Body::whole(body) })
        }
        // A function answers for itself.
        HttpAnswer::Function(_) => Err(ApiError::invalid_argument("an answer of a function that is a function")),
    }
}

impl HttpRecorder {
    /// Requests that are kept; the next one fails.
    const REQUESTS_MAX: usize = 10_000;

    /// Bytes of them.
    const BYTES_MAX: usize = 64 << 20;

    /// The requests so far, oldest first.
    pub fn requests(&self) -> Vec<HttpRequest> {
        self.state().requests.clone()
    }

    /// Sets how requests of that method to that URL are answered: in this order, the last one for ever. Whatever was set
    /// before goes.
    pub fn answer(&self, method: &str, url: &str, answers: impl IntoIterator<Item = HttpAnswer>) {
        // As requests have it: `https://example.org` is `https://example.org/`.
        let url = reqwest::Url::parse(url).map_or_else(|_| url.to_owned(), String::from);
        self.state().answers.insert((method.to_uppercase(), url), answers.into_iter().collect());
    }

    /// Keeps a request and answers it.
    pub(super) async fn send(self, clock: Clock, request: reqwest::Request) -> Result<Answer, ApiError> {
        let (request, answer) = self.keep(&request)?;
        answered(clock, &request, answer).await
    }

    /// Keeps a request, and takes the answer to it.
    fn keep(&self, request: &reqwest::Request) -> Result<(HttpRequest, HttpAnswer), ApiError> {
        let (method, url) = (request.method().to_string(), request.url().to_string());
        let header = |(name, value): (&HeaderName, &HeaderValue)| {
            (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let headers: BTreeMap<_, _> = request.headers().iter().map(header).collect();
        let body = request.body().and_then(reqwest::Body::as_bytes).map(Bytes::copy_from_slice);
        let mut state = self.state();
        let texts = headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        let bytes = size_of::<HttpRequest>() + method.len() + url.len() + texts + body.as_ref().map_or(0, Bytes::len);
        if state.requests.len() >= Self::REQUESTS_MAX || state.bytes + bytes > Self::BYTES_MAX {
            let (count, mib) = (Self::REQUESTS_MAX, Self::BYTES_MAX >> 20);
            return Err(ApiError::too_large(format_args!(
                "requests that a test records (at most {count}, and {mib} MiB)"
            )));
        }
        state.bytes += bytes;
        let answers = state.answers.get_mut(&(method.clone(), url.clone()));
        let answer = answers.and_then(|answers| match answers.len() {
            0 | 1 => answers.front().cloned(),
            _ => answers.pop_front(),
        });
        let unanswered = || ApiError::http(format_args!("connect (the test has no answer to {method} {url})"));
        let answer = answer.ok_or_else(unanswered);
        let request = HttpRequest { method: method.clone(), url: url.clone(), headers, body };
        state.requests.push(request.clone());
        Ok((request, answer?))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
