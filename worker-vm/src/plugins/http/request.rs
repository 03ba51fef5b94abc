//! `Request`: what is to be sent.

use std::cell::RefCell;
use std::ffi::{CStr, c_int};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::Either;
use jiff::SignedDuration;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Version};
use worker_core::RatelimitFamily;

use super::Kept;
use super::headers::{self, Headers};
use super::response::Response;
use super::sender::CDN;
use super::url::{Address, Url};
use crate::error::ApiError;
use crate::luau::class::{Class, ClassBuilder, Object, tags};
use crate::luau::lua_State;
use crate::luau::native::Call;
use crate::luau::stack::{self, Kind, Push, PushBox};
use crate::modules::blob::{BlobBytes, Taken};
use crate::modules::datetime::TimeDelta;
use crate::runtime::context::ContextCore;

/// Bytes of a method's name; the longest in use has 17.
const METHOD_BYTES_MAX: usize = 32;

const VERSIONS: [(&str, Version); 5] = [
    ("HTTP/0.9", Version::HTTP_09),
    ("HTTP/1.0", Version::HTTP_10),
    ("HTTP/1.1", Version::HTTP_11),
    ("HTTP/2.0", Version::HTTP_2),
    ("HTTP/3.0", Version::HTTP_3),
];

/// A template's request. It is sent with the capabilities of the context that its client belongs to.
pub(super) struct Request {
    context: Rc<ContextCore>,
    parts: RefCell<Parts>,
}

struct Parts {
    method: Method,
    url: Kept<Address>,
    headers: Kept<HeaderMap>,
    body: Option<BlobBytes>,
    /// Whether the body was a table.
    body_is_json: bool,
    timeout: Duration,
    version: Version,
}

impl Request {
    /// From the arguments `method, url`.
    pub(super) fn new(call: &Call, context: Rc<ContextCore>) -> Result<Self, ApiError> {
        let parts = Parts {
            method: method(call, 1)?,
            url: Url::read_either(call, 2, "url")?,
            headers: headers::keep(call.vm().weak(), HeaderMap::new())?,
            body: None,
            body_is_json: false,
            timeout: call.vm().limits().http.timeout_max,
            version: Version::HTTP_11,
        };
        Ok(Self { context, parts: RefCell::new(parts) })
    }
}

fn method(call: &Call, index: c_int) -> Result<Method, ApiError> {
    Some(call.bytes(index, "method")?)
        .filter(|name| name.len() <= METHOD_BYTES_MAX)
        .and_then(|name| Method::from_bytes(name).ok())
        // It asks for a tunnel.
        .filter(|method| *method != Method::CONNECT)
        .ok_or_else(|| ApiError::invalid_argument("method (not the name of a method)"))
}

fn timeout(call: &Call, index: c_int) -> Result<Duration, ApiError> {
    let max = call.vm().limits().http.timeout_max;
    let time = match call.object_opt::<TimeDelta>(index) {
        Some(delta) => Duration::try_from(delta.duration()).ok(),
        None => Duration::try_from_secs_f64(call.number(index, "timeout")?).ok(),
    };
    time.filter(|time| !time.is_zero() && *time <= max).ok_or_else(|| {
        ApiError::invalid_argument(format_args!(
            "timeout (expected more than 0 and at most {} seconds)",
            max.as_secs_f64()
        ))
    })
}

/// The body, and whether it is JSON.
fn body(call: &Call, index: c_int) -> Result<(Option<BlobBytes>, bool), ApiError> {
    let max = call.vm().limits().http.request_body_bytes_max;
    let fits = |bytes: usize| {
        if bytes <= max { Ok(()) } else { Err(ApiError::too_large(format_args!("body_bytes (at most {max} bytes)"))) }
    };
    match call.kind(index) {
        Kind::None | Kind::Nil => Ok((None, false)),
        Kind::Table => {
            let json = call.value(index)?.to_json_untyped()?;
            fits(json.len())?;
            Ok((Some(BlobBytes::new(call.vm().weak(), json)?), true))
        }
        _ => {
            let taken = Taken::read(call, index, "body_bytes")?;
            fits(taken.as_slice().len())?;
            Ok((Some(taken.into_bytes(call.vm().weak())?), false))
        }
    }
}

