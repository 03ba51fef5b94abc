//! Reading records.

use tracing::warn;
use worker_core::TenantId;

use crate::connection::{args, statements, tenant_of};
use crate::kv::{RecordRow, record_columns, scopes_from_json};
use crate::pattern::like;
use crate::{DbError, KvFindPage, KvPage, KvRecord, ResumeRecord, Scopes, WorkerDb};

/// Rows `s` of `kv_scopes`, one for each match. `$3` is the first of the wanted scopes, `$4` their list as JSON and `$5`
/// how many there are: the index gives what has the first, and each is asked for the others.
macro_rules! matches {
    () => {
        "s.tenant_kind = $1 AND s.tenant_id = $2 AND s.scope = $3 AND ($5 = 1 OR $5 = (
            SELECT count(*) FROM kv_scopes o WHERE o.tenant_kind = $1 AND o.tenant_id = $2
            AND o.scope = ANY(ARRAY(SELECT json_array_elements_text($4::json))) AND o.key = s.key AND o.id = s.id))"
    };
}
pub(crate) use matches;

/// Joins to the rows of [`matches!`] their records `r`.
macro_rules! matched_records {
    () => {
        "kv_scopes s JOIN kv_records r
            ON r.tenant_kind = s.tenant_kind AND r.tenant_id = s.tenant_id AND r.id = s.id"
    };
}
pub(crate) use matched_records;

