//! What may cross threads, as promises that the compiler checks.

use worker_core::contract::TestEngine;
use worker_core::*;

const fn send_sync<T: Send + Sync>() {}
const fn send<T: Send>() {}

const _: () = {
    send_sync::<Event>();
    send_sync::<Value>();
    send_sync::<Template>();
    send_sync::<Capabilities>();
    send_sync::<StaticRef<RatelimitRules>>();
    send_sync::<Ratelimits>();
    send_sync::<WorkerFilter>();
    send_sync::<WorkerError>();
    send_sync::<DispatchResult>();
    send_sync::<WorkerStats>();
    send_sync::<TestEngine>();
    // A call and its reply travel to a worker and back.
    send::<Call>();
    send::<Reply<DispatchResult>>();
    send::<ReplyTo<DispatchResult>>();
};

/// Handles to workers are boxed and shared.
const _: fn(&dyn WorkerLike) = |_| {};
