//! Who is kept from killing workers again and again.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use worker_core::TenantId;

/// When a tenant is kept apart.
#[derive(Clone, Debug)]
pub struct QuarantinePolicy {
    /// Deaths of workers in [`window`](Self::window) that its code was running at.
    pub deaths_max: usize,
    /// The window of [`deaths_max`](Self::deaths_max).
    pub window: Duration,
}

impl Default for QuarantinePolicy {
    fn default() -> Self {
        Self { deaths_max: 3, window: Duration::from_secs(10 * 60) }
    }
}

/// What is known of a worker's death, for whose code was running.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Whose code.
    pub tenant: TenantId,
    /// The template; empty if it is not known.
    pub template: String,
    /// The event; empty if it is not known.
    pub event: String,
    /// How the process ended.
    pub exit: String,
    /// The last lines that it logged.
    pub log_lines: Vec<String>,
    /// Deaths in the window, this one among them.
    pub deaths: usize,
}

/// Tenants whose code was running when their worker died, too often. They are paused: their events are refused, and no
/// worker process is told that they are its own. Clones share it; a pool has one.
#[derive(Clone)]
pub struct Quarantine(Arc<Inner>);

struct Inner {
    policy: QuarantinePolicy,
    suspects: Mutex<HashMap<TenantId, VecDeque<Instant>>>,
    paused: Mutex<HashMap<TenantId, Evidence>>,
    /// How many are paused, so that the usual case costs no lock.
    count: AtomicUsize,
    told: Told,
}

/// Who is told of each tenant that is paused.
type Told = Box<dyn Fn(&Evidence) + Send + Sync>;

/// Suspects that are remembered. Beyond it those without a recent death go first.
const SUSPECTS_MAX: usize = 4_096;

impl Quarantine {
    /// Without anybody in it. `told` hears of each tenant when it is paused, in a task of the supervisor: it must not
    /// block.
    pub fn new(policy: QuarantinePolicy, told: impl Fn(&Evidence) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner {
            policy,
            suspects: Mutex::default(),
            paused: Mutex::default(),
            count: AtomicUsize::new(0),
            told: Box::new(told),
        }))
    }

    /// Whether the tenant is paused.
    pub fn holds(&self, tenant: TenantId) -> bool {
        self.0.count.load(Relaxed) > 0 && self.0.paused.lock().contains_key(&tenant)
    }

    /// All who are paused, with the last evidence.
    pub fn all(&self) -> Vec<Evidence> {
        self.0.paused.lock().values().cloned().collect()
    }

    /// Pauses a tenant that was paused before, for example by an earlier run of the program.
    pub fn restore(&self, evidence: Evidence) {
        let mut paused = self.0.paused.lock();
        paused.insert(evidence.tenant, evidence);
        self.0.count.store(paused.len(), Relaxed);
    }

    /// Lets a tenant run again, and forgets what it did. Worker processes that were started meanwhile serve it once they
    /// are restarted. Tells whether it was paused.
    pub fn release(&self, tenant: TenantId) -> bool {
        self.0.suspects.lock().remove(&tenant);
        let mut paused = self.0.paused.lock();
        let released = paused.remove(&tenant).is_some();
        self.0.count.store(paused.len(), Relaxed);
        released
    }

    /// A worker died while the tenant's code ran. Returns whether the tenant is paused from now on.
    pub(crate) fn blame(&self, mut evidence: Evidence, now: Instant) -> bool {
        let Inner { policy, suspects, .. } = &*self.0;
        let deaths = {
            let mut suspects = suspects.lock();
            if suspects.len() >= SUSPECTS_MAX {
                suspects.retain(|_, deaths| deaths.back().is_some_and(|last| now - *last < policy.window));
            }
            let deaths = suspects.entry(evidence.tenant).or_default();
            deaths.retain(|death| now - *death < policy.window);
            deaths.push_back(now);
            deaths.len()
        };
        evidence.deaths = deaths;
        if deaths < policy.deaths_max || self.holds(evidence.tenant) {
            return false;
        }
        self.restore(evidence.clone());
        tracing::error!(
            tenant = %evidence.tenant, template = evidence.template, event = evidence.event, exit = evidence.exit, deaths,
            "the tenant is paused: its code was running when its worker died, too often"
        );
        (self.0.told)(&evidence);
        true
    }
}

impl Default for Quarantine {
    fn default() -> Self {
        Self::new(QuarantinePolicy::default(), |_| {})
    }
}

impl fmt::Debug for Quarantine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quarantine")
            .field("policy", &self.0.policy)
            .field("paused", &self.all())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence(tenant: u64) -> Evidence {
        Evidence {
            tenant: TenantId::guild(tenant),
            template: "t".into(),
            event: "MESSAGE".into(),
            exit: "signal 6".into(),
            log_lines: Vec::new(),
            deaths: 0,
        }
    }

    #[test]
    fn three_deaths_within_the_window_and_not_two() {
        let quarantine = Quarantine::default();
        let (now, window) = (Instant::now(), QuarantinePolicy::default().window);
        assert!(!quarantine.blame(evidence(1), now));
        assert!(!quarantine.blame(evidence(2), now));
        assert!(!quarantine.blame(evidence(1), now));
        assert!(!quarantine.blame(evidence(1), now + window), "the first two are forgotten");
        assert!(!quarantine.blame(evidence(1), now + window));
        assert!(quarantine.blame(evidence(1), now + window));
        assert!(quarantine.holds(TenantId::guild(1)) && !quarantine.holds(TenantId::guild(2)));
        assert_eq!(quarantine.all()[0].deaths, 3);
        assert!(quarantine.release(TenantId::guild(1)) && !quarantine.release(TenantId::guild(1)));
        assert!(!quarantine.blame(evidence(1), now + window), "a release forgets");
    }
}
