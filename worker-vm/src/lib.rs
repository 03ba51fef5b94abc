#![doc = include_str!("../README.md")]

mod check;
mod error;
pub mod floor;
pub mod hostile;
mod luau;
mod modules;
mod plugins;
mod require_path;
mod runtime;
mod settings;
mod tenant;
mod tenant_log;
mod vmdatastores;
mod worker_state;
mod worker_vm_manager;

pub use check::{Problem, check_template};
pub use error::{VmError, contained_panics};
pub use luau::compile::{CompileError, compile};
pub use require_path::{RequireError, RequireTree};
pub use runtime::turns::Turn;
pub use tenant_log::{LogKind, LogLine, TenantLog};
pub use worker_state::{Links, WorkerState};
pub use worker_vm_manager::{Run, Runs, VmStats, WorkerVmManager};