/// `request[name] = value`.
fn assign(call: &Call) -> Result<(), ApiError> {
    let request = call.object::<Request>(1, "self")?;
    match call.str(2, "field")? {
        "method" => {
            let method = method(call, 3)?;
            request.parts.borrow_mut().method = method;
        }
        "url" => {
            let url = Url::read_either(call, 3, "url")?;
            request.parts.borrow_mut().url = url;
        }
        "headers" => {
            let map = call.object::<Headers>(3, "headers")?.map();
            headers::check_sent(call, &map)?;
            let kept = headers::keep(call.vm().weak(), map)?;
            request.parts.borrow_mut().headers = kept;
        }
        "body_bytes" => {
            let (body, is_json) = body(call, 3)?;
            let mut parts = request.parts.borrow_mut();
            (parts.body, parts.body_is_json) = (body, is_json);
        }
        "timeout" => {
            let timeout = timeout(call, 3)?;
            request.parts.borrow_mut().timeout = timeout;
        }
        "version" => {
            let name = call.str(3, "version")?;
            let (_, version) = VERSIONS
                .iter()
                .find(|(known, _)| *known == name)
                .ok_or_else(|| ApiError::invalid_argument("version (expected `HTTP/1.1` or the like)"))?;
            request.parts.borrow_mut().version = *version;
        }
        other => return Err(ApiError::invalid_argument(format_args!("{other:.64} (a request has no such field)"))),
    }
    Ok(())
}

/// Sends the request; it may be sent again.
fn send(call: &Call) -> Result<impl Future<Output = Result<Object<Response>, ApiError>> + use<>, ApiError> {
    let request = call.object::<Request>(1, "self")?;
    let (parts, vm) = (request.parts.borrow(), call.vm());
    let services = vm.surroundings.state.services();
    let address = &parts.url.value;
    if address.domain() != Ok(CDN) {
        request.context.require("http:send")?;
    }
    match vm.surroundings.state.http_recorder() {
        // Which hosts the operator allows is not known to a test.
        Some(_) => address.domain().map(drop).map_err(|reason| ApiError::http(format_args!("blocked ({reason})")))?,
        None => services.http().check(address)?,
    }
    vm.tenant.ratelimits.take(RatelimitFamily::Http, "send", 1)?;

    let mut headers = parts.headers.value.clone();
    if parts.body_is_json && !headers.contains_key(CONTENT_TYPE) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    let mut builder = services.http().request(parts.method.clone(), address).headers(headers).version(parts.version);
    if let Some(body) = &parts.body {
        builder = builder.body(body.bytes().clone());
    }
    let outgoing = builder.build().map_err(|_| ApiError::invalid_argument("request (it cannot be sent)"))?;
    let answer = match vm.surroundings.state.http_recorder() {
        Some(recorder) => {
            let (recorder, clock) = (recorder.clone(), vm.clock().clone());
            let deadline = clock.moment() + parts.timeout;
            Either::Left(async move {
                let answer = clock.before(deadline, recorder.send(clock.clone(), outgoing)).await;
                answer.unwrap_or_else(|| Err(ApiError::http("timeout")))
            })
        }
        None => Either::Right(services.http().send(services.home(), outgoing, parts.timeout)),
    };
    // Counted for as long as they are sent.
    let (body, address, weak) = (parts.body.clone(), address.clone().keep(vm.weak())?, vm.weak());
    let response = Response::reserve(vm.weak())?;
    Ok(async move {
        let answer = answer.await?;
        drop(body);
        Response::new(weak, address, answer, response).map(Object)
    })
}

impl Class for Request {
    const TAG: c_int = tags::HTTP_REQUEST;
    const NAME: &'static str = "Request";
    const C_NAME: &'static CStr = c"Request";
    const HAS_FIELDS: bool = true;

    fn field(&self, call: &Call, name: &str) -> Result<Option<Box<dyn PushBox>>, ApiError> {
        let (parts, vm) = (self.parts.borrow(), call.vm());
        Ok(match name {
            "method" => Some(Box::new(parts.method.as_str().to_owned())),
            "url" => Some(Box::new(Object(Url::new(vm.weak(), parts.url.value.clone())?))),
            "headers" => Some(Box::new(Object(Headers::new(vm.weak(), parts.headers.value.clone())?))),
            "body_bytes" => parts.body.as_ref().map(|body| Box::new(Buffer(body.bytes().clone())) as _),
            "timeout" => {
                let time = SignedDuration::try_from(parts.timeout).map_err(|error| ApiError::internal(&error))?;
                Some(Box::new(Object(TimeDelta::new(time))))
            }
            "version" => VERSIONS
                .iter()
                .find(|(_, version)| *version == parts.version)
                .map(|(name, _)| Box::new((*name).to_owned()) as _),
            _ => None,
        })
    }

    fn register(class: &mut ClassBuilder) {
        class.meta(c"__newindex", assign).yielding(c"send", send);
    }
}

/// Pushes as a buffer.
struct Buffer(Bytes);

impl Push for Buffer {
    fn push(self, l: *mut lua_State) -> c_int {
        stack::push_buffer(l, &self.0);
        1
    }
}
