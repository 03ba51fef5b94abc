//! Native work that may take long: compression, parsing, archives, encryption, searching (template API, section 12.4).
//!
//! Small work is done where it is asked for. The rest goes to the runtime's threads for blocking work, and its caller
//! waits. Three queues keep a tenant from spending the machine: one piece of work a tenant at a time, so that the queue of
//! the process goes round between tenants; few in the process; and the tenant's CPU share, which pays for all of it.
//!
//! Tokio cannot stop what runs on a thread for blocking work, so the work itself asks: [`Bounds`] say until when it may
//! run, how much it may make, and whether anybody still waits for it.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Weak;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::vm::Vm;
use crate::error::ApiError;
use crate::luau::native::Call;
use crate::modules::blob::{BlobBytes, Taken};

/// Work on more than this is done off the VM's thread.
pub(crate) const INLINE_BYTES_MAX: usize = 64 << 10;

/// What work in place may make before it is begun anew off the VM's thread: some bytes become a thousand times as many.
const INLINE_OUTPUT_BYTES_MAX: usize = 1 << 20;

/// How long work in place may take before it is begun anew off the VM's thread.
const INLINE_TIME_MAX: Duration = Duration::from_millis(2);

/// The same where there is no other place for it.
const UNYIELDING_TIME_MAX: Duration = Duration::from_millis(50);

/// How much more than in place work may be given where there is no other place for it.
const UNYIELDING_FACTOR: usize = 4;

/// How long work may take.
const TIME_MAX: Duration = Duration::from_secs(5);

/// Pieces of work that run at once in the process.
const RUNNING_MAX: usize = 2;

/// Key derivations that run at once in the process; each takes 64 MiB of its own.
const DERIVING_MAX: usize = 2;

static RUNNING: Semaphore = Semaphore::const_new(RUNNING_MAX);
static DERIVING: Semaphore = Semaphore::const_new(DERIVING_MAX);

/// What native work comes to.
pub(crate) enum Work<R> {
    /// It was done in place.
    Done(R),
    /// Its caller must wait. Nothing is begun before this is polled.
    Later(Pin<Box<dyn Future<Output = Result<R, ApiError>>>>),
}

/// Where work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In place, up to so many bytes of input; off the VM's thread above. Where there is no other place, up to four times
    /// as many, but not above [`INLINE_BYTES_MAX`].
    InlineUpTo(usize),
    /// Never in place.
    Elsewhere,
    /// Never in place, with the few that derive keys.
    KeyDerivation,
}

/// Why work was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exceeded {
    Time,
    Output,
    Abandoned,
}

/// What a piece of work may use. Whoever works asks often.
pub(crate) struct Bounds {
    deadline: Instant,
    output_bytes_max: usize,
    abandoned: Arc<AtomicBool>,
    exceeded: Cell<Option<Exceeded>>,
}

impl Bounds {
    fn new(time: Duration, output_bytes_max: usize, abandoned: Arc<AtomicBool>) -> Self {
        Self { deadline: Instant::now() + time, output_bytes_max, abandoned, exceeded: Cell::new(None) }
    }

    /// Bytes that may be made.
    pub(crate) fn output_bytes_max(&self) -> usize {
        self.output_bytes_max
    }

    /// Whether there is time left, and room for so many bytes of output.
    pub(crate) fn check(&self, output_bytes: usize) -> Result<(), ApiError> {
        let exceeded = if output_bytes > self.output_bytes_max {
            Exceeded::Output
        } else if self.abandoned.load(Ordering::Relaxed) {
            Exceeded::Abandoned
        } else if Instant::now() > self.deadline {
            Exceeded::Time
        } else {
            return Ok(());
        };
        self.exceeded.set(Some(exceeded));
        Err(self.error(exceeded))
    }

    fn error(&self, exceeded: Exceeded) -> ApiError {
        match exceeded {
            Exceeded::Output => ApiError::too_large(format_args!("output (more than {} bytes)", self.output_bytes_max)),
            Exceeded::Time => ApiError::too_large("input (the work takes too long)"),
            Exceeded::Abandoned => ApiError::verbatim("cancelled: nobody waits for the work"),
        }
    }

    /// The error of work that failed: these bounds' own, if it was they that ended it.
    pub(crate) fn or_error(&self, error: impl FnOnce() -> ApiError) -> ApiError {
        self.exceeded.get().map_or_else(error, |exceeded| self.error(exceeded))
    }

