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

        let mut call = ask();
        assert!(poll_fn(|context| Poll::Ready(call.as_mut().poll(context).is_pending())).await, "it takes a while");
        assert!(!clock.is_quiet());
        assert_eq!(call.await.unwrap(), Vec::<String>::new());
        assert!(clock.is_quiet());

        let mut given_up = ask();
        assert!(poll_fn(|context| Poll::Ready(given_up.as_mut().poll(context).is_pending())).await);
        drop(given_up);
        assert!(clock.is_quiet());
        db.close().await;
    });
}
