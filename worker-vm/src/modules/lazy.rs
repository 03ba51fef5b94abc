//! `Lazy`: a value that is converted when it is first read (template API, section 15.4).

use std::ffi::{CStr, c_int};
use std::rc::Weak;
use std::sync::Arc;

use bytes::Bytes;
use worker_core::{TemplateFiles, Value};

use crate::error::ApiError;
use crate::luau::class::{self, Class, Object, tags};
use crate::luau::json::{Json, PlainNames};
use crate::luau::native::{Call, raise};
use crate::luau::stack::{Nil, Push, PushBox};
use crate::luau::{lua_State, value};
use crate::runtime::held::Held;
use crate::runtime::vm::Vm;

/// A value outside of Luau, with one field: `data`. Pushed as an object whose bytes count in the tenant's memory limit.
///
/// The converted value is kept in the object's own metatable ([`class::push_kept`]), so that one which the script makes
/// part of itself is still collected.
pub(crate) struct Lazy {
    content: Content,
    /// None until it is pushed.
    held: Option<Held>,
}

enum Content {
    Value(Value),
    /// Paths and sources, shared with whoever else has them.
    Files(Arc<TemplateFiles>),
    /// JSON that was found to be good, and is not too deep; empty is null.
    Json(Bytes),
}

impl Lazy {
    /// A value, counted when it is pushed.
    pub(crate) fn new(value: Value) -> Self {
        Self { content: Content::Value(value), held: None }
    }

    /// The files of a template, as a map; their [`file_bytes`] are counted already.
    pub(crate) fn files(files: Arc<TemplateFiles>, held: Held) -> Self {
        Self { content: Content::Files(files), held: Some(held) }
    }

    /// JSON that was found to be good, and is not too deep; empty is null. `memory: ` if there is no room for it.
    pub(crate) fn json(vm: Weak<Vm>, json: Bytes) -> Result<Self, ApiError> {
        let bytes = json.len() + size_of::<Self>();
        let held = Held::new(vm, bytes).ok_or_else(|| {
            ApiError::memory(format_args!("no room for {bytes} bytes within the tenant's memory limit"))
        })?;
        Ok(Self { content: Content::Json(json), held: Some(held) })
    }

    /// What it holds, as a value.
    pub(crate) fn value(&self) -> Value {
        match &self.content {
            Content::Value(value) => value.clone(),
            Content::Files(files) => {
                let entry = |(path, text): (&Arc<str>, &Arc<str>)| (path.to_string(), Value::Text(text.to_string()));
                Value::Map(files.iter().map(entry).collect())
            }
            Content::Json(json) => plain_value(json),
        }
    }

    /// Shows the Lua value that the Lazy at `idx` was converted to, if it was, to `read`.
    pub(crate) fn read_converted<R>(
        l: *mut lua_State,
        idx: c_int,
        read: impl FnOnce(*mut lua_State, c_int) -> R,
    ) -> Option<R> {
        class::read_kept(l, idx, &CONVERTED, read)
    }

    /// About how much memory it holds.
    pub(crate) fn bytes(&self) -> usize {
        self.held.as_ref().map_or_else(|| self.content.bytes(), Held::bytes)
    }
}

/// The place in a Lazy's metatable for what it was converted to.
static CONVERTED: u8 = 0;

/// About how much memory files hold.
pub(crate) fn file_bytes(files: &TemplateFiles) -> usize {
    files.bytes() + files.iter().map(|(path, _)| path.len() + 2 * size_of::<Arc<str>>()).sum::<usize>()
}

impl Content {
    fn bytes(&self) -> usize {
        match self {
            Self::Value(value) => value::bytes(value),
            Self::Files(files) => file_bytes(files),
            Self::Json(json) => json.len(),
        }
    }

    fn push(&self, l: *mut lua_State) {
        match self {
            Self::Value(value) => value.push(l),
            Self::Files(files) => FileMap(files).push(l),
            Self::Json(json) => push_json(l, json),
        };
    }
}

/// JSON as a value. Names that storage reserves are a template's own business, not Discord's: they are left as they are.
fn plain_value(json: &[u8]) -> Value {
    fn value(json: serde_json::Value) -> Value {
        match json {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(flag) => Value::Boolean(flag),
            serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(number), _) => Value::Integer(number),
                (None, Some(number)) => Value::UnsignedInteger(number),
                (None, None) => number.as_f64().map_or(Value::Null, Value::Float),
            },
            serde_json::Value::String(text) => Value::Text(text),
            serde_json::Value::Array(items) => Value::List(items.into_iter().map(value).collect()),
            serde_json::Value::Object(fields) => {
                Value::Map(fields.into_iter().map(|(name, field)| (name, value(field))).collect())
            }
        }
    }
    serde_json::from_slice(json).map_or(Value::Null, value)
}

/// Pushes JSON as tables. What parsing takes is inline work of the script that asks. May raise.
fn push_json(l: *mut lua_State, json: &[u8]) -> c_int {
    if json.is_empty() {
        return Nil.push(l);
    }
    match Json::parse(json) {
        Ok(parsed) => {
            parsed.push(l, Vm::current().array_metatable(), &mut PlainNames);
            1
        }
        Err(error) => raise(l, ApiError::internal(&error)),
    }
}

/// Pushes files as a table from path to source.
struct FileMap<'a>(&'a TemplateFiles);

impl Push for FileMap<'_> {
    fn push(self, l: *mut lua_State) -> c_int {
        crate::luau::stack::push_map(l, self.0.iter().map(|(path, text)| (&**path, &**text)));
        1
    }
}

impl Push for Lazy {
    fn push(mut self, l: *mut lua_State) -> c_int {
        self.held = self.held.take().or_else(|| Held::new(Vm::current().weak(), self.content.bytes()));
        if self.held.is_none() {
            drop(self);
            raise(l, ApiError::memory("no room for the value within the tenant's memory limit"));
        }
        Object(self).push(l)
    }
}

impl Class for Lazy {
    const TAG: c_int = tags::LAZY;
    const NAME: &'static str = "Lazy";
    const C_NAME: &'static CStr = c"Lazy";
    const HAS_FIELDS: bool = true;

    fn field(&self, _: &Call, name: &str) -> Result<Option<Box<dyn PushBox>>, ApiError> {
        Ok((name == "data").then(|| Box::new(Data) as Box<dyn PushBox>))
    }
}

/// Pushes the data of the Lazy that is argument 1: the same value at every read.
struct Data;

impl Push for Data {
    fn push(self, l: *mut lua_State) -> c_int {
        class::push_kept(l, 1, &CONVERTED, |l| {
            if let Some(lazy) = Lazy::read(l, 1) {
                lazy.content.push(l);
            }
        });
        1
    }
}
