//! `ctx.Discord` (template API, section 5): the list of its methods, and what records their calls while templates are
//! tested. There is no other yet: without a harness, `ctx.Discord` is unavailable.

mod methods;
mod recorder;

pub use recorder::{Answer, Recorded, Recorder};

pub(crate) use recorder::DiscordRecorder;
