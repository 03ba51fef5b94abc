//! Very many records with an expiry, for measurements.

use std::ops::Range;

use jiff::{SignedDuration, Timestamp};
use rand::distr::{Alphanumeric, SampleString};
use worker_core::TenantId;

use crate::connection::{Sql, args, statements};
use crate::worker_db::USAGE_ADD;
use crate::{DbError, Scopes, WorkerDb};

statements! {
    /// `$9` are ids, each with the record's number behind it, which is also the key. `$6` is when number 0 expires, `$7` how
    /// much later the next one does.
    FILL_RECORDS = "INSERT INTO kv_records (tenant_kind, tenant_id, id, key, scopes_hash, version, fixed_bytes, value_bytes,
            created_at, last_updated_at, expires_at, due_at, resume, scopes, value)
        SELECT CAST($1 AS BIGINT), CAST($2 AS BIGINT), SUBSTR(value, 1, 64), SUBSTR(value, 65), $3, 1,
            $4 + LENGTH(SUBSTR(value, 65)), 1, $5, $5,
            $6 + $7 * CAST(SUBSTR(value, 65) AS BIGINT), $6 + $7 * CAST(SUBSTR(value, 65) AS BIGINT), FALSE, $8, '1'
        FROM json_array_elements_text($9::json)";
    FILL_SCOPES = "INSERT INTO kv_scopes (tenant_kind, tenant_id, scope, key, id, key_folded)
        SELECT CAST($1 AS BIGINT), CAST($2 AS BIGINT), CAST($3 AS TEXT), SUBSTR(value, 65), SUBSTR(value, 1, 64),
            SUBSTR(value, 65)
        FROM json_array_elements_text($4::json)";
}

impl WorkerDb {
    /// Writes records of the tenant by the thousand in one transaction, whatever its quota, and tells nobody: to measure
    /// with. Their keys are these numbers, their value is `1`; number 0 expires at `first`, and each one a `step`
    /// after the one before it.
    pub async fn expiry_fill(
        &self,
        tenant: TenantId,
        scopes: &Scopes,
        numbers: Range<usize>,
        first: Timestamp,
        step: SignedDuration,
    ) -> Result<(), DbError> {
        let ids: Vec<_> = {
            let mut random = rand::rng();
            numbers.map(|number| format!("{}{number}", Alphanumeric.sample_string(&mut random, 64))).collect()
        };
        let key_bytes: usize = ids.iter().map(|id| id.len() - 64).sum();
        let bytes = key_bytes + ids.len() * (scopes.bytes() + 1);
        let list = serde_json::to_string(&ids).expect("because a list of texts has a JSON form");
        let (first, step) = (first.as_microsecond(), i64::try_from(step.as_micros()).unwrap_or(i64::MAX));
        let now = self.now().as_microsecond();
        let (mut tx, _) = self.begin_for(tenant).await?;
        let fixed_bytes = scopes.bytes() as i64;
        let args = args![tenant; scopes.hash(), fixed_bytes, now, first, step, scopes.json(), &list];
        tx.execute(&FILL_RECORDS, &args).await?;
        tx.execute(&FILL_SCOPES, &args![tenant; scopes.first(), &list]).await?;
        tx.execute(&USAGE_ADD, &args![tenant; ids.len() as i64, bytes as i64]).await?;
        self.commit(tx, Vec::new()).await
    }

    /// Has the database look at what it holds, as it does by itself from time to time: after very much was written.
    pub async fn analyze(&self) -> Result<(), DbError> {
        static ANALYZE: Sql = Sql::new("ANALYZE", "ANALYZE");
        let mut tx = self.pools().begin().await?;
        tx.execute(&ANALYZE, &[]).await?;
        self.commit(tx, Vec::new()).await
    }
}
