//! `@antiraid/luau` (template API, section 14.6): source text that a script runs.
//!
//! A chunk runs in the environment of the template that wrote its text: whoever else is handed the chunk can call it, as
//! they could call a function, but neither they nor the text that they assign get that template's globals and modules.
//! Its name is shown in messages and is no path: `require` in it means what it means in `/init.luau`.

#![expect(unsafe_code, reason = "Luau's C API")]

mod debug_text;

use std::cell::RefCell;
use std::ffi::{CStr, c_int};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use crate::error::ApiError;
use crate::luau::class::{self, Class, ClassBuilder, Object, tags};
use crate::luau::compile::{self, compile_with};
use crate::luau::native::{self, Call};
use crate::luau::stack::{Kind, Push, PushBox, set_field};
use crate::luau::{ffi, lua_State};
use crate::runtime::held::Held;
use crate::runtime::long_work::{self, Place, Work};
use crate::runtime::require;

/// Bytes of a chunk's text: as a file of a template.
const CODE_BYTES_MAX: usize = 1 << 20;

/// Text of up to so many bytes is compiled at once: within a few milliseconds, whatever it is.
const INLINE_BYTES_MAX: usize = 4 << 10;

/// Bytes of a name that are shown.
const NAME_BYTES_MAX: usize = 64;

/// How a chunk is told from a file in messages and tracebacks.
pub(crate) const SOURCE_PREFIX: &str = "[string \"";

/// Bytecode of all versions begins with a byte below this; no text does.
const FIRST_TEXT_BYTE: u8 = b'\t';

/// The methods that call, in Luau, so that what they call is cut into slices, yields and fails like any function. They
/// have no line numbers, so that messages name the lines of templates only.
const METHODS: &str = "
local ready, compile, invoke = ...
local function loaded(self)
    local f = ready(self)
    while not f do
        compile(self)
        f = ready(self)
    end
    return f
end
return function(self, ...) return invoke(loaded(self), ...) end, function(self, ...) return loaded(self)(...) end
";

/// Pushes the module. May raise.
pub(crate) fn push_module(l: *mut lua_State) {
    // SAFETY: LUA_MINSTACK is enough: each value is stored at once.
    unsafe {
        ffi::lua_createtable(l, 0, 2);
    }
    native::push_function(l, c"load", |call: &Call| {
        let code = Code::read(call, 1)?;
        Ok(Object(Chunk(Rc::new(RefCell::new(State { code, optimization_level: None, name: None, compiled: None })))))
    });
    set_field(l, -2, c"load");
    native::push_function(l, c"format", debug_text::format);
    set_field(l, -2, c"format");
}

/// Text, and how to run it.
struct Chunk(Rc<RefCell<State>>);

struct State {
    code: Code,
    optimization_level: Option<u8>,
    name: Option<Box<str>>,
    /// What was made of the text.
    compiled: Option<Compiled>,
}

#[derive(Clone)]
struct Code {
    text: Arc<str>,
    /// The environment of the template that wrote it.
    author: u16,
    _held: Rc<Held>,
}

struct Compiled {
    bytecode: Arc<[u8]>,
    _held: Held,
}

impl Code {
    /// The text at `index`, by the template whose code calls.
    fn read(call: &Call, index: c_int) -> Result<Self, ApiError> {
        let text = call.str(index, "code")?;
        if text.len() > CODE_BYTES_MAX {
            return Err(ApiError::too_large(format_args!("code (at most {CODE_BYTES_MAX} bytes)")));
        }
        if text.bytes().next().is_some_and(|first| first < FIRST_TEXT_BYTE) {
            return Err(ApiError::invalid_argument("code (bytecode is refused: it must be source text)"));
        }
        // Where no template's code calls, as in a coroutine of this very function, nobody can say whose text it is.
        let (environment, _) = require::caller(call.vm(), call.state())
            .ok_or_else(|| ApiError::invalid_argument("code (must be given from a function of a template)"))?;
        let held = hold(call, text.len())?;
        Ok(Self { text: text.into(), author: environment.number, _held: Rc::new(held) })
    }
}

fn hold(call: &Call, bytes: usize) -> Result<Held, ApiError> {
    Held::new(call.vm().weak(), bytes)
        .ok_or_else(|| ApiError::memory("no room for the chunk within the tenant's memory limit"))
}

