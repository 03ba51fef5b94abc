//! Templates as they are stored.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use tracing::warn;
use worker_core::{
    Capabilities, CompatDate, ContentHash, ShopVersion, Snowflake, TemplateFiles, TemplateLimits, TemplateName,
    TemplateOrigin, TenantId,
};

use crate::connection::{Sql, Tx, args, statements, tenant_columns, tenant_of};
use crate::kv::from_micros;
use crate::worker_db::lock;
use crate::{Change, DbError, WorkerDb};

/// The files of a template as they come in: path → source.
pub type FileMap = BTreeMap<String, String>;

/// A template to be stored.
#[derive(Clone, Debug)]
pub struct NewTemplate {
    /// Its name.
    pub name: TemplateName,
    /// Its files. Ignored for `$builtins` and `$shop/…`, whose code is elsewhere.
    pub files: FileMap,
    /// What it subscribes to.
    pub events: Vec<String>,
    /// What it may do.
    pub allowed_caps: Capabilities,
    /// The channel for its errors.
    pub error_channel: Option<Snowflake>,
    /// The rules of which month it relies on.
    pub compat: CompatDate,
    /// Whether it gets no events.
    pub paused: bool,
}

/// A stored template, without its files.
#[derive(Clone, Debug, PartialEq)]
pub struct TemplateRow {
    /// Its name in the tenant.
    pub name: TemplateName,
    /// Which files it has; of a shop template, those of its version. `None` for `$builtins`.
    pub content: Option<ContentHash>,
    /// What it subscribes to.
    pub events: Arc<[Box<str>]>,
    /// What it may do.
    pub allowed_caps: Capabilities,
    /// The channel for its errors.
    pub error_channel: Option<Snowflake>,
    /// The rules of which month it relies on.
    pub compat: CompatDate,
    /// Whether it gets no events.
    pub paused: bool,
    /// Where its code comes from.
    pub origin: TemplateOrigin,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// A template that cannot be loaded. It disables itself alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadTemplateRow {
    /// Its name, as stored.
    pub name: String,
    /// What is wrong, for the tenant's log.
    pub reason: String,
}

impl fmt::Display for BadTemplateRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the template `{}` cannot be loaded: {}", self.name, self.reason)
    }
}

/// The templates of a tenant, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TenantTemplateRows {
    /// Those that are well formed.
    pub rows: Vec<TemplateRow>,
    /// The others.
    pub bad: Vec<BadTemplateRow>,
}

/// The columns that [`TemplateColumns`] reads, with shop names resolved: `v` is the row of the version that is meant.
macro_rules! template_rows {
    () => {
        "SELECT t.name, t.content, t.events, t.allowed_caps, t.error_channel, t.compat, t.paused, t.created_at,
            t.updated_at, v.version, v.content, v.owner, v.description
        FROM templates t LEFT JOIN shop_names n ON n.name = t.shop_name
        LEFT JOIN shop_versions v ON v.name = n.name AND v.version = COALESCE(t.shop_version, n.latest)
        WHERE t.tenant_kind = $1 AND t.tenant_id = $2"
    };
}

statements! {
    TENANT_TEMPLATES = concat!(template_rows!(), " ORDER BY t.name");
    TEMPLATE = concat!(template_rows!(), " AND t.name = $3");
    TEMPLATE_COUNT = "SELECT count(*) FROM templates WHERE tenant_kind = $1 AND tenant_id = $2";
    TEMPLATE_CONTENT = "SELECT content FROM templates WHERE tenant_kind = $1 AND tenant_id = $2 AND name = $3";
    TEMPLATE_INSERT = "INSERT INTO templates (tenant_kind, tenant_id, name, content, shop_name, shop_version, events,
            allowed_caps, error_channel, compat, paused, created_at, updated_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12) ON CONFLICT DO NOTHING";
    TEMPLATE_UPDATE = "UPDATE templates SET content = $4, shop_name = $5, shop_version = $6, events = $7,
            allowed_caps = $8, error_channel = $9, compat = $10, paused = $11, updated_at = $12
        WHERE tenant_kind = $1 AND tenant_id = $2 AND name = $3";
    TEMPLATE_SET_PAUSED = "UPDATE templates SET paused = $4, updated_at = $5
        WHERE tenant_kind = $1 AND tenant_id = $2 AND name = $3";
    TEMPLATE_FORGET_CHANNEL = "UPDATE templates SET error_channel = NULL
        WHERE tenant_kind = $1 AND tenant_id = $2 AND error_channel = $3";
    TEMPLATE_DELETE = "DELETE FROM templates WHERE tenant_kind = $1 AND tenant_id = $2 AND name = $3";
    TEMPLATE_TENANTS = "SELECT DISTINCT tenant_kind, tenant_id FROM templates WHERE (tenant_kind, tenant_id) > ($1, $2)
        ORDER BY tenant_kind, tenant_id LIMIT $3";
    /// Touches the row that is there, so that [`CONTENT_SWEEP`] of another transaction waits for this one.
    CONTENT_PUT = "INSERT INTO template_contents (hash, files) VALUES ($1, $2)
        ON CONFLICT (hash) DO UPDATE SET hash = excluded.hash";
    CONTENT_SWEEP = "DELETE FROM template_contents WHERE hash = $1
        AND NOT EXISTS (SELECT 1 FROM templates WHERE content = $1)
        AND NOT EXISTS (SELECT 1 FROM shop_versions WHERE content = $1)";
    CONTENTS = "SELECT hash, files FROM template_contents
        WHERE hash = ANY(ARRAY(SELECT json_array_elements_text($1::json)))";
    SHOP_RESOLVE = "SELECT v.content FROM shop_names n
        JOIN shop_versions v ON v.name = n.name AND v.version = COALESCE($2, n.latest) WHERE n.name = $1";
}

