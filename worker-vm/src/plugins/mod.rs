//! What a context offers.

pub(crate) mod captcha;
pub(crate) mod discord;
pub(crate) mod http;
pub(crate) mod kv;
pub(crate) mod objects;

use worker_core::Snowflake;

use crate::error::ApiError;
use crate::luau::native::Call;
use crate::runtime::context::ContextCore;
use crate::runtime::metered::metered;
use crate::runtime::vm::Vm;

/// Runs a write to its end even if the thread that called it is closed meanwhile: a write that was cut off between its
/// commit and what follows from it (a change that others must hear of, a cache that must forget) would be half done.
pub(crate) fn to_the_end<R, W>(call: &Call, write: W) -> impl Future<Output = Result<R, ApiError>> + use<R, W>
where
    R: 'static,
    W: Future<Output = Result<R, ApiError>> + 'static,
{
    let (write, busy) = (metered(call.vm().tenant.account.clone(), write), call.vm().clock().busy());
    let write = async move {
        let written = write.await;
        drop(busy);
        written
    };
    async move { tokio::task::spawn_local(write).await.unwrap_or_else(|error| Err(ApiError::internal(&error))) }
}

/// The guild whose code the template is: of a shop template its owner, else the tenant.
fn origin_guild(context: &ContextCore) -> Snowflake {
    match &context.template.origin {
        worker_core::TemplateOrigin::Shop { owner: Some(owner), .. } => *owner,
        _ => Vm::current().tenant.id.snowflake(),
    }
}
