//! What runs in the worker process: it serves its master a worker, until it is told to end.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::{AbortHandle, Abortable, BoxFuture};
use futures_util::stream::FuturesUnordered;
use futures_util::{Stream, StreamExt};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::net::unix::pipe;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use worker_core::{
    Call, DispatchResult, Reply, Routing, WorkerError, WorkerErrorKind, WorkerFilter, WorkerId, WorkerLike,
};

use crate::quarantine::Evidence;
use crate::worker_process_comm_http2::serve_http2;
use crate::workerprocesscomm::{
    Chunks, CommError, Down, FRAME_BYTES_MAX, FrameReader, IN_FLIGHT_MAX, Request, Response, Token, Up, VERSION,
    WireError, WorkerProcessService,
};

/// The longest first line of a master: the settings of a worker are in it.
const ORDER_BYTES_MAX: u64 = 4 << 20;
/// Answers that are sent as one piece, if so many are there.
const CHUNK_BYTES: usize = 64 << 10;
/// How long answers are waited for to leave after the worker has drained by itself.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The first line that a worker process reads: who it is.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Birth<'a> {
    pub(crate) version: u32,
    pub(crate) parent: u32,
    pub(crate) token: Token,
    pub(crate) id: WorkerId,
    pub(crate) filter: WorkerFilter,
    pub(crate) routing: Routing,
    pub(crate) flight_log: std::borrow::Cow<'a, Path>,
    pub(crate) drain_millis: u64,
    pub(crate) paused: Vec<Evidence>,
    pub(crate) made_of: std::borrow::Cow<'a, serde_json::value::RawValue>,
}

/// The first line that it writes: where it is.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ready {
    pub(crate) version: u32,
    pub(crate) port: u16,
}