statements! {
    /// `$6` is the key, `$7` the hash of the exact set.
    KV_GET = concat!("SELECT ", record_columns!(), " FROM kv_records r
        WHERE r.tenant_kind = $1 AND r.tenant_id = $2 AND r.id = (
            SELECT r.id FROM ", matched_records!(), " WHERE ", matches!(), " AND s.key = $6
            ORDER BY r.scopes_hash = $7 DESC, r.last_updated_at DESC, r.id LIMIT 1)");
    KV_EXISTS = concat!("SELECT s.id FROM kv_scopes s WHERE ", matches!(), " AND s.key = $6 LIMIT 1");
    KV_GET_BY_ID = concat!("SELECT ", record_columns!(), " FROM kv_records r
        WHERE r.tenant_kind = $1 AND r.tenant_id = $2 AND r.id = $3");
    KV_KEYS = concat!("SELECT DISTINCT s.key FROM kv_scopes s WHERE ", matches!(), " AND s.key > $6
        ORDER BY s.key LIMIT $7");
    KV_LIST_SCOPES = "SELECT DISTINCT scope FROM kv_scopes
        WHERE tenant_kind = $1 AND tenant_id = $2 AND scope > $3 ORDER BY scope LIMIT $4";
    /// `$6, $7` is the last record seen, `$8` the pattern, `$9` the limit of records. Ends with the record that brings the
    /// JSON to `$10` bytes, before any value is read.
    KV_FIND = concat!("SELECT ", record_columns!(), " FROM (
            SELECT s.key, s.id, sum(r.value_bytes) OVER (ORDER BY s.key, s.id) - r.value_bytes AS bytes_before
            FROM ", matched_records!(), " WHERE ", matches!(), "
            AND (s.key, s.id) > ($6, $7) AND s.key_folded LIKE $8 ESCAPE '\\' ORDER BY s.key, s.id LIMIT $9) page
        JOIN kv_records r ON r.tenant_kind = $1 AND r.tenant_id = $2 AND r.id = page.id
        WHERE page.bytes_before < $10 ORDER BY page.key, page.id");
    RESUME_RECORDS = "SELECT id, key, scopes FROM kv_records
        WHERE tenant_kind = $1 AND tenant_id = $2 AND resume ORDER BY created_at, id";
    RESUME_TENANTS = "SELECT DISTINCT tenant_kind, tenant_id FROM kv_records WHERE resume";
}

impl WorkerDb {
    /// The record with exactly these scopes, else the one last updated among those that have these and more.
    pub async fn kv_get(&self, tenant: TenantId, key: &str, scopes: &Scopes) -> Result<Option<KvRecord>, DbError> {
        let args = args![tenant; scopes.first(), scopes.json(), scopes.count(), key, scopes.hash()];
        let row: Option<RecordRow> = self.pools().fetch_optional(&KV_GET, &args).await?;
        row.map(KvRecord::from_row).transpose()
    }

    /// Whether [`kv_get`](Self::kv_get) would find a record.
    pub async fn kv_exists(&self, tenant: TenantId, key: &str, scopes: &Scopes) -> Result<bool, DbError> {
        let args = args![tenant; scopes.first(), scopes.json(), scopes.count(), key];
        Ok(self.pools().fetch_optional::<(String,)>(&KV_EXISTS, &args).await?.is_some())
    }

    /// The tenant's record of this id.
    pub async fn kv_get_by_id(&self, tenant: TenantId, id: &str) -> Result<Option<KvRecord>, DbError> {
        let row: Option<RecordRow> = self.pools().fetch_optional(&KV_GET_BY_ID, &args![tenant; id]).await?;
        row.map(KvRecord::from_row).transpose()
    }

    /// The keys of all records that have these scopes, in the order of their bytes, each once.
    pub async fn kv_keys(&self, tenant: TenantId, scopes: &Scopes, page: KvPage) -> Result<Vec<String>, DbError> {
        let (limit, after) = (self.list_limit(&page)?, page.after.as_deref().unwrap_or_default());
        let args = args![tenant; scopes.first(), scopes.json(), scopes.count(), after, limit.fetch()];
        limit.check("keys", self.pools().fetch_all(&KV_KEYS, &args).await?)
    }

    /// The scopes of all the tenant's records, in the order of their bytes, each once.
    pub async fn kv_list_scopes(&self, tenant: TenantId, page: KvPage) -> Result<Vec<String>, DbError> {
        let (limit, after) = (self.list_limit(&page)?, page.after.as_deref().unwrap_or_default());
        let args = args![tenant; after, limit.fetch()];
        limit.check("list_scopes", self.pools().fetch_all(&KV_LIST_SCOPES, &args).await?)
    }

    /// The records that have these scopes and whose key matches, by key and then id, in the order of their bytes.
    ///
    /// In `query`, `%` is any run of characters, `_` one character, and `\` makes the next one literal. Case does not
    /// count: key and query are compared by the lower case of each character (Unicode's table), of which `_` stands for one.
    pub async fn kv_find(
        &self,
        tenant: TenantId,
        query: &str,
        scopes: &Scopes,
        page: KvFindPage,
    ) -> Result<Vec<KvRecord>, DbError> {
        let limits = self.kv_limits();
        // Long enough for any key with each of its characters made literal.
        let query_bytes_max = 2 * limits.key_bytes_max;
        if query.len() > query_bytes_max {
            return Err(DbError::too_large(format!("query of {} bytes", query.len()), query_bytes_max as u64));
        }
        if query.contains('\0') {
            return Ok(Vec::new());
        }
        let whole = page.limit.is_none() && page.after.is_none();
        let limit = PageLimit::new(page.limit, whole, limits.find_max, limits.find_page_max)?;
        let bytes_max = if whole { limits.find_bytes_max } else { limits.find_page_bytes_max };
        let (after_key, after_id) = page.after.as_ref().map_or(("", ""), |(key, id)| (key, id));
        let pattern = like(query);
        // The record that goes beyond the bytes of a whole search must be seen, to say that there is more.
        let stop_at = bytes_max as i64 + i64::from(whole);
        let args = args![
            tenant; scopes.first(), scopes.json(), scopes.count(),
            after_key, after_id, &pattern, limit.fetch(), stop_at
        ];
        let rows: Vec<RecordRow> = limit.check_rows("find", self.pools().fetch_all(&KV_FIND, &args).await?)?;
        if whole && rows.iter().map(|row| row.2.len()).sum::<usize>() > bytes_max {
            return Err(DbError::too_large("find: JSON", bytes_max as u64));
        }
        Ok(rows.into_iter().filter_map(|row| undamaged(tenant, KvRecord::from_row(row))).collect())
    }

    /// The tenant's records that are resumed, in the order in which they were made.
    pub async fn resume_records(&self, tenant: TenantId) -> Result<Vec<ResumeRecord>, DbError> {
        let rows: Vec<(String, String, String)> = self.pools().fetch_all(&RESUME_RECORDS, &args![tenant;]).await?;
        let records = rows.into_iter().map(|(id, key, scopes)| {
            let scopes = scopes_from_json(&id, &scopes)?;
            Ok(ResumeRecord { id, key, scopes })
        });
        Ok(records.filter_map(|record| undamaged(tenant, record)).collect())
    }

    /// The tenants that have a record that is resumed.
    pub async fn tenants_with_resume(&self) -> Result<Vec<TenantId>, DbError> {
        let rows = self.pools().fetch_all(&RESUME_TENANTS, &[]).await?;
        Ok(rows.into_iter().filter_map(tenant_of).collect())
    }

    fn list_limit(&self, page: &KvPage) -> Result<PageLimit, DbError> {
        let whole = page.limit.is_none() && page.after.is_none();
        PageLimit::new(page.limit, whole, self.kv_limits().list_max, self.kv_limits().list_page_max)
    }
}

/// How many entries a call gives.
#[derive(Clone, Copy)]
struct PageLimit {
    max: usize,
    /// Whether more than `max` is an error, not the next page.
    whole: bool,
}

impl PageLimit {
    fn new(asked: Option<usize>, whole: bool, whole_max: usize, page_max: usize) -> Result<Self, DbError> {
        match asked {
            Some(limit) if !(1..=page_max).contains(&limit) => {
                Err(DbError::invalid("limit", format!("is {limit}, not 1 to {page_max}")))
            }
            Some(max) => Ok(Self { max, whole }),
            None => Ok(Self { max: if whole { whole_max } else { page_max }, whole }),
        }
    }

    /// Rows to ask for: one more than allowed shows that there are too many.
    fn fetch(self) -> i64 {
        self.max as i64 + i64::from(self.whole)
    }

    fn check_rows<T>(self, call: &str, rows: Vec<T>) -> Result<Vec<T>, DbError> {
        if rows.len() > self.max {
            return Err(DbError::too_large(format!("{call}: entries"), self.max as u64));
        }
        Ok(rows)
    }

    fn check(self, call: &str, rows: Vec<(String,)>) -> Result<Vec<String>, DbError> {
        Ok(self.check_rows(call, rows)?.into_iter().map(|(text,)| text).collect())
    }
}

/// A damaged row costs a list that row alone.
fn undamaged<T>(tenant: TenantId, row: Result<T, DbError>) -> Option<T> {
    row.inspect_err(|error| warn!(%tenant, %error, "skipped a damaged record")).ok()
}
