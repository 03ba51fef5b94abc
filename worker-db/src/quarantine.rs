//! Tenants that are paused because their code was running when their worker died, too often.

use jiff::Timestamp;
use worker_core::TenantId;

use crate::connection::{args, statements, tenant_columns, tenant_of};
use crate::kv::from_micros;
use crate::{DbError, WorkerDb};

/// A tenant that is paused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// Who.
    pub tenant: TenantId,
    /// Why, as JSON; what is in it is for whoever wrote it.
    pub evidence_json: String,
    /// Since when.
    pub created_at: Timestamp,
}

statements! {
    QUARANTINE_PUT = "INSERT INTO quarantine (tenant_kind, tenant_id, evidence, created_at) VALUES ($1, $2, $3, $4)
        ON CONFLICT (tenant_kind, tenant_id) DO UPDATE SET evidence = excluded.evidence, created_at = excluded.created_at";
    QUARANTINE_LIST = "SELECT tenant_kind, tenant_id, evidence, created_at FROM quarantine
        ORDER BY tenant_kind, tenant_id";
    QUARANTINE_DELETE = "DELETE FROM quarantine WHERE tenant_kind = $1 AND tenant_id = $2";
}

impl WorkerDb {
    /// Notes that the tenant is paused, and why.
    pub async fn quarantine_put(&self, tenant: TenantId, evidence_json: &str) -> Result<(), DbError> {
        let (kind, id) = tenant_columns(tenant);
        let mut tx = self.pools().begin().await?;
        tx.execute(&QUARANTINE_PUT, &args![kind, id, evidence_json, self.now().as_microsecond()]).await?;
        self.commit(tx, Vec::new()).await
    }

    /// All who are paused.
    pub async fn quarantine_list(&self) -> Result<Vec<Quarantined>, DbError> {
        type QuarantineRow = (i64, i64, String, i64);
        let rows: Vec<QuarantineRow> = self.pools().fetch_all(&QUARANTINE_LIST, &args![]).await?;
        let all = rows.into_iter().filter_map(|(kind, id, evidence_json, created_at)| {
            let tenant = tenant_of((kind, id))?;
            Some(from_micros("quarantine", created_at).map(|created_at| Quarantined {
                tenant,
                evidence_json,
                created_at,
            }))
        });
        all.collect()
    }

    /// Notes that the tenant may run again. Tells whether it was paused.
    pub async fn quarantine_release(&self, tenant: TenantId) -> Result<bool, DbError> {
        let (kind, id) = tenant_columns(tenant);
        let mut tx = self.pools().begin().await?;
        let released = tx.execute(&QUARANTINE_DELETE, &args![kind, id]).await?;
        self.commit(tx, Vec::new()).await?;
        Ok(released > 0)
    }
}