/// Why a process cannot be a worker.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParentError {
    /// Its standard input is no pipe, or nothing came through it.
    #[error("a worker process is started by another antiraid, which tells it through a pipe what to be")]
    NoOrder(#[source] io::Error),
    /// What came is no order.
    #[error("the parent's order is not one of version {VERSION}")]
    BadOrder(#[source] serde_json::Error),
    /// The parent is of another version.
    #[error("the parent speaks version {0}, this program version {VERSION}")]
    OtherVersion(u32),
    /// The parent died first.
    #[error("the parent has gone")]
    ParentGone,
    /// Something that the operating system did not give.
    #[error("the worker process cannot be set up")]
    System(#[source] io::Error),
}

/// The parent of this process, and what it said that this process should be.
pub struct Parent {
    birth: Birth<'static>,
    words: Words,
    stdin: BufReader<pipe::Receiver>,
    terminate: Signal,
}

impl Parent {
    /// Listens to the parent. To be called first in a worker process, in a runtime, on a thread that does not end: if the
    /// parent dies, this process dies, whatever state it is in.
    pub async fn listen() -> Result<Self, ParentError> {
        // Before anything else, or a SIGTERM ends the process without a drain.
        let terminate = signal(SignalKind::terminate()).map_err(ParentError::System)?;
        // A terminal sends ctrl-c to this process too; the parent hears it, and ends this process in good order.
        let _ = signal(SignalKind::interrupt()).map_err(ParentError::System)?;
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
            .map_err(|error| ParentError::System(error.into()))?;
        let stdin: OwnedFd = io::stdin().as_fd().try_clone_to_owned().map_err(ParentError::NoOrder)?;
        let stdin = pipe::Receiver::from_owned_fd(stdin).map_err(ParentError::NoOrder)?;
        let mut stdin = BufReader::new(stdin);
        let mut line = Vec::new();
        (&mut stdin).take(ORDER_BYTES_MAX).read_until(b'\n', &mut line).await.map_err(ParentError::NoOrder)?;
        if line.is_empty() {
            return Err(ParentError::NoOrder(io::ErrorKind::UnexpectedEof.into()));
        }
        #[derive(Deserialize)]
        struct AnyVersion {
            version: u32,
        }
        let AnyVersion { version } = serde_json::from_slice(&line).map_err(ParentError::BadOrder)?;
        if version != VERSION {
            return Err(ParentError::OtherVersion(version));
        }
        let birth: Birth<'static> = serde_json::from_slice(&line).map_err(ParentError::BadOrder)?;
        // It may have died before this process asked to be told.
        let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get() as u32);
        if parent != Some(birth.parent) {
            return Err(ParentError::ParentGone);
        }
        Ok(Self { birth, words: Words::default(), stdin, terminate })
    }

    /// The worker's first id.
    pub fn id(&self) -> WorkerId {
        self.birth.id
    }

    /// The tenants that it owns.
    pub fn filter(&self) -> &WorkerFilter {
        &self.birth.filter
    }

    /// How it divides them among workers of its own.
    pub fn routing(&self) -> Routing {
        self.birth.routing
    }

    /// Why tenants that would be its own are kept apart, for their logs: of the first so many.
    pub fn paused(&self) -> &[Evidence] {
        &self.birth.paused
    }

    /// The JSON of what the worker is made of, as the master's configuration has it.
    pub fn made_of(&self) -> &str {
        self.birth.made_of.get()
    }

    /// The file in which the worker's threads say what they run (`worker_core::FlightLog`).
    pub fn flight_log(&self) -> &Path {
        &self.birth.flight_log
    }

    /// What this process can tell its parent.
    pub fn words(&self) -> Words {
        self.words.clone()
    }

    /// Serves the parent this worker, and returns when the process should end: when the worker was drained or killed, or
    /// the parent has gone. `logs` answers requests for the process's log.
    pub async fn serve(
        self,
        worker: impl WorkerLike + Send + Sync + 'static,
        logs: LogLines,
    ) -> Result<(), ParentError> {
        let Self { birth, words, mut stdin, mut terminate } = self;
        let drain_timeout = Duration::from_millis(birth.drain_millis);
        let taken = TakenMark::open(&birth.flight_log).map_err(ParentError::System)?;
        let service = Arc::new(WorkerProcess::new(worker, logs, Some(taken), words));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(ParentError::System)?;
        let port = listener.local_addr().map_err(ParentError::System)?.port();
        // A task, as it must go on while this process drains.
        let mut serving = tokio::task::JoinSet::new();
        serving.spawn(serve_http2(listener, birth.token, Arc::new(Arc::clone(&service))));
        let mut line = serde_json::to_vec(&Ready { version: VERSION, port }).expect("because numbers have a JSON form");
        line.push(b'\n');
        io::stdout().write_all(&line).and_then(|()| io::stdout().flush()).map_err(ParentError::System)?;

        let mut byte = [0];
        tokio::select! {
            // It has no end of its own: it panicked.
            _ = serving.join_next() => return Err(ParentError::System(io::Error::other("nothing is served any more"))),
            // Nothing more is ever said: only the end is waited for.
            _ = stdin.read(&mut byte) => {}
            () = service.killed() => {}
            _ = terminate.recv() => {
                service.hand_back();
                let drained = service.worker.drain();
                tokio::select! {
                    _ = tokio::time::timeout(drain_timeout, drained) => {}
                    _ = stdin.read(&mut byte) => return Ok(()),
                }
                service.end_streams();
                // The connection is served by tasks of their own meanwhile. The parent closes the pipe when it has read all
                // answers: to end earlier, with bytes of the parent unread, would reset the connection and lose them.
                let _ = tokio::time::timeout(FLUSH_TIMEOUT, stdin.read(&mut byte)).await;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What the worker is made of may hold secrets.
        f.debug_struct("Parent")
            .field("id", &self.birth.id)
            .field("filter", &self.birth.filter)
            .field("routing", &self.birth.routing)
            .finish_non_exhaustive()
    }
}

/// The number of the last dispatch that was given to the engine, kept where the master finds it after a crash.
struct TakenMark(File);

impl TakenMark {
    fn open(path: &Path) -> io::Result<Self> {
        OpenOptions::new().write(true).open(path).map(Self)
    }

    fn set(&self, id: u64) {
        // Without it, the master takes events for not started that have: it must not be passed over. The file is in
        // memory and has its full length, so this fails only if somebody took it away.
        if let Err(error) = self.0.write_all_at(&id.to_le_bytes(), 0) {
            tracing::error!("the flight log cannot be written: {error}");
        }
    }
}

/// What a worker process has to tell its parent beside answers: bytes that the two programs understand. Clones share them.
#[derive(Clone, Default)]
pub struct Words(Arc<Mutex<Streams>>);

impl Words {
    /// Words that wait to be sent; there are none left when the stream to the parent keeps up.
    pub const WAITING_MAX: usize = 4_096;
    /// Their bytes.
    pub const WAITING_BYTES_MAX: usize = 16 << 20;

    /// Says something. Returns whether there was room for it; if it arrives depends on the parent.
    #[must_use]
    pub fn say(&self, word: Bytes) -> bool {
        let mut streams = self.0.lock();
        let fits = streams.words.len() < Self::WAITING_MAX
            && streams.words_bytes + word.len() <= Self::WAITING_BYTES_MAX
            && word.len() < FRAME_BYTES_MAX;
        if fits {
            streams.words_bytes += word.len();
            streams.words.push_back(word);
            streams.wakers.drain(..).for_each(Waker::wake);
        }
        fits
    }
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Words({} wait)", self.0.lock().words.len())
    }
}

/// The last lines of a log. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct LogLines(Arc<Mutex<VecDeque<String>>>);

impl LogLines {
    /// How many are kept.
    pub const LINES_MAX: usize = 50;
    /// Bytes of a line; more is cut off.
    pub const LINE_BYTES_MAX: usize = 2 << 10;

    /// One more line.
    pub fn push(&self, line: &str) {
        let mut lines = self.0.lock();
        if lines.len() >= Self::LINES_MAX {
            lines.pop_front();
        }
        let mut end = line.len().min(Self::LINE_BYTES_MAX);
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        // They are shown in terminals, and a template may have a say in what is in them.
        lines.push_back(line[..end].replace(|c: char| c.is_control() && c != '\t', "\u{fffd}"));
    }

    /// All that are kept, oldest first.
    pub fn all(&self) -> Vec<String> {
        self.0.lock().iter().cloned().collect()
    }
}

/// A worker as a master reaches it.
pub struct WorkerProcess<W> {
    worker: W,
    logs: LogLines,
    taken: Option<TakenMark>,
    /// Of the last dispatch that the engine got.
    taken_up_to: Mutex<u64>,
    taken_more: Notify,
    handing_back: AtomicBool,
    /// The engine was told to end, or is about to be.
    ending: AtomicBool,
    killed: Notify,
    streams: Words,
}

#[derive(Default)]
struct Streams {
    ending: bool,
    wakers: Vec<Waker>,
    words: VecDeque<Bytes>,
    words_bytes: usize,
}

impl<W: WorkerLike + Send + Sync + 'static> WorkerProcess<W> {
    /// The worker behind a connection, without a process of its own.
    pub fn in_this_process(worker: W) -> Arc<Self> {
        Self::in_this_process_with(worker, Words::default())
    }

    /// The same, with words of its own.
    pub fn in_this_process_with(worker: W, words: Words) -> Arc<Self> {
        Arc::new(Self::new(worker, LogLines::default(), None, words))
    }

    fn new(worker: W, logs: LogLines, taken: Option<TakenMark>, words: Words) -> Self {
        Self {
            worker,
            logs,
            taken,
            taken_up_to: Mutex::new(0),
            taken_more: Notify::new(),
            handing_back: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            killed: Notify::new(),
            streams: words,
        }
    }

    /// From now on events go back to the master.
    fn hand_back(&self) {
        self.ending.store(true, SeqCst);
        self.handing_back.store(true, SeqCst);
    }

    async fn killed(&self) {
        self.killed.notified().await;
    }

    fn end_streams(&self) {
        let mut streams = self.streams.0.lock();
        streams.ending = true;
        streams.wakers.drain(..).for_each(Waker::wake);
    }

    /// Waits until the engine has got this dispatch.
    async fn until_taken(&self, id: u64) {
        loop {
            let more = self.taken_more.notified();
            if *self.taken_up_to.lock() >= id {
                break;
            }
            more.await;
        }
    }

    /// Whether the engine runs: it is asked, not only the process.
    async fn health(&self) -> Result<(), WorkerError> {
        match self.worker.health().await {
            // As it should be.
            Err(error) if error.kind() == WorkerErrorKind::WorkerGone && self.ending.load(SeqCst) => Ok(()),
            health => health,
        }
    }

    async fn answer(&self, request: Request) -> Response {
        let done = |answer: Result<(), WorkerError>| match answer {
            Ok(()) => Response::Done,
            Err(error) => Response::Refused(WireError::from(&error)),
        };
        match request {
            Request::Health => done(self.health().await),
            Request::Stats => match self.worker.stats().await {
                Ok(stats) => Response::Stats(Box::new(stats)),
                Err(error) => Response::Refused(WireError::from(&error)),
            },
            Request::Logs => Response::Lines(self.logs.all()),
            Request::Reload { tenant } => done(self.worker.reload(tenant).await),
            Request::Own { after, filter } => {
                self.until_taken(after).await;
                done(self.worker.own(filter).await)
            }
            Request::Drain { after } => {
                self.until_taken(after).await;
                self.ending.store(true, SeqCst);
                done(self.worker.drain().await)
            }
            Request::Kill => {
                self.ending.store(true, SeqCst);
                let killed = done(self.worker.kill().await);
                self.killed.notify_one();
                killed
            }
        }
    }
}

impl<W: WorkerLike + Send + Sync + 'static> WorkerProcessService for Arc<WorkerProcess<W>> {
    fn dispatches(&self, down: Chunks) -> Chunks {
        Box::pin(Serving::new(Arc::clone(self), down))
    }

    fn call(&self, request: Request) -> BoxFuture<'static, Response> {
        let this = Arc::clone(self);
        Box::pin(async move { this.answer(request).await })
    }
}

