//! Tells templates of events that never come, because the bot has not asked Discord for them.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use tokio::sync::broadcast::error::RecvError;
use tokio::task::spawn_local;
use worker_core::{EventName, TemplateName, TenantId, WorkerFilter};
use worker_db::{Change, WorkerCacheData, WorkerDb};
use worker_dispatch::WorkerDispatcher;

use crate::cli::chain;
use crate::gateway::Intents;

/// What was told is remembered, so that it is told once; beyond so many all is forgotten.
const TOLD_MAX: usize = 10_000;

/// Looks at templates when they change. What was installed when the program started is what the intents were made of.
#[derive(Clone)]
pub(crate) struct UnheardEvents(Rc<Inner>);

struct Inner {
    intents: Intents,
    cache: WorkerCacheData,
    filter: WorkerFilter,
    dispatcher: WorkerDispatcher,
    told: RefCell<BTreeSet<(TenantId, TemplateName, String)>>,
}

impl UnheardEvents {
    /// Watches the templates of the filter's tenants, on this thread, for as long as it runs.
    pub(crate) fn watch(
        intents: Intents,
        db: &WorkerDb,
        cache: WorkerCacheData,
        filter: WorkerFilter,
        dispatcher: WorkerDispatcher,
    ) -> Self {
        let this = Self(Rc::new(Inner { intents, cache, filter, dispatcher, told: RefCell::default() }));
        let (watching, mut changes) = (this.clone(), db.changes());
        // Detached: the runtime ends it with the worker.
        spawn_local(async move {
            loop {
                match changes.recv().await {
                    Ok(Change::Templates { tenant }) if watching.0.filter.owns(tenant) => watching.tell(tenant).await,
                    // What was missed is told at the next change.
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                }
            }
        });
        this
    }

    /// Looks at the templates of a tenant that were changed by another process.
    pub(crate) fn look_at(&self, tenant: TenantId) {
        let this = self.clone();
        spawn_local(async move { this.tell(tenant).await });
    }

    async fn tell(&self, tenant: TenantId) {
        let Inner { intents, cache, dispatcher, told, .. } = &*self.0;
        let templates = match cache.load(tenant).await {
            Ok(templates) => templates,
            Err(error) => {
                tracing::debug!(%tenant, "templates were not looked at: {}", chain(&error));
                return;
            }
        };
        for template in templates.templates() {
            for event in &*template.events {
                let event = event.split_once('[').map_or(&**event, |(name, _)| name);
                let missing = Intents::of_event(event).without(*intents);
                let about = (tenant, template.name.clone(), event.to_owned());
                if missing.is_none() || told.borrow().contains(&about) {
                    continue;
                }
                let text = format!(
                    "template `{}` subscribes to {event}, which Discord does not send this bot, or not whole: the intent \
                     {missing} was not asked for when the bot was started. Who runs the bot can start it again, with the \
                     intent turned on",
                    template.name
                );
                tracing::warn!(%tenant, template = %template.name, "{text}");
                dispatcher.report(tenant, &EventName::new(event), &text);
                let mut told = told.borrow_mut();
                if told.len() >= TOLD_MAX {
                    told.clear();
                }
                told.insert(about);
            }
        }
    }
}
