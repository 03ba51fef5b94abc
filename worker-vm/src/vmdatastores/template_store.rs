//! `TemplateStore`: the templates of the tenant.

mod input;
mod output;

use std::rc::Weak;
use std::sync::Arc;

use worker_core::{CompatDate, ContentHash, Snowflake, TemplateFiles, TemplateName, TenantId};
use worker_db::{NewTemplate, SharedCache, TemplateRow, WorkerCacheData, WorkerDb};

use self::output::Template;
use super::{Store, admit};
use crate::error::ApiError;
use crate::luau::native::{Call, push_yielding_closure};
use crate::luau::stack::{List, Nil};
use crate::modules::lazy::file_bytes;
use crate::plugins::to_the_end;
use crate::runtime::held::Held;
use crate::runtime::vm::Vm;
use crate::services::{Discord, Home};

pub(super) const STORE: Store = Store {
    name: c"TemplateStore",
    needs_caps: true,
    methods: &[
        (c"list", |l, name| push_yielding_closure(l, name, 1, list)),
        (c"get", |l, name| push_yielding_closure(l, name, 1, get)),
        (c"create", |l, name| push_yielding_closure(l, name, 1, create)),
        (c"update", |l, name| push_yielding_closure(l, name, 1, update)),
        (c"delete", |l, name| push_yielding_closure(l, name, 1, delete)),
    ],
};

/// What a call that was let in works with.
struct Templates {
    tenant: TenantId,
    db: WorkerDb,
    shared: SharedCache,
    cache: WorkerCacheData,
    vm: Weak<Vm>,
    discord: Option<(Discord, Home)>,
}

impl Templates {
    fn of(call: &Call) -> Self {
        let vm = call.vm();
        let (cache, state) = (vm.surroundings.cache.clone(), &vm.surroundings.state);
        Self {
            tenant: vm.tenant.id,
            db: state.db().clone(),
            shared: cache.shared().clone(),
            cache,
            vm: vm.weak(),
            discord: state.discord().map(|discord| (discord.clone(), state.services().home().clone())),
        }
    }

    /// Every event from now on finds what was written.
    fn changed(&self) {
        self.cache.invalidate(self.tenant);
    }

    /// A row as scripts get it. Its files count in the tenant's memory before the next row's are read: all templates of a
    /// tenant together may be larger than it.
    async fn with_files(&self, row: TemplateRow) -> Result<Template, ApiError> {
        let files = match row.content {
            Some(hash) => self.files(hash, &row.name).await?,
            None => None,
        };
        let bytes = files.as_deref().map_or(0, file_bytes);
        let held = self.hold(bytes)?;
        Ok(Template { row, files, held })
    }

    async fn files(&self, hash: ContentHash, name: &TemplateName) -> Result<Option<Arc<TemplateFiles>>, ApiError> {
        if let Some(files) = self.shared.files(&hash) {
            return Ok(Some(files));
        }
        match self.db.contents(&[hash]).await?.remove(&hash) {
            Some(Ok(files)) => {
                self.shared.insert_files(files.clone());
                Ok(Some(files))
            }
            // The template is disabled and in the tenant's log already; a list must still show it.
            damaged => {
                tracing::warn!(tenant = %self.tenant, template = %name, ?damaged, "the files of a template are lost");
                Ok(None)
            }
        }
    }

    /// The error channel is a channel of the guild, no thread, where the bot may speak; without a bot nobody can tell.
    async fn check_error_channel(&self, channel: Option<Snowflake>) -> Result<(), ApiError> {
        let (Some(channel), Some((discord, home))) = (channel, &self.discord) else { return Ok(()) };
        let (discord, tenant) = (discord.clone(), self.tenant);
        let check = async move { discord.lookups().check_error_channel(tenant, channel).await };
        home.run_to_end(check).await?
    }

    fn hold(&self, bytes: usize) -> Result<Held, ApiError> {
        Held::new(self.vm.clone(), bytes)
            .ok_or_else(|| ApiError::memory("no room for the templates' content within the tenant's memory limit"))
    }
}

fn list(call: &Call) -> Result<impl Future<Output = Result<List<Template>, ApiError>> + use<>, ApiError> {
    admit(call, "list")?;
    let templates = Templates::of(call);
    Ok(async move {
        let mut list = Vec::new();
        for row in templates.db.template_list(templates.tenant).await?.rows {
            list.push(templates.with_files(row).await?);
        }
        Ok(List(list))
    })
}

fn get(call: &Call) -> Result<impl Future<Output = Result<Option<Template>, ApiError>> + use<>, ApiError> {
    let name = input::wanted_name(call, 1)?;
    admit(call, "get")?;
    let templates = Templates::of(call);
    Ok(async move {
        let Some(name) = name else { return Ok(None) };
        match templates.db.template_get(templates.tenant, &name).await? {
            Some(row) => templates.with_files(row).await.map(Some),
            None => Ok(None),
        }
    })
}

fn create(call: &Call) -> Result<impl Future<Output = Result<Nil, ApiError>> + use<>, ApiError> {
    // What is new follows the newest rules.
    let template = input::template(call, 1, CompatDate::NEWEST)?;
    let context = admit(call, "create")?;
    for capability in template.allowed_caps.iter() {
        context.require(capability)?;
    }
    let templates = Templates::of(call);
    let carried = templates.hold(content_bytes(&template))?;
    Ok(to_the_end(call, async move {
        templates.check_error_channel(template.error_channel).await?;
        templates.db.template_create(templates.tenant, template).await?;
        templates.changed();
        drop(carried);
        Ok(Nil)
    }))
}

fn update(call: &Call) -> Result<impl Future<Output = Result<Nil, ApiError>> + use<>, ApiError> {
    let mut template = input::template(call, 1, CompatDate::NEWEST)?;
    let context = admit(call, "update")?.clone();
    for capability in template.allowed_caps.iter() {
        context.require(capability)?;
    }
    let templates = Templates::of(call);
    let carried = templates.hold(content_bytes(&template))?;
    Ok(to_the_end(call, async move {
        let row = templates.db.template_get(templates.tenant, &template.name).await?;
        let row = row.ok_or_else(|| ApiError::not_found(format_args!("template `{}`", template.name)))?;
        for capability in row.allowed_caps.iter() {
            context.require(capability)?;
        }
        // The rules that its code was written for stay with it.
        template.compat = row.compat;
        // One that it has already is not asked about again: it may have been closed meanwhile, which is no reason to refuse.
        if template.error_channel != row.error_channel {
            templates.check_error_channel(template.error_channel).await?;
        }
        templates.db.template_update(templates.tenant, template).await?;
        templates.changed();
        drop(carried);
        Ok(Nil)
    }))
}

fn delete(call: &Call) -> Result<impl Future<Output = Result<Nil, ApiError>> + use<>, ApiError> {
    let name = input::wanted_name(call, 1)?;
    admit(call, "delete")?;
    let templates = Templates::of(call);
    Ok(to_the_end(call, async move {
        let name = name.ok_or_else(|| ApiError::not_found("template of such a name"))?;
        templates.db.template_delete(templates.tenant, &name).await?;
        templates.changed();
        Ok(Nil)
    }))
}

fn content_bytes(template: &NewTemplate) -> usize {
    template.files.iter().map(|(path, text)| path.len() + text.len()).sum()
}
