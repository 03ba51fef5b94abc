//! `ctx.KV`: the records of the tenant (template API, section 4).
//!
//! Every method reads its arguments, asks for the capability, then for the rate limit, and only then begins to work.

mod access;
mod arguments;
mod by_id;
mod by_key;
mod lists;
mod record;

use std::ffi::{CStr, c_int};
use std::rc::{Rc, Weak};

use worker_core::{RatelimitFamily, TenantId, Value};
use worker_db::{KvRecord, WorkerDb};

use crate::error::ApiError;
use crate::luau::class::{Class, ClassBuilder, tags};
use crate::luau::native::Call;
use crate::luau::stack::PushBox;
use crate::runtime::context::ContextCore;
use crate::runtime::held::Held;
use crate::runtime::turns::CpuAccount;
use crate::runtime::vm::Vm;

/// The records of the tenant, as far as a context's capabilities go.
pub(crate) struct Kv {
    context: Rc<ContextCore>,
}

impl Kv {
    pub(crate) fn new(context: Rc<ContextCore>) -> Self {
        Self { context }
    }
}

impl Class for Kv {
    const TAG: c_int = tags::KV;
    const NAME: &'static str = "KV";
    const C_NAME: &'static CStr = c"KV";
    const HAS_FIELDS: bool = true;

    fn field(&self, call: &Call, name: &str) -> Result<Option<Box<dyn PushBox>>, ApiError> {
        let guild = match name {
            "guild_id" => call.vm().tenant.id.snowflake(),
            "origin_guild_id" => super::origin_guild(&self.context),
            _ => return Ok(None),
        };
        Ok(Some(Box::new(guild.to_string())))
    }

    fn register(class: &mut ClassBuilder) {
        class
            .yielding(c"list_scopes", lists::list_scopes)
            .yielding(c"keys", lists::keys)
            .yielding(c"find", lists::find)
            .yielding(c"exists", by_key::exists)
            .yielding(c"get", by_key::get)
            .yielding(c"getrecord", by_key::getrecord)
            .yielding(c"set", by_key::set)
            .yielding(c"cas", by_key::cas)
            .yielding(c"incr", by_key::incr)
            .yielding(c"setexpiry", by_key::setexpiry)
            .yielding(c"delete", by_key::delete)
            .yielding(c"getbyid", by_id::getbyid)
            .yielding(c"getrecordbyid", by_id::getrecordbyid)
            .yielding(c"setbyid", by_id::setbyid)
            .yielding(c"setexpirybyid", by_id::setexpirybyid)
            .yielding(c"deletebyid", by_id::deletebyid);
    }
}

/// The context that the KV of a call, its first argument, was reached through.
fn context(call: &Call) -> Result<&Rc<ContextCore>, ApiError> {
    call.object::<Kv>(1, "self").map(|kv| &kv.context)
}

/// What a call that was allowed works with after it has left the Lua stack.
struct Store {
    db: WorkerDb,
    tenant: TenantId,
    vm: Weak<Vm>,
    account: Rc<CpuAccount>,
}

impl Store {
    /// The last check before the work: the call counts in the rate limits.
    fn open(call: &Call, bucket: &str) -> Result<Self, ApiError> {
        let vm = call.vm();
        vm.tenant.ratelimits.take(RatelimitFamily::Kv, bucket, 1)?;
        Ok(Self {
            db: vm.surroundings.state.db().clone(),
            tenant: vm.tenant.id,
            vm: vm.weak(),
            account: vm.tenant.account.clone(),
        })
    }

    /// Counts the value that a write carries in the tenant's memory.
    fn carry(&self, json: &str) -> Result<Held, ApiError> {
        Held::new(self.vm.clone(), json.len())
            .ok_or_else(|| ApiError::memory("no room for the value within the tenant's memory limit"))
    }

    /// Counts records in the tenant's memory: their text, and what the values that are made of it take at the most. An
    /// element of two bytes, such as `1,`, is a value twenty times as large; a comma within a text counts as one too.
    fn hold<'a>(&self, records: impl IntoIterator<Item = &'a KvRecord>) -> Result<Held, ApiError> {
        let bytes = |record: &KvRecord| {
            let scopes: usize = record.scopes.iter().map(|scope| size_of::<String>() + scope.len()).sum();
            let json = record.value_json.as_bytes();
            let elements = json.iter().filter(|&&byte| matches!(byte, b',' | b'[' | b'{')).count() + 1;
            size_of::<KvRecord>() + json.len() + elements * size_of::<Value>() + record.key.len() + scopes
        };
        Held::new(self.vm.clone(), records.into_iter().map(bytes).sum())
            .ok_or_else(|| ApiError::memory("no room for the records within the tenant's memory limit"))
    }
}
