//! `Headers`: names and values of a request or an answer.

#![expect(unsafe_code, reason = "Luau's C API")]

use std::cell::RefCell;
use std::ffi::{CStr, c_int};
use std::rc::Weak;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::Kept;
use crate::error::ApiError;
use crate::luau::class::{Class, ClassBuilder, tags};
use crate::luau::native::Call;
use crate::luau::stack::{List, Push, push_bytes};
use crate::luau::{ffi, lua_State};
use crate::runtime::vm::Vm;

/// A template's headers.
pub(super) struct Headers(RefCell<Kept<HeaderMap>>);

/// What a header takes beside its texts.
const ENTRY_BYTES: usize = 96;

fn bytes_of(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

/// Counts the headers in the tenant's memory.
pub(super) fn keep(vm: Weak<Vm>, headers: HeaderMap) -> Result<Kept<HeaderMap>, ApiError> {
    let bytes = size_of::<HeaderMap>() + bytes_of(&headers) + (headers.capacity() + 4) * ENTRY_BYTES;
    Kept::new(vm, headers, bytes)
}

/// Whether these headers may be sent: not those that say where a message ends or where it goes.
pub(super) fn check_sent(call: &Call, headers: &HeaderMap) -> Result<(), ApiError> {
    for name in headers.keys() {
        check_name(name)?;
    }
    let limits = &call.vm().limits().http;
    if headers.len() > limits.headers_max || bytes_of(headers) > limits.header_bytes_max {
        let (count, bytes) = (limits.headers_max, limits.header_bytes_max);
        return Err(ApiError::too_large(format_args!("headers (at most {count}, and {bytes} bytes)")));
    }
    Ok(())
}

fn check_name(name: &HeaderName) -> Result<(), ApiError> {
    let name = name.as_str();
    let refused = ["host", "connection", "content-length", "transfer-encoding", "upgrade"].contains(&name)
        || name.starts_with("proxy-");
    if refused { Err(ApiError::invalid_argument(format_args!("header {name} (may not be set)"))) } else { Ok(()) }
}

impl Headers {
    pub(super) fn new(vm: Weak<Vm>, headers: HeaderMap) -> Result<Self, ApiError> {
        keep(vm, headers).map(|kept| Self(RefCell::new(kept)))
    }

    pub(super) fn empty(vm: Weak<Vm>) -> Result<Self, ApiError> {
        Self::new(vm, HeaderMap::new())
    }

    pub(super) fn map(&self) -> HeaderMap {
        self.0.borrow().value.clone()
    }

    /// The headers of the call, changed by `change`.
    fn change(call: &Call, change: impl FnOnce(&mut HeaderMap) -> Result<(), ApiError>) -> Result<(), ApiError> {
        let this = call.object::<Self>(1, "self")?;
        let mut headers = this.map();
        change(&mut headers)?;
        let kept = keep(call.vm().weak(), headers)?;
        this.0.replace(kept);
        Ok(())
    }
}

fn name(call: &Call) -> Result<HeaderName, ApiError> {
    HeaderName::from_bytes(call.bytes(2, "name")?)
        .map_err(|_| ApiError::invalid_argument("name (not the name of a header)"))
}

fn set(call: &Call) -> Result<(), ApiError> {
    let name = name(call)?;
    check_name(&name)?;
    let bytes = call.bytes(3, "value")?;
    let max = call.vm().limits().http.header_bytes_max;
    if bytes.len() > max {
        return Err(ApiError::too_large(format_args!("value (at most {max} bytes)")));
    }
    let value = HeaderValue::from_bytes(bytes)
        .map_err(|_| ApiError::invalid_argument("value (a header has no line breaks and no control characters)"))?;
    let (count, max) = (call.vm().limits().http.headers_max, call.vm().limits().http.header_bytes_max);
    Headers::change(call, |headers| {
        headers.insert(name, value);
        // Those of an answer may be more, so what is not added to stays.
        if headers.len() > count || bytes_of(headers) > max {
            return Err(ApiError::too_large(format_args!("headers (at most {count}, and {max} bytes)")));
        }
        Ok(())
    })
}

/// All values of each header, joined by commas.
fn joined(call: &Call) -> Result<Vec<(String, Vec<u8>)>, ApiError> {
    let headers = call.object::<Headers>(1, "self")?.0.borrow();
    Ok(headers
        .value
        .keys()
        .map(|name| {
            let values: Vec<_> = headers.value.get_all(name).iter().map(HeaderValue::as_bytes).collect();
            (name.as_str().to_owned(), values.join(&b", "[..]))
        })
        .collect())
}

struct Texts(Vec<(String, Vec<u8>)>);

impl Push for Texts {
    fn push(self, l: *mut lua_State) -> c_int {
        // SAFETY: raises if there is no room for the table, a key and a value.
        unsafe {
            ffi::lua_rawcheckstack(l, 3);
            ffi::lua_createtable(l, 0, self.0.len() as c_int);
            for (name, value) in self.0 {
                push_bytes(l, name.as_bytes());
                push_bytes(l, &value);
                ffi::lua_rawset(l, -3);
            }
        }
        1
    }
}

struct ByteLists(Vec<(String, Vec<u8>)>);

impl Push for ByteLists {
    fn push(self, l: *mut lua_State) -> c_int {
        // SAFETY: as for Texts.
        unsafe {
            ffi::lua_rawcheckstack(l, 3);
            ffi::lua_createtable(l, 0, self.0.len() as c_int);
            for (name, value) in self.0 {
                push_bytes(l, name.as_bytes());
                List(value.into_iter().map(u32::from).collect()).push(l);
                ffi::lua_rawset(l, -3);
            }
        }
        1
    }
}

impl Class for Headers {
    const TAG: c_int = tags::HTTP_HEADERS;
    const NAME: &'static str = "Headers";
    const C_NAME: &'static CStr = c"Headers";

    fn register(class: &mut ClassBuilder) {
        class
            .method(c"get", |call: &Call| {
                let this = call.object::<Self>(1, "self")?.0.borrow();
                Ok(this.value.get(name(call)?).map(|value| Bytes(value.as_bytes().to_vec())))
            })
            .method(c"set", set)
            .method(c"remove", |call: &Call| {
                let name = name(call)?;
                Self::change(call, |headers| {
                    headers.remove(name);
                    Ok(())
                })
            })
            .method(c"headers_bytes", |call: &Call| joined(call).map(ByteLists))
            .method(c"headers_str", |call: &Call| joined(call).map(Texts));
    }
}

/// Pushes as a string.
struct Bytes(Vec<u8>);

impl Push for Bytes {
    fn push(self, l: *mut lua_State) -> c_int {
        push_bytes(l, &self.0);
        1
    }
}
