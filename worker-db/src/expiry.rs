//! Records that are due: who may handle them, and what becomes of them.
//!
//! A record with an expiry has a time at which somebody should look at it, `due_at`: first the expiry itself. Whoever
//! *claims* it moves that time to the end of a lease, so that it comes up again by itself if they vanish, and gives it a
//! *fence*, a random number, to which each write of the expiry adds one: what they then do to the record, they do only if
//! the fence is still theirs. So a record that was armed anew is never removed, and nobody acts on a lease that has passed to
//! another. Not even if the database server crashes and forgets the claim, which is therefore not waited for until it is on
//! the disk: the next fence is another one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use tracing::warn;
use worker_core::TenantId;

use crate::connection::{Tx, args, statements, tenant_columns, tenant_of};
use crate::kv::{from_micros, scopes_from_json};
use crate::pattern::fold;
use crate::worker_db::lock;
use crate::{Change, DbError, WorkerDb};

/// The columns that a record has alive and dead, but for its expiry's state.
macro_rules! kept_columns {
    () => {
        "tenant_kind, tenant_id, id, key, scopes_hash, version, fixed_bytes, value_bytes, created_at, last_updated_at,
            expires_at, resume, scopes, value"
    };
}

statements! {
    /// `$1` is the last time wanted, `$2` to `$5` the last row seen.
    EXPIRY_DUE = "SELECT due_at, tenant_kind, tenant_id, id FROM kv_records
        WHERE due_at IS NOT NULL AND due_at <= $1 AND (due_at, tenant_kind, tenant_id, id) > ($2, $3, $4, $5)
        ORDER BY due_at, tenant_kind, tenant_id, id LIMIT $6";
    /// Who comes second to a row leaves it to the first. The rows are locked once, before all else (as an array): how the
    /// database joins them is left to its statistics otherwise, which a new table has none of. `$3` are ids, `$4` is now, `$5` the end of the lease, `$7` the fence.
    EXPIRY_CLAIM = "UPDATE kv_records SET due_at = $5, lease_owner = $6, fence = $7, attempts = attempts + 1
        WHERE tenant_kind = $1 AND tenant_id = $2 AND id = ANY(ARRAY(
            SELECT id FROM kv_records WHERE tenant_kind = $1 AND tenant_id = $2
            AND id = ANY(ARRAY(SELECT json_array_elements_text($3::json))) AND due_at <= $4 FOR UPDATE SKIP LOCKED))
        RETURNING id, key, scopes, expires_at, attempts, fence";
    /// `$3` are ids, `$4` ids each with a fence.
    EXPIRY_DELETE = "DELETE FROM kv_records WHERE tenant_kind = $1 AND tenant_id = $2
        AND id = ANY(ARRAY(SELECT json_array_elements_text($3::json)))
        AND id || ' ' || fence = ANY(ARRAY(SELECT json_array_elements_text($4::json)))
        RETURNING id, key, scopes, fixed_bytes + value_bytes";
    /// Of many records: `$3` are scopes, `$4` keys, `$5` ids, which alone decide. (As an expression: three lists in one
    /// look-up would be as many look-ups as their product.)
    EXPIRY_DELETE_SCOPES = "DELETE FROM kv_scopes WHERE tenant_kind = $1 AND tenant_id = $2
        AND scope = ANY(ARRAY(SELECT json_array_elements_text($3::json)))
        AND key = ANY(ARRAY(SELECT json_array_elements_text($4::json)))
        AND id || '' = ANY(ARRAY(SELECT json_array_elements_text($5::json)))";
    EXPIRY_DELETE_ANY_SCOPES = "DELETE FROM kv_scopes WHERE tenant_kind = $1 AND tenant_id = $2 AND key = $3 AND id = $4";
    EXPIRY_USAGE = "UPDATE tenant_usage SET kv_rows = kv_rows - $3, kv_bytes = kv_bytes - $4
        WHERE tenant_kind = $1 AND tenant_id = $2";
    EXPIRY_PUT_OFF = "UPDATE kv_records SET due_at = $5, lease_owner = NULL, attempts = attempts - $6
        WHERE tenant_kind = $1 AND tenant_id = $2 AND id = $3 AND fence = $4 AND lease_owner IS NOT NULL";
    /// A row that is locked is being written: its lease ends, or is renewed the next time. Waiting for it could end in a
    /// deadlock with who holds it and wants another of these rows.
    EXPIRY_RENEW = "UPDATE kv_records SET due_at = $4 WHERE tenant_kind = $1 AND tenant_id = $2 AND id = ANY(ARRAY(
            SELECT id FROM kv_records WHERE tenant_kind = $1 AND tenant_id = $2
            AND id = ANY(ARRAY(SELECT json_array_elements_text($3::json))) AND lease_owner = $5 FOR UPDATE SKIP LOCKED))";
    EXPIRY_BURY = concat!("INSERT INTO kv_dead (", kept_columns!(), ", fence, attempts, died_at, error)
        SELECT ", kept_columns!(), ", fence, attempts, CAST($5 AS BIGINT), CAST($6 AS TEXT) FROM kv_records
        WHERE tenant_kind = $1 AND tenant_id = $2 AND id = $3 AND fence = $4");

    EXPIRY_OWNERS_GONE = "DELETE FROM expiry_owners WHERE process = $1 RETURNING session";
    EXPIRY_OWNER = "SELECT session FROM expiry_owners WHERE process = $1 AND worker = $2";
    EXPIRY_OWNER_PUT = "INSERT INTO expiry_owners (process, worker, session) VALUES ($1, $2, $3)
        ON CONFLICT (process, worker) DO UPDATE SET session = excluded.session";
    EXPIRY_RELEASE = "UPDATE kv_records SET due_at = $2, lease_owner = NULL WHERE lease_owner = $1";

    EXPIRY_LIST = "SELECT tenant_kind, tenant_id, id, key, scopes, expires_at, due_at, attempts,
            lease_owner IS NOT NULL FROM kv_records
        WHERE due_at IS NOT NULL AND (due_at, tenant_kind, tenant_id, id) > ($1, $2, $3, $4)
        ORDER BY due_at, tenant_kind, tenant_id, id LIMIT $5";
    EXPIRY_LIST_TENANT = "SELECT tenant_kind, tenant_id, id, key, scopes, expires_at, due_at, attempts,
            lease_owner IS NOT NULL FROM kv_records
        WHERE tenant_kind = $1 AND tenant_id = $2 AND due_at IS NOT NULL AND (due_at, id) > ($3, $4)
        ORDER BY due_at, id LIMIT $5";
    /// For a record that failed and waits for its next try.
    EXPIRY_RETRY = "UPDATE kv_records SET due_at = $4, attempts = 0 WHERE tenant_kind = $1 AND tenant_id = $2 AND id = $3
        AND lease_owner IS NULL AND expires_at <= $4 RETURNING due_at";

    DEAD_LIST = "SELECT tenant_kind, tenant_id, id, key, scopes, expires_at, attempts, died_at, error FROM kv_dead
        WHERE (tenant_kind, tenant_id, id) > ($1, $2, $3) ORDER BY tenant_kind, tenant_id, id LIMIT $4";
    DEAD_LIST_TENANT = "SELECT tenant_kind, tenant_id, id, key, scopes, expires_at, attempts, died_at, error FROM kv_dead
        WHERE tenant_kind = $1 AND tenant_id = $2 AND id > $3 ORDER BY id LIMIT $4";
    DEAD_GET = "SELECT key, scopes FROM kv_dead WHERE tenant_kind = $1 AND tenant_id = $2 AND id = $3";
    DEAD_KEY_TAKEN = "SELECT r.id FROM kv_dead d JOIN kv_records r ON r.tenant_kind = d.tenant_kind
            AND r.tenant_id = d.tenant_id AND r.key = d.key AND r.scopes_hash = d.scopes_hash
        WHERE d.tenant_kind = $1 AND d.tenant_id = $2 AND d.id = $3
            AND r.tenant_kind = $1 AND r.tenant_id = $2";
    /// The fence goes on: who once claimed the record must not meet a fence of theirs again.
    DEAD_REVIVE = concat!("INSERT INTO kv_records (", kept_columns!(), ", fence, due_at)
        SELECT ", kept_columns!(), ", fence + 1, CAST($4 AS BIGINT) FROM kv_dead
        WHERE tenant_kind = $1 AND tenant_id = $2 AND id = $3");
    DEAD_SCOPES = "INSERT INTO kv_scopes (tenant_kind, tenant_id, scope, key, id, key_folded)
        SELECT CAST($1 AS BIGINT), CAST($2 AS BIGINT), value, CAST($3 AS TEXT), CAST($4 AS TEXT), CAST($5 AS TEXT)
        FROM json_array_elements_text($6::json)";
    DEAD_DELETE = "DELETE FROM kv_dead WHERE tenant_kind = $1 AND tenant_id = $2 AND id = $3
        RETURNING fixed_bytes + value_bytes";
}

/// A record that is due at a time. In the order in which they are due.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DueRecord {
    /// When somebody should look at it.
    pub due_at: Timestamp,
    /// Whose.
    pub tenant: TenantId,
    /// Which.
    pub id: Arc<str>,
}

