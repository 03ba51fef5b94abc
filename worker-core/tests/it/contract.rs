//! The test worker keeps the contract itself, or it could not show that others do; workers with a fault do not.

use std::cell::{Cell, RefCell};

use worker_core::contract::{TestEngine, TestWorker};
use worker_core::{Call, TenantId, WorkerId, WorkerLike, WorkerStats};

async fn start(engine: TestEngine) -> TestWorker {
    engine.worker(WorkerId::new(1))
}

worker_core::worker_like_contract!(start);

#[derive(Clone, Copy)]
enum Fault {
    SwapsNeighbours,
    MixesTenants,
    DrainsWithoutWaiting,
    DropsWhatIsTooMuch,
    CountsNothing,
    LeavesTheHeldBehind,
    GivesNothingUp,
}

struct Faulty {
    fault: Fault,
    worker: TestWorker,
    earlier: RefCell<Option<Call>>,
    dispatches: Cell<usize>,
}

impl Faulty {
    fn new(fault: Fault, engine: &TestEngine) -> Self {
        Self {
            fault,
            worker: engine.worker(WorkerId::new(1)),
            earlier: RefCell::default(),
            dispatches: Cell::default(),
        }
    }
}

impl WorkerLike for Faulty {
    fn id(&self) -> WorkerId {
        self.worker.id()
    }

    fn submit(&self, call: Call) {
        match (self.fault, call) {
            (Fault::SwapsNeighbours, call @ Call::Dispatch { .. }) => match self.earlier.take() {
                None => *self.earlier.borrow_mut() = Some(call),
                Some(earlier) => {
                    self.worker.submit(call);
                    self.worker.submit(earlier);
                }
            },
            (Fault::MixesTenants, Call::Dispatch { event, reply_to, .. }) => {
                self.worker.submit(Call::Dispatch { tenant: TenantId::guild(1), event, reply_to });
            }
            (Fault::MixesTenants, Call::Reload { reply_to, .. }) => {
                self.worker.submit(Call::Reload { tenant: TenantId::guild(1), reply_to });
            }
            (Fault::DrainsWithoutWaiting, Call::Drain { reply_to }) => reply_to.send(Ok(())),
            (Fault::DropsWhatIsTooMuch, call @ Call::Dispatch { .. }) => {
                self.dispatches.set(self.dispatches.get() + 1);
                if self.dispatches.get() <= TestWorker::HELD_MAX {
                    self.worker.submit(call);
                }
            }
            (Fault::CountsNothing, Call::Stats { reply_to }) => {
                reply_to.send(Ok(WorkerStats { workers: 1, ..WorkerStats::default() }));
            }
            (Fault::LeavesTheHeldBehind, Call::Kill { reply_to }) => {
                self.worker.submit(Call::Drain { reply_to });
            }
            (Fault::GivesNothingUp, Call::Own { reply_to, .. }) => reply_to.send(Ok(())),
            (_, call) => self.worker.submit(call),
        }
    }
}

/// The check fails on the worker with the fault.
macro_rules! fault_is_found {
    ($($fault:ident by $check:ident: $message:literal)*) => {
        #[expect(non_snake_case, reason = "the tests are named after the faults")]
        mod fault_is_found { $(
            #[tokio::test]
            #[should_panic(expected = $message)]
            async fn $fault() {
                let start = async |engine| super::Faulty::new(super::Fault::$fault, &engine);
                worker_core::contract::$check(&start).await;
            }
        )* }
    };
}

fault_is_found! {
    SwapsNeighbours by events_of_a_tenant_start_in_order: "left: Integer(2)"
    MixesTenants by after_a_reload_events_see_the_new_templates: "left: Integer(3)"
    DrainsWithoutWaiting by drain_finishes_what_was_taken: "answered before"
    DropsWhatIsTooMuch by overload_is_typed_and_passes: "left: WorkerGone"
    CountsNothing by stats_count: "left: (0, 0, 0)"
    LeavesTheHeldBehind by kill_answers_what_is_pending: "succeeded, and should not"
    GivesNothingUp by what_is_given_up_has_ended_then: "because what runs has ended"
}
