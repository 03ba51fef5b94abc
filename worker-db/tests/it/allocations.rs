//! A look-up allocates nothing: counted, not believed.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;

use worker_core::EventName;
use worker_db::{Lookup, SharedCache, WorkerCacheData};

use crate::cache::{antiraid, bounds, builtins, discord};
use crate::store::{GUILD, LARGE, Store, template};

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

fn allocations<T>(call: impl FnOnce() -> T) -> u64 {
    let before = COUNT.get();
    black_box(call());
    COUNT.get() - before
}

#[tokio::test]
async fn a_lookup_allocates_nothing() {
    assert!(allocations(|| vec![1]) > 0, "the counter counts");
    let store = Store::sqlite_memory().await;
    for n in 0..8 {
        store.db.template_create(GUILD, template(&n.to_string(), "1", &["MESSAGE", "KeyExpiry[s]"])).await.unwrap();
    }
    let shared = SharedCache::new(Default::default());
    let cache = WorkerCacheData::with_bounds(store.db.clone(), shared, Some(builtins(&["KeyExpiry"])), bounds());
    cache.load(GUILD).await.unwrap();
    cache.load(LARGE).await.unwrap();
    let (message, typing) = (discord("MESSAGE_CREATE"), discord("TYPING_START"));
    let expiry = antiraid(EventName::KEY_EXPIRY, &["s", "a scope that nobody has"]);
    for (tenant, event, expected) in
        [(GUILD, &message, 8), (GUILD, &typing, 0), (GUILD, &expiry, 9), (LARGE, &message, 0)]
    {
        let mut found = 0;
        let count = allocations(|| match cache.lookup(tenant, event) {
            Lookup::Subscribers(subscribers) => found = subscribers.templates().len(),
            Lookup::Nobody => {}
            Lookup::NotLoaded => panic!("not loaded"),
        });
        assert_eq!((found, count), (expected, 0), "{event:?}");
    }
    let unknown = worker_core::TenantId::guild(1);
    assert_eq!(allocations(|| cache.lookup(unknown, &message)), 0);
}
