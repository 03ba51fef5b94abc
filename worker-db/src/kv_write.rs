//! Writing records. Every write first takes the tenant's lock, so that what it then reads stays true until it commits.

use jiff::Timestamp;
use rand::distr::{Alphanumeric, SampleString};
use worker_core::TenantId;

use crate::connection::{Tx, args, statements};
use crate::kv::{from_micros, scopes_from_json};
use crate::kv_read::{matched_records, matches};
use crate::pattern::fold;
use crate::scopes::check_name;
use crate::worker_db::Usage;
use crate::{Change, DbError, KvCasResult, KvSet, KvSetResult, Scopes, WorkerDb};

statements! {
    KV_EXACT = "SELECT id, version, value_bytes, expires_at FROM kv_records
        WHERE tenant_kind = $1 AND tenant_id = $2 AND key = $3 AND scopes_hash = $4";
    KV_BY_ID = "SELECT id, version, value_bytes, expires_at FROM kv_records
        WHERE tenant_kind = $1 AND tenant_id = $2 AND id = $3";
    KV_VALUE = "SELECT value FROM kv_records WHERE tenant_kind = $1 AND tenant_id = $2 AND id = $3";
    /// The exact record, if any, comes first; two rows without it are ambiguous.
    KV_TARGET = concat!("SELECT r.id, r.scopes_hash = $7 FROM ", matched_records!(), "
        WHERE ", matches!(), " AND s.key = $6 ORDER BY r.scopes_hash = $7 DESC, r.id LIMIT 2");
    KV_INSERT = "INSERT INTO kv_records (tenant_kind, tenant_id, id, key, scopes_hash, version, fixed_bytes, value_bytes,
            created_at, last_updated_at, expires_at, due_at, resume, scopes, value)
        VALUES ($1, $2, $3, $4, $5, 1, $6, $7, $8, $8, $9, $9, $10, $11, $12)";
    KV_INSERT_SCOPES = "INSERT INTO kv_scopes (tenant_kind, tenant_id, scope, key, id, key_folded)
        SELECT $1, $2, value, $3, $4, $5 FROM json_array_elements_text($6::json)";
    /// Whoever handles an expiry has lost the record, even if the new one is the same.
    KV_UPDATE = "UPDATE kv_records SET version = version + 1, value_bytes = $4, last_updated_at = $5, expires_at = $6,
            due_at = $6, lease_owner = NULL, fence = fence + 1, attempts = 0, resume = $7, value = $8
        WHERE tenant_kind = $1 AND tenant_id = $2 AND id = $3";
    KV_UPDATE_VALUE = "UPDATE kv_records SET version = version + 1, value_bytes = $4, last_updated_at = $5, value = $6
        WHERE tenant_kind = $1 AND tenant_id = $2 AND id = $3";
    KV_SET_EXPIRY = "UPDATE kv_records SET expires_at = $4, due_at = $4, lease_owner = NULL, fence = fence + 1,
            attempts = 0
        WHERE tenant_kind = $1 AND tenant_id = $2 AND id = $3";
    KV_DELETE = "DELETE FROM kv_records WHERE tenant_kind = $1 AND tenant_id = $2 AND id = $3
        RETURNING key, scopes, fixed_bytes + value_bytes, expires_at";
    KV_DELETE_SCOPES = "DELETE FROM kv_scopes WHERE tenant_kind = $1 AND tenant_id = $2 AND key = $3 AND id = $4
        AND scope = ANY(ARRAY(SELECT json_array_elements_text($5::json)))";
    /// For a damaged record: slower, as it looks at all scopes of the tenant.
    KV_DELETE_ANY_SCOPES = "DELETE FROM kv_scopes WHERE tenant_kind = $1 AND tenant_id = $2 AND key = $3 AND id = $4";
}

/// What a write must know of the record that it changes.
struct Existing {
    id: String,
    version: i64,
    value_bytes: i64,
    expires_at: Option<i64>,
}

type ExistingRow = (String, i64, i64, Option<i64>);

impl From<ExistingRow> for Existing {
    fn from((id, version, value_bytes, expires_at): ExistingRow) -> Self {
        Self { id, version, value_bytes, expires_at }
    }
}

/// What a write of a value sets.
struct Written<'a> {
    value_json: &'a str,
    rest: Rest,
}

/// What a write of a value does to the rest of the record.
#[derive(Clone, Copy)]
enum Rest {
    /// It stays; a new record has neither expiry nor `resume`.
    Keep,
    /// It is written too.
    Set { expires_at: Option<i64>, resume: bool },
}