/// A place in the order in which records are due.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DueCursor {
    // In the order of the index.
    at: i64,
    tenant_kind: i64,
    tenant_id: i64,
    id: Arc<str>,
}

impl DueCursor {
    /// Before all that is due at this time or later.
    pub fn before(at: Timestamp) -> Self {
        Self { at: at.as_microsecond(), tenant_kind: i64::MIN, tenant_id: i64::MIN, id: "".into() }
    }

    /// Before all of the tenant's records that are due at this time or later.
    pub fn before_tenant(at: Timestamp, tenant: TenantId) -> Self {
        let (tenant_kind, tenant_id) = tenant_columns(tenant);
        Self { at: at.as_microsecond(), tenant_kind, tenant_id, id: "".into() }
    }

    /// Whether the record comes after this place.
    pub fn is_before(&self, record: &DueRecord) -> bool {
        let (kind, id) = tenant_columns(record.tenant);
        (self.at, self.tenant_kind, self.tenant_id, &*self.id) < (record.due_at.as_microsecond(), kind, id, &record.id)
    }
}

/// Records that are due, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DuePage {
    /// The records. Damaged rows are not among them.
    pub records: Vec<DueRecord>,
    /// Where the next page begins, unless this is the last one.
    pub next: Option<DueCursor>,
}

