//! `antiraid kv …`.

use comfy_table::{Table, presets};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;
use worker_core::{TenantId, Value};
use worker_db::{KvFindPage, KvPage, KvRecord, KvSet, Scopes, WorkerDb};

use crate::cli::{CommandError, KvCommand, Outcome, ScopedArgs};
use crate::config::Config;
use crate::output::{Output, complain};
use crate::store;

/// Characters of a value that a table shows.
const VALUE_SHOWN_CHARS: usize = 60;
/// Records that are asked for at once.
const RECORDS_PAGE: usize = 500;
/// Scopes that are asked for at once.
const SCOPES_PAGE: usize = 1_000;

/// Runs the command.
pub async fn run(command: KvCommand, config: &Config, output: &mut Output) -> Result<Outcome, CommandError> {
    let db = store::open(&config.database_url, &config.limits).await?;
    let done = match command {
        KvCommand::Get { key, record, json } => get(&db, &key, record, json, output).await,
        KvCommand::Set { key, value, record, expires_at, resume } => {
            set(&db, key, &value, record, (expires_at, resume), output).await
        }
        KvCommand::List { tenant, scopes, json, .. } if scopes.is_empty() => {
            list_scopes(&db, tenant, json, output).await
        }
        KvCommand::List { pattern, tenant, scopes, json } => list(&db, &pattern, tenant, scopes, json, output).await,
        KvCommand::Delete { key, record } => delete(&db, &key, record, output).await,
    };
    db.close().await;
    done
}

async fn get(
    db: &WorkerDb,
    key: &str,
    ScopedArgs { tenant, scopes }: ScopedArgs,
    json: bool,
    output: &mut Output,
) -> Result<Outcome, CommandError> {
    let scopes = Scopes::new(scopes, db.kv_limits())?;
    let Some(record) = db.kv_get(tenant, key, &scopes).await? else { return Ok(missing(key, tenant)) };
    if json {
        output.json(&Printed::new(tenant, &record)?)?;
    } else {
        output.line(&record.value_json)?;
    }
    Ok(Outcome::Good)
}

async fn set(
    db: &WorkerDb,
    key: String,
    value: &str,
    ScopedArgs { tenant, scopes }: ScopedArgs,
    (expires_at, resume): (Option<Timestamp>, bool),
    output: &mut Output,
) -> Result<Outcome, CommandError> {
    let value = Value::from_json(value.as_bytes()).map_err(CommandError::BadValue)?;
    let value_json = value.to_json().map_err(CommandError::BadValue)?;
    let scopes = Scopes::new(scopes, db.kv_limits())?;
    let written = db.kv_set(tenant, KvSet { key: key.clone(), value_json, scopes, expires_at, resume }).await?;
    let done = if written.existed { "replaced" } else { "created" };
    output.line(format_args!("`{key}` {done}, version {}, id {}", written.version, written.id))?;
    Ok(Outcome::Good)
}

async fn list(
    db: &WorkerDb,
    pattern: &str,
    tenant: TenantId,
    scopes: Vec<String>,
    json: bool,
    output: &mut Output,
) -> Result<Outcome, CommandError> {
    let scopes = Scopes::new(scopes, db.kv_limits())?;
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_BORDERS_ONLY)
        .set_header(["key", "scopes", "value", "version", "updated", "expires"]);
    let mut page = KvFindPage { limit: Some(RECORDS_PAGE), after: None };
    loop {
        let records = db.kv_find(tenant, pattern, &scopes, page.clone()).await?;
        let Some(last) = records.last() else { break };
        page.after = Some((last.key.clone(), last.id.clone()));
        for record in &records {
            if json {
                output.json(&Printed::new(tenant, record)?)?;
                continue;
            }
            table.add_row([
                record.key.clone(),
                record.scopes.join(" "),
                shortened(&record.value_json),
                record.version.to_string(),
                format!("{:.0}", record.last_updated_at),
                record.expires_at.map(|at| format!("{at:.0}")).unwrap_or_default(),
            ]);
        }
    }
    if !json {
        output.line(table)?;
    }
    Ok(Outcome::Good)
}

async fn list_scopes(
    db: &WorkerDb,
    tenant: TenantId,
    json: bool,
    output: &mut Output,
) -> Result<Outcome, CommandError> {
    let mut page = KvPage { limit: Some(SCOPES_PAGE), after: None };
    loop {
        let scopes = db.kv_list_scopes(tenant, page.clone()).await?;
        let Some(last) = scopes.last() else { return Ok(Outcome::Good) };
        page.after = Some(last.clone());
        for scope in scopes {
            if json { output.json(&scope)? } else { output.line(scope)? }
        }
    }
}

async fn delete(
    db: &WorkerDb,
    key: &str,
    ScopedArgs { tenant, scopes }: ScopedArgs,
    output: &mut Output,
) -> Result<Outcome, CommandError> {
    let scopes = Scopes::new(scopes, db.kv_limits())?;
    if !db.kv_delete(tenant, key, &scopes).await? {
        return Ok(missing(key, tenant));
    }
    output.line(format_args!("`{key}` deleted"))?;
    Ok(Outcome::Good)
}

fn missing(key: &str, tenant: TenantId) -> Outcome {
    complain(format_args!(
        "antiraid: {tenant} has no record `{key}` with these scopes; `antiraid kv list` shows what there is"
    ));
    Outcome::Bad
}

fn shortened(value: &str) -> String {
    let mut shown: String = value.chars().take(VALUE_SHOWN_CHARS).collect();
    if shown.len() < value.len() {
        shown.push('…');
    }
    shown
}

/// A record as it is printed. Its value is in the storage form, so that it can be written back without loss.
#[derive(Serialize)]
struct Printed<'a> {
    tenant: TenantId,
    id: &'a str,
    key: &'a str,
    value: &'a RawValue,
    scopes: &'a [String],
    created_at: String,
    last_updated_at: String,
    expires_at: Option<String>,
    resume: bool,
    version: u64,
}

impl<'a> Printed<'a> {
    fn new(tenant: TenantId, record: &'a KvRecord) -> Result<Self, CommandError> {
        Ok(Self {
            tenant,
            id: &record.id,
            key: &record.key,
            value: serde_json::from_str(&record.value_json).map_err(std::io::Error::from)?,
            scopes: &record.scopes,
            created_at: record.created_at.to_string(),
            last_updated_at: record.last_updated_at.to_string(),
            expires_at: record.expires_at.map(|at| at.to_string()),
            resume: record.resume,
            version: record.version,
        })
    }
}
