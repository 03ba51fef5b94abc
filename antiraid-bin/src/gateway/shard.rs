//! One connection to Discord's gateway, kept up for ever: frames in, events out to the workers.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use twilight_gateway::error::ReceiveMessageErrorType;
use twilight_gateway::{CloseFrame, ConfigBuilder, Message, Session, Shard, ShardId};
use worker_core::{
    Call, Event, Priority, Reply, ShardState, ShardStats, Snowflake, TenantId, WorkerErrorKind, WorkerLike,
};
use worker_db::GatewaySessionRow;
use worker_vm::DiscordToken;

use super::end::GatewayEnd;
use super::identify_gate::IdentifyGate;
use super::plan::GatewayPlan;
use crate::cli::chain;
use crate::gateway_frame::{GatewayFrame, GatewaySession, Sifted, SkipReason};

/// How long a shard leaves its socket unread when a worker has no room for an event that matters, and in which steps it tries
/// again. Longer would keep the shard's other workers waiting for one.
const ROOM_WAITS_MS: [u64; 5] = [5, 15, 30, 50, 100];
/// Names of events that refusals are counted under; beyond, they are counted as `other`.
const NAMES_MAX: usize = 128;
/// How often it is looked whether a connection is stuck.
const WATCH_INTERVAL_MAX: Duration = Duration::from_secs(1);
/// The longest that twilight waits before it connects again, and how long a connection may take to be made.
const RECONNECT_WAIT_MAX: Duration = Duration::from_secs(128 + 20);
/// Who sees the frames of events before the workers do: the gateway's name of the event, and its payload.
pub type Observer = Arc<dyn Fn(&str, &[u8]) + Send + Sync>;

/// Where events go.
pub type Sink = Arc<dyn WorkerLike + Send + Sync>;

/// What others see of a shard while it runs.
pub(crate) struct Board {
    shard: u32,
    /// Of the last event that was handed on.
    sequence: AtomicU64,
    session: Mutex<Option<ResumeAt>>,
    /// Told when the session is another one: that is saved at once.
    is_another: Arc<Notify>,
    stats: Mutex<ShardStats>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct ResumeAt {
    session_id: String,
    resume_url: String,
}

impl Board {
    pub(crate) fn new(shard: u32, shards: u32, saved: Option<GatewaySessionRow>, is_another: Arc<Notify>) -> Self {
        let sequence = AtomicU64::new(saved.as_ref().map_or(0, |saved| saved.sequence));
        let session = saved.map(|saved| ResumeAt { session_id: saved.session_id, resume_url: saved.resume_url });
        let stats = ShardStats { shard, shards, ..ShardStats::default() };
        Self { shard, sequence, session: Mutex::new(session), is_another, stats: Mutex::new(stats) }
    }

    pub(crate) fn shard(&self) -> u32 {
        self.shard
    }

    /// What a successor needs to resume the session, if there is one.
    pub(crate) fn session(&self) -> Option<GatewaySessionRow> {
        let ResumeAt { session_id, resume_url } = lock(&self.session).clone()?;
        Some(GatewaySessionRow { shard: self.shard, session_id, resume_url, sequence: self.sequence.load(Relaxed) })
    }

    pub(crate) fn stats(&self) -> ShardStats {
        ShardStats { sequence: self.sequence.load(Relaxed), ..lock(&self.stats).clone() }
    }

    fn count(&self, count: impl FnOnce(&mut ShardStats)) {
        count(&mut lock(&self.stats));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a shard is made of.
pub(crate) struct ShardTask {
    pub(crate) plan: Arc<GatewayPlan>,
    pub(crate) token: DiscordToken,
    pub(crate) gate: IdentifyGate,
    pub(crate) board: Arc<Board>,
    pub(crate) intake: FrameIntake,
    /// It has had a connection before.
    pub(crate) was_connected: bool,
    pub(crate) stop: watch::Receiver<bool>,
}

/// Takes the frames of a session in, and hands on what templates may want.
pub struct FrameIntake {
    session: GatewaySession,
    board: Arc<Board>,
    observer: Option<Observer>,
    sink: Sink,
    /// A worker refused an event though it was waited for: until it takes one, others are not waited for.
    is_crowded: bool,
}

/// What a frame said of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    /// An event, or nothing that matters here.
    Nothing,
    Hello,
    Ready,
    Resumed,
    InvalidSession,
    HeartbeatAck,
}

impl FrameIntake {
    /// For the bot's events, which go to the sink.
    pub(crate) fn new(bot: Snowflake, board: Arc<Board>, observer: Option<Observer>, sink: Sink) -> Self {
        Self { session: GatewaySession::of(bot), board, observer, sink, is_crowded: false }
    }

