//! `Response`: an answer, whose body is read once.

use std::cell::RefCell;
use std::ffi::{CStr, c_int};
use std::rc::Weak;

use reqwest::header::HeaderMap;

use super::Kept;
use super::headers::{self, Headers};
use super::sender::{Answer, Body};
use super::url::{Address, Url};
use crate::error::ApiError;
use crate::luau::class::{Class, ClassBuilder, Object, tags};
use crate::luau::json::{self, Json, PlainNames};
use crate::luau::lua_State;
use crate::luau::native::Call;
use crate::luau::stack::{Push, PushBox, push_bytes};
use crate::modules::blob::BlobBytes;
use crate::runtime::held::{Counted, Held};
use crate::runtime::vm::Vm;

/// What an answer takes before its body is read: what the connection has read ahead of it, and its headers.
const ANSWER_BYTES: usize = 128 << 10;

/// A body of more bytes is parsed off the VM's thread.
const PARSE_INLINE_BYTES_MAX: usize = 64 << 10;

/// What a value of JSON takes, parsed, at the most.
const JSON_ELEMENT_BYTES: usize = 40;

/// A template's answer.
pub(super) struct Response {
    url: Kept<Address>,
    status: u16,
    content_length: Option<u64>,
    headers: Kept<HeaderMap>,
    body: RefCell<Option<Unread>>,
}

struct Unread {
    body: Body,
    _held: Held,
}

impl Response {
    /// The memory of an answer that is to come.
    pub(super) fn reserve(vm: Weak<Vm>) -> Result<Held, ApiError> {
        Held::new(vm, ANSWER_BYTES)
            .ok_or_else(|| ApiError::memory("no room for an answer within the tenant's memory limit"))
    }

    pub(super) fn new(vm: Weak<Vm>, url: Kept<Address>, answer: Answer, held: Held) -> Result<Self, ApiError> {
        Ok(Self {
            url,
            status: answer.status.as_u16(),
            content_length: answer.content_length,
            headers: headers::keep(vm, answer.headers)?,
            body: RefCell::new(Some(Unread { body: answer.body, _held: held })),
        })
    }
}

/// Reads the body of the call's response to its end: at most half of the tenant's memory, all of it counted.
fn read(call: &Call) -> Result<impl Future<Output = Result<Whole, ApiError>> + use<>, ApiError> {
    let response = call.object::<Response>(1, "self")?;
    let unread = response.body.take().ok_or_else(|| ApiError::invalid_argument("response already read"))?;
    let (vm, max) = (call.vm().weak(), call.vm().memory().limit() / 2);
    Ok(async move {
        let Unread { mut body, _held } = unread;
        let (mut bytes, mut held) = (Vec::new(), Vec::new());
        while let Some(piece) = body.piece().await? {
            let length = bytes.len() + piece.len();
            if length > max {
                return Err(ApiError::too_large(format_args!("body (at most {max} bytes, half of the memory limit)")));
            }
            if length > bytes.capacity() {
                // Counted before it is there; what is announced is not believed.
                let capacity = (2 * bytes.capacity()).max(length).min(max);
                let more = Held::new(vm.clone(), capacity - bytes.capacity()).ok_or_else(|| no_room(length))?;
                held.push(more);
                bytes.reserve_exact(capacity - bytes.len());
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(Whole { bytes, held })
    })
}

fn no_room(bytes: usize) -> ApiError {
    ApiError::memory(format_args!("no room for a body of {bytes} bytes within the tenant's memory limit"))
}

/// A body that was read, with the memory it is counted in. Pushes as a string.
struct Whole {
    bytes: Vec<u8>,
    held: Vec<Held>,
}

impl Push for Whole {
    fn push(self, l: *mut lua_State) -> c_int {
        // From here on the Luau heap counts it.
        drop(self.held);
        push_bytes(l, &self.bytes);
        1
    }
}

/// Pushes as tables.
struct Tables(Json);

impl Push for Tables {
    fn push(self, l: *mut lua_State) -> c_int {
        self.0.push(l, Vm::current().array_metatable(), &mut PlainNames);
        1
    }
}

fn json(call: &Call) -> Result<impl Future<Output = Result<Counted<Tables>, ApiError>> + use<>, ApiError> {
    let (body, max) = (read(call)?, call.vm().limits().http.json_bytes_max);
    let (vm, home) = (call.vm().weak(), call.vm().surroundings.state.services().home().clone());
    Ok(async move {
        let Whole { bytes, held: _text } = body.await?;
        if bytes.len() > max {
            return Err(ApiError::too_large(format_args!("body (at most {max} bytes of JSON)")));
        }
        if json::depth(&bytes) > json::DEPTH_MAX {
            return Err(ApiError::too_large(format_args!("body (at most {} levels of JSON)", json::DEPTH_MAX)));
        }
        let elements = bytes.iter().filter(|&&byte| matches!(byte, b',' | b':' | b'[' | b'{')).count() + 1;
        let held = Held::new(vm, bytes.len() + elements * JSON_ELEMENT_BYTES).ok_or_else(|| no_room(bytes.len()))?;
        let parsed = if bytes.len() <= PARSE_INLINE_BYTES_MAX {
            Json::parse(&bytes)
        } else {
            home.run_blocking(move || Json::parse(&bytes)).await?
        };
        let value = parsed.map_err(|error| ApiError::invalid_value(format_args!("body (no JSON: {error:.200})")))?;
        Ok(Counted { value: Tables(value), held })
    })
}

impl Class for Response {
    const TAG: c_int = tags::HTTP_RESPONSE;
    const NAME: &'static str = "Response";
    const C_NAME: &'static CStr = c"Response";
    const HAS_FIELDS: bool = true;

    fn field(&self, call: &Call, name: &str) -> Result<Option<Box<dyn PushBox>>, ApiError> {
        let vm = call.vm();
        Ok(match name {
            "url" => Some(Box::new(Object(Url::new(vm.weak(), self.url.value.clone())?))),
            "status" => Some(Box::new(f64::from(self.status))),
            "content_length" => self.content_length.map(|bytes| Box::new(bytes as f64) as _),
            "headers" => Some(Box::new(Object(Headers::new(vm.weak(), self.headers.value.clone())?))),
            _ => None,
        })
    }

    fn register(class: &mut ClassBuilder) {
        class.yielding(c"text", read).yielding(c"json", json).yielding(c"blob", |call: &Call| {
            let (body, vm) = (read(call)?, call.vm().weak());
            Ok(async move {
                let Whole { bytes, held } = body.await?;
                // Counted anew, by the Blob.
                drop(held);
                BlobBytes::new(vm, bytes)
            })
        });
    }
}
