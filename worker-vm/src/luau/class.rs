//! Native objects that templates hold.

#![expect(unsafe_code, reason = "Luau's C API")]

use std::ffi::{CStr, c_int, c_void};
use std::future::Future;

use super::native::{self, Call, Native};
use super::stack::{self, Push, PushBox};
use super::{ffi, lua_State};
use crate::error::ApiError;
use crate::runtime::long_work::Work;

/// A Rust type whose values templates hold as userdata. Immutable from Rust's side: use cells for what changes.
///
/// The metatable is made when the first value of the class is pushed in a VM.
pub(crate) trait Class: Sized + 'static {
    /// Unique below 128; `luau::class::tags` lists them.
    const TAG: c_int;
    /// What `typeof` says.
    const NAME: &'static str;
    /// [`NAME`](Self::NAME) for C.
    const C_NAME: &'static CStr;

    /// Fields: read on each access. `None` is nil.
    fn field(&self, call: &Call, name: &str) -> Result<Option<Box<dyn PushBox>>, ApiError> {
        let _ = (call, name);
        Ok(None)
    }

    /// Whether [`field`](Self::field) is implemented: without fields method calls take a shorter way.
    const HAS_FIELDS: bool = false;

    /// Methods and metamethods.
    fn register(class: &mut ClassBuilder) {
        let _ = class;
    }

    /// The object at `idx`, if it is of this class.
    fn read<'a>(l: *mut lua_State, idx: c_int) -> Option<&'a Self> {
        // SAFETY: only `Object::push` makes userdata with this tag, and it holds a `Self` until it is collected; it is
        // reachable during the call that reads it.
        unsafe { ffi::lua_touserdatatagged(l, idx, Self::TAG).cast::<Self>().as_ref() }
    }
}

/// The tags of all classes, in one place so that they stay apart.
pub(crate) mod tags {
    use std::ffi::c_int;

    pub(crate) const CONTEXT: c_int = 1;
    pub(crate) const LAZY: c_int = 2;
    pub(crate) const DATE_TIME: c_int = 3;
    pub(crate) const TIME_DELTA: c_int = 4;
    pub(crate) const TIME_ZONE: c_int = 5;
    pub(crate) const U64: c_int = 6;
    pub(crate) const I64: c_int = 7;
    pub(crate) const KV: c_int = 8;
    pub(crate) const DATA_STORES: c_int = 9;
    pub(crate) const DATA_STORE: c_int = 10;
    pub(crate) const DISCORD_RECORDER: c_int = 40;
    pub(crate) const DISCORD: c_int = 41;
    pub(crate) const BLOB: c_int = 32;
    pub(crate) const TAR_ARCHIVE: c_int = 33;
    pub(crate) const REGEX: c_int = 34;
    pub(crate) const REGEX_MATCH: c_int = 35;
    pub(crate) const REGEX_CAPTURES: c_int = 36;
    pub(crate) const HTTP_CLIENT: c_int = 48;
    pub(crate) const HTTP_HEADERS: c_int = 49;
    pub(crate) const HTTP_URL: c_int = 50;
    pub(crate) const HTTP_REQUEST: c_int = 51;
    pub(crate) const HTTP_RESPONSE: c_int = 52;
    pub(crate) const OBJECT_STORAGE: c_int = 53;
    // 20 to 29 are those of the modules `luau` and `@lune/datetime`.
    pub(crate) const CHUNK: c_int = 20;
    pub(crate) const LUNE_DATE_TIME: c_int = 21;
}

/// Takes the methods and metamethods of a class while its metatable is being made.
pub(crate) struct ClassBuilder {
    l: *mut lua_State,
    /// Stack index of the metatable.
    metatable: c_int,
    /// Stack index of the table of methods.
    methods: c_int,
}

impl ClassBuilder {
    /// A method; argument 1 is the object.
    pub(crate) fn method<F: Native>(&mut self, name: &'static CStr, function: F) -> &mut Self {
        native::push_function(self.l, name, function);
        stack::set_field(self.l, self.methods, name);
        self
    }

