#![doc = include_str!("../README.md")]

mod capabilities;
mod clock;
mod event;
mod flight_log;
mod ids;
mod lateness_histogram;
mod limits;
mod ratelimits;
mod routing;
mod shard_stats;
mod static_ref;
mod template;
mod value;
mod value_json;
mod worker_error;
mod worker_filter;
mod worker_like;
mod worker_stats;

#[cfg(feature = "test-util")]
pub mod contract;

pub use capabilities::Capabilities;
pub use clock::{Busy, Clock, Moment, VirtualClock};
pub use event::{BaseName, Event, EventName, Priority};
pub use flight_log::{FlightLog, Running};
pub use ids::{IdParseError, Snowflake, TenantId, WorkerId};
pub use lateness_histogram::LatenessHistogram;
pub use limits::{CaptchaLimits, HttpLimits, KvLimits, Limits, ObjectLimits, TemplateLimits};
pub use ratelimits::{ManualClock, Quota, RatelimitFamily, RatelimitHit, RatelimitRules, Ratelimits};
pub use routing::Routing;
pub use shard_stats::{ShardState, ShardStats};
pub use static_ref::StaticRef;
pub use template::{
    CompatDate, ContentHash, ShopRef, ShopVersion, Template, TemplateFiles, TemplateFilesError, TemplateName,
    TemplateNameError, TemplateOrigin,
};
pub use value::{Value, ValueError};
pub use value_json::{Tagged, Untyped};
pub use worker_error::{WorkerError, WorkerErrorKind};
pub use worker_filter::WorkerFilter;
pub use worker_like::{
    Call, DispatchResult, Reply, ReplyBatch, ReplyTo, SourceLine, TemplateError, TemplateResult, WorkerLike,
};
pub use worker_stats::{TenantUse, WorkerStats};