type TemplateColumns = (
    String,
    Option<String>,
    String,
    String,
    Option<i64>,
    Option<String>,
    bool,
    i64,
    i64,
    Option<String>,
    Option<String>,
    Option<i64>,
    Option<String>,
);

impl WorkerDb {
    /// Tenants that [`template_put_for_tenants`](Self::template_put_for_tenants) takes at once: their locks are held until
    /// all have the template.
    pub const PUT_TENANTS_MAX: usize = 10_000;

    /// All templates of the tenant in one query. A row that is not well formed is reported, it fails nothing.
    pub async fn tenant_templates(&self, tenant: TenantId) -> Result<TenantTemplateRows, DbError> {
        let mut templates = TenantTemplateRows::default();
        for columns in self.pools().fetch_all::<TemplateColumns>(&TENANT_TEMPLATES, &args![tenant;]).await? {
            let name = columns.0.clone();
            match parse_row(columns) {
                Ok(row) => templates.rows.push(row),
                Err(reason) => templates.bad.push(BadTemplateRow { name, reason }),
            }
        }
        Ok(templates)
    }

    /// The templates of the tenant, for lists: the same as [`tenant_templates`](Self::tenant_templates), paused ones and
    /// bad ones included.
    pub async fn template_list(&self, tenant: TenantId) -> Result<TenantTemplateRows, DbError> {
        self.tenant_templates(tenant).await
    }

    /// One template of the tenant. Its files are [`contents`](Self::contents).
    pub async fn template_get(&self, tenant: TenantId, name: &TemplateName) -> Result<Option<TemplateRow>, DbError> {
        let columns: Option<TemplateColumns> =
            self.pools().fetch_optional(&TEMPLATE, &args![tenant; name.as_str()]).await?;
        let parsed = columns.map(parse_row).transpose();
        parsed.map_err(|reason| DbError::DamagedRow { row: name.to_string(), reason })
    }

    /// The files of these hashes. What is not there is absent; what is there but no longer these files is an `Err` that
    /// says why.
    pub async fn contents(
        &self,
        hashes: &[ContentHash],
    ) -> Result<HashMap<ContentHash, Result<Arc<TemplateFiles>, String>>, DbError> {
        if hashes.is_empty() {
            return Ok(HashMap::new());
        }
        let wanted: HashMap<String, ContentHash> = hashes.iter().map(|hash| (hash.to_string(), *hash)).collect();
        let list = json_list(wanted.keys());
        let rows: Vec<(String, String)> = self.pools().fetch_all(&CONTENTS, &args![&list]).await?;
        let parsed = rows.into_iter().filter_map(|(text, files)| {
            let hash = *wanted.get(&text)?;
            Some((hash, parse_files(hash, &files)))
        });
        Ok(parsed.collect())
    }

    /// Stores a template that the tenant does not have yet.
    pub async fn template_create(&self, tenant: TenantId, template: NewTemplate) -> Result<(), DbError> {
        let checked = self.check_template(&template)?;
        let (mut tx, _) = self.begin_for(tenant).await?;
        let content = put_code(&mut tx, &template, &checked).await?;
        if write_row(&mut tx, &TEMPLATE_INSERT, tenant, &template, &checked, content.as_deref(), self.now()).await? == 0
        {
            return Err(DbError::Conflict(format!("template `{}`", template.name)));
        }
        self.check_count(&mut tx, tenant).await?;
        self.commit(tx, vec![Change::Templates { tenant }]).await
    }

