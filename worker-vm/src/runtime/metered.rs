//! CPU time of calls: what native code computes for a tenant while its script waits.

use std::pin::pin;
use std::rc::Rc;
use std::time::Instant;

use super::turns::CpuAccount;

/// The same future, whose time on this thread is charged to the account. It is inline native work like any other: without
/// this, a script could let parsing and hashing do what its own slices may not.
pub(crate) async fn metered<F: Future>(account: Rc<CpuAccount>, future: F) -> F::Output {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| {
        let start = Instant::now();
        let polled = future.as_mut().poll(cx);
        account.charge_extra(start.elapsed().as_nanos() as u64);
        polled
    })
    .await
}
