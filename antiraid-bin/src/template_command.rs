//! `antiraid template …`.

use std::path::Path;

use comfy_table::{Table, presets};
use serde::Serialize;
use worker_core::TenantId;
use worker_db::{TemplateRow, WorkerDb};

use crate::cli::{CommandError, InstalledArgs, Outcome, TemplateCommand};
use crate::config::Config;
use crate::mistake::{Mistake, Mistakes};
use crate::output::Output;
use crate::template_dir::{FolderTemplate, Tenants, read_templates};
use crate::{engine, store};

/// Tenants that are asked for at once when all are listed.
const TENANTS_PAGE: usize = 1_000;

/// Runs the command.
pub async fn run(command: TemplateCommand, config: &Config, output: &mut Output) -> Result<Outcome, CommandError> {
    if let TemplateCommand::Check { dir } = &command {
        return check(dir, config, output);
    }
    if let TemplateCommand::Push { dir, tenants } = command {
        return push(&dir, &tenants, config, output).await;
    }
    let db = store::open(&config.database_url, &config.limits).await?;
    let done = match command {
        TemplateCommand::Check { .. } | TemplateCommand::Push { .. } => Ok(()),
        TemplateCommand::List { tenants, json } => list(&db, tenants, json, output).await,
        TemplateCommand::Pause(args) => set_paused(&db, args, true, output).await,
        TemplateCommand::Resume(args) => set_paused(&db, args, false, output).await,
        TemplateCommand::Remove(args) => remove(&db, args, output).await,
    };
    db.close().await;
    done.map(|()| Outcome::Good)
}

fn check(dir: &Path, config: &Config, output: &mut Output) -> Result<Outcome, CommandError> {
    match read_templates(dir, &config.limits.templates, &engine::builtins(config)?.library()) {
        Ok(templates) => {
            for template in templates {
                let files = template.files.iter().len();
                output.line(format_args!("{}: good, {files} files", template.name))?;
            }
            Ok(Outcome::Good)
        }
        // What a check finds is its result, not a failure of the command.
        Err(mistakes) => {
            output.line(mistakes)?;
            Ok(Outcome::Bad)
        }
    }
}

async fn push(dir: &Path, tenants: &[TenantId], config: &Config, output: &mut Output) -> Result<Outcome, CommandError> {
    let templates = read_templates(dir, &config.limits.templates, &engine::builtins(config)?.library())?;
    let targets = templates.iter().map(|template| targets(template, tenants)).collect::<Result<Vec<_>, _>>()?;
    let db = store::open(&config.database_url, &config.limits).await?;
    for (template, tenants) in templates.iter().zip(targets) {
        for tenant in tenants {
            let done = match store::push(&db, tenant, template).await? {
                store::Pushed::Created => "installed",
                store::Pushed::Replaced => "replaced",
            };
            output.line(format_args!("{}: {done} for {tenant}", template.name))?;
        }
    }
    db.close().await;
    Ok(Outcome::Good)
}

/// Who gets the template. "All" is a promise that only a running system can keep, because tenants come and go.
fn targets(template: &FolderTemplate, named: &[TenantId]) -> Result<Vec<TenantId>, Mistakes> {
    match &template.tenants {
        _ if !named.is_empty() => Ok(named.to_vec()),
        Tenants::Only(tenants) => Ok(tenants.clone()),
        Tenants::All => {
            let what =
                format!("`{}` is for all tenants; say for which it is installed now: --tenant <ID>", template.name);
            Err(Mistake::in_file(&template.folder, what).into())
        }
    }
}

async fn list(db: &WorkerDb, tenants: Vec<TenantId>, json: bool, output: &mut Output) -> Result<(), CommandError> {
    let tenants = if tenants.is_empty() { all_tenants(db).await? } else { tenants };
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY).set_header(["tenant", "template", "events", "state", "updated"]);
    for tenant in tenants {
        let templates = db.template_list(tenant).await?;
        for row in &templates.rows {
            if json {
                output.json(&Listed::new(tenant, row))?;
                continue;
            }
            let state = if row.paused { "paused" } else { "runs" };
            table.add_row([
                tenant.to_string(),
                row.name.to_string(),
                row.events.join(" "),
                state.into(),
                format!("{:.0}", row.updated_at),
            ]);
        }
        for bad in &templates.bad {
            if json {
                output.json(&ListedBad { tenant, name: &bad.name, damaged: &bad.reason })?;
            } else {
                table.add_row([&tenant.to_string(), &*bad.name, "", &format!("damaged: {}", bad.reason), ""]);
            }
        }
    }
    if !json {
        output.line(table)?;
    }
    Ok(())
}

async fn all_tenants(db: &WorkerDb) -> Result<Vec<TenantId>, CommandError> {
    let mut tenants = Vec::new();
    loop {
        let page = db.tenants_with_templates(tenants.last().copied(), TENANTS_PAGE).await?;
        if page.is_empty() {
            return Ok(tenants);
        }
        tenants.extend(page);
    }
}

async fn set_paused(
    db: &WorkerDb,
    InstalledArgs { name, tenants }: InstalledArgs,
    paused: bool,
    output: &mut Output,
) -> Result<(), CommandError> {
    for tenant in tenants {
        db.template_set_paused(tenant, &name, paused).await?;
        output.line(format_args!("{name}: {} for {tenant}", if paused { "paused" } else { "runs" }))?;
    }
    Ok(())
}

async fn remove(
    db: &WorkerDb,
    InstalledArgs { name, tenants }: InstalledArgs,
    output: &mut Output,
) -> Result<(), CommandError> {
    for tenant in tenants {
        db.template_delete(tenant, &name).await?;
        output.line(format_args!("{name}: removed for {tenant}"))?;
    }
    Ok(())
}

#[derive(Serialize)]
struct Listed<'a> {
    tenant: TenantId,
    name: &'a str,
    events: &'a [Box<str>],
    capabilities: Vec<&'a str>,
    error_channel: Option<String>,
    compat: String,
    paused: bool,
    content: Option<String>,
    created_at: String,
    updated_at: String,
}

impl<'a> Listed<'a> {
    fn new(tenant: TenantId, row: &'a TemplateRow) -> Self {
        Self {
            tenant,
            name: row.name.as_str(),
            events: &row.events,
            capabilities: row.allowed_caps.iter().collect(),
            error_channel: row.error_channel.map(|id| id.to_string()),
            compat: row.compat.to_string(),
            paused: row.paused,
            content: row.content.map(|hash| hash.to_string()),
            created_at: row.created_at.to_string(),
            updated_at: row.updated_at.to_string(),
        }
    }
}

#[derive(Serialize)]
struct ListedBad<'a> {
    tenant: TenantId,
    name: &'a str,
    damaged: &'a str,
}
