//! `SharedCache`: compiled once, whoever asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use worker_core::{ContentHash, TemplateFiles, TemplateLimits};
use worker_db::{BytecodeKey, SharedCache, SharedCacheConfig};

fn key(path: &str) -> BytecodeKey {
    BytecodeKey { files: ContentHash::of(b"files"), path: path.into() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_at_once_waits_for_one_compile() {
    let (cache, compiles) = (SharedCache::new(SharedCacheConfig::default()), Arc::new(AtomicU32::new(0)));
    assert_eq!(cache.bytecode(&key("a")), None);
    let tasks: Vec<_> = (0..32)
        .map(|_| {
            let (cache, compiles) = (cache.clone(), compiles.clone());
            tokio::spawn(async move {
                let compile = || async {
                    compiles.fetch_add(1, Relaxed);
                    tokio::task::yield_now().await;
                    Ok::<_, ()>(Arc::from(*b"code"))
                };
                cache.bytecode_or_compile(&key("a"), compile).await.unwrap()
            })
        })
        .collect();
    for task in tasks {
        assert_eq!(&*task.await.unwrap(), b"code");
    }
    assert_eq!(compiles.load(Relaxed), 1);
    assert_eq!(cache.bytecode(&key("a")).as_deref(), Some(&b"code"[..]));
    assert_eq!(cache.bytecode(&key("b")), None);
}

#[tokio::test]
async fn failures_and_what_was_cut_off_are_tried_again() {
    let cache = SharedCache::new(SharedCacheConfig::default());
    let failure = cache.bytecode_or_compile(&key("a"), || async { Err("line 1: no") }).await;
    assert_eq!(failure, Err("line 1: no"));
    {
        let key = key("a");
        let mut cut_off = Box::pin(cache.bytecode_or_compile::<(), _>(&key, std::future::pending));
        assert!(futures_util::poll!(&mut cut_off).is_pending());
    }
    let code = cache.bytecode_or_compile(&key("a"), || async { Ok::<_, ()>(Arc::from(*b"code")) }).await;
    assert_eq!(&*code.unwrap(), b"code");
}

#[tokio::test]
async fn it_is_bounded_by_bytes() {
    let cache = SharedCache::new(SharedCacheConfig { files_bytes_max: 4_096, bytecode_bytes_max: 4_096 });
    for n in 0..1_000 {
        let make = || async { Ok::<_, ()>(Arc::from([0; 100])) };
        cache.bytecode_or_compile(&key(&n.to_string()), make).await.unwrap();
        let files = TemplateFiles::new([("init.luau", n.to_string())], &TemplateLimits::default()).unwrap();
        let hash = files.hash();
        cache.insert_files(Arc::new(files));
        if n == 0 {
            assert!(cache.files(&hash).is_some());
        }
    }
    cache.run_pending_tasks();
    let kept = (0..1_000).filter(|n| cache.bytecode(&key(&n.to_string())).is_some()).count();
    assert!((1..=16).contains(&kept), "{kept}");
}
