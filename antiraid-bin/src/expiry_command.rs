//! `antiraid expiry …`.

use std::num::NonZeroUsize;

use comfy_table::{Table, presets};
use indicatif::MultiProgress;
use jiff::Timestamp;
use serde::Serialize;
use tracing_subscriber::EnvFilter;
use worker_core::{TenantId, WorkerLike};
use worker_db::{DeadLetter, PendingExpiry, WorkerDb};

use crate::cli::{CommandError, DeadRecordArgs, ExpiryCommand, Outcome};
use crate::config::Config;
use crate::output::{Output, complain};
use crate::{engine, store};

/// Records that are asked for at once.
const PAGE: usize = 500;
/// Events that wait for the workers of [`serve`].
const WAITING_MAX: NonZeroUsize = NonZeroUsize::MIN;

/// Starts logging as the command wants it, if it does.
pub fn start_log(command: &ExpiryCommand, filter: EnvFilter, bars: &MultiProgress) {
    match command {
        ExpiryCommand::Serve { halt_at: Some(step) } => crate::log::start_halting(filter, step.clone()),
        _ => crate::log::start(filter, bars),
    }
}

/// Runs the command.
pub async fn run(command: ExpiryCommand, config: &Config, output: &mut Output) -> Result<Outcome, CommandError> {
    let db = store::open(&config.database_url, &config.limits).await?;
    let done = match command {
        ExpiryCommand::List { tenant, limit, json } => list(&db, tenant, limit, json, output).await,
        ExpiryCommand::Dead { tenant, json } => dead(&db, tenant, json, output).await,
        ExpiryCommand::Retry(args) => change(&db, args, Change::Retry, output).await,
        ExpiryCommand::Drop(args) => change(&db, args, Change::Drop, output).await,
        ExpiryCommand::Serve { .. } => serve(&db, config, output).await,
    };
    db.close().await;
    done
}

async fn list(
    db: &WorkerDb,
    tenant: Option<TenantId>,
    limit: usize,
    json: bool,
    output: &mut Output,
) -> Result<Outcome, CommandError> {
    let mut table = table(["tenant", "key", "scopes", "expires", "state", "attempts", "id"]);
    let (mut last, mut left) = (None::<PendingExpiry>, limit);
    while left > 0 && !output.is_closed() {
        let page = db.expiry_list(tenant, last.as_ref(), PAGE.min(left)).await?;
        let Some(newest) = page.last() else { break };
        left -= page.len();
        last = Some(newest.clone());
        for record in page {
            if json {
                output.json(&PrintedPending::of(&record))?;
                continue;
            }
            table.add_row([
                record.tenant.to_string(),
                record.key.clone(),
                record.scopes.join(" "),
                format!("{:.0}", record.expires_at),
                state(&record),
                record.attempts.to_string(),
                record.id,
            ]);
        }
    }
    if !json {
        output.line(table)?;
    }
    Ok(Outcome::Good)
}

async fn dead(
    db: &WorkerDb,
    tenant: Option<TenantId>,
    json: bool,
    output: &mut Output,
) -> Result<Outcome, CommandError> {
    let mut table = table(["tenant", "key", "scopes", "expired", "given up", "attempts", "error", "id"]);
    let mut last = None::<DeadLetter>;
    while !output.is_closed() {
        let page = db.dead_list(tenant, last.as_ref(), PAGE).await?;
        let Some(newest) = page.last() else { break };
        last = Some(newest.clone());
        for letter in page {
            if json {
                output.json(&PrintedDead::of(&letter))?;
                continue;
            }
            table.add_row([
                letter.tenant.to_string(),
                letter.key.clone(),
                letter.scopes.join(" "),
                format!("{:.0}", letter.expires_at),
                format!("{:.0}", letter.died_at),
                letter.attempts.to_string(),
                letter.error,
                letter.id,
            ]);
        }
    }
    if !json {
        output.line(table)?;
    }
    Ok(Outcome::Good)
}

