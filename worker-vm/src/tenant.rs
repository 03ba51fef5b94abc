//! What belongs to a tenant and outlives its VMs.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Semaphore;
use worker_core::{Limits, RatelimitRules, Ratelimits, StaticRef, TenantId};

use crate::plugins::discord::BulkAllowances;
use crate::runtime::turns::CpuAccount;
use crate::tenant_log::TenantLog;

/// The tenant's limits and log: a reload, a memory error or an eviction of its VM changes nothing here.
pub(crate) struct Tenant {
    pub(crate) id: TenantId,
    pub(crate) ratelimits: Ratelimits,
    pub(crate) account: Rc<CpuAccount>,
    pub(crate) log: TenantLog,
    /// When executors for many calls to Discord may act again.
    pub(crate) bulk: BulkAllowances,
    /// The right to do long native work: one piece at a time.
    pub(crate) long_work: Arc<Semaphore>,
}

impl Tenant {
    pub(crate) fn new(id: TenantId, limits: &Limits, rules: StaticRef<RatelimitRules>) -> Self {
        Self {
            id,
            ratelimits: Ratelimits::new(rules),
            account: Rc::new(CpuAccount::new(limits)),
            log: TenantLog::new(limits),
            bulk: BulkAllowances::default(),
            long_work: Arc::new(Semaphore::new(1)),
        }
    }

    /// Whether nothing would be lost if the tenant were made anew.
    pub(crate) fn is_forgettable(&self) -> bool {
        let works = self.long_work.available_permits() == 0;
        !works && self.bulk.is_idle() && self.ratelimits.is_idle() && self.account.is_full() && self.log.is_empty()
    }
}
