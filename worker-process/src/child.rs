//! One process: its start, its last words, its end.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStdin, Command};
use tokio::task::JoinHandle;
use worker_core::{FlightLog, Routing, Running, TenantId, WorkerError, WorkerErrorKind, WorkerFilter, WorkerId};
use worker_pool::LastingThread;

use crate::quarantine::{Evidence, Quarantine};
use crate::worker_process::{Birth, LogLines, Ready};
use crate::worker_process_comm_http2::WorkerProcessCommHttp2;
use crate::worker_process_handle::WorkerProcessConfig;
use crate::workerprocesscomm::{Request, Token, VERSION, WorkerProcessComm};

/// The longest line with which a process says where it is.
const READY_BYTES_MAX: u64 = 4 << 10;
/// Tenants of whose quarantine a new process is told why: with their log lines they must fit into its order.
const PAUSED_TOLD_MAX: usize = 64;
/// How long the last lines of a process that is dead are waited for: a grandchild may hold its stderr open.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_millis(100);

/// Makes all children. The kernel kills them when this thread ends, which it does with the process.
fn nursery() -> io::Result<LastingThread> {
    static NURSERY: OnceLock<LastingThread> = OnceLock::new();
    if let Some(nursery) = NURSERY.get() {
        return Ok(nursery.clone());
    }
    let nursery = LastingThread::start("worker-processes")?;
    Ok(NURSERY.get_or_init(|| nursery).clone())
}

/// A process that runs and answers.
pub(crate) struct Child {
    process: tokio::process::Child,
    pid: u32,
    /// Its end tells the process to end.
    stdin: Option<ChildStdin>,
    stderr: JoinHandle<()>,
    logs: LogLines,
    flight_log: File,
    pub(crate) comm: WorkerProcessCommHttp2,
}

/// How a process ended, and what it left.
#[derive(Debug)]
pub(crate) struct Death {
    pub(crate) why: Why,
    pub(crate) status: Option<ExitStatus>,
    pub(crate) log_lines: Vec<String>,
    pub(crate) running: Vec<Running>,
    pub(crate) taken_up_to: u64,
}

/// What its end was noticed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It ended by itself, or somebody else ended it.
    Ended,
    /// It did not answer, and was killed.
    Hung,
    /// It did not run, because somebody stopped it; it was killed.
    Stopped,
    /// It broke the connection, or spoke nonsense, and was killed.
    Disconnected,
    /// It ended before it was ready.
    NotReady,
    /// It did not get ready in time, and was killed.
    StuckAtStart,
    /// Its engine has ended for good.
    GaveUp,
}

impl Death {
    /// How it ended, in words.
    pub(crate) fn exit(&self) -> String {
        let status = match self.status {
            Some(status) => status.to_string(),
            None => "unknown exit status".into(),
        };
        match self.why {
            Why::Ended => status,
            Why::Hung => "it hung and was killed".into(),
            Why::Stopped => "somebody stopped it and it was killed".into(),
            Why::Disconnected => format!("its connection broke; {status}"),
            Why::NotReady => format!("it did not get ready; {status}"),
            Why::StuckAtStart => "it did not get ready in time and was killed".into(),
            Why::GaveUp => "its engine gave up and it was killed".into(),
        }
    }

    /// Whether it ended by itself, because it was told to.
    pub(crate) fn was_in_order(&self) -> bool {
        self.why == Why::Ended && self.status.is_some_and(|status| status.success())
    }

    /// Whether what it was running may have brought it about. Some signals come from elsewhere.
    pub(crate) fn may_be_blamed(&self) -> bool {
        match self.why {
            Why::Stopped | Why::Disconnected | Why::GaveUp => false,
            Why::Hung | Why::StuckAtStart => true,
            Why::Ended | Why::NotReady => self.status.is_some_and(|status| match status.signal() {
                Some(signal) => ![Signal::KILL, Signal::TERM, Signal::INT, Signal::HUP]
                    .iter()
                    .any(|from_elsewhere| from_elsewhere.as_raw() == signal),
                None => !status.success(),
            }),
        }
    }