impl State {
    fn source_name(&self) -> String {
        let name = self.name.as_deref().unwrap_or("chunk");
        let shown: String = name.chars().map(|c| if c.is_control() || c == '"' { '?' } else { c }).collect();
        let end = (0..=NAME_BYTES_MAX.min(shown.len())).rev().find(|&end| shown.is_char_boundary(end)).unwrap_or(0);
        format!("{SOURCE_PREFIX}{}\"]", &shown[..end])
    }

    fn level(&self) -> u8 {
        // As all code of templates.
        self.optimization_level.unwrap_or(2)
    }

    /// What the compiler needs, and what its result must be for.
    fn job(&self) -> Job {
        Job { text: self.code.text.clone(), name: self.source_name(), level: self.level() }
    }
}

#[derive(Clone, PartialEq)]
struct Job {
    text: Arc<str>,
    name: String,
    level: u8,
}

impl Job {
    fn run(&self) -> Result<Arc<[u8]>, ApiError> {
        compile_with(&self.name, &self.text, self.level).map_err(|error| ApiError::verbatim(error.to_string()))
    }
}

/// Its function if it can be had at once; nothing if it must be compiled elsewhere first.
fn ready(call: &Call) -> Result<Option<Function>, ApiError> {
    let chunk = call.object::<Chunk>(1, "self")?;
    if chunk.0.borrow().compiled.is_none() {
        let job = chunk.0.borrow().job();
        if job.text.len() > INLINE_BYTES_MAX {
            // SAFETY: `l` is the calling thread.
            if unsafe { ffi::lua_isyieldable(call.state()) } == 0 {
                let text = format_args!(
                    "code (above {INLINE_BYTES_MAX} bytes it is compiled elsewhere, which cannot be waited for here)"
                );
                return Err(ApiError::too_large(text));
            }
            return Ok(None);
        }
        let bytecode = job.run()?;
        let held = hold(call, bytecode.len())?;
        chunk.0.borrow_mut().compiled = Some(Compiled { bytecode, _held: held });
    }
    let state = chunk.0.borrow();
    // Whose globals a function has says whose it is: those of another template are refused, however they got here.
    // SAFETY: any index is allowed.
    let given = class::read_kept(call.state(), 1, &ENVIRONMENT, |l, index| unsafe { ffi::lua_topointer(l, index) });
    let owner = given.and_then(|globals| call.vm().environment_by_globals(globals));
    if owner.is_some_and(|owner| owner.number != state.code.author) {
        return Err(ApiError::invalid_argument("environment (the globals of another template)"));
    }
    let bytecode = state.compiled.as_ref().map(|compiled| compiled.bytecode.clone());
    let environment = call
        .vm()
        .environment_by_number(state.code.author)
        .ok_or_else(|| ApiError::invalid_argument("self (its template is gone)"))?;
    Ok(bytecode.map(|bytecode| Function { bytecode, name: state.source_name(), globals: environment.globals }))
}

/// Compiles a large text on another thread; the tenant pays for the time.
fn compile_elsewhere(call: &Call) -> Result<impl Future<Output = Result<(), ApiError>> + use<>, ApiError> {
    let state = call.object::<Chunk>(1, "self")?.0.clone();
    let job = state.borrow().job();
    // The compiler's own memory: a tree of some forty bytes for each of the text's, which is why few compile at once.
    let working = hold(call, job.text.len())?;
    let (size, work) = (job.text.len(), job.clone());
    let compiled = long_work::run(
        call,
        Place::Elsewhere,
        size,
        working,
        move |_| work.run(),
        move |vm, bytecode| {
            let held = Held::new(vm, bytecode.len())
                .ok_or_else(|| ApiError::memory("no room for the chunk within the tenant's memory limit"))?;
            let mut state = state.borrow_mut();
            // It may have been changed meanwhile: then its caller asks again.
            if state.job() == job {
                state.compiled = Some(Compiled { bytecode, _held: held });
            }
            Ok(())
        },
    )?;
    Ok(async move {
        match compiled {
            Work::Done(()) => Ok(()),
            Work::Later(future) => future.await,
        }
    })
}

/// The function of the chunk that is argument 1.
struct Function {
    bytecode: Arc<[u8]>,
    name: String,
    globals: c_int,
}

impl Push for Function {
    fn push(self, l: *mut lua_State) -> c_int {
        // SAFETY: room is made; the environment is below the function, as `load` wants it.
        unsafe {
            ffi::lua_rawcheckstack(l, 4);
            if !class::push_if_kept(l, 1, &ENVIRONMENT) {
                ffi::lua_rawgeti_(l, ffi::LUA_REGISTRYINDEX, self.globals);
            }
        }
        compile::load(l, &self.name, &self.bytecode);
        1
    }
}

