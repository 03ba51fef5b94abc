//! The database as commands use it.

use tokio::signal::unix::SignalKind;
use worker_core::{Limits, TenantId};
use worker_db::{DbConfig, DbError, NewTemplate, WorkerDb};

use crate::config::DatabaseUrl;
use crate::template_dir::FolderTemplate;

/// Opens the database with the limits of the settings.
pub async fn open(url: &DatabaseUrl, limits: &Limits) -> Result<WorkerDb, DbError> {
    let config = DbConfig { kv: limits.kv.clone(), templates: limits.templates.clone(), ..DbConfig::default() };
    WorkerDb::connect(url.expose(), config).await
}

/// What installing a template did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// The tenant did not have it.
    Created,
    /// The tenant had one of this name.
    Replaced,
}

/// Installs a template for the tenant, or replaces the one of its name.
pub async fn push(db: &WorkerDb, tenant: TenantId, template: &FolderTemplate) -> Result<Pushed, DbError> {
    match db.template_create(tenant, new_template(template)).await {
        Ok(()) => Ok(Pushed::Created),
        Err(DbError::Conflict(_)) => {
            db.template_update(tenant, new_template(template)).await.map(|()| Pushed::Replaced)
        }
        Err(error) => Err(error),
    }
}

/// Installs a template for each of the tenants, or replaces the one of its name: for all of them or, if that fails, for
/// none of the last ten thousand.
pub async fn push_for_all(db: &WorkerDb, tenants: &[TenantId], template: &FolderTemplate) -> Result<(), DbError> {
    for tenants in tenants.chunks(WorkerDb::PUT_TENANTS_MAX) {
        db.template_put_for_tenants(tenants, new_template(template)).await?;
    }
    Ok(())
}

fn new_template(template: &FolderTemplate) -> NewTemplate {
    NewTemplate {
        name: template.name.clone(),
        files: template.files.iter().map(|(path, text)| (path.to_string(), text.to_string())).collect(),
        events: template.events.iter().map(|event| event.to_string()).collect(),
        allowed_caps: template.capabilities.clone(),
        error_channel: template.error_channel,
        compat: template.compat,
        paused: template.paused,
    }
}

/// A file that may not grow any more (`ulimit -f`) is an error of the write, as a full disk is: the signal that comes with
/// it would end the process. To be called in a runtime.
pub fn survive_file_limits() -> std::io::Result<()> {
    // Its handler stays when this is dropped.
    tokio::signal::unix::signal(SignalKind::from_raw(libc::SIGXFSZ)).map(drop)
}
