//! `StatsStore`: figures of the bot.

use super::{Store, admit};
use crate::error::ApiError;
use crate::luau::class::Object;
use crate::luau::native::{Call, push_yielding_closure};
use crate::luau::stack::{Record, field};
use crate::modules::datetime::DateTime;

pub(super) const STORE: Store = Store {
    name: c"StatsStore",
    needs_caps: false,
    methods: &[(c"stats", |l, name| push_yielding_closure(l, name, 1, stats))],
};

/// How many guilds and users the bot has is known to Discord alone, which this layer does not talk to yet: guilds are the
/// tenants that this worker has loaded, users are 0, as the reference allows.
fn stats(call: &Call) -> Result<impl Future<Output = Result<Record<4>, ApiError>> + use<>, ApiError> {
    admit(call, "stats")?;
    let surroundings = &call.vm().surroundings;
    let guilds = surroundings.cache.len() as f64;
    let started_at = surroundings.state.started_at();
    Ok(async move {
        Ok(Record([
            field(c"total_cached_guilds", guilds),
            field(c"total_guilds", guilds),
            field(c"total_users", 0.0),
            field(c"last_started_at", Object(DateTime::utc(started_at))),
        ]))
    })
}