    /// Replaces a template that the tenant has.
    pub async fn template_update(&self, tenant: TenantId, template: NewTemplate) -> Result<(), DbError> {
        let checked = self.check_template(&template)?;
        let (mut tx, _) = self.begin_for(tenant).await?;
        let before = content_of(&mut tx, tenant, &template.name).await?;
        let content = put_code(&mut tx, &template, &checked).await?;
        write_row(&mut tx, &TEMPLATE_UPDATE, tenant, &template, &checked, content.as_deref(), self.now()).await?;
        self.commit(tx, vec![Change::Templates { tenant }]).await?;
        self.sweep_content(before).await;
        Ok(())
    }

    /// Gives a template to tenants, creating it or replacing the one of its name: to all of them or, on an error, to
    /// none.
    pub async fn template_put_for_tenants(&self, tenants: &[TenantId], template: NewTemplate) -> Result<(), DbError> {
        if tenants.len() > Self::PUT_TENANTS_MAX {
            return Err(DbError::too_large("tenants of a call", Self::PUT_TENANTS_MAX as u64));
        }
        let checked = self.check_template(&template)?;
        let tenants = BTreeSet::from_iter(tenants.iter().copied());
        let mut tx = self.pools().begin().await?;
        // All tenants before the content, as every writer does it, and in one order: so nobody waits for each other.
        for &tenant in &tenants {
            lock(&mut tx, tenant).await?;
        }
        let (content, now) = (put_code(&mut tx, &template, &checked).await?, self.now());
        let mut replaced = BTreeSet::new();
        for &tenant in &tenants {
            let args = args![tenant; template.name.as_str()];
            let before: Option<(Option<String>,)> = tx.fetch_optional(&TEMPLATE_CONTENT, &args).await?;
            let sql = if before.is_some() { &TEMPLATE_UPDATE } else { &TEMPLATE_INSERT };
            write_row(&mut tx, sql, tenant, &template, &checked, content.as_deref(), now).await?;
            match before {
                Some((hash,)) => replaced.extend(hash),
                None => self.check_count(&mut tx, tenant).await?,
            }
        }
        self.commit(tx, tenants.into_iter().map(|tenant| Change::Templates { tenant }).collect()).await?;
        for hash in replaced {
            self.sweep_content(Some(hash)).await;
        }
        Ok(())
    }

    /// Lets a template of the tenant get no events, or get them again.
    pub async fn template_set_paused(
        &self,
        tenant: TenantId,
        name: &TemplateName,
        paused: bool,
    ) -> Result<(), DbError> {
        let (mut tx, _) = self.begin_for(tenant).await?;
        let args = args![tenant; name.as_str(), paused, self.now().as_microsecond()];
        if tx.execute(&TEMPLATE_SET_PAUSED, &args).await? == 0 {
            return Err(no_template(name));
        }
        self.commit(tx, vec![Change::Templates { tenant }]).await?;
        Ok(())
    }

    /// Lets the tenant's templates forget an error channel that is gone. Whether any had it.
    pub async fn forget_error_channel(&self, tenant: TenantId, channel: Snowflake) -> Result<bool, DbError> {
        let (mut tx, _) = self.begin_for(tenant).await?;
        let args = args![tenant; channel.get().cast_signed()];
        if tx.execute(&TEMPLATE_FORGET_CHANNEL, &args).await? == 0 {
            return Ok(false);
        }
        self.commit(tx, vec![Change::Templates { tenant }]).await?;
        Ok(true)
    }

    /// Removes a template of the tenant.
    pub async fn template_delete(&self, tenant: TenantId, name: &TemplateName) -> Result<(), DbError> {
        let (mut tx, _) = self.begin_for(tenant).await?;
        let before = content_of(&mut tx, tenant, name).await?;
        tx.execute(&TEMPLATE_DELETE, &args![tenant; name.as_str()]).await?;
        self.commit(tx, vec![Change::Templates { tenant }]).await?;
        self.sweep_content(before).await;
        Ok(())
    }