/// A record that the claimant alone handles until the end of its lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimedRecord {
    /// Whose.
    pub tenant: TenantId,
    /// Its id.
    pub id: Arc<str>,
    /// Its key.
    pub key: String,
    /// Its scopes, sorted, each once. None if the row is damaged there.
    pub scopes: Vec<String>,
    /// The expiry that has passed.
    pub expires_at: Timestamp,
    /// Claims of this expiry, this one included.
    pub attempts: u32,
    /// What must still hold when something is done about it.
    pub fence: i64,
}

/// Who claims: one for each worker, and another after each start of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpirySession(i64);

/// A record with an expiry, as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingExpiry {
    /// Whose.
    pub tenant: TenantId,
    /// Its id.
    pub id: String,
    /// Its key.
    pub key: String,
    /// Its scopes.
    pub scopes: Vec<String>,
    /// When it expires.
    pub expires_at: Timestamp,
    /// When it is looked at next: the expiry, the next try, or the end of the lease of who handles it.
    pub due_at: Timestamp,
    /// Attempts so far.
    pub attempts: u32,
    /// Whether somebody handles it.
    pub leased: bool,
}

/// A record whose `KeyExpiry` never succeeded. It counts in its tenant's quota.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Whose.
    pub tenant: TenantId,
    /// Its id.
    pub id: String,
    /// Its key.
    pub key: String,
    /// Its scopes.
    pub scopes: Vec<String>,
    /// When it expired.
    pub expires_at: Timestamp,
    /// Attempts that were made.
    pub attempts: u32,
    /// When it was given up.
    pub died_at: Timestamp,
    /// How the last attempt failed.
    pub error: String,
}

