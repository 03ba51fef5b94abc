//! `Blob`: opaque bytes outside of the Luau heap (template API, section 14.3).

use std::cell::RefCell;
use std::ffi::{CStr, c_int};
use std::rc::{Rc, Weak};

use bytes::Bytes;
use zeroize::Zeroize;

use crate::error::ApiError;
use crate::luau::class::{Class, ClassBuilder, Object, tags};
use crate::luau::lua_State;
use crate::luau::native::{Call, raise};
use crate::luau::stack::{self, Kind, Push};
use crate::runtime::held::{Held, has_room};
use crate::runtime::vm::Vm;

/// What a Blob takes beside its bytes; also what keeps a script from making endless empty ones.
const OVERHEAD_BYTES: usize = 96;

/// Bytes that count in the tenant's memory limit, once, however many share them: a Blob, and whoever was given it while
/// the work with it lasts. Pushes as a Blob.
#[derive(Clone)]
pub(crate) struct BlobBytes {
    bytes: Bytes,
    held: Rc<Held>,
}

impl BlobBytes {
    /// Counts bytes that are there; `memory: ` if there is no room for them.
    pub(crate) fn new(vm: Weak<Vm>, bytes: impl Into<Bytes>) -> Result<Self, ApiError> {
        let bytes = bytes.into();
        let held = reserve(vm, bytes.len())?;
        Ok(Self { bytes, held: Rc::new(held) })
    }

    /// Copies bytes, after room for them was found.
    pub(crate) fn copy(vm: Weak<Vm>, bytes: &[u8]) -> Result<Self, ApiError> {
        let held = reserve(vm, bytes.len())?;
        Ok(Self { bytes: Bytes::copy_from_slice(bytes), held: Rc::new(held) })
    }

    /// The bytes. A clone that outlives `self` is not counted any more.
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl Push for BlobBytes {
    fn push(self, l: *mut lua_State) -> c_int {
        Object(Blob(RefCell::new(Some(self)))).push(l)
    }
}

fn reserve(vm: Weak<Vm>, bytes: usize) -> Result<Held, ApiError> {
    Held::new(vm, bytes.saturating_add(OVERHEAD_BYTES)).ok_or_else(|| no_room(bytes))
}

fn no_room(bytes: usize) -> ApiError {
    ApiError::memory(format_args!("no room for {bytes} bytes within the tenant's memory limit"))
}

/// A template's Blob; none if it was emptied.
pub(crate) struct Blob(RefCell<Option<BlobBytes>>);

impl Blob {
    /// What it holds.
    pub(crate) fn content(&self) -> Option<BlobBytes> {
        self.0.borrow().clone()
    }

    /// How many bytes it holds.
    pub(crate) fn len(&self) -> usize {
        self.0.borrow().as_ref().map_or(0, |content| content.bytes.len())
    }

    /// Forgets what it holds, and overwrites it where nobody else reads it at this moment.
    fn zeroize(&self) {
        let Some(BlobBytes { bytes, .. }) = self.0.take() else { return };
        if let Ok(mut bytes) = bytes.try_into_mut() {
            bytes.as_mut().zeroize();
        }
    }
}

impl Class for Blob {
    const TAG: c_int = tags::BLOB;
    const NAME: &'static str = "Blob";
    const C_NAME: &'static CStr = c"Blob";

    fn register(class: &mut ClassBuilder) {
        class
            .meta(c"__len", |call: &Call| Ok(call.object::<Self>(1, "self")?.len() as f64))
            .method(c"tobuffer", |call: &Call| call.object::<Self>(1, "self").map(|_| IntoBuffer))
            .method(c"drain", |call: &Call| {
                call.object::<Self>(1, "self")?.0.take();
                Ok(())
            })
            .method(c"zeroize", |call: &Call| {
                call.object::<Self>(1, "self")?.zeroize();
                Ok(())
            });
    }
}

/// Pushes what the Blob that is argument 1 holds as a buffer, and empties it.
struct IntoBuffer;

impl Push for IntoBuffer {
    fn push(self, l: *mut lua_State) -> c_int {
        let blob = Blob::read(l, 1);
        let Some(BlobBytes { bytes, held }) = blob.and_then(|blob| blob.0.take()) else {
            stack::push_buffer(l, &[]);
            return 1;
        };
        // Unless somebody else still reads them, the bytes count in the Luau heap instead.
        let freed = if Rc::strong_count(&held) == 1 { held.bytes() } else { 0 };
        if !has_room(Vm::current(), bytes.len().saturating_sub(freed)) {
            let full = bytes.len();
            blob.map(|blob| blob.0.replace(Some(BlobBytes { bytes, held })));
            raise(l, no_room(full));
        }
        drop(held);
        stack::push_buffer(l, &bytes);
        1
    }
}

/// A BlobTaker: what of a Blob, a buffer or a string a native function was given to read. A Blob stays as it is.
pub(crate) enum Taken<'a> {
    /// Bytes in the Luau heap, as long as the call lasts.
    Lua(&'a [u8]),
    Blob(BlobBytes),
}

impl<'a> Taken<'a> {
    /// Reads the argument. Raises nothing.
    pub(crate) fn read(call: &'a Call, index: c_int, name: &str) -> Result<Self, ApiError> {
        let l = call.state();
        let taken = match call.kind(index) {
            Kind::String => stack::bytes(l, index).map(Self::Lua),
            Kind::Buffer => stack::buffer(l, index).map(Self::Lua),
            Kind::Userdata => call.object_opt::<Blob>(index).map(|blob| match blob.content() {
                Some(content) => Self::Blob(content),
                None => Self::Lua(&[]),
            }),
            _ => None,
        };
        taken.ok_or_else(|| call.wrong(index, name, "a Blob, a buffer or a string"))
    }

    /// The bytes.
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Lua(bytes) => bytes,
            Self::Blob(content) => content.bytes(),
        }
    }

    /// The bytes for longer than the call: those of a Blob shared with it, others copied and counted.
    pub(crate) fn into_bytes(self, vm: Weak<Vm>) -> Result<BlobBytes, ApiError> {
        match self {
            Self::Lua(bytes) => BlobBytes::copy(vm, bytes),
            Self::Blob(content) => Ok(content),
        }
    }
}
