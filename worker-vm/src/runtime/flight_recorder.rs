//! Says, where it can be read after a crash, whose code each thread of this process runs: in a file that is mapped into
//! memory, so that it costs some stores a slice and outlives the process (`worker_core::FlightLog` is its layout).

#![expect(unsafe_code, reason = "a mapping that another process reads")]

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use worker_core::{FlightLog, TenantId};

/// The mapping, for as long as the process lives.
struct Mapping(*mut u8);

// SAFETY: each thread writes into a slot of its own.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

static MAPPING: OnceLock<Mapping> = OnceLock::new();
static SLOTS_TAKEN: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The thread's slot; null if it has none.
    static SLOT: Cell<*mut u8> = Cell::new(MAPPING.get().map_or(ptr::null_mut(), |mapping| {
        let number = SLOTS_TAKEN.fetch_add(1, Relaxed);
        if number < FlightLog::SLOTS {
            // SAFETY: within the mapping, which has `FlightLog::BYTES`.
            unsafe { mapping.0.add(FlightLog::HEADER_BYTES + number * FlightLog::SLOT_BYTES) }
        } else {
            ptr::null_mut()
        }
    }));
}

/// From now on, threads of this process that begin to run code of tenants say so in this file, which must have the length
/// of a [`FlightLog`]. To be called once, before any worker starts.
pub fn record_flights(path: &Path) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    if file.metadata()?.len() < FlightLog::BYTES as u64 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the flight log is too short"));
    }
    // SAFETY: a new mapping of a file that is long enough; nobody shortens it, as it has no name.
    let at = unsafe {
        libc::mmap(
            ptr::null_mut(),
            FlightLog::BYTES,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // A second call changes nothing.
    MAPPING.get_or_init(|| Mapping(at.cast()));
    Ok(())
}

/// Whether this thread records.
pub(super) fn is_on() -> bool {
    !SLOT.get().is_null()
}

/// The tenant's code runs on this thread.
pub(super) fn enter(tenant: TenantId) {
    let slot = SLOT.get();
    if slot.is_null() {
        return;
    }
    // SAFETY: the slot is this thread's, and `SLOT_BYTES` long. Volatile: this program never reads it.
    unsafe {
        ptr::write_volatile(slot.add(FlightLog::EVENT_LEN_AT), 0);
        ptr::write_volatile(slot.add(FlightLog::TEMPLATE_LEN_AT), 0);
        ptr::write_volatile(slot.add(FlightLog::ID_AT).cast(), tenant.snowflake().get().to_le());
        ptr::write_volatile(slot.add(FlightLog::KIND_AT), FlightLog::kind(tenant));
    }
}

/// Which event and template it is.
pub(super) fn name(event: &str, template: &str) {
    let slot = SLOT.get();
    if slot.is_null() {
        return;
    }
    for (name, len_at, at) in [
        (event, FlightLog::EVENT_LEN_AT, FlightLog::EVENT_AT),
        (template, FlightLog::TEMPLATE_LEN_AT, FlightLog::TEMPLATE_AT),
    ] {
        let len = name.len().min(FlightLog::NAME_BYTES_MAX);
        // SAFETY: as in `enter`; a name has room for `NAME_BYTES_MAX`.
        unsafe {
            ptr::copy_nonoverlapping(name.as_ptr(), slot.add(at), len);
            ptr::write_volatile(slot.add(len_at), len as u8);
        }
    }
}

/// Nobody's code runs on this thread.
pub(super) fn leave() {
    let slot = SLOT.get();
    if !slot.is_null() {
        // SAFETY: as in `enter`.
        unsafe { ptr::write_volatile(slot.add(FlightLog::KIND_AT), 0) };
    }
}