/// Whether a try that is put off counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// It was made, and failed.
    Counts,
    /// It was not even begun.
    GivenBack,
}

type PendingRow = (i64, i64, String, String, String, Option<i64>, i64, i64, bool);
type DeadRow = (i64, i64, String, String, String, i64, i64, i64, String);

/// Claims' fences are below this, so that no number of writes brings one to its end.
const FENCE_END: i64 = 1 << 62;

/// Bytes of the error that is kept with a dead letter.
const ERROR_BYTES_MAX: usize = 2_048;

impl WorkerDb {
    /// Records that are due until then, at most so many, in order, from this place on.
    pub async fn expiry_due(&self, until: Timestamp, from: &DueCursor, limit: usize) -> Result<DuePage, DbError> {
        let DueCursor { at, tenant_kind, tenant_id, id } = from;
        let args = args![until.as_microsecond(), *at, *tenant_kind, *tenant_id, &**id, limit as i64];
        let rows: Vec<(i64, i64, i64, String)> = self.pools().fetch_all(&EXPIRY_DUE, &args).await?;
        let next = rows.last().filter(|_| rows.len() >= limit).map(|(at, kind, tenant, id)| DueCursor {
            at: *at,
            tenant_kind: *kind,
            tenant_id: *tenant,
            id: id.as_str().into(),
        });
        let records = rows.into_iter().filter_map(|(at, kind, tenant, id)| {
            Some(DueRecord { due_at: from_micros(&id, at).ok()?, tenant: tenant_of((kind, tenant))?, id: id.into() })
        });
        Ok(DuePage { records: records.collect(), next })
    }

    /// Takes those of the records that are still due and that nobody else has taken, until the end of the lease. Each
    /// claim counts as an attempt: a handler that ends the process must not be tried for ever.
    pub async fn expiry_claim(
        &self,
        session: ExpirySession,
        records: &[DueRecord],
        lease_until: Timestamp,
    ) -> Result<Vec<ClaimedRecord>, DbError> {
        let mut ids: BTreeMap<(i64, i64), (TenantId, Vec<&str>)> = BTreeMap::new();
        for record in records {
            let entry = ids.entry(tenant_columns(record.tenant)).or_insert_with(|| (record.tenant, Vec::new()));
            entry.1.push(&record.id);
        }
        let (now, lease_until) = (self.now().as_microsecond(), lease_until.as_microsecond());
        let fence = rand::random_range(0..FENCE_END);
        let mut tx = self.pools().begin_forgettable().await?;
        let mut claimed = Vec::with_capacity(records.len());
        for (tenant, ids) in ids.into_values() {
            let ids = json(&ids);
            let args = args![tenant; &ids, now, lease_until, session.0, fence];
            let rows: Vec<(String, String, String, Option<i64>, i64, i64)> = tx.fetch_all(&EXPIRY_CLAIM, &args).await?;
            claimed.extend(rows.into_iter().map(|(id, key, scopes, expires_at, attempts, fence)| ClaimedRecord {
                tenant,
                key,
                scopes: scopes_or_none(tenant, &id, &scopes),
                expires_at: expires_at.and_then(|at| from_micros(&id, at).ok()).unwrap_or(Timestamp::MAX),
                attempts: count(attempts),
                fence,
                id: id.into(),
            }));
        }
        self.commit(tx, Vec::new()).await?;
        claimed.sort_by(|a, b| (a.expires_at, &a.id).cmp(&(b.expires_at, &b.id)));
        Ok(claimed)
    }

