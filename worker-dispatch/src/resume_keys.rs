//! `KeyResume`: sent once for each record with `resume` when a tenant's templates are loaded, spread out in time.

use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use worker_core::{Event, EventName, TenantId, WorkerLike};

use crate::WorkerDispatcher;

/// Between two events of one tenant.
const PACE: Duration = Duration::from_millis(50);

/// Between two tenants when a worker starts.
const TENANT_PACE: Duration = Duration::from_millis(5);

#[derive(Serialize)]
struct KeyResume<'a> {
    id: &'a str,
    key: &'a str,
    scopes: &'a [String],
}

impl WorkerDispatcher {
    /// Loads the tenants of this worker that have records to resume, so that each gets its `KeyResume` events. To be
    /// called once, when the worker starts.
    pub fn resume_keys(&self) {
        let this = self.clone();
        tokio::task::spawn_local(async move {
            let tenants = match this.db().tenants_with_resume().await {
                Ok(tenants) => tenants,
                Err(error) => {
                    tracing::error!(worker = %this.id(), "records to resume cannot be listed: {error}");
                    return;
                }
            };
            for tenant in tenants.into_iter().filter(|tenant| this.filter().owns(*tenant)) {
                this.ensure_loaded(tenant);
                tokio::time::sleep(TENANT_PACE).await;
            }
        });
    }

    /// Sends the tenant's `KeyResume` events, in the order in which the records were made.
    pub(crate) fn send_key_resumes(&self, tenant: TenantId) {
        let this = self.clone();
        tokio::task::spawn_local(async move {
            let records = match this.db().resume_records(tenant).await {
                Ok(records) => records,
                Err(error) => {
                    tracing::error!(%tenant, "records to resume cannot be read: {error}");
                    return;
                }
            };
            for record in records {
                let data = KeyResume { id: &record.id, key: &record.key, scopes: &record.scopes };
                match serde_json::to_vec(&data) {
                    Ok(data) => {
                        let event = Event::antiraid(EventName::KEY_RESUME, Bytes::from(data));
                        this.dispatch_nowait(tenant, event.with_scopes(record.scopes.iter().map(String::as_str)));
                    }
                    Err(error) => tracing::error!(%tenant, "a record to resume cannot be sent: {error}"),
                }
                tokio::time::sleep(PACE).await;
            }
        });
    }
}
