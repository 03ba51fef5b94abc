//! What stands in for the world outside while templates are tested: time, chance, Discord, and who runs the specs.

use std::fmt;
use std::future::Future;
use std::sync::{Mutex, PoisonError};

use rand::SeedableRng;
use rand::distr::{Alphanumeric, SampleString};
use rand::rngs::StdRng;
use tokio::sync::{mpsc, oneshot};
use worker_core::{Clock, Value, VirtualClock};

use crate::error::ApiError;
use crate::plugins::discord::Recorder;
use crate::plugins::http::HttpRecorder;

/// Makes a [`WorkerState`](crate::WorkerState) one for tests of templates. In such a one nothing comes from outside: the
/// clock is virtual, randomness has a seed, and `ctx.Discord` and `ctx.HTTPClient` record what they are asked for.
///
/// A worker that runs templates has no use for it: the program makes one for `antiraid test` alone.
pub struct Harness {
    clock: VirtualClock,
    seed: u64,
    random: Mutex<StdRng>,
    outside: Option<(Recorder, HttpRecorder)>,
    host: Option<mpsc::UnboundedSender<TestCall>>,
}

/// A call of the module `@antiraid-test`, which the runner of the tests answers.
#[derive(Debug)]
pub struct TestCall {
    /// What is asked for.
    pub name: String,
    /// With what.
    pub arguments: Vec<Value>,
    reply: oneshot::Sender<Result<Value, String>>,
}

impl TestCall {
    /// Answers, with a value or with the text of the error that the call raises.
    pub fn reply(self, answer: Result<Value, String>) {
        // A spec that was ended meanwhile needs no answer.
        let _ = self.reply.send(answer);
    }
}

/// A function of a spec that says what to answer: called with what the template gave, it returns or raises. Clones are
/// handles to the same function.
#[derive(Clone, Debug)]
pub struct AnswerFunction {
    number: u32,
    questions: mpsc::UnboundedSender<Question>,
}

/// What a function of a spec is asked.
#[derive(Debug)]
pub struct Question {
    /// Which function.
    pub function: u32,
    /// What the template gave.
    pub arguments: Vec<Value>,
    reply: oneshot::Sender<Result<Value, String>>,
}

impl Question {
    /// Answers, with a value or with the text of the error that the template's call raises.
    pub fn reply(self, answer: Result<Value, String>) {
        // A template that was ended meanwhile needs no answer.
        let _ = self.reply.send(answer);
    }
}

impl AnswerFunction {
    /// The function of this number; who calls it gets its questions.
    pub fn new(number: u32, questions: mpsc::UnboundedSender<Question>) -> Self {
        Self { number, questions }
    }

    /// Asks it, by the clock: the function may wait.
    pub(crate) async fn ask(self, clock: Clock, arguments: Vec<Value>) -> Result<Value, ApiError> {
        let gone = || ApiError::unavailable("the function that answers is gone");
        let (reply, answer) = oneshot::channel();
        let question = Question { function: self.number, arguments, reply };
        self.questions.send(question).map_err(|_| gone())?;
        let answer = match &clock {
            Clock::Virtual(clock) => clock.idle_while(answer).await,
            Clock::Real => answer.await,
        };
        answer.map_err(|_| gone())?.map_err(ApiError::verbatim)
    }
}

impl PartialEq for AnswerFunction {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number && self.questions.same_channel(&other.questions)
    }
}

impl Eq for AnswerFunction {}

impl Harness {
    /// For the templates under test.
    pub fn for_templates(clock: VirtualClock, seed: u64, discord: Recorder, http: HttpRecorder) -> Self {
        Self::new(clock, seed, Some((discord, http)), None)
    }

    /// For the specs: they can require `@antiraid-test`, whose calls go to `host`.
    pub fn for_specs(clock: VirtualClock, seed: u64, host: mpsc::UnboundedSender<TestCall>) -> Self {
        Self::new(clock, seed, None, Some(host))
    }

    fn new(
        clock: VirtualClock,
        seed: u64,
        outside: Option<(Recorder, HttpRecorder)>,
        host: Option<mpsc::UnboundedSender<TestCall>>,
    ) -> Self {
        Self { clock, seed, random: Mutex::new(StdRng::seed_from_u64(seed)), outside, host }
    }

    pub(crate) fn clock(&self) -> &VirtualClock {
        &self.clock
    }

    pub(crate) fn recorder(&self) -> Option<&Recorder> {
        self.outside.as_ref().map(|(discord, _)| discord)
    }

    pub(crate) fn http_recorder(&self) -> Option<&HttpRecorder> {
        self.outside.as_ref().map(|(_, http)| http)
    }

    pub(crate) fn host(&self) -> Option<&mpsc::UnboundedSender<TestCall>> {
        self.host.as_ref()
    }

    /// What `math.random` of each VM begins with.
    pub(crate) fn vm_seed(&self) -> u32 {
        // Positive also as an `int`, which Luau takes.
        (self.seed ^ (self.seed >> 32)) as u32 & 0x7FFF_FFFF
    }

    pub(crate) fn random_string(&self, chars: usize) -> String {
        Alphanumeric.sample_string(&mut *self.random.lock().unwrap_or_else(PoisonError::into_inner), chars)
    }

    /// Asks the host.
    pub(crate) fn call(
        &self,
        name: &str,
        arguments: Vec<Value>,
    ) -> Result<impl Future<Output = Result<Value, ApiError>> + use<>, ApiError> {
        let gone = || ApiError::unavailable("the runner of the tests has ended");
        let (reply, answer) = oneshot::channel();
        let host = self.host().ok_or_else(gone)?;
        host.send(TestCall { name: name.to_owned(), arguments, reply }).map_err(|_| gone())?;
        Ok(async move { answer.await.map_err(|_| gone())?.map_err(ApiError::verbatim) })
    }
}

impl fmt::Debug for Harness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Harness").field("clock", &self.clock).field("seed", &self.seed).finish_non_exhaustive()
    }
}