    /// For a measurement: an intake without a connection.
    #[doc(hidden)]
    pub fn detached(bot: Snowflake, sink: Sink) -> Self {
        Self::new(bot, Arc::new(Board::new(0, 1, None, Arc::default())), None, sink)
    }

    /// Takes a frame in.
    #[doc(hidden)]
    pub async fn frame(&mut self, text: String) {
        self.take_in(text).await;
    }

    async fn take_in(&mut self, text: String) -> Said {
        let line = Bytes::from(text);
        let mut said = Said::Nothing;
        let mut sequence = None;
        let board = &*self.board;
        let sifted = self.session.sift_with(&line, |frame: &GatewayFrame<'_>| {
            said = said_by(frame);
            sequence = frame.sequence().filter(|_| frame.op() == 0);
            if said == Said::Ready {
                board.sequence.store(0, Relaxed);
            }
            if let (Some(observer), Some(name), Some(payload)) = (&self.observer, frame.name(), frame.payload())
                && frame.op() == 0
            {
                observer(name, payload.as_bytes());
            }
        });
        let before = board.sequence.load(Relaxed);
        let is_repeated = sequence.is_some_and(|sequence| sequence <= before);
        match sifted {
            Ok(Sifted::Deliver { .. }) if is_repeated => board.count(|stats| {
                stats.frames += 1;
                stats.repeated += 1;
            }),
            Ok(Sifted::Deliver { tenant, event }) => {
                let refused = self.hand_on(tenant, event).await;
                self.board.count(|stats| {
                    stats.frames += 1;
                    match &refused {
                        None => stats.events += 1,
                        Some(name) => count_name(stats, name),
                    }
                });
            }
            Ok(Sifted::Skip(SkipReason::NotAnEvent)) => {}
            Ok(Sifted::Skip(_)) => board.count(|stats| stats.frames += 1),
            Err(error) => {
                board.count(|stats| {
                    stats.bad_frames += 1;
                    stats.trouble = Some(error.to_string());
                });
                tracing::warn!(shard = board.shard, "a frame of the gateway is passed over: {error}");
            }
        }
        // After it was handed on: a successor begins with what was not.
        if let Some(sequence) = sequence.filter(|_| !is_repeated) {
            self.board.sequence.store(sequence, Relaxed);
        }
        said
    }

    /// Hands an event to the workers. Returns its name if they did not take it.
    async fn hand_on(&mut self, tenant: TenantId, event: Event) -> Option<worker_core::EventName> {
        let name = event.name().clone();
        let may_wait = event.priority() < Priority::Flood && !self.is_crowded;
        let mut waits = ROOM_WAITS_MS.iter();
        loop {
            let Some(kind) = offer(&*self.sink, tenant, event.clone()) else {
                self.is_crowded &= event.priority() == Priority::Flood;
                return None;
            };
            let wait = if may_wait && kind == WorkerErrorKind::Overloaded { waits.next() } else { None };
            let Some(wait) = wait else {
                self.is_crowded |= kind == WorkerErrorKind::Overloaded && event.priority() < Priority::Flood;
                return Some(name);
            };
            if waits.len() == ROOM_WAITS_MS.len() - 1 {
                self.board.count(|stats| stats.waits += 1);
            }
            sleep(Duration::from_millis(*wait)).await;
        }
    }
}

/// Submits the event, and says how it was refused if it was so at once.
fn offer(sink: &dyn WorkerLike, tenant: TenantId, event: Event) -> Option<WorkerErrorKind> {
    let (reply_to, reply) = Reply::end_only();
    sink.submit(Call::Dispatch { tenant, event, reply_to });
    // To drop the reply cancels nothing: no answer is wanted.
    reply.now_or_never()?.err().map(|error| error.kind())
}

fn count_name(stats: &mut ShardStats, name: &worker_core::EventName) {
    let name = name.as_str();
    let is_known = stats.refused.contains_key(name) || stats.refused.len() < NAMES_MAX;
    *stats.refused.entry(if is_known { name } else { "other" }.to_owned()).or_default() += 1;
}

fn said_by(frame: &GatewayFrame<'_>) -> Said {
    // https://discord.com/developers/docs/topics/opcodes-and-status-codes#gateway-gateway-opcodes
    match (frame.op(), frame.name()) {
        (0, Some("READY")) => Said::Ready,
        (0, Some("RESUMED")) => Said::Resumed,
        (9, _) => Said::InvalidSession,
        (10, _) => Said::Hello,
        (11, _) => Said::HeartbeatAck,
        _ => Said::Nothing,
    }
}

/// What came over the connection.
enum Next {
    Stopped,
    Message(Option<Result<Message, twilight_gateway::error::ReceiveMessageError>>),
    /// Time to look whether it is stuck.
    Watch,
}

/// How long a connection has been in its state, and since when nothing was heard.
struct Watch {
    state: twilight_gateway::ShardState,
    since: Instant,
    heard: Instant,
    /// Discord has spoken on this connection.
    is_greeted: bool,
}

impl ShardTask {
    /// Keeps the shard connected until it is told to stop, and tells why if Discord does not want it.
    pub(crate) async fn run(mut self) -> Option<GatewayEnd> {
        let end = loop {
            let mut shard = self.connect_anew();
            match self.serve(&mut shard).await {
                Served::Stopped => {
                    self.close(&mut shard).await;
                    break None;
                }
                Served::Ended(end) => break Some(end),
                Served::Stuck(what) => self.trouble(what.to_owned()),
            }
        };
        self.board.count(|stats| stats.state = ShardState::Ended);
        end
    }

