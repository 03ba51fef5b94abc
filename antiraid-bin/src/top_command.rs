//! `antiraid top`: a live view of a running `antiraid run`.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Style, Stylize};
use ratatui::widgets::{Block, Paragraph, Row, Table};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use worker_core::ShardState;

use crate::cli::{CommandError, Outcome, TopArgs, chain};
use crate::run_command::Snapshot;

/// How often figures are fetched.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long they may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a key is waited for before figures are looked at again.
const KEY_WAIT: Duration = Duration::from_millis(100);
/// The longest answer.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// What is shown: the last figures, those before them, and what is wrong.
#[derive(Debug, Default)]
pub struct View {
    now: Snapshot,
    before: Snapshot,
    trouble: Option<String>,
}

impl View {
    /// The view with newer figures.
    pub fn update(&mut self, fetched: Result<Snapshot, String>) {
        match fetched {
            Ok(snapshot) => {
                self.before = std::mem::replace(&mut self.now, snapshot);
                self.trouble = None;
            }
            Err(trouble) => self.trouble = Some(trouble),
        }
    }

    /// Draws it.
    pub fn draw(&self, frame: &mut Frame<'_>) {
        let workers = self.now.workers.len().try_into().unwrap_or(u16::MAX).saturating_add(3);
        let quarantined =
            self.now.quarantined.len().min(5) as u16 + if self.now.quarantined.is_empty() { 0 } else { 3 };
        let shards = self.now.total.shards.len().try_into().unwrap_or(u16::MAX);
        let shards = if shards == 0 { 0 } else { shards.saturating_add(3).min(frame.area().height / 3) };
        let [top, middle, gateway, bottom, low] = Layout::vertical([
            Constraint::Length(2),
            Constraint::Length(workers.min(frame.area().height / 2)),
            Constraint::Length(shards),
            Constraint::Min(4),
            Constraint::Length(quarantined),
        ])
        .areas(frame.area());
        frame.render_widget(Paragraph::new(self.headline()), top);
        frame.render_widget(self.workers(), middle);
        if shards > 0 {
            frame.render_widget(self.shards(), gateway);
        }
        frame.render_widget(self.tenants(), bottom);
        if quarantined > 0 {
            frame.render_widget(self.quarantined(), low);
        }
    }

    fn headline(&self) -> String {
        let Snapshot { topology, uptime_seconds, total, .. } = &self.now;
        let trouble = self.trouble.as_deref().map(|trouble| format!("  !! {trouble}")).unwrap_or_default();
        format!(
            "antiraid {topology}, up {uptime_seconds:.0} s{trouble}\n{} events, {:.0}/s, {} waiting, {} VMs, {:.1} MiB, {} restarts   (q quits)",
            total.events,
            self.rate(self.before.total.events, total.events),
            total.events_queued,
            total.vms_live,
            mib(total.vm_memory_bytes),
            total.restarts,
        )
    }

    /// How often a second a counter went up.
    fn rate(&self, before: u64, now: u64) -> f64 {
        let seconds = self.now.uptime_seconds - self.before.uptime_seconds;
        // The first figures have none before them.
        if seconds <= 0.0 || self.before.workers.is_empty() { 0.0 } else { now.saturating_sub(before) as f64 / seconds }
    }