    /// The tenants that have templates of their own, `limit` at most, that come after `after`. The order is the store's.
    pub async fn tenants_with_templates(
        &self,
        after: Option<TenantId>,
        limit: usize,
    ) -> Result<Vec<TenantId>, DbError> {
        let (kind, id) = after.map_or((i64::MIN, i64::MIN), tenant_columns);
        let rows = self.pools().fetch_all(&TEMPLATE_TENANTS, &args![kind, id, limit as i64]).await?;
        Ok(rows.into_iter().filter_map(tenant_of).collect())
    }

    /// Whether the limits allow the template; with its files if it brings its own.
    fn check_template(&self, template: &NewTemplate) -> Result<Checked, DbError> {
        let limits = self.template_limits();
        let caps: Vec<&str> = template.allowed_caps.iter().collect();
        check_entries("events", &template.events, limits.events_max, limits)?;
        check_entries("allowed_caps", &caps, limits.caps_max, limits)?;
        let elsewhere = template.name.is_builtins() || template.name.shop().is_some();
        let files = (!elsewhere)
            .then(|| TemplateFiles::new(template.files.iter().map(|(path, text)| (path, text.as_str())), limits))
            .transpose()?;
        Ok(Checked { files, events: json_list(&template.events), allowed_caps: json_list(caps) })
    }

    /// Whether a tenant that was given a template more may have it.
    async fn check_count(&self, tx: &mut Tx, tenant: TenantId) -> Result<(), DbError> {
        let count: Option<(i64,)> = tx.fetch_optional(&TEMPLATE_COUNT, &args![tenant;]).await?;
        match count {
            Some((count,)) if count > self.template_limits().templates_max as i64 => {
                Err(DbError::QuotaExceeded("templates"))
            }
            _ => Ok(()),
        }
    }

    /// Removes files that no template has any more.
    ///
    /// In a transaction of its own: where another one begins to use them meanwhile, PostgreSQL refuses to delete them
    /// (they are referenced), which is right and no failure of the caller's.
    async fn sweep_content(&self, hash: Option<String>) {
        let Some(hash) = hash else { return };
        let swept = async {
            let mut tx = self.pools().begin().await?;
            tx.execute(&CONTENT_SWEEP, &args![&hash]).await?;
            self.commit(tx, Vec::new()).await
        };
        if let Err(error) = swept.await {
            warn!(hash, %error, "kept the files of a template that may be unused");
        }
    }
}

/// What is left to store of a [`NewTemplate`] after its check.
struct Checked {
    files: Option<TemplateFiles>,
    events: String,
    allowed_caps: String,
}

/// Stores the template's files, if it brings its own, and gives their hash; else makes sure that the shop has them.
async fn put_code(tx: &mut Tx, template: &NewTemplate, checked: &Checked) -> Result<Option<String>, DbError> {
    if let Some(shop) = template.name.shop() {
        let resolved: Option<(String,)> = tx.fetch_optional(&SHOP_RESOLVE, &args![shop.name, shop.version]).await?;
        if resolved.is_none() {
            return Err(DbError::NotFound(format!("`{}` in the shop", template.name)));
        }
    }
    match &checked.files {
        Some(files) => put_content(tx, files).await.map(Some),
        None => Ok(None),
    }
}

/// Runs one of the two statements that write a template. Says how many rows it wrote.
async fn write_row(
    tx: &mut Tx,
    sql: &'static Sql,
    tenant: TenantId,
    template: &NewTemplate,
    checked: &Checked,
    content: Option<&str>,
    now: Timestamp,
) -> Result<u64, DbError> {
    let (shop, compat) = (template.name.shop(), template.compat.to_string());
    let args = args![
        tenant; template.name.as_str(), content, shop.map(|shop| shop.name), shop.and_then(|shop| shop.version),
        &checked.events, &checked.allowed_caps, template.error_channel.map(|channel| channel.get().cast_signed()),
        &compat, template.paused, now.as_microsecond()
    ];
    tx.execute(sql, &args).await
}

/// Stores files once for each content, and gives their hash as text.
pub(crate) async fn put_content(tx: &mut Tx, files: &TemplateFiles) -> Result<String, DbError> {
    let hash = files.hash().to_string();
    let json: serde_json::Map<_, _> =
        files.iter().map(|(path, text)| (path.to_string(), serde_json::Value::from(&**text))).collect();
    let json = serde_json::Value::from(json).to_string();
    tx.execute(&CONTENT_PUT, &args![&hash, &json]).await?;
    Ok(hash)
}

/// The hash of the tenant's template, which must exist.
async fn content_of(tx: &mut Tx, tenant: TenantId, name: &TemplateName) -> Result<Option<String>, DbError> {
    let row: Option<(Option<String>,)> = tx.fetch_optional(&TEMPLATE_CONTENT, &args![tenant; name.as_str()]).await?;
    row.map(|(hash,)| hash).ok_or_else(|| no_template(name))
}