    /// A shard that is not connected yet, and resumes if there is a session.
    fn connect_anew(&self) -> Shard<IdentifyGate> {
        let intents = twilight_gateway::Intents::from_bits_truncate(self.plan.intents.bits());
        let mut config = ConfigBuilder::new(self.token.expose().to_owned(), intents)
            .proxy_url(self.plan.url.clone())
            .queue(self.gate.clone());
        if let Some(saved) = self.board.session() {
            config = config.session(Session::new(saved.sequence, saved.session_id)).resume_url(saved.resume_url);
        }
        Shard::with_config(ShardId::new(self.board.shard, self.plan.shards.get()), config.build())
    }

    async fn serve(&mut self, shard: &mut Shard<IdentifyGate>) -> Served {
        let hello = self.plan.timings.hello;
        let mut watch = tokio::time::interval(WATCH_INTERVAL_MAX.min(hello / 4).max(Duration::from_millis(1)));
        watch.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let now = Instant::now();
        let mut seen = Watch { state: shard.state(), since: now, heard: now, is_greeted: false };
        let mut last_close = None;
        let mut failures = 0u32;
        loop {
            let next = tokio::select! {
                biased;
                () = told(&mut self.stop) => Next::Stopped,
                message = shard.next() => Next::Message(message),
                _ = watch.tick() => Next::Watch,
            };
            match next {
                Next::Stopped => return Served::Stopped,
                Next::Watch => {}
                Next::Message(Some(Ok(Message::Text(text)))) => {
                    seen.heard = Instant::now();
                    let said = self.intake.take_in(text).await;
                    // First, as a greeting is the first word of a connection that may be new.
                    self.look(shard, &mut seen);
                    self.note(shard, said, &mut seen);
                    if matches!(said, Said::Ready | Said::Resumed) {
                        failures = 0;
                    }
                }
                Next::Message(Some(Ok(Message::Close(frame)))) => {
                    last_close = frame.as_ref().map(|frame| frame.code);
                    let why = frame
                        .map_or_else(|| "without a code".into(), |frame| format!("{} {}", frame.code, frame.reason));
                    self.trouble(format!("the connection was closed: {}", why.trim_end()));
                    self.keep_session(shard);
                    self.pause(failures).await;
                    failures = failures.saturating_add(1);
                }
                Next::Message(Some(Err(error))) => {
                    if matches!(error.kind(), ReceiveMessageErrorType::Deserializing { .. }) {
                        self.board.count(|stats| stats.bad_frames += 1);
                    }
                    // What it could not read may hold what a message says.
                    self.trouble(match error.kind() {
                        ReceiveMessageErrorType::Deserializing { .. } => "a frame that is none".into(),
                        _ => chain(&error),
                    });
                    self.pause(failures).await;
                    failures = failures.saturating_add(1);
                }
                Next::Message(None) => return Served::Ended(GatewayEnd::of_close(last_close, self.plan.intents)),
            }
            if let Some(stuck) = self.look(shard, &mut seen) {
                return Served::Stuck(stuck);
            }
        }
    }

    /// A random wait, so that shards that lost their connections together do not come back together. What twilight waits
    /// comes on top: 1 s, 2 s, 4 s and so on while connections fail.
    async fn pause(&mut self, failures: u32) {
        let wait = self.plan.timings.jitter.mul_f64(rand::random::<f64>() * f64::from(failures.min(4) + 1));
        tokio::select! {
            () = told(&mut self.stop) => {}
            () = sleep(wait) => {}
        }
    }

