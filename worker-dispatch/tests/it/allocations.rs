//! An event that nobody subscribed to costs no allocation: counted, not believed.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use worker_core::{Call, Event, ReplyTo, WorkerLike};

use crate::harness::{Harness, OTHER, TENANT, on_worker, results};

struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

#[expect(unsafe_code, reason = "the trait is unsafe; each call goes to the system's allocator as it came")]
// SAFETY: as `System`, which does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn an_event_that_nobody_subscribed_to_allocates_nothing() {
    on_worker(|| async {
        let h = Harness::new().await;
        h.install(TENANT, "it", "return 1").await;
        for tenant in [TENANT, OTHER] {
            let event = Event::discord("PRESENCE_UPDATE", "not JSON".into());
            assert_eq!(results(h.send(tenant, event.clone())).await, []);
            let before = COUNT.get();
            for _ in 0..10 {
                h.dispatcher.submit(Call::Dispatch { tenant, event: event.clone(), reply_to: ReplyTo::nobody() });
            }
            assert_eq!(COUNT.get() - before, 0);
        }
        assert!(COUNT.get() > 0, "the counter counts");
    });
}
