//! The threads that the scheduler of a VM knows: those that wait, are ready, were preempted, or belong to a dispatch.
//!
//! Coroutines that a script makes and resumes itself are not here; they get an entry when they call the API.

#![expect(unsafe_code, reason = "Luau's C API")]

use std::ffi::{c_int, c_void};

use tokio::task::AbortHandle;

use super::require::ModuleId;
use crate::luau::native::Outcome;
use crate::luau::{ffi, lua_State};

/// What Luau keeps with each of its threads for us: which entry it has here, whose template it belongs to, and for which
/// dispatch it was made. Fits into the pointer that Luau gives each thread; a new thread inherits its maker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ThreadTag {
    /// Entry number plus 1; 0 is none.
    entry: u16,
    /// Number of the environment.
    pub(crate) environment: u16,
    /// The dispatch.
    pub(crate) dispatch: DispatchId,
}

/// A dispatch of this VM: a slot and a serial number. No two dispatches of a VM ever have the same: coroutines keep the id
/// of the dispatch that they were made in for as long as they live, and nobody knows them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DispatchId(u32);

impl DispatchId {
    /// Dispatches that a VM can have at once.
    pub(crate) const SLOTS_MAX: usize = 1 << 12;

    /// Dispatches that a slot can have one after the other; then it stays empty.
    pub(crate) const SERIALS_MAX: u32 = 1 << 20;

    pub(crate) fn new(slot: usize, serial: u32) -> Self {
        debug_assert!(slot < Self::SLOTS_MAX - 1 && serial < Self::SERIALS_MAX);
        Self(serial << 12 | slot as u32)
    }

    pub(crate) fn slot(self) -> usize {
        self.0 as usize & (Self::SLOTS_MAX - 1)
    }

    pub(crate) fn serial(self) -> u32 {
        self.0 >> 12
    }
}

impl ThreadTag {
    pub(crate) fn new(environment: u16, dispatch: DispatchId) -> Self {
        Self { entry: 0, environment, dispatch }
    }

    /// The tag of a thread.
    pub(crate) fn of(l: *mut lua_State) -> Self {
        // SAFETY: `l` is a live thread.
        let bits = unsafe { ffi::lua_getthreaddata(l) } as u64;
        Self { entry: bits as u16, environment: (bits >> 16) as u16, dispatch: DispatchId((bits >> 32) as u32) }
    }

    pub(crate) fn set(self, l: *mut lua_State) {
        let bits = u64::from(self.entry) | u64::from(self.environment) << 16 | u64::from(self.dispatch.0) << 32;
        // SAFETY: `l` is a live thread; the pointer is never followed.
        unsafe { ffi::lua_setthreaddata(l, bits as *mut c_void) }
    }

    /// The thread's entry, if it has one.
    pub(crate) fn entry(self) -> Option<usize> {
        (self.entry as usize).checked_sub(1)
    }
}

/// Names an entry for as long as it is the same thread's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ThreadId {
    pub(crate) index: usize,
    pub(crate) serial: u32,
}

/// An entry.
pub(crate) struct Thread {
    pub(crate) state: *mut lua_State,
    /// Keeps the thread from being collected.
    pub(crate) anchor: c_int,
    pub(crate) serial: u32,
    pub(crate) tag: ThreadTag,
    pub(crate) phase: Phase,
    pub(crate) role: Role,
    /// When preempted: the coroutines that it waits for, innermost first, and itself last.
    pub(crate) chain: Vec<*mut lua_State>,
    /// CPU time since the scheduler last resumed it with something new.
    pub(crate) nanos: u64,
    /// The call that it waits for.
    pub(crate) call: Option<AbortHandle>,
}

/// Where a thread is.
pub(crate) enum Phase {
    /// It runs, or is about to.
    Running,
    /// In the queue of ready threads.
    Ready(Resume),
    /// In an API call or on a timer: only the scheduler resumes it.
    Waiting,
    /// Until a module is loaded. Does not count as alive: if the module's body stalls, so does who waits for it.
    Requiring,
    /// Suspended by a bare `coroutine.yield`: anybody may resume it.
    Parked,
}

impl Phase {
    /// Whether the thread can come to resume others of its template.
    pub(crate) fn is_live(&self) -> bool {
        !matches!(self, Self::Requiring | Self::Parked)
    }
}

/// With what a ready thread is resumed.
pub(crate) enum Resume {
    /// A function and this many arguments lie on its stack, or the arguments alone if it was suspended.
    Arguments(c_int),
    /// The same, of a dispatch that has not run yet.
    Start(c_int),
    /// The result of its call.
    Outcome(Box<dyn Outcome>),
    /// It was preempted.
    Preempted,
}

/// What a thread's end means to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Its results are those of its dispatch.
    Main,
    /// It runs the body of a module.
    Module(ModuleId),
    /// Nothing.
    Plain,
}

/// The entries of a VM.
#[derive(Default)]
pub(crate) struct Threads {
    entries: Vec<Option<Thread>>,
    free: Vec<usize>,
    next_serial: u32,
}

impl Threads {
    /// Adds an entry for a thread, if there is room; `anchor` is a reference to it.
    pub(crate) fn insert(
        &mut self,
        state: *mut lua_State,
        anchor: c_int,
        tag: ThreadTag,
        phase: Phase,
        role: Role,
    ) -> Option<ThreadId> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.entries.len() < usize::from(u16::MAX) => {
                self.entries.push(None);
                self.entries.len() - 1
            }
            None => return None,
        };
        self.next_serial = self.next_serial.wrapping_add(1);
        let serial = self.next_serial;
        let tag = ThreadTag { entry: index as u16 + 1, ..tag };
        tag.set(state);
        let thread = Thread { state, anchor, serial, tag, phase, role, chain: Vec::new(), nanos: 0, call: None };
        self.entries[index] = Some(thread);
        Some(ThreadId { index, serial })
    }

    /// The entry, if it is still the same thread's.
    pub(crate) fn get(&self, id: ThreadId) -> Option<&Thread> {
        self.entries.get(id.index)?.as_ref().filter(|thread| thread.serial == id.serial)
    }

    /// The entry, if it is still the same thread's.
    pub(crate) fn get_mut(&mut self, id: ThreadId) -> Option<&mut Thread> {
        self.entries.get_mut(id.index)?.as_mut().filter(|thread| thread.serial == id.serial)
    }

    /// The entry of this Lua thread, if it has one.
    pub(crate) fn find(&self, state: *mut lua_State) -> Option<ThreadId> {
        let index = ThreadTag::of(state).entry()?;
        let thread = self.entries.get(index)?.as_ref()?;
        (thread.state == state).then_some(ThreadId { index, serial: thread.serial })
    }

    /// Takes an entry out. The caller gives the anchor back.
    pub(crate) fn remove(&mut self, id: ThreadId) -> Option<Thread> {
        self.get(id)?;
        let thread = self.entries[id.index].take()?;
        self.free.push(id.index);
        ThreadTag { entry: 0, ..thread.tag }.set(thread.state);
        if let Some(call) = &thread.call {
            call.abort();
        }
        Some(thread)
    }

    /// The ids of all entries that fit.
    pub(crate) fn ids(&self, mut fits: impl FnMut(&Thread) -> bool) -> Vec<ThreadId> {
        let entries = self.entries.iter().enumerate();
        entries
            .filter_map(|(index, entry)| {
                let thread = entry.as_ref()?;
                fits(thread).then_some(ThreadId { index, serial: thread.serial })
            })
            .collect()
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }
}
