//! Rust functions that templates call.

#![expect(unsafe_code, reason = "Luau's C API")]

use std::ffi::{CStr, c_int};
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};

use jiff::Timestamp;
use worker_core::Value;

use super::class::Class;
use super::stack::{self, Kind, Push, PushBox};
use super::{ffi, lua_State};
use crate::error::ApiError;
use crate::runtime::vm::Vm;

/// One call of a native function: its arguments, and the VM it came from. Reading arguments never raises a Lua error.
pub(crate) struct Call {
    l: *mut lua_State,
    /// The name in error texts: what is called.
    args: c_int,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Call({} arguments)", self.args)
    }
}

impl Call {
    pub(crate) fn new(l: *mut lua_State) -> Self {
        // SAFETY: `l` is the state that Luau called us with.
        Self { l, args: unsafe { ffi::lua_gettop(l) } }
    }

    /// The thread that calls.
    pub(crate) fn state(&self) -> *mut lua_State {
        self.l
    }

    /// The VM that calls.
    pub(crate) fn vm(&self) -> &'static Vm {
        // The VM outlives every call into it; the reference must not be kept, use `Vm::clone` for that.
        Vm::current()
    }

    /// How many arguments there are.
    pub(crate) fn len(&self) -> c_int {
        self.args
    }

    /// The type of argument `index` (from 1).
    pub(crate) fn kind(&self, index: c_int) -> Kind {
        if index > self.args { Kind::None } else { stack::kind(self.l, index) }
    }

    /// Whether the argument is missing or nil.
    pub(crate) fn is_nil(&self, index: c_int) -> bool {
        matches!(self.kind(index), Kind::None | Kind::Nil)
    }

    fn wrong(&self, index: c_int, name: &str, wanted: &str) -> ApiError {
        ApiError::invalid_argument(format!("{name} (expected {wanted}, got {})", self.kind(index).name()))
    }

    /// The native object at `index`.
    pub(crate) fn object<T: Class>(&self, index: c_int, name: &str) -> Result<&T, ApiError> {
        self.object_opt(index).ok_or_else(|| self.wrong(index, name, T::NAME))
    }

    /// The native object at `index`, if it is of this class.
    pub(crate) fn object_opt<T: Class>(&self, index: c_int) -> Option<&T> {
        T::read(self.l, index)
    }

    /// A string as bytes.
    pub(crate) fn bytes(&self, index: c_int, name: &str) -> Result<&[u8], ApiError> {
        stack::bytes(self.l, index).ok_or_else(|| self.wrong(index, name, "a string"))
    }

    /// A string that is UTF-8.
    pub(crate) fn str(&self, index: c_int, name: &str) -> Result<&str, ApiError> {
        std::str::from_utf8(self.bytes(index, name)?)
            .map_err(|_| ApiError::invalid_argument(format!("{name} (not valid UTF-8)")))
    }

    /// A string, or nil.
    pub(crate) fn str_opt(&self, index: c_int, name: &str) -> Result<Option<&str>, ApiError> {
        if self.is_nil(index) { Ok(None) } else { self.str(index, name).map(Some) }
    }

    /// A number.
    pub(crate) fn number(&self, index: c_int, name: &str) -> Result<f64, ApiError> {
        stack::number(self.l, index).ok_or_else(|| self.wrong(index, name, "a number"))
    }

    /// A number, or nil.
    pub(crate) fn number_opt(&self, index: c_int, name: &str) -> Result<Option<f64>, ApiError> {
        if self.is_nil(index) { Ok(None) } else { self.number(index, name).map(Some) }
    }

    /// A boolean; nil is false.
    pub(crate) fn flag(&self, index: c_int, name: &str) -> Result<bool, ApiError> {
        match self.kind(index) {
            Kind::None | Kind::Nil => Ok(false),
            // SAFETY: it is a boolean.
            Kind::Boolean => Ok(unsafe { ffi::lua_toboolean(self.l, index) } != 0),
            _ => Err(self.wrong(index, name, "a boolean")),
        }
    }

    /// Any value, converted (template API, section 15.1).
    pub(crate) fn value(&self, index: c_int) -> Result<Value, ApiError> {
        if index > self.args { Ok(Value::Null) } else { Ok(super::value::read(self.l, index)?) }
    }

    /// A list of strings.
    pub(crate) fn strings(&self, index: c_int, name: &str) -> Result<Vec<String>, ApiError> {
        if self.kind(index) != Kind::Table {
            return Err(self.wrong(index, name, "a list of strings"));
        }
        let mut strings = Vec::new();
        for position in 1.. {
            // SAFETY: index is a table; one slot is used and given back.
            let item = unsafe {
                if ffi::lua_checkstack(self.l, 1) == 0 {
                    return Err(ApiError::invalid_argument(name));
                }
                ffi::lua_rawgeti_(self.l, index, position);
                let item = match stack::kind(self.l, -1) {
                    Kind::Nil => None,
                    _ => Some(stack::bytes(self.l, -1).map(<[u8]>::to_vec)),
                };
                ffi::lua_settop(self.l, -2);
                item
            };
            match item {
                None => break,
                Some(Some(bytes)) => strings.push(String::from_utf8(bytes).map_err(|_| {
                    ApiError::invalid_argument(format!("{name}[{position}] (not valid UTF-8)"))
                })?),
                Some(None) => {
                    return Err(ApiError::invalid_argument(format!("{name}[{position}] (expected a string)")));
                }
            }
        }
        Ok(strings)
    }

    /// A field of the table at `index`, handled by `read` as argument -1 of a call; nil if there is none.
    pub(crate) fn table_field<T>(
        &self,
        index: c_int,
        field: &CStr,
        read: impl FnOnce(&Self, c_int) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        // SAFETY: the field is read raw: no metamethod runs, nothing is raised; the slot is given back.
        unsafe {
            if self.kind(index) != Kind::Table || ffi::lua_checkstack(self.l, 2) == 0 {
                return Err(ApiError::invalid_argument(format!("expected a table at argument {index}")));
            }
            ffi::lua_rawgetfield(self.l, index, field.as_ptr());
            let top = ffi::lua_gettop(self.l);
            let inner = Self { l: self.l, args: top };
            let value = read(&inner, top);
            ffi::lua_settop(self.l, top - 1);
            value
        }
    }

    /// A moment, or nil.
    pub(crate) fn time_opt(&self, index: c_int, name: &str) -> Result<Option<Timestamp>, ApiError> {
        if self.is_nil(index) {
            return Ok(None);
        }
        self.object::<crate::modules::datetime::DateTime>(index, name).map(|time| Some(time.timestamp()))
    }
}

