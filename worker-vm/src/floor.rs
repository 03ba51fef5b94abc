//! The floor that benches compare with: the bare Luau C API doing one event's work, with nothing of the runtime.
//!
//! JSON text to tables, a handler in a fresh sandboxed thread, its result converted back, under a memory limit: no event
//! value, no context, no scheduler, no budgets, no queue. What the runtime costs is the ratio to this.
//!
//! [`MluaFloor`] is the same through mlua, as a program would have it that does nothing about its costs.

#![expect(unsafe_code, reason = "Luau's C API")]

mod modules;

use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};

use std::sync::Arc;

use mlua::chunk::ChunkMode;
use mlua::{Function, Lua, Table};
use worker_core::Value;

pub use self::modules::ModulesFloor;

use crate::luau::alloc::{Memory, allocate};
use crate::luau::compile::CompileError;
use crate::luau::json::{Json, PlainNames};
use crate::luau::stack::{self, Kind};
use crate::luau::{compile, ffi, lua_State};

/// A MESSAGE_CREATE of 1.5 KB, as Discord sends it.
pub const EVENT_JSON: &str = include_str!("floor_event.json");

/// Reads eight fields, tests the content, returns a table of six. `data` is the event's payload.
pub const HANDLER: &str = r#"
local author, member = data.author, data.member
local content = data.content
local spam = string.find(content, "discord.gg/", 1, true) ~= nil or #data.mentions > 5
return {
    id = data.id,
    channel = data.channel_id,
    user = author.id,
    name = member.nick or author.username,
    roles = #member.roles,
    spam = spam,
}
"#;

/// What each VM may hold, in bytes.
const MEMORY_MAX: usize = 20 << 20;

/// Bare VMs, all with the same function loaded.
pub struct Floor {
    bytecode: Arc<[u8]>,
    vms: Vec<FloorVm>,
}

struct FloorVm {
    l: *mut lua_State,
    handler: c_int,
    array_metatable: c_int,
    memory: Box<Memory>,
}

impl Floor {
    /// So many VMs, each with the handler.
    pub fn new(vms: usize) -> Self {
        let bytecode = Self::bytecode();
        Self { vms: (0..vms).map(|_| FloorVm::new(&bytecode)).collect(), bytecode }
    }

    /// One VM with this source, for [`run_plain`](Self::run_plain).
    pub fn of_source(source: &str) -> Result<Self, CompileError> {
        let bytecode = compile::compile("/source.luau", source)?;
        Ok(Self { vms: vec![FloorVm::new(&bytecode)], bytecode })
    }

    /// Makes one more VM, runs one event in it and drops it: what the first event of a cold tenant costs.
    pub fn cold(bytecode: &[u8], json: &[u8]) -> Value {
        FloorVm::new(bytecode).run(Some(json))
    }

    /// The handler's bytecode, for [`cold`](Self::cold).
    pub fn bytecode() -> Arc<[u8]> {
        let source = format!("local data = ...\n{HANDLER}");
        compile::compile("/handler.luau", &source).expect("because the handler is a constant that compiles")
    }

    /// Makes one more VM, and returns its number.
    pub fn add(&mut self) -> usize {
        self.vms.push(FloorVm::new(&self.bytecode));
        self.vms.len() - 1
    }

    /// Bytes that Luau has allocated in all VMs.
    pub fn luau_bytes(&self) -> usize {
        self.vms.iter().map(|vm| vm.memory.used()).sum()
    }

    /// Runs one event in the VM with this number.
    pub fn run(&self, vm: usize, json: &[u8]) -> Value {
        self.vms[vm].run(Some(json))
    }

    /// Runs the function of the VM with this number, without an event.
    pub fn run_plain(&self, vm: usize) -> Value {
        self.vms[vm].run(None)
    }
}

struct Job<'a> {
    vm: &'a FloorVm,
    json: Option<&'a [u8]>,
    thread: *mut lua_State,
    anchor: c_int,
}

impl FloorVm {
    fn new(bytecode: &[u8]) -> Self {
        let memory = Box::new(Memory::new(MEMORY_MAX));
        // SAFETY: the allocator's account outlives the state; each call has room and balanced pushes.
        unsafe {
            let l = ffi::lua_newstate(allocate, (&raw const *memory).cast_mut().cast());
            assert!(!l.is_null(), "no memory for a bare VM");
            ffi::luaL_openlibs(l);
            ffi::luaL_sandbox(l, 1);
            ffi::lua_createtable(l, 0, 0);
            let array_metatable = ffi::lua_ref(l, -1);
            ffi::lua_settop(l, 0);
            let status = ffi::luau_load(l, c"=handler".as_ptr(), bytecode.as_ptr().cast(), bytecode.len(), 0);
            assert_eq!(status, ffi::LUA_OK, "own bytecode loads");
            let handler = ffi::lua_ref(l, -1);
            ffi::lua_settop(l, 0);
            Self { l, handler, array_metatable, memory }
        }
    }

    fn run(&self, json: Option<&[u8]>) -> Value {
        unsafe extern "C-unwind" fn job(l: *mut lua_State) -> c_int {
            // SAFETY: the argument is the job; what is pushed fits into LUA_MINSTACK.
            unsafe {
                let job = &mut *ffi::lua_tolightuserdata(l, 1).cast::<Job<'_>>();
                let parsed = job.json.map(|json| Json::parse(json).expect("because the bench's JSON is good"));
                job.thread = ffi::lua_newthread(l);
                job.anchor = ffi::lua_ref(l, -1);
                ffi::luaL_sandboxthread(job.thread);
                ffi::lua_rawgeti_(l, ffi::LUA_REGISTRYINDEX, job.vm.handler);
                if let Some(parsed) = &parsed {
                    parsed.push(l, job.vm.array_metatable, &mut PlainNames);
                }
                ffi::lua_xmove(l, job.thread, 1 + c_int::from(parsed.is_some()));
            }
            0
        }
        let mut data = Job { vm: self, json, thread: std::ptr::null_mut(), anchor: 0 };
        // SAFETY: `data` lives through the call; the thread is anchored until its result is read.
        unsafe {
            let status = ffi::lua_cpcall(self.l, job, (&raw mut data).cast::<c_void>());
            assert_eq!(status, ffi::LUA_OK);
            let status = ffi::lua_resume_(data.thread, std::ptr::null_mut(), c_int::from(json.is_some()));
            assert_eq!(status, ffi::LUA_OK);
            let value = read(data.thread, 1);
            ffi::lua_unref(self.l, data.anchor);
            value
        }
    }
}