impl<W> fmt::Debug for WorkerProcess<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerProcess").finish_non_exhaustive()
    }
}

/// A stream of dispatches that is served as it is polled.
struct Serving<W> {
    service: Arc<WorkerProcess<W>>,
    down: Chunks,
    frames: FrameReader,
    in_flight: FuturesUnordered<Abortable<InFlight>>,
    cancels: HashMap<u64, AbortHandle>,
    up: BytesMut,
}

/// How many chunks are taken in before answers are looked at.
const CHUNKS_A_TURN: usize = 4;

impl<W: WorkerLike + Send + Sync + 'static> Serving<W> {
    fn new(service: Arc<WorkerProcess<W>>, down: Chunks) -> Self {
        Self {
            service,
            down,
            frames: FrameReader::new(),
            in_flight: FuturesUnordered::new(),
            cancels: HashMap::new(),
            up: BytesMut::new(),
        }
    }

    /// Takes in what has come. Ready when nothing more will.
    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CommError>> {
        for _ in 0..CHUNKS_A_TURN {
            match self.down.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(chunk))) => self.take_in(&chunk)?,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn take_in(&mut self, chunk: &[u8]) -> Result<(), CommError> {
        self.frames.push(chunk);
        let mut messages = Vec::new();
        while let Some(message) = self.frames.next(Down::decode)? {
            messages.push(message);
        }
        let handing_back = self.service.handing_back.load(SeqCst);
        let last = messages.iter().rev().find_map(|message| match message {
            Down::Dispatch { id, .. } => Some(*id),
            Down::Cancel { .. } => None,
        });
        if let (Some(taken), Some(last), false) = (&self.service.taken, last, handing_back) {
            taken.set(last);
        }
        for message in messages {
            match message {
                Down::Dispatch { id, .. } if handing_back => Up::HandedBack { id }.put(&mut self.up),
                Down::Dispatch { id, .. } if self.cancels.len() >= IN_FLIGHT_MAX => {
                    let context = "the master sends more than it may";
                    let answer = Err(WorkerError::new(WorkerErrorKind::Overloaded, context));
                    Up::Answer { id, answer }.put(&mut self.up);
                }
                Down::Dispatch { id, is_wanted, tenant, event } => {
                    let (reply_to, reply) = if is_wanted { Reply::pending() } else { Reply::end_only() };
                    let (cancel, cancelled) = AbortHandle::new_pair();
                    self.in_flight.push(Abortable::new(InFlight { id, is_wanted, reply }, cancelled));
                    self.cancels.insert(id, cancel);
                    self.service.worker.submit(Call::Dispatch { tenant, event, reply_to });
                }
                Down::Cancel { id } => {
                    if let Some(cancel) = self.cancels.remove(&id) {
                        cancel.abort();
                    }
                }
            }
        }
        if let Some(last) = last {
            *self.service.taken_up_to.lock() = last;
            self.service.taken_more.notify_waiters();
        }
        Ok(())
    }

    fn poll_answers(&mut self, cx: &mut Context<'_>) {
        while self.up.len() < CHUNK_BYTES {
            match self.in_flight.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(message))) => {
                    if let Up::Answer { id, .. } | Up::Done { id } | Up::HandedBack { id } = &message {
                        self.cancels.remove(id);
                    }
                    message.put(&mut self.up);
                }
                // Cancelled: the master knows.
                Poll::Ready(Some(Err(_))) => {}
                Poll::Ready(None) | Poll::Pending => return,
            }
        }
    }
}