/// A native function: a function item or a closure without captures.
pub(crate) trait Native: Copy + 'static {
    /// What it returns to Lua.
    type Output: Push;
    /// Runs it.
    fn call(self, call: &Call) -> Result<Self::Output, ApiError>;
}

impl<F, R> Native for F
where
    F: Fn(&Call) -> Result<R, ApiError> + Copy + 'static,
    R: Push,
{
    type Output = R;
    fn call(self, call: &Call) -> Result<R, ApiError> {
        self(call)
    }
}

/// Pushes a native function as a Lua function. May raise.
pub(crate) fn push_function<F: Native>(l: *mut lua_State, name: &'static CStr, function: F) {
    push_closure(l, name, 0, function);
}

/// Pushes a native function with the `upvalues` topmost values as its upvalues. May raise.
pub(crate) fn push_closure<F: Native>(l: *mut lua_State, name: &'static CStr, upvalues: c_int, _: F) {
    const { assert!(size_of::<F>() == 0, "a native function captures nothing") };
    // SAFETY: the name is static; the upvalues are on the stack.
    unsafe { ffi::lua_pushcclosurek(l, trampoline::<F>, name.as_ptr(), upvalues, None) }
}

/// Pushes a native function that suspends its caller until the future is done. May raise.
pub(crate) fn push_yielding<F, Fut, R>(l: *mut lua_State, name: &'static CStr, _: F)
where
    F: Fn(&Call) -> Result<Fut, ApiError> + Copy + 'static,
    Fut: Future<Output = Result<R, ApiError>> + 'static,
    R: Push + 'static,
{
    const { assert!(size_of::<F>() == 0, "a native function captures nothing") };
    // SAFETY: the name is static.
    unsafe { ffi::lua_pushcclosurek(l, yielding_trampoline::<F, Fut, R>, name.as_ptr(), 0, None) }
}

/// The one value of a type without size.
fn instance<F: Copy>() -> F {
    const { assert!(size_of::<F>() == 0) };
    // SAFETY: F has no bytes, is Copy, and a value of it existed: `push_*` took one.
    unsafe { std::mem::MaybeUninit::<F>::uninit().assume_init() }
}

unsafe extern "C-unwind" fn trampoline<F: Native>(l: *mut lua_State) -> c_int {
    let outcome = guarded(|| instance::<F>().call(&Call::new(l)));
    match outcome {
        Ok(values) => values.push(l),
        Err(error) => raise(l, error),
    }
}

unsafe extern "C-unwind" fn yielding_trampoline<F, Fut, R>(l: *mut lua_State) -> c_int
where
    F: Fn(&Call) -> Result<Fut, ApiError> + Copy + 'static,
    Fut: Future<Output = Result<R, ApiError>> + 'static,
    R: Push + 'static,
{
    // SAFETY: `l` is the state that Luau called us with.
    if unsafe { ffi::lua_isyieldable(l) } == 0 {
        // Asked before anything is begun; Luau's own words follow from its own function.
        // SAFETY: raises "attempt to yield across metamethod/C-call boundary".
        return unsafe { ffi::lua_yield(l, 0) };
    }
    let outcome = guarded(|| {
        let call = Call::new(l);
        let future = instance::<F>()(&call)?;
        call.vm().begin_call(l, async move {
            let result = future.await;
            Box::new(result) as Box<dyn Outcome>
        })
    });
    match outcome {
        // SAFETY: the state may yield, as was asked above; the scheduler resumes it with the result.
        Ok(()) => unsafe { ffi::lua_yield(l, 0) },
        Err(error) => raise(l, error),
    }
}

/// Runs native code; a panic in it is a fault of ours that must cost the caller an error and nobody anything more.
fn guarded<R>(f: impl FnOnce() -> Result<R, ApiError>) -> Result<R, ApiError> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| Err(ApiError::from_panic(&*panic)))
}

