//! `antiraid tenant …`: who is quarantined, why, and who may run again.

use comfy_table::{Table, presets};
use jiff::Timestamp;
use serde::Serialize;
use worker_core::TenantId;
use worker_process::Evidence;

use crate::cli::{CommandError, Outcome, TenantCommand};
use crate::config::Config;
use crate::output::{Output, complain};
use crate::store;

/// A tenant as it is listed.
#[derive(Serialize)]
struct Listed {
    tenant: TenantId,
    since: Timestamp,
    /// Absent if it was written by a version that says other things.
    evidence: Option<Evidence>,
}

/// Runs the command.
pub async fn run(command: TenantCommand, config: &Config, output: &mut Output) -> Result<Outcome, CommandError> {
    let db = store::open(&config.database_url, &config.limits).await?;
    let done = match command {
        TenantCommand::List { json } => {
            let all = db.quarantine_list().await?.into_iter().map(|row| Listed {
                tenant: row.tenant,
                since: row.created_at,
                evidence: serde_json::from_str(&row.evidence_json).ok(),
            });
            list(&all.collect::<Vec<_>>(), json, output)
        }
        TenantCommand::Release { tenant } => {
            if db.quarantine_release(tenant).await? {
                output.line(format_args!("{tenant} may run again"))?;
                Ok(Outcome::Good)
            } else {
                complain(format_args!("{tenant} is not quarantined"));
                Ok(Outcome::Bad)
            }
        }
    };
    db.close().await;
    done
}

fn list(all: &[Listed], json: bool, output: &mut Output) -> Result<Outcome, CommandError> {
    if json {
        for listed in all {
            output.json(listed)?;
        }
        return Ok(Outcome::Good);
    }
    if all.is_empty() {
        complain("no tenant is quarantined");
        return Ok(Outcome::Good);
    }
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY).set_header([
        "tenant",
        "since",
        "template",
        "event",
        "how its worker ended",
        "deaths",
        "last log lines",
    ]);
    for Listed { tenant, since, evidence } in all {
        let mut cells = vec![tenant.to_string(), since.to_string()];
        if let Some(Evidence { template, event, exit, deaths, log_lines, .. }) = evidence {
            cells.extend([template.clone(), event.clone(), exit.clone(), deaths.to_string(), log_lines.join("\n")]);
        }
        table.add_row(cells);
    }
    output.line(table)?;
    Ok(Outcome::Good)
}
