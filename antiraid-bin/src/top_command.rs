//! `antiraid top`: a live view of a running `antiraid run`.

use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::time::Duration;

use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Style, Stylize};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Block, Paragraph, Row, Table};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use worker_core::{ShardState, TenantUse};

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
    order: TenantOrder,
}

/// Which tenants come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum TenantOrder {
    #[default]
    Cpu,
    Memory,
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

    /// What a key does. Whether to go on.
    pub fn press(&mut self, key: KeyEvent) -> bool {
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return false,
            KeyCode::Char('q') | KeyCode::Esc => return false,
            KeyCode::Char('c') => self.order = TenantOrder::Cpu,
            KeyCode::Char('m') => self.order = TenantOrder::Memory,
            _ => {}
        }
        true
    }

    /// Draws it.
    pub fn draw(&self, frame: &mut Frame<'_>) {
        let height = frame.area().height;
        let rows = |rows: usize| u16::try_from(rows).unwrap_or(u16::MAX).saturating_add(3);
        let quarantined = if self.now.quarantined.is_empty() { 0 } else { rows(self.now.quarantined.len().min(5)) };
        let shards =
            if self.now.total.shards.is_empty() { 0 } else { rows(self.now.total.shards.len()).min(height / 3) };
        let [top, middle, gateway, bottom, low] = Layout::vertical([
            Constraint::Length(2),
            Constraint::Length(rows(self.now.workers.len()).min(height / 2)),
            Constraint::Length(shards),
            Constraint::Min(4),
            Constraint::Length(quarantined.min(height / 3)),
        ])
        .areas(frame.area());
        frame.render_widget(self.headline(), top);
        frame.render_widget(self.workers(), middle);
        if shards > 0 {
            frame.render_widget(self.shards(), gateway);
        }
        frame.render_widget(self.tenants(), bottom);
        if quarantined > 0 {
            frame.render_widget(self.quarantined(), low);
        }
    }

    fn headline(&self) -> Paragraph<'_> {
        let Snapshot { topology, uptime_seconds, total, .. } = &self.now;
        let mut first = vec![
            "antiraid ".bold(),
            topology.as_str().bold(),
            format!("  up {}", span(*uptime_seconds)).into(),
            "   q quits, c and m sort by CPU and memory".dim(),
        ];
        if let Some(trouble) = &self.trouble {
            first = vec!["antiraid ".bold(), format!("!! {trouble}").red().bold()];
        }
        let second = format!(
            "{} events, {}/s, {} waiting, {} VMs, {:.1} MiB, {} restarts",
            grouped(total.events),
            grouped(self.rate(self.before.total.events, total.events).round() as u64),
            grouped(total.events_queued),
            grouped(total.vms_live),
            mib(total.vm_memory_bytes),
            grouped(total.restarts),
        );
        Paragraph::new(vec![Line::from(first), Line::from(second)])
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
                return row([worker.id.to_string(), pid, "no answer".into()]).red();
            };
            let before = self.before.workers.iter().find(|before| before.id == worker.id);
            let before = before.and_then(|before| before.stats.as_ref()).map_or(stats.events, |stats| stats.events);
            let shown = row([
                worker.id.to_string(),
                pid,
                grouped(self.rate(before, stats.events).round() as u64),
                grouped(stats.events),
                grouped(stats.events_queued),
                grouped(stats.events_dropped.saturating_add(stats.events_refused).saturating_add(stats.events_lost)),
                grouped(stats.templates_failed),
                grouped(stats.vms_live),
                format!("{:.1}", mib(stats.vm_memory_bytes)),
                grouped(stats.restarts),
            ]);
            if stats.restarts > 0 { shown.yellow() } else { shown }
        });
        table(
            " workers ",
            [
                ("worker", 6),
                ("pid", 8),
                ("events/s", 9),
                ("events", 13),
                ("waiting", 8),
                ("dropped", 8),
                ("failed", 8),
                ("VMs", 6),
                ("MiB", 8),
                ("restarts", 8),
            ],
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
            let shown = row([
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
            if shard.state == ShardState::Active { shown } else { shown.yellow() }
        });
        table(
            " shards ",
            [
                ("shard", 9),
                ("state", 12),
                ("ms", 6),
                ("sequence", 11),
                ("events/s", 9),
                ("reconnects", 10),
                ("resumed+new", 11),
                ("refused", 8),
                ("last trouble", 60),
            ],
            rows.collect(),
        )
    }

    fn tenants(&self) -> Table<'_> {
        let seconds = (self.now.uptime_seconds - self.before.uptime_seconds).max(0.001);
        // Of one core. A worker that was started again counts from zero.
        let share = |used: &TenantUse| {
            let before = self.before.total.tenants.iter().find(|before| before.tenant == used.tenant);
            before.map_or(0.0, |before| used.cpu_micros.saturating_sub(before.cpu_micros) as f64 / seconds / 10_000.0)
        };
        let mut tenants: Vec<_> = self.now.total.tenants.iter().map(|used| (share(used), used)).collect();
        match self.order {
            // Those of now; the others as they come, by all that they ever used.
            TenantOrder::Cpu => tenants.sort_by(|(a, _), (b, _)| b.total_cmp(a)),
            TenantOrder::Memory => tenants.sort_by_key(|(_, used)| std::cmp::Reverse(used.memory_bytes)),
        }
        let rows = tenants.into_iter().map(|(share, used)| {
            let cpu_seconds = used.cpu_micros as f64 / 1e6;
            let memory = mib(used.memory_bytes);
            row([used.tenant.to_string(), format!("{share:.1}"), format!("{cpu_seconds:.2}"), format!("{memory:.2}")])
        });
        let title = match self.order {
            TenantOrder::Cpu => " tenants by CPU time ",
            TenantOrder::Memory => " tenants by memory ",
        };
        table(title, [("tenant", 27), ("CPU %", 8), ("CPU s", 10), ("MiB", 9)], rows.collect())
    }

    fn quarantined(&self) -> Table<'_> {
        let rows = self.now.quarantined.iter().map(|evidence| {
            let of = [&evidence.tenant.to_string(), &evidence.template, &evidence.event, &evidence.exit];
            Row::new(of.map(|text| text.chars().filter(|c| !c.is_control()).collect::<String>())).red()
        });
        let header = Row::new(["tenant", "template", "event", "how its worker ended"]).style(Style::new().bold());
        let widths = [Constraint::Length(27), Constraint::Fill(2), Constraint::Fill(2), Constraint::Fill(3)];
        Table::new(rows, widths).header(header).block(Block::bordered().title(" quarantined "))
    }
}