#[derive(Clone, Copy)]
enum Change {
    Retry,
    Drop,
}

async fn change(
    db: &WorkerDb,
    args: DeadRecordArgs,
    change: Change,
    output: &mut Output,
) -> Result<Outcome, CommandError> {
    let DeadRecordArgs { tenant, mut ids, all } = args;
    if all != ids.is_empty() {
        return Err(CommandError::Usage(
            "name records by their ids (`antiraid expiry dead` shows them), or give --all",
        ));
    }
    if all {
        let mut last = None::<DeadLetter>;
        loop {
            let page = db.dead_list(Some(tenant), last.as_ref(), PAGE).await?;
            let Some(newest) = page.last() else { break };
            last = Some(newest.clone());
            ids.extend(page.into_iter().map(|letter| letter.id));
        }
    }
    let mut outcome = Outcome::Good;
    for id in ids {
        let (found, done) = match change {
            Change::Retry => (db.expiry_retry(tenant, &id).await?, "is tried again"),
            Change::Drop => (db.dead_drop(tenant, &id).await?, "dropped"),
        };
        if found {
            output.line(format_args!("`{id}` {done}"))?;
        } else {
            complain(format_args!(
                "antiraid: {tenant} has no such record `{id}`; `antiraid expiry dead` shows dead letters, `antiraid expiry \
                 list` what waits"
            ));
            outcome = Outcome::Bad;
        }
    }
    Ok(outcome)
}

/// Workers that only handle what expires, until standard input ends; then their figures.
async fn serve(db: &WorkerDb, config: &Config, output: &mut Output) -> Result<Outcome, CommandError> {
    let workers =
        engine::start(config, db, engine::builtins(config)?, engine::services(config)?, WAITING_MAX, None).await;
    let workers = workers.map_err(CommandError::Workers)?;
    complain("ready");
    tokio::io::copy(&mut tokio::io::stdin(), &mut tokio::io::sink()).await?;
    output.json(&workers.stats().await.map_err(CommandError::Workers)?)?;
    workers.drain().await.map_err(CommandError::Workers)?;
    Ok(Outcome::Good)
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY).set_header(header);
    table
}

fn state(record: &PendingExpiry) -> String {
    match record {
        PendingExpiry { leased: true, .. } => "being handled".into(),
        PendingExpiry { attempts: 0, due_at, .. } if *due_at > Timestamp::now() => "waits".into(),
        PendingExpiry { attempts: 0, .. } => "due".into(),
        PendingExpiry { due_at, .. } => format!("failed, next try {due_at:.0}"),
    }
}

#[derive(Serialize)]
struct PrintedPending<'a> {
    tenant: TenantId,
    id: &'a str,
    key: &'a str,
    scopes: &'a [String],
    expires_at: String,
    due_at: String,
    attempts: u32,
    being_handled: bool,
}

impl<'a> PrintedPending<'a> {
    fn of(record: &'a PendingExpiry) -> Self {
        Self {
            tenant: record.tenant,
            id: &record.id,
            key: &record.key,
            scopes: &record.scopes,
            expires_at: record.expires_at.to_string(),
            due_at: record.due_at.to_string(),
            attempts: record.attempts,
            being_handled: record.leased,
        }
    }
}

#[derive(Serialize)]
struct PrintedDead<'a> {
    tenant: TenantId,
    id: &'a str,
    key: &'a str,
    scopes: &'a [String],
    expires_at: String,
    died_at: String,
    attempts: u32,
    error: &'a str,
}

impl<'a> PrintedDead<'a> {
    fn of(letter: &'a DeadLetter) -> Self {
        Self {
            tenant: letter.tenant,
            id: &letter.id,
            key: &letter.key,
            scopes: &letter.scopes,
            expires_at: letter.expires_at.to_string(),
            died_at: letter.died_at.to_string(),
            attempts: letter.attempts,
            error: &letter.error,
        }
    }
}