    /// Deletes those of the records that are still as they were claimed. Says how many.
    pub async fn expiry_complete(&self, records: &[ClaimedRecord]) -> Result<usize, DbError> {
        let mut tx = self.pools().begin().await?;
        let mut deleted = 0;
        // In one order for all, so that no two wait for each other.
        for (tenant, records) in by_tenant(records) {
            lock(&mut tx, tenant).await?;
            let (rows, bytes) = delete_fenced(&mut tx, tenant, &records).await?;
            if rows > 0 {
                tx.execute(&EXPIRY_USAGE, &args![tenant; rows as i64, bytes]).await?;
            }
            deleted += rows;
        }
        self.commit(tx, Vec::new()).await?;
        Ok(deleted)
    }

    /// Lets go of records until their next try, each at a time of its own, unless they were changed since their claim.
    pub async fn expiry_put_off(&self, records: &[(ClaimedRecord, Timestamp, Attempt)]) -> Result<(), DbError> {
        let mut tx = self.pools().begin().await?;
        for (record, at, attempt) in records {
            let given_back = i64::from(*attempt == Attempt::GivenBack);
            let args = args![record.tenant; &*record.id, record.fence, at.as_microsecond(), given_back];
            tx.execute(&EXPIRY_PUT_OFF, &args).await?;
        }
        self.commit(tx, Vec::new()).await
    }

    /// Makes dead letters of the records, each with how it failed, but for those that were changed since their claim. Gives
    /// the ids of those that are dead letters now.
    pub async fn expiry_bury(&self, records: &[(ClaimedRecord, String)]) -> Result<HashSet<Arc<str>>, DbError> {
        let mut tx = self.pools().begin().await?;
        let now = self.now().as_microsecond();
        let errors: HashMap<_, _> = records.iter().map(|(record, error)| (&record.id, error)).collect();
        let mut all = HashSet::with_capacity(records.len());
        for (tenant, records) in by_tenant(records.iter().map(|(record, _)| record)) {
            lock(&mut tx, tenant).await?;
            let mut buried = Vec::new();
            for record in records {
                let error = errors.get(&record.id).map_or("", |error| error.as_str());
                // PostgreSQL's text holds no NUL.
                let error = error[..error.floor_char_boundary(ERROR_BYTES_MAX)].replace('\0', "");
                let args = args![tenant; &*record.id, record.fence, now, &error];
                if tx.execute(&EXPIRY_BURY, &args).await? > 0 {
                    buried.push(record);
                }
            }
            if !buried.is_empty() {
                delete_fenced(&mut tx, tenant, &buried).await?;
            }
            all.extend(buried.into_iter().map(|record| record.id.clone()));
        }
        self.commit(tx, Vec::new()).await?;
        Ok(all)
    }

    /// Moves the end of the leases that this session still has on the records.
    pub async fn expiry_renew(
        &self,
        session: ExpirySession,
        records: &[ClaimedRecord],
        lease_until: Timestamp,
    ) -> Result<(), DbError> {
        let mut tx = self.pools().begin_forgettable().await?;
        for (tenant, records) in by_tenant(records) {
            let ids: Vec<_> = records.iter().map(|record| &*record.id).collect();
            let ids = json(&ids);
            let args = args![tenant; &ids, lease_until.as_microsecond(), session.0];
            tx.execute(&EXPIRY_RENEW, &args).await?;
        }
        self.commit(tx, Vec::new()).await
    }

    /// Says that a process of this name begins: whatever one of the same name held is free at once. Two at a time must
    /// not have one name; they would take records from each other, and handle some twice.
    pub async fn expiry_process_start(&self, process: &str) -> Result<(), DbError> {
        let mut tx = self.pools().begin().await?;
        let sessions: Vec<(i64,)> = tx.fetch_all(&EXPIRY_OWNERS_GONE, &args![process]).await?;
        for (session,) in sessions {
            tx.execute(&EXPIRY_RELEASE, &args![session, self.now().as_microsecond()]).await?;
        }
        self.commit(tx, Vec::new()).await
    }

