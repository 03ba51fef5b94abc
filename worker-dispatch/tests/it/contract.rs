//! The checks of `WorkerLike` that a dispatcher can pass with a template that does what the contract's events say. Not
//! among them: results that a template cannot give (an error without a place), reloads counted beyond a VM's life, and
//! the test worker's own bound on held events.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use worker_core::contract::{self, TestEngine};
use worker_core::{
    CompatDate, Limits, Template, TemplateFiles, TemplateLimits, TemplateName, TemplateOrigin, WorkerFilter,
};
use worker_db::{DbConfig, WorkerDb};
use worker_dispatch::WorkerDispatcher;

use crate::harness::{Harness, on_worker};

/// Holds wait on the clock, since a bare yield that nobody is left to resume ends a run.
const TEMPLATE: &str = r#"
local evt = ...
local order = evt.data
count, held, releases = count or 0, held or 0, releases or 0
local what = order["do"]
if what == "echo" then
    return order.value
elseif what == "count" then
    count += 1
    return count
elseif what == "fail" then
    error(order.text, 0)
elseif what == "hold" then
    local before = releases
    held += 1
    repeat task.wait() until releases ~= before
    held -= 1
    return nil
elseif what == "release" then
    releases += 1
    return held
end
error("no such order: " .. tostring(what))
"#;

async fn start_with(limits: Limits) -> WorkerDispatcher {
    let files = TemplateFiles::new([("init.luau", TEMPLATE)], &TemplateLimits::default()).unwrap();
    let template = Template {
        name: TemplateName::builtins(),
        files: Arc::new(files),
        events: [Box::from("Test")].into(),
        allowed_caps: Default::default(),
        error_channel: None,
        compat: CompatDate::NEWEST,
        origin: TemplateOrigin::Builtin,
        created_at: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::UNIX_EPOCH,
    };
    let db = WorkerDb::connect("sqlite::memory:", DbConfig::default()).await.unwrap();
    Harness::over(db, WorkerFilter::all(), limits, Some(Arc::new(template))).dispatcher
}

async fn start(_: TestEngine) -> WorkerDispatcher {
    start_with(Limits::default()).await
}

/// Nothing releases what the contract holds when it drains; its time runs out instead.
async fn start_impatient(_: TestEngine) -> WorkerDispatcher {
    let time = Duration::from_millis(500);
    start_with(Limits { dispatch_timeout: time, vm_drain_timeout: time, ..Limits::default() }).await
}

macro_rules! checks {
    ($($check:ident($start:ident))*) => { $(
        #[test]
        fn $check() {
            on_worker(|| async { contract::$check(&$start).await });
        }
    )* };
}

checks! {
    every_dispatch_is_answered_with_its_own_result(start)
    events_of_a_tenant_start_in_order(start)
    dropped_replies_do_no_harm(start)
    a_waiting_dispatch_delays_nobody(start)
    kill_answers_what_is_pending(start)
    dropping_the_worker_answers_what_is_pending(start)
    drain_finishes_what_was_taken(start_impatient)
    stats_count(start)
    health_is_answered_until_the_end(start)
    what_is_given_up_has_ended_then(start_impatient)
}