/// The place in a chunk's metatable for the environment that it was given.
static ENVIRONMENT: u8 = 0;

/// Calls argument 1 with the others. Without a continuation: what it calls cannot yield.
unsafe extern "C-unwind" fn invoke(l: *mut lua_State) -> c_int {
    // SAFETY: the function and its arguments are all that is on the stack; all results are returned.
    unsafe {
        ffi::lua_call(l, ffi::lua_gettop(l) - 1, ffi::LUA_MULTRET);
        ffi::lua_gettop(l)
    }
}

impl Class for Chunk {
    const TAG: c_int = tags::CHUNK;
    const NAME: &'static str = "Chunk";
    const C_NAME: &'static CStr = c"Chunk";
    const HAS_FIELDS: bool = true;

    fn field(&self, _: &Call, name: &str) -> Result<Option<Box<dyn PushBox>>, ApiError> {
        let state = self.0.borrow();
        Ok(Some(match name {
            "code" => Box::new(state.code.text.clone()),
            "chunk_name" => Box::new(state.name.as_deref().map(str::to_owned)),
            "optimization_level" => Box::new(state.optimization_level.map(f64::from)),
            "environment" => Box::new(EnvironmentOf),
            _ => return Ok(None),
        }))
    }

    fn register(class: &mut ClassBuilder) {
        class.meta(c"__newindex", assign);
        class.pushed([c"call", c"call_async"], push_methods);
    }
}

/// Pushes the two methods. May raise.
fn push_methods(l: *mut lua_State) {
    let bytecode = compile::compile_nameless(METHODS);
    // SAFETY: room is made; the function gets an empty table as its globals, and its three arguments.
    unsafe {
        ffi::lua_rawcheckstack(l, 6);
        ffi::lua_createtable(l, 0, 0);
        ffi::lua_setreadonly(l, -1, 1);
        compile::load(l, "@antiraid/luau", &bytecode);
        native::push_function(l, c"ready", ready);
        native::push_yielding(l, c"compile", compile_elsewhere);
        ffi::lua_pushcclosurek(l, invoke, c"call".as_ptr(), 0, None);
        ffi::lua_call(l, 3, 2);
    }
}

/// Pushes the environment of the chunk that is argument 1.
struct EnvironmentOf;

impl Push for EnvironmentOf {
    fn push(self, l: *mut lua_State) -> c_int {
        // SAFETY: argument 1 is a chunk; one value is pushed.
        if !unsafe { class::push_if_kept(l, 1, &ENVIRONMENT) } {
            return Option::<f64>::None.push(l);
        }
        1
    }
}

/// What is left to do when a field has been assigned.
enum Assigned {
    Done,
    /// Argument 3 becomes the environment.
    Environment,
}

impl Push for Assigned {
    fn push(self, l: *mut lua_State) -> c_int {
        if let Self::Environment = self {
            class::set_kept(l, 1, &ENVIRONMENT, 3);
        }
        0
    }
}

/// `chunk[name] = value`.
fn assign(call: &Call) -> Result<Assigned, ApiError> {
    let chunk = call.object::<Chunk>(1, "self")?;
    match call.str(2, "field")? {
        "code" => {
            let code = Code::read(call, 3)?;
            let mut state = chunk.0.borrow_mut();
            state.code = code;
            state.compiled = None;
        }
        "chunk_name" => {
            let name = call.str_opt(3, "chunk_name")?;
            // More of it is never shown.
            let end = |name: &str| name.len().min(4 * NAME_BYTES_MAX);
            let name = name.map(|name| name[..name.floor_char_boundary(end(name))].into());
            let mut state = chunk.0.borrow_mut();
            state.name = name;
            state.compiled = None;
        }
        "optimization_level" => {
            let level = match call.is_nil(3) {
                true => None,
                false => Some(call.count(3, "optimization_level", 2)? as u8),
            };
            let mut state = chunk.0.borrow_mut();
            state.optimization_level = level;
            state.compiled = None;
        }
        "environment" => {
            match call.kind(3) {
                Kind::None | Kind::Nil | Kind::Table => {}
                kind => {
                    let text = format_args!("environment (expected a table, got {})", kind.name());
                    return Err(ApiError::invalid_argument(text));
                }
            }
            return Ok(Assigned::Environment);
        }
        other => {
            let text = format_args!("a Chunk has no field `{}`", other.escape_debug());
            return Err(ApiError::invalid_argument(text));
        }
    }
    Ok(Assigned::Done)
}
