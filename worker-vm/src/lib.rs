#![doc = include_str!("../README.md")]

mod check;
mod error;
pub mod floor;
mod giving_way;
mod guild_states;
mod harness;
pub mod hostile;
mod luau;
mod modules;
mod plugins;
mod require_path;
mod runtime;
mod services;
mod settings;
mod tenant;
mod tenant_log;
mod vmdatastores;
mod worker_state;
mod worker_vm_manager;

pub use check::{Problem, check_template};
pub use error::{VmError, contained_panics};
pub use giving_way::{give_way, give_way_no_more};
pub use guild_states::{GuildFigures, GuildStates, GuildStatesConfig};
pub use harness::{AnswerFunction, Harness, Question, TestCall};
pub use luau::compile::{CompileError, compile};
pub use plugins::discord::{Answer, Recorded, Recorder};
pub use plugins::http::{
    AddressRange, HostResolver, HttpAnswer, HttpConfig, HttpRecorder, HttpRequest, Resolving, SystemResolver,
};
pub use plugins::objects::{
    ObjectKey, ObjectsConfig, ObjectsError, ObjectsPlace, S3Config, S3Credentials, TenantObjects,
};
pub use require_path::{RequireError, RequireTree};
pub use runtime::flight_recorder::record_flights;
pub use runtime::turns::Turn;
pub use services::{
    BotRest, BotRestError, Discord, DiscordConfig, DiscordStats, DiscordToken, Services, ServicesConfig,
    use_ring_for_tls,
};
pub use tenant_log::{LogKind, LogLine, TenantLog};
pub use worker_state::{Links, WorkerState};
pub use worker_vm_manager::{Run, Runs, VmStats, WorkerVmManager};