    /// Begins a session of a worker of the process; what the worker held before is free at once.
    pub async fn expiry_session(&self, process: &str, worker: u64) -> Result<ExpirySession, DbError> {
        let session: i64 = rand::random();
        let mut tx = self.pools().begin().await?;
        let worker = worker.cast_signed();
        let before: Option<(i64,)> = tx.fetch_optional(&EXPIRY_OWNER, &args![process, worker]).await?;
        if let Some((before,)) = before {
            tx.execute(&EXPIRY_RELEASE, &args![before, self.now().as_microsecond()]).await?;
        }
        tx.execute(&EXPIRY_OWNER_PUT, &args![process, worker, session]).await?;
        self.commit(tx, Vec::new()).await?;
        Ok(ExpirySession(session))
    }

    /// Records with an expiry in the order in which they are due, after the last one seen; of one tenant, or of all.
    pub async fn expiry_list(
        &self,
        tenant: Option<TenantId>,
        after: Option<&PendingExpiry>,
        limit: usize,
    ) -> Result<Vec<PendingExpiry>, DbError> {
        let (at, columns, id) = after.map_or((i64::MIN, (i64::MIN, i64::MIN), ""), |after| {
            (after.due_at.as_microsecond(), tenant_columns(after.tenant), &*after.id)
        });
        let limit = limit as i64;
        let rows: Vec<PendingRow> = match tenant {
            Some(tenant) => self.pools().fetch_all(&EXPIRY_LIST_TENANT, &args![tenant; at, id, limit]).await?,
            None => self.pools().fetch_all(&EXPIRY_LIST, &args![at, columns.0, columns.1, id, limit]).await?,
        };
        let pending = rows.into_iter().filter_map(|row| {
            let (kind, tenant, id, key, scopes, expires_at, due_at, attempts, leased) = row;
            let tenant = tenant_of((kind, tenant))?;
            Some(PendingExpiry {
                tenant,
                scopes: scopes_or_none(tenant, &id, &scopes),
                expires_at: from_micros(&id, expires_at?).ok()?,
                due_at: from_micros(&id, due_at).ok()?,
                attempts: count(attempts),
                id,
                key,
                leased,
            })
        });
        Ok(pending.collect())
    }

