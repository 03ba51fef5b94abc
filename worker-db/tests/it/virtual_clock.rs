//! A store on the clock of a test.

use std::future::poll_fn;
use std::task::Poll;

use jiff::Timestamp;
use tokio::runtime::{Builder, LocalOptions};
use worker_core::{RatelimitRules, TenantId, VirtualClock};
use worker_db::{DbClock, DbConfig, KvPage, WorkerDb};

const TENANT: TenantId = TenantId::guild(1 << 22);

#[test]
fn it_stands_still_while_the_store_is_asked() {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
    runtime.block_on(async {
        let start = Timestamp::from_second(1_000_000).unwrap();
        let clock = VirtualClock::new(start, RatelimitRules::unlimited().on_manual_clock().1);
        let config = DbConfig { clock: DbClock::virtual_clock(clock.clone()), ..DbConfig::default() };
        let db = WorkerDb::connect("sqlite::memory:", config).await.unwrap();
        assert_eq!(db.clock().now(), start);
        assert!(clock.is_quiet());
        let ask = || Box::pin(db.kv_list_scopes(TENANT, KvPage::default()));

        // The answer may come before it is waited for, but not every time.
        let mut waited = 0;
        for _ in 0..100 {
            let mut call = ask();
            if poll_fn(|context| Poll::Ready(call.as_mut().poll(context).is_pending())).await {
                waited += 1;
                assert!(!clock.is_quiet());
                assert_eq!(call.await.unwrap(), Vec::<String>::new());
            }
            assert!(clock.is_quiet());
        }
        assert!(waited > 0, "nobody was waited for");

        let mut given_up = ask();
        // Whether it is over already or not.
        poll_fn(|context| Poll::Ready(given_up.as_mut().poll(context).is_pending())).await;
        drop(given_up);
        // What has been asked is done to its end.
        let quiet = async {
            while !clock.is_quiet() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), quiet).await.unwrap();
        db.close().await;
    });
}
