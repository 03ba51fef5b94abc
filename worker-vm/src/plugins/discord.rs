//! `ctx.Discord`: Discord's REST API as far as a template may use it (template API, section 5).
//!
//! A call goes through: its arguments are read ([`arguments`], by the kinds of [`schema`] and [`bodies`]), its capability
//! and rate limits are asked, and then, off the VM's thread, its [`checks`] are made and its request is sent ([`call`]).
//! What differs between the methods is data: [`endpoints`].
//!
//! While templates are tested, [`recorder`] stands in for all of it.

mod arguments;
mod bodies;
mod bulk;
mod call;
mod checks;
mod endpoints;
mod methods;
mod recorder;
mod schema;
mod validators;

use std::ffi::{CStr, c_int};
use std::rc::Rc;
use std::time::Instant;

use worker_core::RatelimitFamily;

pub use recorder::{Answer, Recorded, Recorder};

use self::arguments::Prepared;
use self::bulk::Bulk;
pub(crate) use self::bulk::BulkAllowances;
use self::call::Answered;
use self::endpoints::{Action, ENDPOINTS, Endpoint, Helper};
use self::methods::METHODS;
pub(crate) use self::recorder::DiscordRecorder;
use crate::error::ApiError;
use crate::luau::class::{Class, ClassBuilder, Object, tags};
use crate::luau::native::{Call, Values};
use crate::luau::stack::PushBox;
use crate::modules::lazy::Lazy;
use crate::runtime::context::ContextCore;
use crate::runtime::held::Held;
use crate::services::Discord as Service;

/// Characters of a reason.
const REASON_CHARS: std::ops::RangeInclusive<usize> = 1..=512;

/// The plugin of a context, or an executor that was made from it.
pub(crate) struct DiscordPlugin {
    context: Rc<ContextCore>,
    bulk: Option<Bulk>,
}

impl DiscordPlugin {
    pub(crate) fn new(context: Rc<ContextCore>) -> Self {
        Self { context, bulk: None }
    }

    /// The checks before the work: the capability, then the rate limit or what an executor has in its place.
    fn admit(&self, call: &Call, method: &str, tokens: u32) -> Result<(), ApiError> {
        self.context.require(&format!("discord:{method}"))?;
        let tenant = &call.vm().tenant;
        match &self.bulk {
            Some(bulk) => bulk.take(&tenant.bulk, method, Instant::now()),
            None => Ok(tenant.ratelimits.take(RatelimitFamily::Discord, method, tokens)?),
        }
    }
}

