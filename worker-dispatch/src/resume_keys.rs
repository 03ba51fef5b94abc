//! `KeyResume`: sent once for each record with `resume` when a tenant's templates are loaded, spread out in time.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use worker_core::{Event, EventName, ReplyTo, TenantId};
use worker_db::{Lookup, ResumeRecord};

use crate::worker_dispatcher::{Inner, State};

/// Between two events of one tenant.
const TENANT_PACE: Duration = Duration::from_millis(50);

/// Between two events of one worker.
const WORKER_PACE: Duration = Duration::from_millis(2);

/// Before the next try when the tenant's templates are not loaded.
const UNLOADED_WAIT: Duration = Duration::from_secs(1);

#[derive(Serialize)]
struct KeyResume<'a> {
    id: &'a str,
    key: &'a str,
    scopes: &'a [String],
}

impl Inner {
    /// Loads all tenants of this worker that have records to resume. Those that it knows already are left alone.
    pub(crate) fn load_resumable(self: &Rc<Self>) {
        let this = self.clone();
        tokio::task::spawn_local(async move {
            let ask = async || this.db.tenants_with_resume().await;
            if let Some(tenants) = this.ask("the tenants with records to resume cannot be read", ask).await {
                this.load_later(tenants.into_iter().filter(|tenant| this.owns(*tenant)));
            }
        });
    }

    /// Sends the tenant's `KeyResume` events, in the order in which the records were made, for as long as its templates
    /// are those of this load.
    pub(crate) fn send_key_resumes(self: &Rc<Self>, tenant: TenantId, serial: u64) {
        let this = self.clone();
        tokio::task::spawn_local(async move {
            let ask = async || this.db.resume_records(tenant).await;
            let records = this.ask("records to resume cannot be read", ask).await.unwrap_or_default();
            for record in records {
                let Some(event) = event(&record) else { continue };
                if !this.send_key_resume(tenant, serial, event).await {
                    return;
                }
            }
        });
    }

    /// Sends one when it is time and there is room for it. Whether to go on.
    async fn send_key_resume(self: &Rc<Self>, tenant: TenantId, serial: u64, event: Event) -> bool {
        let mut is_time = false;
        loop {
            let is_current = self.loads.borrow().get(&tenant).is_some_and(|load| load.serial == serial);
            if !is_current || self.state.get() != State::Open {
                return false;
            }
            match self.cache.lookup(tenant, &event) {
                Lookup::Nobody => return true,
                Lookup::NotLoaded => {
                    self.ensure_loaded(tenant);
                    self.vms.clock().rest(UNLOADED_WAIT).await;
                }
                Lookup::Subscribers(_) if !is_time => {
                    let time = self.next_resume.get().max(self.vms.clock().moment());
                    self.next_resume.set(time + WORKER_PACE);
                    self.vms.clock().rest_until(time).await;
                    is_time = true;
                }
                Lookup::Subscribers(_) if self.queues.borrow().has_room(tenant) => {
                    self.take_in(tenant, event, ReplyTo::nobody());
                    self.vms.clock().rest(TENANT_PACE).await;
                    return true;
                }
                Lookup::Subscribers(_) => self.vms.clock().rest(TENANT_PACE).await,
            }
        }
    }
}

fn event(record: &ResumeRecord) -> Option<Event> {
    let data = KeyResume { id: &record.id, key: &record.key, scopes: &record.scopes };
    // Three strings always have a JSON form.
    let data = serde_json::to_vec(&data).ok()?;
    let event = Event::antiraid(EventName::KEY_RESUME, Bytes::from(data));
    Some(event.with_scopes(record.scopes.iter().map(String::as_str)))
}