impl Rest {
    fn of_new(self) -> (Option<i64>, bool) {
        match self {
            Self::Keep => (None, false),
            Self::Set { expires_at, resume } => (expires_at, resume),
        }
    }
}

impl WorkerDb {
    /// Characters of a record's id: 380 random bits, nobody guesses one.
    const ID_CHARS: usize = 64;

    /// Writes the record with exactly these scopes.
    pub async fn kv_set(&self, tenant: TenantId, set: KvSet) -> Result<KvSetResult, DbError> {
        let written = self.check(&set)?;
        let (mut tx, usage) = self.begin_for(tenant).await?;
        let existing = exact(&mut tx, tenant, &set.key, &set.scopes).await?;
        self.put(tx, usage, tenant, existing, &set.key, &set.scopes, written).await
    }

    /// Writes the record with exactly these scopes if its version is `expected_version`; 0 is "there is none".
    pub async fn kv_cas(&self, tenant: TenantId, set: KvSet, expected_version: u64) -> Result<KvCasResult, DbError> {
        let written = self.check(&set)?;
        let (mut tx, usage) = self.begin_for(tenant).await?;
        let existing = exact(&mut tx, tenant, &set.key, &set.scopes).await?;
        let version = existing.as_ref().map_or(0, |existing| existing.version.cast_unsigned());
        let exists = existing.is_some();
        if version != expected_version {
            return Ok(KvCasResult { ok: false, exists, id: existing.map(|existing| existing.id), version });
        }
        let done = self.put(tx, usage, tenant, existing, &set.key, &set.scopes, written).await?;
        Ok(KvCasResult { ok: true, exists, id: Some(done.id), version: done.version })
    }

    /// Adds `by` to the record with exactly these scopes and gives the sum; no record counts as 0. Expiry and resume stay.
    ///
    /// A whole sum within ±(2^53 − 1) is stored as an integer.
    pub async fn kv_incr(&self, tenant: TenantId, key: &str, scopes: &Scopes, by: f64) -> Result<f64, DbError> {
        self.check_key(key)?;
        let (mut tx, usage) = self.begin_for(tenant).await?;
        let existing = exact(&mut tx, tenant, key, scopes).await?;
        let mut value = 0.0;
        if let Some(existing) = &existing {
            let held: Option<(String,)> = tx.fetch_optional(&KV_VALUE, &args![tenant; &existing.id]).await?;
            let (json,) = held.unwrap_or_default();
            value = serde_json::from_str(&json).map_err(|_| DbError::invalid("value", "is not a number"))?;
        }
        let sum: f64 = value + by;
        if !sum.is_finite() {
            return Err(DbError::invalid("by", "makes a sum that is not finite"));
        }
        let value_json = number_json(sum);
        let written = Written { value_json: &value_json, rest: Rest::Keep };
        self.put(tx, usage, tenant, existing, key, scopes, written).await?;
        Ok(sum)
    }

    /// Sets or clears the expiry of the record with exactly these scopes, else of the only one that has these and more.
    /// Says whether there was one.
    pub async fn kv_set_expiry(
        &self,
        tenant: TenantId,
        key: &str,
        scopes: &Scopes,
        expires_at: Option<Timestamp>,
    ) -> Result<bool, DbError> {
        let expires_at = self.check_expiry(expires_at)?;
        let (mut tx, _) = self.begin_for(tenant).await?;
        match target(&mut tx, tenant, key, scopes).await? {
            Some(id) => self.put_expiry(tx, tenant, &id, expires_at).await,
            None => Ok(false),
        }
    }

    /// Deletes the record with exactly these scopes, else the only one that has these and more. Says whether there was one.
    pub async fn kv_delete(&self, tenant: TenantId, key: &str, scopes: &Scopes) -> Result<bool, DbError> {
        let (mut tx, usage) = self.begin_for(tenant).await?;
        match target(&mut tx, tenant, key, scopes).await? {
            Some(id) => self.remove(tx, usage, tenant, &id).await,
            None => Ok(false),
        }
    }

    /// Writes the record of this id, which must exist.
    pub async fn kv_set_by_id(
        &self,
        tenant: TenantId,
        id: &str,
        value_json: &str,
        expires_at: Option<Timestamp>,
        resume: bool,
    ) -> Result<KvSetResult, DbError> {
        let written = self.check_written(value_json, expires_at, resume)?;
        let (mut tx, usage) = self.begin_for(tenant).await?;
        let existing = by_id(&mut tx, tenant, id).await?.ok_or_else(|| DbError::NotFound(format!("record `{id}`")))?;
        let (before, rest) = (existing.expires_at, written.rest);
        let done = self.overwrite(&mut tx, usage, tenant, existing, written).await?;
        self.commit(tx, rest_change(tenant, &done.id, before, rest)).await?;
        Ok(done)
    }

