//! What belongs to a tenant and outlives its VMs.

use std::rc::Rc;

use worker_core::{Limits, RatelimitRules, Ratelimits, StaticRef, TenantId};

use crate::runtime::turns::CpuAccount;
use crate::tenant_log::TenantLog;

/// The tenant's limits and log: a reload, a memory error or an eviction of its VM changes nothing here.
pub(crate) struct Tenant {
    pub(crate) id: TenantId,
    pub(crate) ratelimits: Ratelimits,
    pub(crate) account: Rc<CpuAccount>,
    pub(crate) log: TenantLog,
}

impl Tenant {
    pub(crate) fn new(id: TenantId, limits: &Limits, rules: StaticRef<RatelimitRules>) -> Self {
        Self {
            id,
            ratelimits: Ratelimits::new(rules),
            account: Rc::new(CpuAccount::new(limits)),
            log: TenantLog::new(limits),
        }
    }

    /// Whether nothing would be lost if the tenant were made anew.
    pub(crate) fn is_forgettable(&self) -> bool {
        self.ratelimits.is_idle() && self.account.is_full() && self.log.is_empty()
    }
}
