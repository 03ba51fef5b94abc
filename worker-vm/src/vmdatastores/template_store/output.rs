//! `Template` as scripts get it.

use std::ffi::c_int;
use std::sync::Arc;

use worker_core::TemplateFiles;
use worker_db::TemplateRow;

use crate::luau::class::Object;
use crate::luau::lua_State;
use crate::luau::stack::{List, Push, PushBox, Record, field};
use crate::modules::datetime::DateTime;
use crate::modules::lazy::Lazy;
use crate::runtime::held::Held;

/// A row with its files, whose bytes are counted.
pub(super) struct Template {
    pub(super) row: TemplateRow,
    /// `$builtins` has none of its own.
    pub(super) files: Option<Arc<TemplateFiles>>,
    pub(super) held: Held,
}

impl Push for Template {
    fn push(self, l: *mut lua_State) -> c_int {
        let Self { row, files, held } = self;
        let content = match files {
            Some(files) => Lazy::files(files, held),
            None => Lazy::new(worker_core::Value::Map(Default::default())),
        };
        let texts = |texts: Vec<String>| Box::new(List(texts)) as Box<dyn PushBox>;
        Record([
            field(c"name", row.name.to_string()),
            (c"events", texts(row.events.iter().map(ToString::to_string).collect())),
            field(c"error_channel", row.error_channel.map(|channel| channel.to_string())),
            field(c"content", content),
            field(c"language", "luau"),
            (c"allowed_caps", texts(row.allowed_caps.iter().map(str::to_owned).collect())),
            field(c"created_at", Object(DateTime::utc(row.created_at))),
            field(c"updated_at", Object(DateTime::utc(row.updated_at))),
            field(c"paused", row.paused),
        ])
        .push(l)
    }
}
