//! Memory that native code holds for a tenant.

use std::ffi::c_int;
use std::rc::Weak;

use super::vm::Vm;
use crate::luau::lua_State;
use crate::luau::stack::Push;

/// Bytes outside of the Luau heap that count in the tenant's memory limit for as long as this lives.
pub(crate) struct Held {
    vm: Weak<Vm>,
    bytes: usize,
}

impl Held {
    /// Counts the bytes, if the VM is still there and its limit allows them.
    pub(crate) fn new(vm: Weak<Vm>, bytes: usize) -> Option<Self> {
        let holder = vm.upgrade()?;
        hold(&holder, bytes).then(|| Self { vm, bytes })
    }

    /// How many.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

fn hold(vm: &Vm, bytes: usize) -> bool {
    vm.memory().hold(bytes) || {
        // What fills the limit may be garbage by now.
        vm.collect();
        vm.memory().hold(bytes)
    }
}

/// Whether the limit allows so many bytes more at this moment.
pub(crate) fn has_room(vm: &Vm, bytes: usize) -> bool {
    let fits = hold(vm, bytes);
    if fits {
        vm.memory().release(bytes);
    }
    fits
}

impl Drop for Held {
    fn drop(&mut self) {
        // Also called by the collector, while the VM is closed: then there is nothing left to count in.
        if let Some(vm) = self.vm.upgrade() {
            vm.memory().release(self.bytes);
        }
    }
}

/// A result with the memory that it takes until it is in the Luau heap: it waits for its thread's turn, and ten thousand
/// threads of a tenant may each wait for a large one.
pub(crate) struct Counted<T> {
    pub(crate) value: T,
    pub(crate) held: Held,
}

impl<T: Push> Push for Counted<T> {
    fn push(self, l: *mut lua_State) -> c_int {
        // From here on the Luau heap counts it.
        drop(self.held);
        self.value.push(l)
    }
}