    fn workers(&self) -> Table<'_> {
        let rows = self.now.workers.iter().map(|worker| {
            let pid = worker.pid.map_or_else(|| "-".into(), |pid| pid.to_string());
            let Some(stats) = &worker.stats else {
                return Row::new([worker.id.to_string(), pid, "no answer".into()]).red();
            };
            let before = self.before.workers.iter().find(|before| before.id == worker.id);
            let before = before.and_then(|before| before.stats.as_ref()).map_or(stats.events, |stats| stats.events);
            Row::new([
                worker.id.to_string(),
                pid,
                format!("{:.0}", self.rate(before, stats.events)),
                stats.events.to_string(),
                stats.events_queued.to_string(),
                (stats.events_dropped + stats.events_refused + stats.events_lost).to_string(),
                stats.templates_failed.to_string(),
                stats.vms_live.to_string(),
                format!("{:.1}", mib(stats.vm_memory_bytes)),
                stats.restarts.to_string(),
            ])
        });
        table(
            "workers",
            ["worker", "pid", "events/s", "events", "waiting", "dropped", "failed", "VMs", "MiB", "restarts"],
            rows.collect(),
        )
    }

    /// What needs a look comes first: a bot may have more shards than a screen has lines.
    fn shards(&self) -> Table<'_> {
        let mut shards: Vec<_> = self.now.total.shards.iter().collect();
        shards.sort_by_key(|shard| (shard.state == ShardState::Active, shard.shard));
        let rows = shards.into_iter().map(|shard| {
            let before = self.before.total.shards.iter().find(|before| before.shard == shard.shard);
            let latency = shard.latency_ms.map_or_else(|| "-".into(), |latency| format!("{latency:.0}"));
            let row = Row::new([
                format!("{}/{}", shard.shard, shard.shards),
                shard.state.to_string(),
                latency,
                shard.sequence.to_string(),
                format!("{:.0}", self.rate(before.map_or(shard.events, |before| before.events), shard.events)),
                shard.reconnects.to_string(),
                format!("{}+{}", shard.resumes, shard.identifies),
                shard.refused.values().sum::<u64>().to_string(),
                shard.trouble.clone().unwrap_or_default(),
            ]);
            if shard.state == ShardState::Active { row } else { row.yellow() }
        });
        table(
            "shards",
            ["shard", "state", "ms", "sequence", "events/s", "reconnects", "resumed+new", "refused", "last trouble"],
            rows.collect(),
        )
    }

    fn tenants(&self) -> Table<'_> {
        let seconds = (self.now.uptime_seconds - self.before.uptime_seconds).max(0.001);
        let rows = self.now.total.tenants.iter().map(|used| {
            let before = self.before.total.tenants.iter().find(|before| before.tenant == used.tenant);
            // Of one core. A worker that was started again counts from zero.
            let share = before
                .map_or(0.0, |before| used.cpu_micros.saturating_sub(before.cpu_micros) as f64 / seconds / 10_000.0);
            Row::new([
                used.tenant.to_string(),
                format!("{share:.1}"),
                format!("{:.2}", used.cpu_micros as f64 / 1e6),
                format!("{:.2}", mib(used.memory_bytes)),
            ])
        });
        table("tenants by CPU time", ["tenant", "CPU %", "CPU s", "MiB"], rows.collect())
    }

    fn quarantined(&self) -> Table<'_> {
        let rows = self.now.quarantined.iter().map(|evidence| {
            let of = [evidence.tenant.to_string(), evidence.template.clone(), evidence.event.clone()];
            Row::new(of.into_iter().chain([evidence.exit.clone()])).red()
        });
        table("quarantined", ["tenant", "template", "event", "how its worker ended"], rows.collect())
    }
}

fn table<'a, const N: usize>(title: &'a str, header: [&'a str; N], rows: Vec<Row<'a>>) -> Table<'a> {
    let widths = [Constraint::Fill(1); N];
    Table::new(rows, widths).header(Row::new(header).style(Style::new().bold())).block(Block::bordered().title(title))
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Runs the command.
pub async fn run(args: &TopArgs) -> Result<Outcome, CommandError> {
    let mut view = View::default();
    // What cannot be reached at all is said before the screen is taken.
    let first = fetch(args.address).await.map_err(|error| {
        let what = format!("nothing to watch at {}; start `antiraid run`: {error}", args.address);
        CommandError::Output(io::Error::other(what))
    })?;
    view.update(Ok(first));
    let mut terminal = ratatui::try_init()?;
    let shown = show(&mut terminal, &mut view, args.address).await;
    ratatui::restore();
    shown?;
    Ok(Outcome::Good)
}