    /// Dead letters by tenant and id, after the last one seen; of one tenant, or of all.
    pub async fn dead_list(
        &self,
        tenant: Option<TenantId>,
        after: Option<&DeadLetter>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, DbError> {
        let (columns, id) =
            after.map_or(((i64::MIN, i64::MIN), ""), |after| (tenant_columns(after.tenant), &*after.id));
        let limit = limit as i64;
        let rows: Vec<DeadRow> = match tenant {
            Some(tenant) => self.pools().fetch_all(&DEAD_LIST_TENANT, &args![tenant; id, limit]).await?,
            None => self.pools().fetch_all(&DEAD_LIST, &args![columns.0, columns.1, id, limit]).await?,
        };
        let dead = rows.into_iter().filter_map(|row| {
            let (kind, tenant, id, key, scopes, expires_at, attempts, died_at, error) = row;
            let tenant = tenant_of((kind, tenant))?;
            Some(DeadLetter {
                tenant,
                scopes: scopes_or_none(tenant, &id, &scopes),
                expires_at: from_micros(&id, expires_at).ok()?,
                attempts: count(attempts),
                died_at: from_micros(&id, died_at).ok()?,
                id,
                key,
                error,
            })
        });
        Ok(dead.collect())
    }

    /// Has the record tried again at once, with all its attempts: a dead letter, or one that waits for its next try.
    /// Says whether there was one.
    pub async fn expiry_retry(&self, tenant: TenantId, id: &str) -> Result<bool, DbError> {
        let now = self.now();
        let (mut tx, _) = self.begin_for(tenant).await?;
        let dead: Option<(String, String)> = tx.fetch_optional(&DEAD_GET, &args![tenant; id]).await?;
        let found = match dead {
            Some((key, scopes)) => {
                if tx.fetch_optional::<(String,)>(&DEAD_KEY_TAKEN, &args![tenant; id]).await?.is_some() {
                    return Err(DbError::Conflict(format!("a newer record `{key}` with the same scopes")));
                }
                tx.execute(&DEAD_REVIVE, &args![tenant; id, now.as_microsecond()]).await?;
                if scopes_from_json(id, &scopes).is_ok() {
                    tx.execute(&DEAD_SCOPES, &args![tenant; &key, id, &fold(&key), &scopes]).await?;
                }
                tx.execute(&DEAD_DELETE, &args![tenant; id]).await?;
                true
            }
            None => {
                let args = args![tenant; id, now.as_microsecond()];
                tx.fetch_optional::<(i64,)>(&EXPIRY_RETRY, &args).await?.is_some()
            }
        };
        if found {
            let change = Change::Expiry { tenant, id: id.into(), expires_at: Some(now) };
            self.commit(tx, vec![change]).await?;
        }
        Ok(found)
    }

    /// Deletes a dead letter. Says whether there was one.
    pub async fn dead_drop(&self, tenant: TenantId, id: &str) -> Result<bool, DbError> {
        let (mut tx, _) = self.begin_for(tenant).await?;
        let deleted: Option<(i64,)> = tx.fetch_optional(&DEAD_DELETE, &args![tenant; id]).await?;
        let Some((bytes,)) = deleted else { return Ok(false) };
        tx.execute(&EXPIRY_USAGE, &args![tenant; 1, bytes]).await?;
        self.commit(tx, Vec::new()).await?;
        Ok(true)
    }
}

/// Deletes those that still have their fence, with their scopes. How many rows and bytes that were.
async fn delete_fenced(tx: &mut Tx, tenant: TenantId, records: &[&ClaimedRecord]) -> Result<(usize, i64), DbError> {
    let ids: Vec<_> = records.iter().map(|record| &*record.id).collect();
    let fenced: Vec<_> = records.iter().map(|record| format!("{} {}", record.id, record.fence)).collect();
    let (ids, fenced) = (json(&ids), json(&fenced));
    let args = args![tenant; &ids, &fenced];
    let rows: Vec<(String, String, String, i64)> = tx.fetch_all(&EXPIRY_DELETE, &args).await?;
    let (mut scopes, mut keys, mut ids) = (Vec::new(), Vec::new(), Vec::new());
    for (id, key, list, _) in &rows {
        match scopes_from_json(id, list) {
            Ok(list) => {
                scopes.extend(list);
                keys.push(&**key);
                ids.push(&**id);
            }
            Err(_) => {
                tx.execute(&EXPIRY_DELETE_ANY_SCOPES, &args![tenant; key, id]).await?;
            }
        }
    }
    if !ids.is_empty() {
        for list in [&mut keys, &mut ids] {
            list.sort_unstable();
            list.dedup();
        }
        scopes.sort_unstable();
        scopes.dedup();
        let scopes: Vec<_> = scopes.iter().map(String::as_str).collect();
        tx.execute(&EXPIRY_DELETE_SCOPES, &args![tenant; &json(&scopes), &json(&keys), &json(&ids)]).await?;
    }
    Ok((rows.len(), rows.iter().map(|row| row.3).sum()))
}

fn by_tenant<'a>(
    records: impl IntoIterator<Item = &'a ClaimedRecord>,
) -> impl Iterator<Item = (TenantId, Vec<&'a ClaimedRecord>)> {
    let mut groups: BTreeMap<(i64, i64), (TenantId, Vec<&ClaimedRecord>)> = BTreeMap::new();
    for record in records {
        let group = groups.entry(tenant_columns(record.tenant)).or_insert_with(|| (record.tenant, Vec::new()));
        group.1.push(record);
    }
    groups.into_values()
}

fn json<S: serde::Serialize>(list: &[S]) -> String {
    serde_json::to_string(list).expect("because a list of texts has a JSON form")
}

fn count(number: i64) -> u32 {
    u32::try_from(number).unwrap_or_default()
}

/// A record whose scopes are damaged still expires: without scopes.
fn scopes_or_none(tenant: TenantId, id: &str, scopes: &str) -> Vec<String> {
    scopes_from_json(id, scopes)
        .inspect_err(|error| warn!(%tenant, %error, "a damaged record is due"))
        .unwrap_or_default()
}
