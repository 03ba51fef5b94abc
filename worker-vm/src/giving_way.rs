//! How long the kernel lets a thread run while others want to. A program that starts is busy for tens of milliseconds; beside
//! one, each answer of its neighbours that needs the same processor would wait for some of them.

#![expect(unsafe_code, reason = "nobody has a safe call for it")]

use std::io;
use std::mem;

/// The longest slice that Linux knows.
const LONG_SLICE_NANOS: u64 = 100_000_000;

/// From now on this thread, and the threads and processes that it starts, let others with the same priority go first when
/// these wake: by asking for long slices, which are given late. It takes Linux 6.12; elsewhere it says that it cannot.
pub fn give_way() -> io::Result<()> {
    set_slice(LONG_SLICE_NANOS)
}

/// The opposite, for this thread.
pub fn give_way_no_more() -> io::Result<()> {
    set_slice(0)
}

/// The slice of this thread; 0 is the system's own.
fn set_slice(nanos: u64) -> io::Result<()> {
    let size = size_of::<libc::sched_attr>() as u32;
    // SAFETY: all of it are numbers.
    let mut attr: libc::sched_attr = unsafe { mem::zeroed() };
    // SAFETY: of this thread; what is written has the size that is told.
    if unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attr, size, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    attr.size = size;
    attr.sched_runtime = nanos;
    // SAFETY: of this thread; nothing is changed but the slice.
    if unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anybody_may_give_way_and_take_it_back() {
        give_way().unwrap();
        give_way_no_more().unwrap();
    }
}