    /// Takes down what a frame said of the connection.
    fn note(&mut self, shard: &Shard<IdentifyGate>, said: Said, seen: &mut Watch) {
        match said {
            Said::Nothing => return,
            Said::Hello => {
                seen.is_greeted = true;
                if std::mem::replace(&mut self.was_connected, true) {
                    self.board.count(|stats| stats.reconnects += 1);
                }
            }
            Said::Ready => {
                self.board.count(|stats| stats.identifies += 1);
                tracing::info!(shard = self.board.shard, "the shard has begun a session");
            }
            Said::Resumed => {
                self.board.count(|stats| stats.resumes += 1);
                tracing::info!(shard = self.board.shard, "the shard has resumed its session");
            }
            Said::InvalidSession => {
                self.board.count(|stats| stats.invalid_sessions += 1);
                self.trouble("Discord ended the session".into());
            }
            Said::HeartbeatAck => {
                let latency = shard.latency().recent().first().map(|latency| latency.as_secs_f64() * 1e3);
                self.board.count(|stats| stats.latency_ms = latency.or(stats.latency_ms));
            }
        }
        self.keep_session(shard);
    }

    /// What the session is now, for whoever resumes it.
    fn keep_session(&self, shard: &Shard<IdentifyGate>) {
        let session = shard.session().map(|session| ResumeAt {
            session_id: session.id().to_owned(),
            resume_url: shard.resume_url().unwrap_or(&self.plan.url).to_owned(),
        });
        let is_another = {
            let mut kept = lock(&self.board.session);
            let is_another = *kept != session;
            *kept = session;
            is_another
        };
        if is_another {
            self.board.is_another.notify_one();
        }
    }

    /// Takes the state down, and tells if the connection is stuck in it.
    fn look(&self, shard: &Shard<IdentifyGate>, seen: &mut Watch) -> Option<&'static str> {
        use twilight_gateway::ShardState as State;
        let state = shard.state();
        if state != seen.state {
            // In these, a connection begins. Twilight may go from one connection to the next within a single poll.
            if matches!(state, State::Disconnected { .. } | State::Identifying) {
                seen.is_greeted = false;
            }
            (seen.state, seen.since) = (state, Instant::now());
            self.board.count(|stats| {
                stats.state = match state {
                    State::Active => ShardState::Active,
                    State::Disconnected { .. } => ShardState::Connecting,
                    State::FatallyClosed => ShardState::Ended,
                    State::Identifying => ShardState::Identifying,
                    State::Resuming => ShardState::Resuming,
                };
            });
        }
        let timings = &self.plan.timings;
        let (in_state, unheard) = (seen.since.elapsed(), seen.heard.elapsed());
        match state {
            State::Disconnected { reconnect_attempts: 0 } if in_state > timings.hello * 2 => {
                Some("the connection did not end after it was closed")
            }
            State::Disconnected { .. } if in_state > timings.hello + RECONNECT_WAIT_MAX => {
                Some("no connection could be made")
            }
            State::Identifying | State::Resuming if !seen.is_greeted && in_state > timings.hello => {
                Some("Discord did not say anything on a new connection")
            }
            State::Active | State::Identifying | State::Resuming if unheard > timings.silence => {
                Some("nothing was heard of Discord for too long")
            }
            _ => None,
        }
    }

    /// Leaves Discord with a session that can be resumed, and hands on what still comes.
    async fn close(&mut self, shard: &mut Shard<IdentifyGate>) {
        if !matches!(shard.state(), twilight_gateway::ShardState::Active | twilight_gateway::ShardState::Resuming) {
            return;
        }
        shard.close(CloseFrame::RESUME);
        let intake = &mut self.intake;
        let rest = async {
            let mut is_closing = false;
            loop {
                let next = poll_fn(|cx| {
                    let next = shard.poll_next_unpin(cx);
                    let is_disconnected = matches!(shard.state(), twilight_gateway::ShardState::Disconnected { .. });
                    // The other side ended the connection without a word, and twilight has made a new one.
                    if is_closing && !is_disconnected {
                        return Poll::Ready(None);
                    }
                    is_closing |= is_disconnected;
                    next
                });
                match next.await {
                    Some(Ok(Message::Text(text))) => intake.take_in(text).await,
                    _ => return,
                };
            }
        };
        const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
        let _ = timeout(CLOSE_TIMEOUT, rest).await;
    }

    fn trouble(&self, what: String) {
        tracing::warn!(shard = self.board.shard, "{what}");
        self.board.count(|stats| stats.trouble = Some(what));
    }
}

/// Returns when the shard is to stop.
async fn told(stop: &mut watch::Receiver<bool>) {
    // Who could tell may have gone; that is the end too.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Why a connection is not served any more.
enum Served {
    Stopped,
    /// Discord will not have it back.
    Ended(GatewayEnd),
    /// It must be dropped: it would go on like that for ever.
    Stuck(&'static str),
}
