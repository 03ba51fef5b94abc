//! Stands in for Discord while templates are tested: keeps what it is asked for, and answers as it was told to.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{CStr, c_int};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use worker_core::{RatelimitFamily, TemplateName, Value};

use super::methods::{METHODS, Returns};
use crate::error::ApiError;
use crate::harness::AnswerFunction;
use crate::luau::class::{Class, ClassBuilder, Object, tags};
use crate::luau::native::{Call, Values};
use crate::luau::stack::PushBox;
use crate::luau::value;
use crate::modules::lazy::Lazy;
use crate::runtime::context::ContextCore;
use crate::runtime::vm::Vm;

/// What was asked of Discord, and how it answers. Clones are handles to the same record.
#[derive(Clone, Debug, Default)]
pub struct Recorder(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    calls: Vec<Recorded>,
    bytes: usize,
    answers: BTreeMap<String, VecDeque<Answer>>,
}

/// A call that was allowed.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// The method.
    pub method: &'static str,
    /// Its arguments, without the object.
    pub arguments: Vec<Value>,
    /// Who called.
    pub template: TemplateName,
}

/// An answer of Discord's.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// What the Lazy holds.
    Value(Value),
    /// The text of the error that the call raises.
    Error(String),
    /// What the function says when it is called with the arguments.
    Function(AnswerFunction),
}

impl Recorder {
    /// Calls that are kept; the next one fails.
    const CALLS_MAX: usize = 10_000;

    /// Bytes of their arguments.
    const BYTES_MAX: usize = 64 << 20;

    /// The methods that can be recorded and answered.
    pub fn methods() -> impl Iterator<Item = &'static str> {
        METHODS.iter().map(|(name, _)| text(name))
    }

    /// The calls so far, oldest first.
    pub fn calls(&self) -> Vec<Recorded> {
        self.state().calls.clone()
    }

    /// Sets how calls of the method are answered: in this order, the last one for ever. Whatever was set before goes.
    pub fn answer(&self, method: &str, answers: impl IntoIterator<Item = Answer>) {
        self.state().answers.insert(method.to_owned(), answers.into_iter().collect());
    }

    fn record(&self, call: Recorded) -> Result<Option<Answer>, ApiError> {
        let mut state = self.state();
        let bytes = state.bytes + call.arguments.iter().map(value::bytes).sum::<usize>() + size_of::<Recorded>();
        if state.calls.len() >= Self::CALLS_MAX || bytes > Self::BYTES_MAX {
            let (calls, mib) = (Self::CALLS_MAX, Self::BYTES_MAX >> 20);
            return Err(ApiError::too_large(format_args!(
                "calls that a test records (at most {calls}, and {mib} MiB)"
            )));
        }
        state.bytes = bytes;
        let answers = state.answers.get_mut(call.method);
        let answer = answers.and_then(|answers| match answers.len() {
            0 | 1 => answers.front().cloned(),
            _ => answers.pop_front(),
        });
        state.calls.push(call);
        Ok(answer)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn text(name: &'static CStr) -> &'static str {
    name.to_str().expect("because the names are ASCII")
}

/// `ctx.Discord` over a [`Recorder`]: capabilities and rate limits are the real ones, Discord's own checks are not made.
pub(crate) struct DiscordRecorder {
    context: Rc<ContextCore>,
}

impl DiscordRecorder {
    pub(crate) fn new(context: Rc<ContextCore>) -> Self {
        Self { context }
    }
}

impl Class for DiscordRecorder {
    const TAG: c_int = tags::DISCORD_RECORDER;
    const NAME: &'static str = "Discord";
    const C_NAME: &'static CStr = c"Discord";

    fn register(class: &mut ClassBuilder) {
        class
            .yielding_each(METHODS.iter().map(|(name, _)| *name), |call: &Call| {
                let place = call.upvalue_number(1).unwrap_or_default() as usize;
                let (name, returns) = METHODS[place];
                let answer = recorded(call, text(name))?;
                let (clock, arguments) = match &answer {
                    Some(Answer::Function(_)) => (call.vm().clock().clone(), call.values_from(2)?),
                    _ => Default::default(),
                };
                Ok(async move {
                    let answered = match answer {
                        Some(Answer::Error(text)) => return Err(ApiError::verbatim(text)),
                        Some(Answer::Value(value)) => value,
                        Some(Answer::Function(function)) => function.ask(clock, arguments).await?,
                        None if returns == Returns::LazyList => Value::List(Vec::new()),
                        None => Value::Map(BTreeMap::new()),
                    };
                    Ok((returns != Returns::Nil).then(|| Lazy::new(answered)))
                })
            })
            .method(c"antiraid_bulk_op", |call: &Call| {
                recorded(call, "antiraid_bulk_op")?;
                Ok(Object(Self::new(call.object::<Self>(1, "self")?.context.clone())))
            })
            .method(c"antiraid_check_reason", |call: &Call| {
                recorded(call, "antiraid_check_reason")?;
                let chars = call.str_opt(2, "reason")?.unwrap_or_default().chars().count();
                let problem = (!(1..=512).contains(&chars)).then(|| "reason (expected 1 to 512 characters)".to_owned());
                let values: Vec<Box<dyn PushBox>> = vec![Box::new(Option::<String>::None), Box::new(problem)];
                Ok(Values(values))
            });
    }
}

/// Checks a call as the real plugin does before it asks Discord, and keeps it.
fn recorded(call: &Call, method: &'static str) -> Result<Option<Answer>, ApiError> {
    let context = &call.object::<DiscordRecorder>(1, "self")?.context;
    let arguments = call.values_from(2)?;
    context.require(&format!("discord:{method}"))?;
    let vm = Vm::current();
    vm.tenant.ratelimits.take(RatelimitFamily::Discord, method, 1)?;
    let recorder = vm.surroundings.state.recorder().ok_or_else(|| ApiError::unavailable("Discord"))?;
    recorder.record(Recorded { method, arguments, template: context.template.name.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_in_their_order_and_the_last_one_stays() {
        let recorder = Recorder::default();
        let ask = || {
            let template = TemplateName::new("t").unwrap();
            recorder.record(Recorded { method: "get_guild", arguments: Vec::new(), template }).unwrap()
        };
        assert_eq!(ask(), None);
        recorder.answer("get_guild", [Answer::Value(1.into()), Answer::Error("discord: 500".into())]);
        assert_eq!(ask(), Some(Answer::Value(1.into())));
        assert_eq!(ask(), Some(Answer::Error("discord: 500".into())));
        assert_eq!(ask(), Some(Answer::Error("discord: 500".into())));
        assert_eq!(recorder.calls().len(), 4);
    }

    #[test]
    fn what_is_recorded_is_bounded() {
        let recorder = Recorder::default();
        let ask = || {
            let template = TemplateName::new("t").unwrap();
            recorder.record(Recorded { method: "get_guild", arguments: Vec::new(), template })
        };
        for _ in 0..Recorder::CALLS_MAX {
            ask().unwrap();
        }
        assert!(ask().unwrap_err().to_string().starts_with("too_large: "));
        assert_eq!(recorder.calls().len(), Recorder::CALLS_MAX);
    }

    #[test]
    fn each_method_is_listed_once() {
        let mut names: Vec<_> = Recorder::methods().collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
