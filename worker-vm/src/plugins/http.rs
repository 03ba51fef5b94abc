//! `ctx.HTTPClient`: requests to the few servers that the operator allows (template API, section 8).

#![expect(unsafe_code, reason = "Luau's C API")]

mod addresses;
mod headers;
mod hosts;
mod recorder;
mod request;
mod response;
mod sender;
mod url;

use std::ffi::{CStr, c_int};
use std::rc::{Rc, Weak};

pub use self::addresses::AddressRange;
use self::headers::Headers;
pub use self::hosts::{HostResolver, Resolving, SystemResolver};
pub use self::recorder::{HttpAnswer, HttpRecorder, HttpRequest};
use self::request::Request;
pub use self::sender::HttpConfig;
pub(crate) use self::sender::{HttpSender, plain_client, tls};
use self::url::Url;
use crate::error::ApiError;
use crate::luau::class::{Class, Object, tags};
use crate::luau::native::{self, Call};
use crate::luau::stack::{Push, set_field};
use crate::luau::{ffi, lua_State};
use crate::runtime::context::ContextCore;
use crate::runtime::held::Held;
use crate::runtime::vm::Vm;

/// The context that requests are sent for; the upvalue of the functions of the client.
pub(crate) struct HttpClient {
    context: Rc<ContextCore>,
}

impl Class for HttpClient {
    const TAG: c_int = tags::HTTP_CLIENT;
    const NAME: &'static str = "HTTPClient";
    const C_NAME: &'static CStr = c"HTTPClient";
}

/// Pushes the client of a context: a table of functions, since they are called with a dot. May raise.
pub(crate) fn push_client(l: *mut lua_State, context: Rc<ContextCore>) -> c_int {
    // SAFETY: raises if there is no room; each value is stored at once.
    unsafe {
        ffi::lua_rawcheckstack(l, 5);
        ffi::lua_createtable(l, 0, 3);
        Object(HttpClient { context }).push(l);
        native::push_closure(l, c"new_request", 1, new_request);
        set_field(l, -2, c"new_request");
        native::push_function(l, c"new_headers", |call: &Call| Headers::empty(call.vm().weak()).map(Object));
        set_field(l, -2, c"new_headers");
        native::push_function(l, c"new_url", |call: &Call| Url::read_text(call, 1, "url").map(Object));
        set_field(l, -2, c"new_url");
        ffi::lua_setreadonly(l, -1, 1);
    }
    1
}

fn new_request(call: &Call) -> Result<Object<Request>, ApiError> {
    let client = HttpClient::read(call.state(), ffi::lua_upvalueindex(1))
        .ok_or_else(|| ApiError::internal(&"new_request without its client"))?;
    Request::new(call, client.context.clone()).map(Object)
}

/// What is held outside of the Luau heap, counted in the tenant's memory.
struct Kept<T> {
    value: T,
    _held: Held,
}

impl<T> Kept<T> {
    fn new(vm: Weak<Vm>, value: T, bytes: usize) -> Result<Self, ApiError> {
        let held = Held::new(vm, bytes).ok_or_else(|| ApiError::memory("no room within the tenant's memory limit"))?;
        Ok(Self { value, _held: held })
    }
}