    /// A place for the output.
    pub(crate) fn output(&self) -> Output<'_> {
        Output { bytes: Vec::new(), bounds: self }
    }
}

/// Output within bounds.
pub(crate) struct Output<'a> {
    bytes: Vec<u8>,
    bounds: &'a Bounds,
}

impl Output<'_> {
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

impl io::Write for Output<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.bounds.check(self.bytes.len() + data.len()).map_err(|error| io::Error::other(error.to_string()))?;
        self.bytes.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Input for work: a BlobTaker of at most so many bytes, shared if it is a Blob, else copied; counted.
pub(crate) fn input(call: &Call, index: std::ffi::c_int, name: &str, bytes_max: usize) -> Result<BlobBytes, ApiError> {
    let taken = Taken::read(call, index, name)?;
    let bytes = taken.as_slice().len();
    if bytes > bytes_max {
        return Err(ApiError::too_large(format_args!("{name} ({bytes} bytes, at most {bytes_max})")));
    }
    taken.into_bytes(call.vm().weak())
}

/// Does `work` in place or prepares to do it elsewhere. `size` says how much input there is, `held` is kept for as long as
/// the work uses it, `finish` turns what was made into a result, and counts it, on the VM's thread.
///
/// Work that was begun in place and turned out long is begun anew: it must be able to run twice.
pub(crate) fn run<T, R, H: 'static>(
    call: &Call,
    place: Place,
    size: usize,
    held: H,
    work: impl Fn(&Bounds) -> Result<T, ApiError> + Send + 'static,
    finish: impl FnOnce(Weak<Vm>, T) -> Result<R, ApiError> + 'static,
) -> Result<Work<R>, ApiError>
where
    T: Send + 'static,
    R: 'static,
{
    let vm = call.vm();
    let yields = call.can_yield();
    let output_bytes_max = vm.memory().limit() / 2;
    let in_place = match place {
        Place::Elsewhere | Place::KeyDerivation => false,
        Place::InlineUpTo(bytes) if yields => size <= bytes,
        Place::InlineUpTo(bytes) => size <= bytes.max(INLINE_BYTES_MAX.min(bytes.saturating_mul(UNYIELDING_FACTOR))),
    };
    if in_place {
        let bounds = if yields {
            Bounds::new(INLINE_TIME_MAX, output_bytes_max.min(INLINE_OUTPUT_BYTES_MAX), Arc::default())
        } else {
            Bounds::new(UNYIELDING_TIME_MAX, output_bytes_max, Arc::default())
        };
        let result = work(&bounds);
        if bounds.exceeded.get().is_none() || !yields {
            return finish(vm.weak(), result?).map(Work::Done);
        }
    } else if !yields {
        return Err(ApiError::too_large("input (work on it has to wait, which is impossible here)"));
    }
    let (vm, tenant) = (vm.weak(), vm.tenant.clone());
    Ok(Work::Later(Box::pin(async move {
        let closed = |_| ApiError::unavailable("the worker is stopping");
        // In this order: who waits for a place of the process is the only one of its tenant.
        let own = tenant.long_work.clone().acquire_owned().await.map_err(closed)?;
        tenant.account.until_within_share().await;
        let places = if place == Place::KeyDerivation { &DERIVING } else { &RUNNING };
        let place = places.acquire().await.map_err(closed)?;
        let abandoned = Abandon::default();
        let flag = abandoned.0.clone();
        // A task of its own, which nobody aborts: places and memory are given back when the work has really ended.
        let working = tokio::task::spawn_local(async move {
            let begun = Instant::now();
            let done = tokio::task::spawn_blocking(move || {
                let bounds = Bounds::new(TIME_MAX, output_bytes_max, flag);
                // Who asked may be gone by now.
                let result = bounds.check(0).and_then(|()| work(&bounds));
                drop(place);
                result
            })
            .await;
            tenant.account.charge(begun.elapsed().as_nanos() as u64);
            drop((own, held));
            done
        });
        let done = working.await.map_err(|error| ApiError::internal(&error))?;
        drop(abandoned);
        let made = match done {
            Ok(result) => result?,
            Err(error) if error.is_panic() => return Err(ApiError::from_panic(&*error.into_panic())),
            Err(error) => return Err(ApiError::internal(&error)),
        };
        finish(vm, made)
    })))
}

/// Tells the work that nobody waits for it any more, when dropped.
#[derive(Default)]
struct Abandon(Arc<AtomicBool>);

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
