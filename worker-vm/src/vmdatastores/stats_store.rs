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

/// Of a worker without a bot, guilds are the tenants that it has loaded, and users are 0, as the reference allows.
fn stats(call: &Call) -> Result<impl Future<Output = Result<Record<4>, ApiError>> + use<>, ApiError> {
    admit(call, "stats")?;
    let surroundings = &call.vm().surroundings;
    let figures = surroundings.state.discord().map(|discord| discord.guild_states().figures());
    let guilds = figures.map_or(surroundings.cache.len() as f64, |figures| figures.guilds as f64);
    let users = figures.map_or(0.0, |figures| figures.users as f64);
    let started_at = surroundings.state.started_at();
    Ok(async move {
        Ok(Record([
            field(c"total_cached_guilds", guilds),
            field(c"total_guilds", guilds),
            field(c"total_users", users),
            field(c"last_started_at", Object(DateTime::utc(started_at))),
        ]))
    })
}
