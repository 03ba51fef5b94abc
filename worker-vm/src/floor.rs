//! The floor that benches compare with: the bare Luau C API doing one event's work, with nothing of the runtime.
//!
//! JSON text to tables, a handler in a fresh sandboxed thread, its result converted back, under a memory limit: no event
//! value, no context, no scheduler, no budgets, no queue. What the runtime costs is the ratio to this.

#![expect(unsafe_code, reason = "Luau's C API")]

use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};

use worker_core::Value;

use crate::luau::alloc::{Memory, allocate};
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

/// Bare VMs with the handler loaded.
pub struct Floor {
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
        let source = format!("local data = ...\n{HANDLER}");
        let bytecode =
            compile::compile("/handler.luau", &source).expect("because the handler is a constant that compiles");
        Self { vms: (0..vms).map(|_| FloorVm::new(&bytecode)).collect() }
    }

    /// Makes one more VM, runs one event in it and drops it: what the first event of a cold tenant costs.
    pub fn cold(bytecode: &[u8], json: &[u8]) -> Value {
        FloorVm::new(bytecode).run(json)
    }

    /// The handler's bytecode, for [`cold`](Self::cold).
    pub fn bytecode() -> std::sync::Arc<[u8]> {
        let source = format!("local data = ...\n{HANDLER}");
        compile::compile("/handler.luau", &source).expect("because the handler is a constant that compiles")
    }

    /// Bytes that Luau has allocated in all VMs.
    pub fn luau_bytes(&self) -> usize {
        self.vms.iter().map(|vm| vm.memory.used()).sum()
    }

    /// Runs one event in the VM with this number.
    pub fn run(&self, vm: usize, json: &[u8]) -> Value {
        self.vms[vm].run(json)
    }
}

struct Job<'a> {
    vm: &'a FloorVm,
    json: &'a [u8],
    thread: *mut lua_State,
    anchor: c_int,
}

impl FloorVm {
    fn new(bytecode: &[u8]) -> Self {
        let memory = Box::new(Memory::new(20 << 20));
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

    fn run(&self, json: &[u8]) -> Value {
        unsafe extern "C-unwind" fn job(l: *mut lua_State) -> c_int {
            // SAFETY: the argument is the job; what is pushed fits into LUA_MINSTACK.
            unsafe {
                let job = &mut *ffi::lua_tolightuserdata(l, 1).cast::<Job<'_>>();
                let parsed = Json::parse(job.json).expect("because the bench's JSON is good");
                job.thread = ffi::lua_newthread(l);
                job.anchor = ffi::lua_ref(l, -1);
                ffi::luaL_sandboxthread(job.thread);
                ffi::lua_rawgeti_(l, ffi::LUA_REGISTRYINDEX, job.vm.handler);
                parsed.push(l, job.vm.array_metatable, &mut PlainNames);
                ffi::lua_xmove(l, job.thread, 2);
            }
            0
        }
        let mut data = Job { vm: self, json, thread: std::ptr::null_mut(), anchor: 0 };
        // SAFETY: `data` lives through the call; the thread is anchored until its result is read.
        unsafe {
            let status = ffi::lua_cpcall(self.l, job, (&raw mut data).cast::<c_void>());
            assert_eq!(status, ffi::LUA_OK);
            let status = ffi::lua_resume_(data.thread, std::ptr::null_mut(), 1);
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
