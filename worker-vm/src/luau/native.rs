//! Rust functions that templates call.

#![expect(unsafe_code, reason = "Luau's C API")]

use std::borrow::Cow;
use std::cell::RefCell;
use std::ffi::{CStr, c_int};
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};

use jiff::Timestamp;
use worker_core::{Snowflake, Value};

use super::class::Class;
use super::stack::{self, Kind, Push, PushBox};
use super::{ffi, lua_State};
use crate::error::ApiError;
use crate::modules::typesext::U64;
use crate::runtime::long_work::Work;
use crate::runtime::metered::metered;
use crate::runtime::run;
use crate::runtime::sandbox::format_number;
use crate::runtime::vm::Vm;

/// One call of a native function: its arguments, and the VM it came from. Reading arguments never raises a Lua error.
pub(crate) struct Call {
    l: *mut lua_State,
    /// How many arguments there are.
    args: c_int,
    /// Numbers that were read as strings. Nothing is taken out before the call is over.
    texts: RefCell<Vec<Box<str>>>,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Call({} arguments)", self.args)
    }
}

impl Call {
    pub(crate) fn new(l: *mut lua_State) -> Self {
        // SAFETY: `l` is the state that Luau called us with.
        Self::with_args(l, unsafe { ffi::lua_gettop(l) })
    }

