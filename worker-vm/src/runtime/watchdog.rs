//! The clock that ends slices: a thread of the process that looks at every running script once a millisecond.
//!
//! Luau calls its `interrupt` hook at loop back-edges and calls, if it is set. A hook that is always there costs 10 to
//! 80 % of a tight loop; so it is not there until a slice is over: then the watchdog stores it from its own thread (which
//! Luau allows for this hook alone), and the hook takes itself out again.

#![expect(unsafe_code, reason = "the hook is a field of a C struct")]

use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crate::luau::ffi;

/// How often slots are looked at. A slice lasts its length and up to this much more.
const TICK: Duration = Duration::from_millis(1);

/// Without any script running for so many ticks, the watchdog sleeps until one starts.
const IDLE_TICKS: u32 = 50;

const IDLE: u32 = 0;
const ARMED: u32 = 1;
const FIRING: u32 = 2;

/// The place where one worker thread says what it runs and until when.
pub(crate) struct Slot {
    state: AtomicU32,
    /// Nanoseconds since [`epoch`].
    deadline: AtomicU64,
    callbacks: AtomicPtr<ffi::lua_Callbacks>,
    /// Grows with each arming; tells the watchdog that something runs.
    arms: AtomicU64,
    /// Grows with each tick while the slice is over, so that the hook reads the clock once a tick and not once a call.
    ticks: AtomicU64,
    /// The clock of the thread's CPU time.
    cpu_clock: libc::clockid_t,
    /// That clock when the slice of [`over_arms`](Self::over_arms) was found to be over.
    over_cpu_time: AtomicU64,
    over_arms: AtomicU64,
}

impl Slot {
    /// Registers a slot for the calling thread. It is forgotten when the last clone goes.
    pub(crate) fn register() -> Arc<Self> {
        let mut cpu_clock = libc::CLOCK_THREAD_CPUTIME_ID;
        // SAFETY: the calling thread is alive; the clock is written.
        unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut cpu_clock) };
        let slot = Arc::new(Self {
            state: AtomicU32::new(IDLE),
            deadline: AtomicU64::new(0),
            callbacks: AtomicPtr::new(std::ptr::null_mut()),
            arms: AtomicU64::new(0),
            ticks: AtomicU64::new(0),
            cpu_clock,
            over_cpu_time: AtomicU64::new(0),
            over_arms: AtomicU64::new(u64::MAX),
        });
        WATCHDOG.slots.lock().unwrap_or_else(PoisonError::into_inner).push(slot.clone());
        slot
    }

    /// From now on the VM with these callbacks runs; at `deadline` its hook is set.
    pub(crate) fn arm(&self, callbacks: *mut ffi::lua_Callbacks, deadline: u64) {
        self.callbacks.store(callbacks, Ordering::Relaxed);
        self.deadline.store(deadline, Ordering::Relaxed);
        self.arms.store(self.arms.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        // SeqCst pairs with the watchdog's going to sleep: either it sees this slot armed or we see it asleep.
        self.state.store(ARMED, Ordering::SeqCst);
        if WATCHDOG.asleep.load(Ordering::SeqCst) {
            WATCHDOG.thread.unpark();
        }
    }

    /// Nothing runs any more. After this returns, the watchdog does not touch the VM.
    pub(crate) fn disarm(&self) {
        while self.state.compare_exchange_weak(ARMED, IDLE, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            std::hint::spin_loop();
        }
    }

    /// Whether what runs has used up its slice.
    pub(crate) fn is_over(&self) -> bool {
        now() >= self.deadline.load(Ordering::Relaxed)
    }

    /// CPU time since the last slice was found to be over, if it was: to be asked by the slot's own thread.
    pub(crate) fn cpu_time_over(&self) -> u64 {
        if self.over_arms.load(Ordering::Relaxed) != self.arms.load(Ordering::Relaxed) {
            return 0;
        }
        thread_cpu_time().saturating_sub(self.over_cpu_time.load(Ordering::Relaxed))
    }

    /// Notes when the slice was found to be over.
    fn found_over(&self) {
        let arms = self.arms.load(Ordering::Relaxed);
        if self.over_arms.load(Ordering::Relaxed) != arms {
            self.over_cpu_time.store(cpu_time(self.cpu_clock), Ordering::Relaxed);
            self.over_arms.store(arms, Ordering::Relaxed);
        }
    }

    /// Ticks that passed while a slice was over.
    pub(crate) fn ticks(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }
}