    /// A method that suspends its caller until the future is done.
    pub(crate) fn yielding<F, Fut, R>(&mut self, name: &'static CStr, function: F) -> &mut Self
    where
        F: Fn(&Call) -> Result<Fut, ApiError> + Copy + 'static,
        Fut: Future<Output = Result<R, ApiError>> + 'static,
        R: Push + 'static,
    {
        native::push_yielding(self.l, name, function);
        stack::set_field(self.l, self.methods, name);
        self
    }

    /// A method that suspends its caller only if its work has to be done elsewhere.
    pub(crate) fn working<F, R>(&mut self, name: &'static CStr, function: F) -> &mut Self
    where
        F: Fn(&Call) -> Result<Work<R>, ApiError> + Copy + 'static,
        R: Push + 'static,
    {
        native::push_working(self.l, name, function);
        stack::set_field(self.l, self.methods, name);
        self
    }

    /// Methods that `push` leaves on the stack, in this order.
    pub(crate) fn pushed<const N: usize>(&mut self, names: [&'static CStr; N], push: fn(*mut lua_State)) -> &mut Self {
        push(self.l);
        for name in names.into_iter().rev() {
            stack::set_field(self.l, self.methods, name);
        }
        self
    }

    /// A method for each name, all of one body: it finds the place of its name as the call's
    /// [`upvalue_number`](Call::upvalue_number). Each suspends its caller until the future is done.
    pub(crate) fn yielding_each<F, Fut, R>(
        &mut self,
        names: impl IntoIterator<Item = &'static CStr>,
        function: F,
    ) -> &mut Self
    where
        F: Fn(&Call) -> Result<Fut, ApiError> + Copy + 'static,
        Fut: Future<Output = Result<R, ApiError>> + 'static,
        R: Push + 'static,
    {
        for (place, name) in names.into_iter().enumerate() {
            (place as f64).push(self.l);
            native::push_yielding_closure(self.l, name, 1, function);
            stack::set_field(self.l, self.methods, name);
        }
        self
    }

    /// A metamethod, for example `__add`; it cannot yield.
    pub(crate) fn meta<F: Native>(&mut self, name: &'static CStr, function: F) -> &mut Self {
        native::push_function(self.l, name, function);
        stack::set_field(self.l, self.metatable, name);
        self
    }
}

/// Pushes as a native object.
pub(crate) struct Object<T>(pub(crate) T);

impl<T: Class> Push for Object<T> {
    fn push(self, l: *mut lua_State) -> c_int {
        ensure_metatable::<T>(l);
        // SAFETY: the block has the size of a T and its tag's metatable and destructor; it is written before anything
        // can raise or collect. Userdata blocks are aligned to 16 bytes.
        unsafe {
            const { assert!(align_of::<T>() <= 16) };
            let block = ffi::lua_newuserdatataggedwithmetatable(l, size_of::<T>(), T::TAG).cast::<T>();
            block.write(self.0);
        }
        1
    }
}

unsafe extern "C" fn destroy<T>(_: *mut lua_State, block: *mut c_void) {
    // SAFETY: called once, by the collector, for a block that `Object::push` filled.
    unsafe { block.cast::<T>().drop_in_place() }
}

/// Makes the metatable of a class in this VM if it is not there. May raise.
pub(crate) fn ensure_metatable<T: Class>(l: *mut lua_State) {
    const { assert!(T::TAG > 0 && T::TAG < 128) };
    // SAFETY: balanced pushes and pops with room checked; the indices are of values pushed here.
    unsafe {
        ffi::lua_rawcheckstack(l, 6);
        ffi::lua_getuserdatametatable(l, T::TAG);
        let exists = stack::kind(l, -1) != stack::Kind::Nil;
        ffi::lua_settop(l, -2);
        if exists {
            return;
        }
        ffi::lua_setuserdatadtor(l, T::TAG, Some(destroy::<T>));
        ffi::lua_createtable(l, 0, 4);
        let metatable = ffi::lua_gettop(l);
        ffi::lua_createtable(l, 0, 0);
        let methods = metatable + 1;
        T::register(&mut ClassBuilder { l, metatable, methods });
        T::NAME.push(l);
        stack::set_field(l, metatable, c"__type");
        false.push(l);
        stack::set_field(l, metatable, c"__metatable");
        ffi::lua_setreadonly(l, methods, 1);
        if T::HAS_FIELDS {
            native::push_closure(l, T::C_NAME, 1, index_of::<T>());
        }
        // Without fields the table of methods is `__index` itself.
        stack::set_field(l, metatable, c"__index");
        ffi::lua_settop(l, metatable);
        ffi::lua_setreadonly(l, metatable, 1);
        ffi::lua_setuserdatametatable(l, T::TAG);
    }
}

/// `__index` of a class with fields: methods first, then fields. Upvalue 1 is the table of methods.
fn index_of<T: Class>() -> impl Native {
    |call: &Call| -> Result<IndexResult, ApiError> {
        let l = call.state();
        // SAFETY: raw read from the upvalue with the key at 2; one slot, which stays as the result.
        unsafe {
            if ffi::lua_checkstack(l, 2) != 0 {
                ffi::lua_pushvalue(l, 2);
                ffi::lua_rawget(l, ffi::lua_upvalueindex(1));
                if stack::kind(l, -1) != stack::Kind::Nil {
                    return Ok(IndexResult::OnStack);
                }
                ffi::lua_settop(l, -2);
            }
        }
        let this = call.object::<T>(1, "self")?;
        let Some(name) = stack::bytes(l, 2).and_then(|name| std::str::from_utf8(name).ok()) else {
            return Ok(IndexResult::Value(None));
        };
        Ok(IndexResult::Value(this.field(call, name)?))
    }
}

enum IndexResult {
    OnStack,
    Value(Option<Box<dyn PushBox>>),
}

impl Push for IndexResult {
    fn push(self, l: *mut lua_State) -> c_int {
        match self {
            Self::OnStack => 1,
            Self::Value(value) => value.push(l),
        }
    }
}

/// Pushes what the native object at `object` keeps under `key`, made by `make` the first time. May raise.
///
/// It is kept in a copy of the class's metatable that this object alone has from then on. There the collector sees it:
/// a reference from the registry would keep it for ever if it leads back to the object. The key is an address: unlike a
/// name, it can be looked up without allocating.
pub(crate) fn push_kept<K>(l: *mut lua_State, object: c_int, key: &'static K, make: impl FnOnce(*mut lua_State)) {
    // SAFETY: raises if there is no room; `object` is at an absolute index. What is pushed below the result is removed.
    unsafe {
        ffi::lua_rawcheckstack(l, 5);
        push_own_metatable(l, object);
        if ffi::lua_rawgetptagged(l, -1, kept_key(key), KEPT) == ffi::LUA_TNIL {
            ffi::lua_settop(l, -2);
            make(l);
            ffi::lua_pushvalue(l, -1);
            ffi::lua_rawsetptagged(l, -3, kept_key(key), KEPT);
        }
        ffi::lua_remove(l, -2);
    }
}

/// Makes the native object at `object` keep the value at `value` under `key`, as [`push_kept`] does. May raise.
pub(crate) fn set_kept<K>(l: *mut lua_State, object: c_int, key: &'static K, value: c_int) {
    // SAFETY: raises if there is no room; both indices are absolute; the stack is left as it was.
    unsafe {
        ffi::lua_rawcheckstack(l, 3);
        push_own_metatable(l, object);
        ffi::lua_pushvalue(l, value);
        ffi::lua_rawsetptagged(l, -2, kept_key(key), KEPT);
        ffi::lua_settop(l, -2);
    }
}

/// Pushes what the native object at `object` keeps under `key`, if it keeps something. Says whether it did.
///
/// # Safety
/// There is room for two values.
pub(crate) unsafe fn push_if_kept<K>(l: *mut lua_State, object: c_int, key: &'static K) -> bool {
    // SAFETY: `object` is a native object, so it has a metatable, which is removed again.
    unsafe {
        ffi::lua_getmetatable(l, object);
        let kept = ffi::lua_rawgetptagged(l, -1, kept_key(key), KEPT) != ffi::LUA_TNIL;
        ffi::lua_remove(l, -2);
        if !kept {
            ffi::lua_settop(l, -2);
        }
        kept
    }
}

/// Pushes the metatable that the native object at `object` has for itself, made from its class's the first time. May
/// raise.
///
/// # Safety
/// There is room for two values, and `object` is an absolute index.
unsafe fn push_own_metatable(l: *mut lua_State, object: c_int) {
    // SAFETY: a native object has a metatable; that of a class is read-only, the copy is not, which tells them apart.
    unsafe {
        ffi::lua_getmetatable(l, object);
        if ffi::lua_getreadonly(l, -1) != 0 {
            ffi::lua_clonetable(l, -1);
            ffi::lua_remove(l, -2);
            ffi::lua_pushvalue(l, -1);
            ffi::lua_setmetatable(l, object);
        }
    }
}

/// Shows what the native object at `object` keeps under `key` to `read`, if it keeps something. Raises nothing.
pub(crate) fn read_kept<K, R>(
    l: *mut lua_State,
    object: c_int,
    key: &'static K,
    read: impl FnOnce(*mut lua_State, c_int) -> R,
) -> Option<R> {
    // SAFETY: `object` is a native object at an absolute index; raw reads within the room that is checked; the stack is
    // left as it was.
    unsafe {
        if ffi::lua_checkstack(l, 2) == 0 || ffi::lua_getmetatable(l, object) == 0 {
            return None;
        }
        let top = ffi::lua_gettop(l);
        let kept = ffi::lua_rawgetptagged(l, -1, kept_key(key), KEPT) != ffi::LUA_TNIL;
        let result = kept.then(|| read(l, top + 1));
        ffi::lua_settop(l, top - 1);
        result
    }
}

/// The tag of the light userdata that are keys of what is kept; `interop.null` has another.
const KEPT: c_int = 1;

fn kept_key<K>(key: &'static K) -> *const c_void {
    const { assert!(size_of::<K>() > 0, "only what has a size has an address of its own") };
    (&raw const *key).cast()
}