    fn with_args(l: *mut lua_State, args: c_int) -> Self {
        Self { l, args, texts: RefCell::default() }
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

    /// Whether the calling thread may be suspended here.
    pub(crate) fn can_yield(&self) -> bool {
        // SAFETY: reads the thread's state.
        unsafe { ffi::lua_isyieldable(self.l) != 0 }
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

    /// The error for an argument of the wrong type.
    pub(crate) fn wrong(&self, index: c_int, name: &str, wanted: &str) -> ApiError {
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

    /// A string as bytes; a number is the string that Luau writes for it.
    pub(crate) fn bytes(&self, index: c_int, name: &str) -> Result<&[u8], ApiError> {
        if self.kind(index) == Kind::Number {
            return Ok(self.keep(format_number(stack::number(self.l, index).unwrap_or_default())).as_bytes());
        }
        stack::bytes(self.l, index).ok_or_else(|| self.wrong(index, name, "a string"))
    }

    /// A text that lives as long as the call. Luau would convert the argument in place, which can raise.
    fn keep(&self, text: String) -> &str {
        let text = text.into_boxed_str();
        let kept: *const str = &raw const *text;
        self.texts.borrow_mut().push(text);
        // SAFETY: the box is dropped with `self` and no earlier, and what it points to does not move.
        unsafe { &*kept }
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

    /// A number, or a string that Luau reads as one.
    pub(crate) fn number(&self, index: c_int, name: &str) -> Result<f64, ApiError> {
        stack::number_or_text(self.l, index).ok_or_else(|| self.wrong(index, name, "a number"))
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

    /// All arguments, converted.
    pub(crate) fn values(&self) -> Result<Vec<Value>, ApiError> {
        self.values_from(1)
    }

    /// The arguments from `first` on, converted.
    pub(crate) fn values_from(&self, first: c_int) -> Result<Vec<Value>, ApiError> {
        super::value::read_all(self.l, first, (self.args - first + 1).max(0))
    }

    /// A list of strings. Longer ones than any list of names are refused before they are copied: one long string may be
    /// in a list a million times.
    pub(crate) fn strings(&self, index: c_int, name: &str) -> Result<Vec<String>, ApiError> {
        const BYTES_MAX: usize = 1 << 20;
        if self.kind(index) != Kind::Table {
            return Err(self.wrong(index, name, "a list of strings"));
        }
        let (mut strings, mut bytes) = (Vec::new(), 0);
        for position in 1.. {
            // SAFETY: index is a table; one slot is used and given back.
            let item = unsafe {
                if ffi::lua_checkstack(self.l, 1) == 0 {
                    return Err(ApiError::invalid_argument(name));
                }
                ffi::lua_rawgeti_(self.l, index, position);
                let item = match stack::kind(self.l, -1) {
                    Kind::Nil => None,
                    Kind::Number => {
                        let text = format_number(stack::number(self.l, -1).unwrap_or_default());
                        Some(Some(Cow::Owned(text.into_bytes())))
                    }
                    // The string stays where it is: nothing of Lua's runs before it is copied below.
                    _ => Some(stack::bytes(self.l, -1).map(Cow::Borrowed)),
                };
                ffi::lua_settop(self.l, -2);
                item
            };
            match item {
                None => break,
                Some(Some(text)) => {
                    bytes += text.len() + size_of::<String>();
                    if bytes > BYTES_MAX {
                        return Err(ApiError::too_large(format_args!("{name} (more than {BYTES_MAX} bytes)")));
                    }
                    strings.push(
                        std::str::from_utf8(&text)
                            .map(str::to_owned)
                            .map_err(|_| ApiError::invalid_argument(format!("{name}[{position}] (not valid UTF-8)")))?,
                    );
                }
                Some(None) => {
                    return Err(ApiError::invalid_argument(format!("{name}[{position}] (expected a string)")));
                }
            }
        }
        Ok(strings)
    }

    /// The native object that is upvalue `index` of the function.
    pub(crate) fn upvalue<T: Class>(&self, index: c_int) -> Option<&T> {
        T::read(self.l, ffi::lua_upvalueindex(index))
    }

    /// The number that is upvalue `index` of the function.
    pub(crate) fn upvalue_number(&self, index: c_int) -> Option<f64> {
        stack::number(self.l, ffi::lua_upvalueindex(index))
    }

    /// Shows every entry of the table at `index` to `visit`, which gets the indices of its key and value as arguments of
    /// the call that it is given. Read raw; nothing is written to the Lua heap, not even a name.
    pub(crate) fn entries(
        &self,
        index: c_int,
        name: &str,
        mut visit: impl FnMut(&Self, c_int, c_int) -> Result<(), ApiError>,
    ) -> Result<(), ApiError> {
        // SAFETY: index is a table, at an absolute position, which is not written to meanwhile; key and value get two
        // slots above the top, with room checked, and are popped again.
        unsafe {
            if self.kind(index) != Kind::Table || ffi::lua_checkstack(self.l, 4) == 0 {
                return Err(self.wrong(index, name, "a table"));
            }
            let mut iter = 0;
            loop {
                iter = ffi::lua_rawiter(self.l, index, iter);
                if iter < 0 {
                    return Ok(());
                }
                let top = ffi::lua_gettop(self.l);
                let visited = visit(&Self::with_args(self.l, top), top - 1, top);
                ffi::lua_settop(self.l, top - 2);
                visited?;
            }
        }
    }

    /// A field of the table at `index`, handled by `read` as an argument of the call that it is given; a nil if there is
    /// none.
    ///
    /// Looks for the field among all of the table's: to ask Luau for it by name could allocate the name, and so raise.
    pub(crate) fn table_field<T>(
        &self,
        index: c_int,
        field: &CStr,
        read: impl FnOnce(&Self, c_int) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let (mut read, mut found) = (Some(read), None);
        self.entries(index, "argument", |call, key, value| {
            if stack::bytes(call.l, key) == Some(field.to_bytes())
                && let Some(read) = read.take()
            {
                found = Some(read(call, value)?);
            }
            Ok(())
        })?;
        match (found, read) {
            (Some(value), _) => Ok(value),
            // Beyond the arguments: it reads as no value.
            (None, Some(read)) => read(self, self.args + 1),
            (None, None) => Err(ApiError::invalid_argument(field.to_string_lossy())),
        }
    }

    /// A Discord id: a string, a U64, or a number that is whole.
    pub(crate) fn snowflake(&self, index: c_int, name: &str) -> Result<Snowflake, ApiError> {
        let id = match self.kind(index) {
            Kind::String => self.str(index, name)?.parse().ok(),
            Kind::Userdata => self.object_opt::<U64>(index).map(|id| Snowflake::new(id.0)),
            Kind::Number | Kind::Integer64 => {
                let number = self.number(index, name)?;
                // 2^64 and what is above it is no id.
                let whole = number.fract() == 0.0 && (1.0..18_446_744_073_709_551_616.0).contains(&number);
                whole.then(|| Snowflake::new(number as u64))
            }
            _ => None,
        };
        id.filter(|id| id.get() != 0).ok_or_else(|| self.wrong(index, name, "the id of a Discord object"))
    }

    /// A whole number from 0 to `max`.
    pub(crate) fn count(&self, index: c_int, name: &str, max: u64) -> Result<u64, ApiError> {
        let number = self.number(index, name)?;
        if number.fract() == 0.0 && (0.0..=max as f64).contains(&number) {
            Ok(number as u64)
        } else {
            Err(ApiError::invalid_argument(format_args!("{name} (expected a whole number from 0 to {max})")))
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
pub(crate) fn push_yielding<F, Fut, R>(l: *mut lua_State, name: &'static CStr, function: F)
where
    F: Fn(&Call) -> Result<Fut, ApiError> + Copy + 'static,
    Fut: Future<Output = Result<R, ApiError>> + 'static,
    R: Push + 'static,
{
    push_yielding_closure(l, name, 0, function);
}

/// The same with the `upvalues` topmost values as its upvalues. May raise.
pub(crate) fn push_yielding_closure<F, Fut, R>(l: *mut lua_State, name: &'static CStr, upvalues: c_int, _: F)
where
    F: Fn(&Call) -> Result<Fut, ApiError> + Copy + 'static,
    Fut: Future<Output = Result<R, ApiError>> + 'static,
    R: Push + 'static,
{
    const { assert!(size_of::<F>() == 0, "a native function captures nothing") };
    // SAFETY: the name is static; the upvalues are on the stack.
    unsafe { ffi::lua_pushcclosurek(l, yielding_trampoline::<F, Fut, R>, name.as_ptr(), upvalues, None) }
}

/// Pushes a native function that suspends its caller only if its work has to be done elsewhere. May raise.
pub(crate) fn push_working<F, R>(l: *mut lua_State, name: &'static CStr, _: F)
where
    F: Fn(&Call) -> Result<Work<R>, ApiError> + Copy + 'static,
    R: Push + 'static,
{
    const { assert!(size_of::<F>() == 0, "a native function captures nothing") };
    // SAFETY: the name is static.
    unsafe { ffi::lua_pushcclosurek(l, working_trampoline::<F, R>, name.as_ptr(), 0, None) }
}

/// The one value of a type without size.
fn instance<F: Copy>() -> F {
    const { assert!(size_of::<F>() == 0) };
    // SAFETY: F has no bytes, is Copy, and a value of it existed: `push_*` took one.
    unsafe { std::ptr::NonNull::<F>::dangling().read() }
}

unsafe extern "C-unwind" fn trampoline<F: Native>(l: *mut lua_State) -> c_int {
    run::safe_point(l);
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
    match guarded(|| instance::<F>()(&Call::new(l))) {
        Ok(future) => wait_for(l, future),
        Err(error) => raise(l, error),
    }
}

unsafe extern "C-unwind" fn working_trampoline<F, R>(l: *mut lua_State) -> c_int
where
    F: Fn(&Call) -> Result<Work<R>, ApiError> + Copy + 'static,
    R: Push + 'static,
{
    run::safe_point(l);
    match guarded(|| instance::<F>()(&Call::new(l))) {
        Ok(Work::Done(values)) => values.push(l),
        // Whoever has work for later has asked whether the thread may wait.
        Ok(Work::Later(future)) => wait_for(l, future),
        Err(error) => raise(l, error),
    }
}

/// Suspends the calling thread, which may yield, until the future is done; its native function returns what this does.
fn wait_for<R: Push + 'static>(
    l: *mut lua_State,
    future: impl Future<Output = Result<R, ApiError>> + 'static,
) -> c_int {
    // Not guarded: it writes to Lua's registry, which may raise, and no Luau error may cross a `catch_unwind`.
    let vm = Vm::current();
    let future = metered(vm.tenant.account.clone(), future);
    let begun = vm.begin_call(l, async move {
        let result = future.await;
        Box::new(result) as Box<dyn Outcome>
    });
    match begun {
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