struct Watchdog {
    slots: Mutex<Vec<Arc<Slot>>>,
    asleep: AtomicBool,
    thread: Thread,
}

static WATCHDOG: LazyLock<Watchdog> = LazyLock::new(|| {
    // worker-pool makes the threads that run templates; this one watches them and belongs to no worker.
    let handle = std::thread::Builder::new()
        .name("luau-watchdog".into())
        .stack_size(128 << 10)
        .spawn(watch)
        .expect("because without the watchdog no script could be stopped, so there is no use in going on");
    Watchdog { slots: Mutex::default(), asleep: AtomicBool::new(false), thread: handle.thread().clone() }
});

fn watch() {
    let mut idle_ticks = 0;
    let mut seen_arms = 0;
    loop {
        std::thread::park_timeout(TICK);
        let mut slots = WATCHDOG.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|slot| Arc::strong_count(slot) > 1 || slot.state.load(Ordering::Acquire) != IDLE);
        let now = now();
        let mut arms = 0u64;
        let mut running = false;
        for slot in slots.iter() {
            arms = arms.wrapping_add(slot.arms.load(Ordering::Relaxed));
            running |= slot.state.load(Ordering::Relaxed) != IDLE;
            if now >= slot.deadline.load(Ordering::Relaxed)
                && slot.state.compare_exchange(ARMED, FIRING, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            {
                // Read again: the slot may have been armed anew between the two reads, for a later deadline.
                if now >= slot.deadline.load(Ordering::Relaxed) {
                    slot.ticks.fetch_add(1, Ordering::Relaxed);
                    slot.found_over();
                    let callbacks = slot.callbacks.load(Ordering::Relaxed);
                    // SAFETY: while the state is FIRING the worker thread stays in `disarm`, so the VM is alive; Luau
                    // allows this field, and only this, to be set from any thread.
                    unsafe { (*callbacks).interrupt = Some(super::run::interrupt) };
                }
                slot.state.store(ARMED, Ordering::Release);
            }
        }
        drop(slots);
        if running || arms != seen_arms {
            idle_ticks = 0;
            seen_arms = arms;
            continue;
        }
        idle_ticks += 1;
        if idle_ticks >= IDLE_TICKS {
            sleep_until_armed();
            idle_ticks = 0;
        }
    }
}

fn sleep_until_armed() {
    WATCHDOG.asleep.store(true, Ordering::SeqCst);
    loop {
        let armed = {
            let slots = WATCHDOG.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.iter().any(|slot| slot.state.load(Ordering::SeqCst) != IDLE)
        };
        if armed {
            break;
        }
        // Bounded, so that slots of ended threads are let go of.
        std::thread::park_timeout(Duration::from_secs(10));
        if WATCHDOG.slots.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|s| Arc::strong_count(s) == 1) {
            break;
        }
    }
    WATCHDOG.asleep.store(false, Ordering::SeqCst);
}

/// Nanoseconds since the process first asked.
pub(crate) fn now() -> u64 {
    static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);
    EPOCH.elapsed().as_nanos() as u64
}

/// CPU time of the calling thread in nanoseconds: on a busy machine a script must not pay for time in which the thread
/// was not running.
pub(crate) fn thread_cpu_time() -> u64 {
    cpu_time(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn cpu_time(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is written, unless the clock is of a thread that has ended.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