    /// Sets or clears the expiry of the record of this id. Says whether there was one.
    pub async fn kv_set_expiry_by_id(
        &self,
        tenant: TenantId,
        id: &str,
        expires_at: Option<Timestamp>,
    ) -> Result<bool, DbError> {
        let expires_at = self.check_expiry(expires_at)?;
        let (tx, _) = self.begin_for(tenant).await?;
        self.put_expiry(tx, tenant, id, expires_at).await
    }

    /// Deletes the record of this id. Says whether there was one.
    pub async fn kv_delete_by_id(&self, tenant: TenantId, id: &str) -> Result<bool, DbError> {
        let (tx, usage) = self.begin_for(tenant).await?;
        self.remove(tx, usage, tenant, id).await
    }

    fn check<'a>(&self, set: &'a KvSet) -> Result<Written<'a>, DbError> {
        self.check_key(&set.key)?;
        self.check_written(&set.value_json, set.expires_at, set.resume)
    }

    fn check_key(&self, key: &str) -> Result<(), DbError> {
        check_name("key", key, self.kv_limits().key_bytes_max)
    }

    fn check_written<'a>(
        &self,
        value_json: &'a str,
        expires_at: Option<Timestamp>,
        resume: bool,
    ) -> Result<Written<'a>, DbError> {
        let value_bytes_max = self.kv_limits().value_bytes_max;
        if value_json.len() > value_bytes_max {
            return Err(DbError::too_large(
                format!("value of {} bytes of JSON", value_json.len()),
                value_bytes_max as u64,
            ));
        }
        Ok(Written { value_json, rest: Rest::Set { expires_at: self.check_expiry(expires_at)?, resume } })
    }

    /// The expiry as it is stored: rounded up, so that nothing fires early.
    fn check_expiry(&self, expires_at: Option<Timestamp>) -> Result<Option<i64>, DbError> {
        let Some(at) = expires_at else { return Ok(None) };
        if at <= self.now() {
            return Err(DbError::invalid("expires_at", "is not in the future"));
        }
        let truncated = at.as_microsecond();
        let whole = at.subsec_nanosecond() % 1_000 == 0;
        let rounded_up = if whole { truncated } else { truncated + 1 };
        // The last whole second is as late as jiff reads a time from microseconds.
        Ok(Some(rounded_up.min(Timestamp::MAX.as_second() * 1_000_000)))
    }

    /// Writes over the record, or makes it; commits and announces.
    #[expect(clippy::too_many_arguments, reason = "the one place where a call's parts come together")]
    async fn put(
        &self,
        mut tx: Tx,
        usage: Usage,
        tenant: TenantId,
        existing: Option<Existing>,
        key: &str,
        scopes: &Scopes,
        written: Written<'_>,
    ) -> Result<KvSetResult, DbError> {
        let (before, rest) = (existing.as_ref().and_then(|existing| existing.expires_at), written.rest);
        let done = match existing {
            Some(existing) => self.overwrite(&mut tx, usage, tenant, existing, written).await?,
            None => self.insert(&mut tx, usage, tenant, key, scopes, written).await?,
        };
        self.commit(tx, rest_change(tenant, &done.id, before, rest)).await?;
        Ok(done)
    }

    async fn overwrite(
        &self,
        tx: &mut Tx,
        usage: Usage,
        tenant: TenantId,
        existing: Existing,
        written: Written<'_>,
    ) -> Result<KvSetResult, DbError> {
        let value_bytes = written.value_json.len() as i64;
        self.use_up(tx, tenant, usage, 0, value_bytes - existing.value_bytes).await?;
        let now = self.now().as_microsecond();
        match written.rest {
            Rest::Keep => {
                let args = args![tenant; &existing.id, value_bytes, now, written.value_json];
                tx.execute(&KV_UPDATE_VALUE, &args).await?;
            }
            Rest::Set { expires_at, resume } => {
                let args = args![tenant; &existing.id, value_bytes, now, expires_at, resume, written.value_json];
                tx.execute(&KV_UPDATE, &args).await?;
            }
        }
        Ok(KvSetResult { existed: true, id: existing.id, version: existing.version.cast_unsigned() + 1 })
    }

    async fn insert(
        &self,
        tx: &mut Tx,
        usage: Usage,
        tenant: TenantId,
        key: &str,
        scopes: &Scopes,
        written: Written<'_>,
    ) -> Result<KvSetResult, DbError> {
        let fixed_bytes = (key.len() + scopes.bytes()) as i64;
        let value_bytes = written.value_json.len() as i64;
        self.use_up(tx, tenant, usage, 1, fixed_bytes + value_bytes).await?;
        let id = Alphanumeric.sample_string(&mut rand::rng(), Self::ID_CHARS);
        let now = self.now().as_microsecond();
        let (expires_at, resume) = written.rest.of_new();
        let args = args![
            tenant; &id, key, scopes.hash(), fixed_bytes, value_bytes, now, expires_at, resume, scopes.json(),
            written.value_json
        ];
        tx.execute(&KV_INSERT, &args).await?;
        tx.execute(&KV_INSERT_SCOPES, &args![tenant; key, &id, &fold(key), scopes.json()]).await?;
        Ok(KvSetResult { existed: false, id, version: 1 })
    }

    async fn put_expiry(
        &self,
        mut tx: Tx,
        tenant: TenantId,
        id: &str,
        expires_at: Option<i64>,
    ) -> Result<bool, DbError> {
        let Some(existing) = by_id(&mut tx, tenant, id).await? else { return Ok(false) };
        tx.execute(&KV_SET_EXPIRY, &args![tenant; id, expires_at]).await?;
        self.commit(tx, expiry_change(tenant, id, (existing.expires_at, expires_at))).await?;
        Ok(true)
    }

    async fn remove(&self, mut tx: Tx, usage: Usage, tenant: TenantId, id: &str) -> Result<bool, DbError> {
        let deleted: Option<(String, String, i64, Option<i64>)> =
            tx.fetch_optional(&KV_DELETE, &args![tenant; id]).await?;
        let Some((key, scopes, bytes, expires_at)) = deleted else { return Ok(false) };
        match scopes_from_json(id, &scopes) {
            Ok(_) => tx.execute(&KV_DELETE_SCOPES, &args![tenant; &key, id, &scopes]).await?,
            Err(_) => tx.execute(&KV_DELETE_ANY_SCOPES, &args![tenant; &key, id]).await?,
        };
        self.use_up(&mut tx, tenant, usage, -1, -bytes).await?;
        self.commit(tx, expiry_change(tenant, id, (expires_at, None))).await?;
        Ok(true)
    }
}