async fn show(terminal: &mut ratatui::DefaultTerminal, view: &mut View, address: SocketAddr) -> io::Result<()> {
    let mut next = tokio::time::Instant::now();
    loop {
        if next.elapsed() >= INTERVAL {
            view.update(fetch(address).await.map_err(|error| chain(&error)));
            next = tokio::time::Instant::now();
        }
        terminal.draw(|frame| view.draw(frame))?;
        // Nothing else runs on this thread.
        if event::poll(KEY_WAIT)?
            && let Event::Key(key) = event::read()?
        {
            let ends = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
            if ends || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                return Ok(());
            }
        }
    }
}

/// The figures of a running program. HTTP/1.0, so that the answer ends with the connection.
pub async fn fetch(address: SocketAddr) -> io::Result<Snapshot> {
    let fetching = async {
        let mut stream = TcpStream::connect(address).await?;
        stream
            .write_all(format!("GET /stats HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())
            .await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
        let body = answer.windows(4).position(|end| end == b"\r\n\r\n").map(|at| &answer[at + 4..]);
        let body = body.ok_or_else(|| io::Error::other("what answers there does not speak HTTP"))?;
        serde_json::from_slice(body)
            .map_err(|error| io::Error::other(format!("what answers there is no antiraid of this version: {error}")))
    };
    tokio::time::timeout(FETCH_TIMEOUT, fetching).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use worker_core::{ShardStats, TenantId, TenantUse, WorkerId, WorkerStats};
    use worker_process::Evidence;

    use super::*;
    use crate::run_command::WorkerSnapshot;

    fn snapshot(seconds: f64, events: u64, cpu_micros: u64) -> Snapshot {
        let used = TenantUse { tenant: TenantId::guild(5), cpu_micros, memory_bytes: 3 << 20 };
        let stats = WorkerStats {
            workers: 1,
            events,
            restarts: 2,
            tenants: vec![used],
            shards: vec![shard(events)],
            ..WorkerStats::default()
        };
        Snapshot {
            topology: "process:2".into(),
            uptime_seconds: seconds,
            workers: vec![
                WorkerSnapshot { id: WorkerId::new(1), pid: Some(4711), stats: Some(stats.clone()) },
                WorkerSnapshot { id: WorkerId::new(2), pid: None, stats: None },
            ],
            total: stats,
            quarantined: vec![Evidence {
                tenant: TenantId::guild(9),
                template: "bad".into(),
                event: "MESSAGE".into(),
                exit: "signal: 6 (SIGABRT)".into(),
                log_lines: Vec::new(),
                deaths: 3,
            }],
        }
    }

    fn shard(events: u64) -> ShardStats {
        let trouble = Some("4000 gone".into());
        ShardStats {
            shard: 3,
            shards: 8,
            state: ShardState::Resuming,
            events,
            reconnects: 77,
            trouble,
            ..ShardStats::default()
        }
    }

    fn drawn(view: &View) -> String {
        let mut terminal = Terminal::new(TestBackend::new(120, 30)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn workers_tenants_and_the_quarantined_are_shown() {
        let mut view = View::default();
        drawn(&view);
        view.update(Ok(snapshot(10.0, 1_000, 1_000_000)));
        view.update(Ok(snapshot(12.0, 5_000, 2_000_000)));
        let screen = drawn(&view);
        for shown in [
            "process:2, up 12 s",
            "2000/s",
            "4711",
            "no answer",
            "guild:5",
            "50.0",
            "3.00",
            "guild:9",
            "SIGABRT",
            "3/8",
            "resuming",
            "77",
            "4000 gone",
        ] {
            assert!(screen.contains(shown), "{shown} is not in\n{screen}");
        }
        view.update(Err("connection refused".into()));
        assert!(drawn(&view).contains("!! connection refused"), "the last figures stay, with the trouble above");
    }
}
