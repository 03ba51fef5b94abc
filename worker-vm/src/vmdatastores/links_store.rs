//! `LinksStore`: where people find help, and which events there are.

use worker_core::EventName;

use super::{Store, admit};
use crate::error::ApiError;
use crate::luau::native::{Call, push_closure};
use crate::luau::stack::{List, Record, field};

pub(super) const STORE: Store = Store {
    name: c"LinksStore",
    needs_caps: false,
    methods: &[
        (c"links", |l, name| push_closure(l, name, 1, links)),
        (c"event_list", |l, name| push_closure(l, name, 1, event_list)),
    ],
};

fn links(call: &Call) -> Result<Record<4>, ApiError> {
    admit(call, "links")?;
    let links = call.vm().surroundings.state.links();
    Ok(Record([
        field(c"support_server", links.support_server.clone()),
        field(c"api_url", links.api_url.clone()),
        field(c"frontend_url", links.frontend_url.clone()),
        field(c"docs_url", links.docs_url.clone()),
    ]))
}

fn event_list(call: &Call) -> Result<List<&'static str>, ApiError> {
    admit(call, "event_list")?;
    Ok(List(EventName::DISCORD.iter().chain(EventName::ANTIRAID).copied().collect()))
}