fn text(name: &'static CStr) -> &'static str {
    name.to_str().expect("because the names are ASCII")
}

fn service(call: &Call) -> Result<Service, ApiError> {
    call.vm().surroundings.state.discord().cloned().ok_or_else(|| ApiError::unavailable("Discord"))
}

/// Any method that yields; upvalue 1 says which.
fn yielding(call: &Call) -> Result<impl Future<Output = Result<Option<Lazy>, ApiError>> + use<>, ApiError> {
    let endpoint = &ENDPOINTS[call.upvalue_number(1).unwrap_or_default() as usize];
    let (plugin, vm) = (call.object::<DiscordPlugin>(1, "self")?, call.vm());
    if matches!(endpoint.action, Action::Helper(Helper::BulkOpWait)) {
        return Ok(Begun::Wait(bulk_op_wait(call, plugin)?).finish());
    }
    let prepared = Prepared::read(endpoint, call.values_from(2)?)?;
    plugin.admit(call, text(endpoint.name), tokens(endpoint, &prepared))?;
    // Counted for as long as the request takes.
    let bytes = prepared.body_text()?.map_or(0, |body| 2 * body.len());
    let held = Held::new(vm.weak(), bytes)
        .ok_or_else(|| ApiError::memory("no room for the request within the tenant's memory limit"))?;
    let (discord, tenant) = (service(call)?, vm.tenant.id);
    let home = vm.surroundings.state.services().home().clone();
    // To its end, whether the script waits or not: what Discord refuses has to be counted.
    let answer = async move { home.run_to_end(call::run(discord, tenant, endpoint, prepared)).await? };
    Ok(Begun::Request { answer: Box::pin(answer), held, vm: vm.weak() }.finish())
}

/// What a method that yields waits for.
enum Begun {
    Wait(std::time::Duration),
    Request {
        answer: std::pin::Pin<Box<dyn Future<Output = Result<Answered, ApiError>>>>,
        held: Held,
        vm: std::rc::Weak<crate::runtime::vm::Vm>,
    },
}

impl Begun {
    async fn finish(self) -> Result<Option<Lazy>, ApiError> {
        match self {
            Self::Wait(wait) => {
                tokio::time::sleep(wait).await;
                Ok(None)
            }
            Self::Request { answer, held, vm } => {
                let answer = answer.await?;
                drop(held);
                match answer {
                    Answered::Nothing => Ok(None),
                    Answered::Json(json) => Lazy::json(vm, json).map(Some),
                }
            }
        }
    }
}

fn bulk_op_wait(call: &Call, plugin: &DiscordPlugin) -> Result<std::time::Duration, ApiError> {
    plugin.context.require("discord:antiraid_bulk_op_wait")?;
    let tenant = &call.vm().tenant;
    tenant.ratelimits.take(RatelimitFamily::Discord, "antiraid_bulk_op_wait", 1)?;
    let bulk = plugin.bulk.as_ref().ok_or_else(|| ApiError::bulk_op("not a bulk executor"))?;
    bulk.wait(&tenant.bulk, Instant::now())
}

/// What a call takes from its bucket: members count each.
fn tokens(endpoint: &Endpoint, prepared: &Prepared) -> u32 {
    match endpoint.action {
        Action::Helper(Helper::FusedMember) => u32::try_from(prepared.ids_of("ids").len()).unwrap_or(u32::MAX).max(1),
        _ => 1,
    }
}

fn bulk_op(call: &Call) -> Result<Object<DiscordPlugin>, ApiError> {
    let plugin = call.object::<DiscordPlugin>(1, "self")?;
    let action = call.str_opt(2, "action")?;
    let known = action.map(|action| {
        let known = METHODS.iter().map(|(name, _)| text(name)).find(|name| *name == action);
        known.ok_or_else(|| ApiError::invalid_argument("action (expected the name of a method)"))
    });
    let action = known.transpose()?;
    plugin.context.require("discord:antiraid_bulk_op")?;
    call.vm().tenant.ratelimits.take(RatelimitFamily::Discord, "antiraid_bulk_op", 1)?;
    Ok(Object(DiscordPlugin { context: plugin.context.clone(), bulk: Some(Bulk::new(action)) }))
}

fn check_reason(call: &Call) -> Result<Values, ApiError> {
    let plugin = call.object::<DiscordPlugin>(1, "self")?;
    plugin.context.require("discord:antiraid_check_reason")?;
    call.vm().tenant.ratelimits.take(RatelimitFamily::Discord, "antiraid_check_reason", 1)?;
    let chars = call.str_opt(2, "reason")?.unwrap_or_default().chars().count();
    let problem =
        (!REASON_CHARS.contains(&chars)).then(|| "invalid_argument: reason (expected 1 to 512 characters)".to_owned());
    let values: Vec<Box<dyn PushBox>> = vec![Box::new(Option::<String>::None), Box::new(problem)];
    Ok(Values(values))
}

impl Class for DiscordPlugin {
    const TAG: c_int = tags::DISCORD;
    const NAME: &'static str = "Discord";
    const C_NAME: &'static CStr = c"Discord";

    fn register(class: &mut ClassBuilder) {
        class
            .yielding_each(METHODS.iter().map(|(name, _)| *name), yielding)
            .method(c"antiraid_bulk_op", bulk_op)
            .method(c"antiraid_check_reason", check_reason);
    }
}