    /// Puts the blame on whose code was running, if it may be theirs. Returns those who are paused from now on; `None` if
    /// nobody is to blame.
    pub(crate) fn blame(&self, quarantine: &Quarantine, now: Instant) -> Option<Vec<TenantId>> {
        if !self.may_be_blamed() || self.running.is_empty() {
            return None;
        }
        let evidence = self.running.iter().map(|running| Evidence {
            tenant: running.tenant,
            template: running.template.clone(),
            event: running.event.clone(),
            exit: self.exit(),
            log_lines: self.log_lines.clone(),
            deaths: 0,
        });
        Some(evidence.filter(|evidence| quarantine.blame(evidence.clone(), now)).map(|paused| paused.tenant).collect())
    }

    /// The error for those whose events were in flight.
    pub(crate) fn error(&self, id: WorkerId) -> WorkerError {
        let lines = self.log_lines.join(" | ");
        let lines = if lines.is_empty() { "it logged nothing".into() } else { format!("its last log lines: {lines}") };
        WorkerError::new(
            WorkerErrorKind::WorkerGone,
            format!("the process of worker {id} ended: {}; {lines}", self.exit()),
        )
    }
}

/// Lines of the log that go into error reports.
const REPORTED_LINES: usize = 5;

impl Child {
    /// Starts a process and waits until its engine answers. A process that does not get ready is no more when this
    /// returns.
    pub(crate) async fn start(
        id: WorkerId,
        filter: &WorkerFilter,
        routing: Routing,
        config: &WorkerProcessConfig,
    ) -> Result<Self, Result<Death, WorkerError>> {
        let failed = |what: &str, error: io::Error| {
            let context = format!("{what} for the process of worker {id}");
            Err(WorkerError::new(WorkerErrorKind::Internal, context).with_source(error))
        };
        let flight_log = new_flight_log().map_err(|error| failed("no flight log", error))?;
        let mut command = Command::new(&config.program.path);
        command
            .args(&config.program.args)
            .env_clear()
            .envs(config.program.env.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Not of the terminal's foreground: its Ctrl-C is for this process, which ends the child in good order.
            .process_group(0)
            .kill_on_drop(true);
        let runtime = tokio::runtime::Handle::current();
        let nursery = nursery().map_err(|error| failed("no thread", error))?;
        let before_start = config.before_start;
        let spawned = nursery.run(move || {
            before_start();
            let _runtime = runtime.enter();
            command.spawn()
        });
        let spawned = spawned.await.unwrap_or_else(|| Err(io::Error::other("the start panicked")));
        let mut process = spawned.map_err(|error| failed("no process", error))?;
        let (Some(pid), Some(mut stdin), Some(stdout), Some(stderr)) =
            (process.id(), process.stdin.take(), process.stdout.take(), process.stderr.take())
        else {
            return Err(failed("no pipes", io::ErrorKind::BrokenPipe.into()));
        };
        let logs = LogLines::default();
        let stderr = tokio::spawn(follow(id, stderr, logs.clone()));

        let getting_ready = async {
            let token = Token::random();
            let paused = config.quarantine.all();
            let filter = filter.clone().without(paused.iter().map(|evidence| evidence.tenant));
            let of_this = paused.into_iter().filter(|evidence| filter.keeps_apart(evidence.tenant));
            let paused = of_this.take(PAUSED_TOLD_MAX).collect();
            let birth = Birth {
                version: VERSION,
                parent: std::process::id(),
                token: token.clone(),
                id,
                filter,
                paused,
                routing,
                flight_log: path_of(&flight_log).into(),
                drain_millis: config.timeouts.drain.as_millis().try_into().unwrap_or(u64::MAX),
                made_of: Cow::Borrowed(&config.made_of),
            };
            let mut line = serde_json::to_vec(&birth).map_err(io::Error::from)?;
            line.push(b'\n');
            stdin.write_all(&line).await?;
            let mut line = Vec::new();
            BufReader::new(stdout).take(READY_BYTES_MAX).read_until(b'\n', &mut line).await?;
            if line.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let ready: Ready = serde_json::from_slice(&line).map_err(io::Error::from)?;
            if ready.version != VERSION {
                return Err(io::Error::other(format!("it speaks version {}", ready.version)));
            }
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ready.port));
            let comm = WorkerProcessCommHttp2::connect(address, &token).await.map_err(io::Error::other)?;
            comm.call(Request::Health).await.map_err(io::Error::other)?;
            Ok(comm)
        };
        let ready = tokio::time::timeout(config.timeouts.start, getting_ready).await;
        let why = if ready.is_ok() { Why::NotReady } else { Why::StuckAtStart };
        let ready = ready.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match ready {
            Ok(comm) => Ok(Self { process, pid, stdin: Some(stdin), stderr, logs, flight_log, comm }),
            Err(error) => {
                // A process that has ended tells more by its status; one that has not is ended here.
                if tokio::time::timeout(LAST_WORDS_TIMEOUT, process.wait()).await.is_err() {
                    let _ = process.kill().await;
                }
                let status = process.wait().await.ok();
                let mut death = death(why, status, stderr, &logs, &flight_log).await;
                death.log_lines.push(format!("(not ready: {error})"));
                Err(Ok(death))
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Ready when the process has ended.
    pub(crate) async fn ended(&mut self) {
        // An error means that there is no such process any more.
        let _ = self.process.wait().await;
    }

    /// Whether somebody has stopped the process, as far as the system tells.
    pub(crate) fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        // The name is in parentheses and may have any characters.
        let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
        matches!(state, Some('T' | 't'))
    }

    /// Tells the process that it is not needed any more.
    pub(crate) fn release(&mut self) {
        drop(self.stdin.take());
    }

    /// Tells the process that it is not needed any more, and makes sure that it ends.
    pub(crate) async fn dismiss(mut self, patience: Duration) {
        self.release();
        if tokio::time::timeout(patience, self.process.wait()).await.is_err() {
            let _ = self.process.kill().await;
        }
        self.stderr.abort();
    }

    /// Ends the process, if it has not ended, and tells what it left.
    pub(crate) async fn bury(mut self, why: Why) -> Death {
        if why != Why::Ended {
            // It may have ended meanwhile.
            let _ = self.process.start_kill();
        }
        let status = self.process.wait().await.ok();
        death(why, status, self.stderr, &self.logs, &self.flight_log).await
    }
}

async fn death(
    why: Why,
    status: Option<ExitStatus>,
    stderr: JoinHandle<()>,
    logs: &LogLines,
    flight_log: &File,
) -> Death {
    let abort = stderr.abort_handle();
    if tokio::time::timeout(LAST_WORDS_TIMEOUT, stderr).await.is_err() {
        abort.abort();
    }
    let file = read_flight_log(flight_log);
    let mut log_lines = logs.all();
    log_lines.drain(..log_lines.len().saturating_sub(REPORTED_LINES));
    let mut running = FlightLog::running(&file);
    running.sort_by_key(|running| running.tenant);
    running.dedup_by_key(|running| running.tenant);
    // Without the file nothing is known, so nothing may be tried again.
    let taken_up_to = if file.len() < FlightLog::HEADER_BYTES { u64::MAX } else { FlightLog::taken_up_to(&file) };
    Death { why, status, log_lines, running, taken_up_to }
}

/// A file without a name, so that nothing is left when both processes are gone. The child reaches it through this process.
/// It is in memory, so that a full disk does not keep workers from starting.
fn new_flight_log() -> io::Result<File> {
    let file = File::from(rustix::fs::memfd_create("antiraid-flight-log", rustix::fs::MemfdFlags::CLOEXEC)?);
    // All of it is there from now on: a store of the child must not fail for want of memory, which would end it.
    file.write_all_at(&vec![0; FlightLog::BYTES], 0)?;
    Ok(file)
}

fn path_of(file: &File) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into()
}

fn read_flight_log(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; FlightLog::BYTES];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => bytes,
        Err(_) => Vec::new(),
    }
}

/// Takes in what the process logs: the last lines are kept, and all go to this program's log.
async fn follow(id: WorkerId, stderr: impl AsyncRead + Unpin, logs: LogLines) {
    let mut stderr = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        // A line without an end is cut, not collected for ever.
        match (&mut stderr).take(LogLines::LINE_BYTES_MAX as u64).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let line = String::from_utf8_lossy(&line);
                let line = line.trim_end();
                logs.push(line);
                tracing::warn!(target: "worker_process::child", worker = %id, "{line}");
            }
        }
    }
}
