//! The allocator of a VM: counts what Luau holds, refuses what is over the limit.

#![expect(unsafe_code, reason = "an allocator for a C library")]

use std::cell::Cell;
use std::ffi::c_void;

use super::ffi;

/// The memory account of one VM: what Luau holds and what native code holds for the tenant count together.
pub(crate) struct Memory {
    used: Cell<usize>,
    limit: Cell<usize>,
    /// When `used` passes this, a collection is worth its time: Luau has no emergency collection, so without one a
    /// script that makes much garbage would hit the limit though little of it is alive.
    collect_above: Cell<usize>,
    collect_wanted: Cell<bool>,
    /// Whether a collection was ever due.
    was_large: Cell<bool>,
    callbacks: Cell<*mut ffi::lua_Callbacks>,
}

impl Memory {
    pub(crate) fn new(limit: usize) -> Self {
        let memory = Self {
            used: Cell::new(0),
            limit: Cell::new(limit),
            collect_above: Cell::new(0),
            collect_wanted: Cell::new(false),
            was_large: Cell::new(false),
            callbacks: Cell::new(std::ptr::null_mut()),
        };
        memory.collected();
        memory
    }

    /// Bytes held for the tenant.
    pub(crate) fn used(&self) -> usize {
        self.used.get()
    }

    /// Bytes that may be held.
    pub(crate) fn limit(&self) -> usize {
        self.limit.get()
    }

    /// Runs `f` without a limit: for what must not fail and gives memory back, though it may take a little first.
    pub(crate) fn unlimited<R>(&self, f: impl FnOnce() -> R) -> R {
        let limit = self.limit.replace(usize::MAX);
        let result = f();
        self.limit.set(limit);
        result
    }

    /// Tells where the hook is that a wanted collection sets, so that the script's next safe point collects.
    pub(crate) fn set_callbacks(&self, callbacks: *mut ffi::lua_Callbacks) {
        self.callbacks.set(callbacks);
    }

    /// Whether so much was allocated since the last collection that the next safe point should see one.
    pub(crate) fn wants_collection(&self) -> bool {
        self.collect_wanted.get()
    }

    /// Whether so much was ever held that the process should see to it that it goes back to the system.
    pub(crate) fn was_large(&self) -> bool {
        self.was_large.get()
    }

    /// Counts bytes that native code holds for the tenant, if there is room for them. Says whether there is.
    pub(crate) fn hold(&self, bytes: usize) -> bool {
        let after = self.used.get().saturating_add(bytes);
        let fits = after <= self.limit.get();
        if after > self.collect_above.get() {
            self.want_collection();
        }
        if fits {
            self.used.set(after);
        }
        fits
    }

    /// Counts bytes that [`hold`](Self::hold) counted no longer.
    pub(crate) fn release(&self, bytes: usize) {
        self.used.set(self.used.get().saturating_sub(bytes));
    }

    #[cold]
    fn want_collection(&self) {
        self.was_large.set(true);
        if !self.collect_wanted.replace(true) && !self.callbacks.get().is_null() {
            // SAFETY: the callbacks are of the VM that allocates now.
            unsafe { (*self.callbacks.get()).interrupt = Some(crate::runtime::run::interrupt) };
        }
    }

    /// To be called after a full collection: the next one is due when half of what is left has been used, and never
    /// while less than three eighths of the limit are.
    pub(crate) fn collected(&self) {
        let (used, limit) = (self.used.get(), self.limit.get());
        self.collect_above.set((limit / 8 * 3).max(used + limit.saturating_sub(used) / 2));
        self.collect_wanted.set(false);
    }
}

/// Gives memory that was freed back to the system, where the C library would keep it: a hostile tenant's VM leaves holes of
/// some megabytes.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: has no requirements.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Luau's allocation callback; `ud` is the VM's [`Memory`].
///
/// # Safety
/// Called by Luau only: `ptr` is null or was returned by this function with `osize`.
pub(crate) unsafe extern "C" fn allocate(ud: *mut c_void, ptr: *mut c_void, osize: usize, nsize: usize) -> *mut c_void {
    // SAFETY: `ud` is the `Memory` that was given to `lua_newstate`; it outlives the state.
    let memory = unsafe { &*ud.cast::<Memory>() };
    let used = memory.used.get();
    if nsize == 0 {
        memory.used.set(used - osize);
        // SAFETY: null or ours, see above.
        unsafe { libc::free(ptr) };
        return std::ptr::null_mut();
    }
    let after = used - osize + nsize;
    if after > used {
        if after > memory.limit.get() {
            return std::ptr::null_mut();
        }
        if after > memory.collect_above.get() {
            memory.want_collection();
        }
    }
    // SAFETY: null or ours, see above.
    let new = unsafe { libc::realloc(ptr, nsize) };
    if !new.is_null() {
        memory.used.set(after);
    }
    new
}