/// Raises the error as a string in the calling script.
pub(crate) fn raise(l: *mut lua_State, error: ApiError) -> ! {
    stack::push_bytes(l, error.to_string().as_bytes());
    drop(error);
    // SAFETY: the message is on top; what unwinds from here holds nothing.
    unsafe { ffi::lua_error(l) }
}

/// The result of a future, to be pushed where the thread is resumed.
pub(crate) trait Outcome {
    /// Pushes the values, or the error text.
    fn push_outcome(self: Box<Self>, l: *mut lua_State) -> Result<c_int, ()>;
}

impl<R: Push> Outcome for Result<R, ApiError> {
    fn push_outcome(self: Box<Self>, l: *mut lua_State) -> Result<c_int, ()> {
        match *self {
            Ok(values) => Ok(values.push(l)),
            Err(error) => {
                stack::push_bytes(l, error.to_string().as_bytes());
                Err(())
            }
        }
    }
}

/// Several values of different types.
pub(crate) struct Values(pub(crate) Vec<Box<dyn PushBox>>);

impl Push for Values {
    fn push(self, l: *mut lua_State) -> c_int {
        // SAFETY: raises if there is no room.
        unsafe { ffi::lua_rawcheckstack(l, self.0.len() as c_int + 1) };
        self.0.into_iter().map(|value| value.push_box(l)).sum()
    }
}