impl<W: WorkerLike + Send + Sync + 'static> Stream for Serving<W> {
    type Item = Result<Bytes, CommError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        // tokio's budget is for tasks that would not end; this one has limits of its own.
        let turn = std::pin::pin!(tokio::task::unconstrained(std::future::poll_fn(|cx| {
            let down = this.poll_down(cx);
            this.poll_answers(cx);
            Poll::Ready(down)
        })));
        let Poll::Ready(down) = turn.poll(cx) else { return Poll::Pending };
        match down {
            Poll::Ready(Ok(())) => return Poll::Ready(None),
            Poll::Ready(Err(error)) => {
                tracing::error!("the stream of dispatches ends: {}", chain(&error));
                return Poll::Ready(Some(Err(error)));
            }
            Poll::Pending => {}
        }
        let mut streams = this.service.streams.0.lock();
        while this.up.len() < CHUNK_BYTES
            && let Some(word) = streams.words.pop_front()
        {
            streams.words_bytes -= word.len();
            Up::Word(word).put(&mut this.up);
        }
        if !this.up.is_empty() {
            return Poll::Ready(Some(Ok(this.up.split().freeze())));
        }
        if streams.ending && this.in_flight.is_empty() {
            return Poll::Ready(None);
        }
        if !streams.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            streams.wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// A dispatch that the engine has.
struct InFlight {
    id: u64,
    is_wanted: bool,
    reply: Reply<DispatchResult>,
}

impl Future for InFlight {
    type Output = Up;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Up> {
        let (id, is_wanted) = (self.id, self.is_wanted);
        Pin::new(&mut self.reply)
            .poll(cx)
            .map(|answer| if is_wanted { Up::Answer { id, answer } } else { Up::Done { id } })
    }
}

/// The error and all that caused it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