impl Drop for FloorVm {
    fn drop(&mut self) {
        // SAFETY: nothing runs.
        unsafe { ffi::lua_close(self.l) }
    }
}

/// VMs as mlua makes them, each with the handler loaded: the library's standard VM, sandboxed and with a memory limit.
pub struct MluaFloor {
    bytecode: Arc<[u8]>,
    vms: Vec<MluaVm>,
}

struct MluaVm {
    lua: Lua,
    handler: Function,
    array_metatable: c_int,
}

impl MluaFloor {
    /// So many VMs.
    pub fn new(vms: usize) -> Self {
        let mut this = Self { bytecode: Floor::bytecode(), vms: Vec::new() };
        for _ in 0..vms {
            this.add();
        }
        this
    }

    /// Makes one more VM, and returns its number.
    pub fn add(&mut self) -> usize {
        self.vms.push(MluaVm::new(&self.bytecode).expect(MLUA));
        self.vms.len() - 1
    }

    /// Runs one event in the VM with this number: JSON to tables by the quickest way there is, the handler in a fresh
    /// sandboxed thread.
    pub fn run(&self, vm: usize, json: &[u8]) -> Value {
        self.vms[vm].run(json).expect(MLUA)
    }
}

const MLUA: &str = "because the handler is a constant that runs";

impl MluaVm {
    fn new(bytecode: &[u8]) -> mlua::Result<Self> {
        let lua = Lua::new();
        lua.sandbox(true)?;
        lua.set_memory_limit(MEMORY_MAX)?;
        let handler = lua.load(bytecode).set_name("=handler").set_mode(ChunkMode::Binary).into_function()?;
        let mut array_metatable = 0;
        // SAFETY: one value, which is taken off again.
        unsafe {
            lua.exec_raw::<()>((), |l| {
                ffi::lua_createtable(l, 0, 0);
                array_metatable = ffi::lua_ref(l, -1);
                ffi::lua_settop(l, -2);
            })?;
        }
        Ok(Self { lua, handler, array_metatable })
    }

    fn run(&self, json: &[u8]) -> mlua::Result<Value> {
        let parsed = Json::parse(json).map_err(mlua::Error::external)?;
        // SAFETY: it pushes one value and makes room for what it needs.
        let data: Table = unsafe { self.lua.exec_raw((), |l| parsed.push(l, self.array_metatable, &mut PlainNames))? };
        let thread = self.lua.create_thread(self.handler.clone())?;
        thread.sandbox()?;
        let result: Table = thread.resume(data)?;
        let mut map = BTreeMap::new();
        for pair in result.pairs::<String, mlua::Value>() {
            let (key, value) = pair?;
            map.insert(key, plain(&value)?);
        }
        Ok(Value::Map(map))
    }
}

fn plain(value: &mlua::Value) -> mlua::Result<Value> {
    Ok(match value {
        mlua::Value::Boolean(value) => Value::Boolean(*value),
        mlua::Value::Integer(value) => Value::Float(*value as f64),
        mlua::Value::Number(value) => Value::Float(*value),
        mlua::Value::String(text) => Value::Text(text.to_str()?.to_owned()),
        _ => Value::Null,
    })
}

/// The plainest conversion of a result.
fn read(l: *mut lua_State, idx: c_int) -> Value {
    match stack::kind(l, idx) {
        // SAFETY: it is a boolean.
        Kind::Boolean => Value::Boolean(unsafe { ffi::lua_toboolean(l, idx) } != 0),
        Kind::Number => Value::Float(stack::number(l, idx).unwrap_or_default()),
        Kind::String => Value::Text(String::from_utf8_lossy(stack::bytes(l, idx).unwrap_or_default()).into_owned()),
        Kind::Table => {
            let mut map = BTreeMap::new();
            let mut iter = 0;
            loop {
                // SAFETY: a table of six strings needs two slots a level.
                unsafe {
                    iter = ffi::lua_rawiter(l, idx, iter);
                    if iter < 0 {
                        return Value::Map(map);
                    }
                    let top = ffi::lua_gettop(l);
                    if let Value::Text(key) = read(l, top - 1) {
                        map.insert(key, read(l, top));
                    }
                    ffi::lua_settop(l, top - 2);
                }
            }
        }
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_floors_do_the_same_work() {
        let (mut bare, mut mlua) = (Floor::new(1), MluaFloor::new(1));
        assert_eq!((bare.add(), mlua.add()), (1, 1));
        let Value::Map(result) = bare.run(1, EVENT_JSON.as_bytes()) else { panic!("the handler returns a table") };
        assert_eq!(result.len(), 6);
        assert_eq!(mlua.run(1, EVENT_JSON.as_bytes()), Value::Map(result));
    }

    #[test]
    fn a_source_runs_without_an_event() {
        let floor = Floor::of_source("return 6 * 7").unwrap();
        assert_eq!(floor.run_plain(0), Value::Float(42.0));
        assert!(Floor::of_source("return (").is_err());
    }
}