fn no_template(name: &TemplateName) -> DbError {
    DbError::NotFound(format!("template `{name}`"))
}

fn check_entries<S: AsRef<str>>(
    field: &'static str,
    entries: &[S],
    count_max: usize,
    limits: &TemplateLimits,
) -> Result<(), DbError> {
    if entries.len() > count_max {
        return Err(DbError::too_large(field, count_max as u64));
    }
    match entries.iter().map(AsRef::as_ref).find(|entry| entry.len() > limits.entry_bytes_max) {
        Some(long) => Err(DbError::too_large(format!("{field}: `{long}`"), limits.entry_bytes_max as u64)),
        None => Ok(()),
    }
}

fn json_list<S: AsRef<str>>(entries: impl IntoIterator<Item = S>) -> String {
    entries.into_iter().map(|entry| entry.as_ref().to_owned()).collect::<serde_json::Value>().to_string()
}

fn parse_row(columns: TemplateColumns) -> Result<TemplateRow, String> {
    let (name, content, events, allowed_caps, error_channel, compat, paused, created_at, updated_at, ..) = &columns;
    let (version, shop_content, owner, description) = (&columns.9, &columns.10, columns.11, columns.12.as_deref());
    let name = TemplateName::new(name).map_err(|error| error.to_string())?;
    let (hash, origin) = match name.shop() {
        _ if name.is_builtins() => (None, TemplateOrigin::Builtin),
        None => (content.as_deref(), TemplateOrigin::Tenant),
        Some(shop) => {
            let version = version.as_deref().ok_or("the shop does not have this version")?;
            let origin = TemplateOrigin::Shop {
                name: shop.name.into(),
                version: ShopVersion::new(version),
                owner: owner.map(|owner| Snowflake::new(owner.cast_unsigned())),
                description: description.map(Into::into),
            };
            (shop_content.as_deref(), origin)
        }
    };
    let content = hash.map(parse_hash).transpose()?;
    if content.is_none() && origin != TemplateOrigin::Builtin {
        return Err("it has no files".into());
    }
    let events: Vec<Box<str>> = serde_json::from_str(events).map_err(|error| format!("events: {error}"))?;
    let allowed_caps = serde_json::from_str(allowed_caps).map_err(|error| format!("allowed_caps: {error}"))?;
    let error_channel = match error_channel {
        Some(0) => return Err("error_channel: 0 is not a channel".into()),
        channel => channel.map(|id| Snowflake::new(id.cast_unsigned())),
    };
    let compat =
        compat.as_deref().map_or(Ok(CompatDate::OLDEST), str::parse).map_err(|error| format!("compat: {error}"))?;
    let time = |micros| from_micros(name.as_str(), micros).map_err(|error| error.to_string());
    Ok(TemplateRow {
        created_at: time(*created_at)?,
        updated_at: time(*updated_at)?,
        content,
        events: events.into(),
        allowed_caps,
        error_channel,
        compat,
        paused: *paused,
        origin,
        name,
    })
}

/// SHA-256 as hexadecimal text.
pub(crate) fn parse_hash(text: &str) -> Result<ContentHash, String> {
    let mut bytes = [0; 32];
    let digits = text.as_bytes();
    if digits.len() != 2 * bytes.len() {
        return Err(format!("`{text}` is not a hash"));
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let pair = str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
        *byte = pair.ok_or_else(|| format!("`{text}` is not a hash"))?;
    }
    Ok(bytes.into())
}

fn parse_files(hash: ContentHash, json: &str) -> Result<Arc<TemplateFiles>, String> {
    // What was stored under other limits still runs.
    const NO_LIMITS: TemplateLimits = TemplateLimits {
        templates_max: usize::MAX,
        template_bytes_max: usize::MAX,
        files_max: usize::MAX,
        file_bytes_max: usize::MAX,
        path_bytes_max: usize::MAX,
        events_max: usize::MAX,
        caps_max: usize::MAX,
        entry_bytes_max: usize::MAX,
    };
    let map: FileMap = serde_json::from_str(json).map_err(|error| format!("content: {error}"))?;
    let files = TemplateFiles::new(map, &NO_LIMITS).map_err(|error| format!("content: {error}"))?;
    if files.hash() != hash {
        return Err("content: is not what was stored".into());
    }
    Ok(Arc::new(files))
}