/// A name, then figures.
fn row<const N: usize>(cells: [String; N]) -> Row<'static> {
    Row::new(cells.into_iter().enumerate().map(|(column, text)| {
        let text = Text::from(text);
        if column == 0 { text } else { text.right_aligned() }
    }))
}

/// A table of figures, with its columns and how wide these are.
fn table<'a, const N: usize>(title: &'a str, columns: [(&'static str, u16); N], rows: Vec<Row<'a>>) -> Table<'a> {
    let header = row(columns.map(|(name, _)| name.to_owned())).style(Style::new().bold());
    let widths = columns.map(|(_, width)| Constraint::Max(width));
    Table::new(rows, widths).header(header).block(Block::bordered().title(title))
}

/// The number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn span(seconds: f64) -> String {
    let seconds = seconds as u64;
    match (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, s) => format!("{m} min {s} s"),
        (0, h, m, _) => format!("{h} h {m} min"),
        (d, h, ..) => format!("{d} d {h} h"),
    }
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
    if !io::stdout().is_terminal() {
        return Err(CommandError::Usage(
            "top draws on a terminal; `curl http://…/stats` gives the same figures as JSON",
        ));
    }
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
            && !view.press(key)
        {
            return Ok(());
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
            "process:2  up 12 s",
            "2,000/s",
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
        view.press(KeyEvent::from(KeyCode::Char('m')));
        assert!(drawn(&view).contains("tenants by memory"));
        assert!(!view.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
        view.update(Err("connection refused".into()));
        assert!(drawn(&view).contains("!! connection refused"), "the last figures stay, with the trouble above");
    }

    #[test]
    fn numbers_and_times_are_for_people() {
        let numbers = [0, 7, 999, 1_000, 12_345, 1_234_567].map(grouped);
        assert_eq!(numbers, ["0", "7", "999", "1,000", "12,345", "1,234,567"]);
        let times = [59.9, 61.0, 3_700.0, 90_000.0].map(span);
        assert_eq!(times, ["59 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]);
    }

    #[test]
    fn a_small_terminal_is_no_panic() {
        let mut view = View::default();
        view.update(Ok(snapshot(10.0, u64::MAX, u64::MAX)));
        for (width, height) in [(1, 1), (20, 5), (200, 3), (3, 80)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal.draw(|frame| view.draw(frame)).unwrap();
        }
    }
}