fn rest_change(tenant: TenantId, id: &str, before: Option<i64>, rest: Rest) -> Vec<Change> {
    match rest {
        Rest::Keep => Vec::new(),
        Rest::Set { expires_at, .. } => expiry_change(tenant, id, (before, expires_at)),
    }
}

/// What others must hear of a record's expiry: nothing if it is what it was.
fn expiry_change(tenant: TenantId, id: &str, (before, now): (Option<i64>, Option<i64>)) -> Vec<Change> {
    if before == now {
        return Vec::new();
    }
    // It was checked on its way in.
    let expires_at = now.and_then(|micros| from_micros(id, micros).ok());
    vec![Change::Expiry { tenant, id: id.into(), expires_at }]
}

async fn exact(tx: &mut Tx, tenant: TenantId, key: &str, scopes: &Scopes) -> Result<Option<Existing>, DbError> {
    let row: Option<ExistingRow> = tx.fetch_optional(&KV_EXACT, &args![tenant; key, scopes.hash()]).await?;
    Ok(row.map(Into::into))
}

async fn by_id(tx: &mut Tx, tenant: TenantId, id: &str) -> Result<Option<Existing>, DbError> {
    let row: Option<ExistingRow> = tx.fetch_optional(&KV_BY_ID, &args![tenant; id]).await?;
    Ok(row.map(Into::into))
}

/// The one record that `delete` and `setexpiry` mean.
async fn target(tx: &mut Tx, tenant: TenantId, key: &str, scopes: &Scopes) -> Result<Option<String>, DbError> {
    let args = args![tenant; scopes.first(), scopes.json(), scopes.count(), key, scopes.hash()];
    let mut rows: Vec<(String, bool)> = tx.fetch_all(&KV_TARGET, &args).await?;
    match rows.as_slice() {
        [] => Ok(None),
        [(_, exact), ..] if *exact || rows.len() == 1 => Ok(Some(rows.swap_remove(0).0)),
        _ => Err(DbError::Ambiguous { key: key.into() }),
    }
}

/// A number as [`Value`](worker_core::Value) stores it.
fn number_json(number: f64) -> String {
    /// 2^53 − 1: up to here each whole `f64` is one integer.
    const WHOLE_MAX: f64 = 9_007_199_254_740_991.0;
    if number.fract() == 0.0 && number.abs() <= WHOLE_MAX {
        (number as i64).to_string()
    } else {
        serde_json::Value::from(number).to_string()
    }
}
