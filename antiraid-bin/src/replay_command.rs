//! `antiraid replay`: a recording through the whole engine.

use std::collections::HashSet;
use std::io::{self, IsTerminal};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use worker_core::{TenantId, WorkerLike};
use worker_db::{DbError, WorkerDb};
use worker_process::Quarantine;

use crate::cli::{CommandError, Outcome, ReplayArgs};
use crate::config::{Config, DatabaseUrl, ObjectsUrl};
use crate::engine::{AnyWorkers, AnyWorkersConfig, Topology};
use crate::output::{Output, complain};
use crate::recording::{Batch, Source, read_ahead};
use crate::replay::{Ending, Replay};
use crate::replay_report::{Background, Report, Run};
use crate::template_dir::{FolderTemplate, read_templates};
use crate::{engine, store};

/// How long is waited for what templates leave running in the background: its last records should be written, but it may
/// also sleep for ever.
const BACKGROUND_WAIT: Duration = Duration::from_secs(5);

/// Runs the command.
pub async fn run(
    args: ReplayArgs,
    config: &Config,
    database: &DatabaseUrl,
    bars: &MultiProgress,
    output: &mut Output,
) -> Result<Outcome, CommandError> {
    let (json, results) = (args.json, args.results);
    let (report, ending) = replay(args, config, database, bars, results.then_some(&mut *output)).await?;
    print(&report, json, results, output)?;
    outcome(&report, ending)
}

/// Replays, and prints nothing but results.
pub async fn replay(
    args: ReplayArgs,
    config: &Config,
    database: &DatabaseUrl,
    bars: &MultiProgress,
    results: Option<&mut Output>,
) -> Result<(Report, Ending), CommandError> {
    check_sources(&args)?;
    let builtins = engine::builtins(config)?;
    let templates = match &args.templates {
        Some(dir) => read_templates(dir, &config.limits.templates, &builtins.library())?,
        None => Vec::new(),
    };
    // What is replayed into memory leaves no objects behind either.
    let objects_url = if database == &DatabaseUrl::memory() { ObjectsUrl::Memory } else { config.objects_url.clone() };
    // Other processes cannot see this one's memory.
    let shared_file = SharedFile::if_needed(args.topology, database)?;
    let database = shared_file.as_ref().map_or(database, |file| &file.url);
    let config = &Config { database_url: database.clone(), objects_url, ..config.clone() };
    let services = engine::services(config)?;
    let db = store::open(database, &config.limits).await?;
    let mut loader = Loader { db: &db, templates, tenants: HashSet::new(), loaded: 0 };
    loader.look_ahead(&args.files).await?;

    let in_flight_max = in_flight_max(&args, config);
    // Beside workers of this machine that may serve the same database.
    let config = &Config { expiry_process: format!("{}/replay", config.expiry_process), ..config.clone() };
    let workers = AnyWorkers::start(AnyWorkersConfig {
        topology: args.topology,
        config,
        db: &db,
        builtins,
        services,
        waiting_max: in_flight_max,
        quarantine: Quarantine::default(),
        gateway: None,
    })
    .await
    .map_err(CommandError::Workers)?;
    let bar = progress_bar(&args, bars);
    let started = Instant::now();
    let (tally, ending) = Replay::new(&workers, in_flight_max.get(), results)
        .run(read_ahead(args.files, args.repeat), tokio::signal::ctrl_c, async |batch| {
            bar.inc(batch.bytes);
            let new = loader.meet(batch).await?;
            workers.see_changes_of(&new).await.map_err(CommandError::Workers)
        })
        .await?;
    let elapsed = started.elapsed();
    bar.finish_and_clear();

    // A worker that does not answer has nothing to report; what it lost is in the tally.
    let stats = workers.stats().await.unwrap_or_default();
    // Who gave up waiting for events does not wait for less.
    let patience = if tally.unfinished > 0 { Duration::ZERO } else { BACKGROUND_WAIT };
    let background = end(&workers, bars, patience).await;
    drop(workers);
    db.close().await;
    let report = tally.report(Run {
        interrupted: matches!(ending, Ending::Interrupted),
        elapsed,
        workers: args.topology.workers(config).get(),
        in_flight_max: in_flight_max.get(),
        tenants: loader.tenants.len(),
        templates_loaded: loader.loaded,
        stats,
        background,
        locate: &|template, at| {
            let template = loader.templates.iter().find(|other| other.name == *template)?;
            let path = at.path.trim_start_matches('/');
            // Not so for a line of the shared library.
            template.files.get(path).map(|_| template.folder.join(path).display().to_string())
        },
    });
    Ok((report, ending))
}

/// What is read more than once, or twice over, must be files.
fn check_sources(args: &ReplayArgs) -> Result<(), CommandError> {
    let streams = args.files.iter().filter(|source| matches!(source, Source::Stdin)).count();
    if streams > 1 {
        return Err(CommandError::Usage("standard input (-) can be given once"));
    }
    if streams > 0 && args.repeat.get() > 1 {
        return Err(CommandError::Usage("standard input (-) can be read once; --repeat needs files"));
    }
    Ok(())
}

/// Not more than the shortest queue has room for, so that no event of the replay is ever refused.
fn in_flight_max(args: &ReplayArgs, config: &Config) -> NonZeroUsize {
    let wanted = args.in_flight.saturating_mul(args.topology.workers(config));
    let room = config.limits.tenant_queue_max.min(config.limits.worker_queue_max);
    wanted.min(NonZeroUsize::new(room).unwrap_or(NonZeroUsize::MIN))
}

fn progress_bar(args: &ReplayArgs, bars: &MultiProgress) -> ProgressBar {
    let style = |template| {
        ProgressStyle::with_template(template).expect("because the template is a constant that a test draws")
    };
    let sizes: Option<Vec<u64>> = args.files.iter().map(Source::bytes).collect();
    let bar = match sizes {
        Some(sizes) => ProgressBar::new(sizes.iter().sum::<u64>() * u64::from(args.repeat.get()))
            .with_style(style("{bar:40} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left")),
        None => ProgressBar::no_length().with_style(style("{bytes} read, {bytes_per_sec}")),
    };
    // Result lines on the same terminal would tear it apart.
    if args.results && io::stdout().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    bars.add(bar)
}

/// A database in a file that is gone with the replay, for what several processes share.
struct SharedFile {
    url: DatabaseUrl,
    _dir: tempfile::TempDir,
}

impl SharedFile {
    fn if_needed(topology: Topology, database: &DatabaseUrl) -> Result<Option<Self>, CommandError> {
        if !topology.has_processes() || *database != DatabaseUrl::memory() {
            return Ok(None);
        }
        let dir = tempfile::TempDir::new()?;
        let url = DatabaseUrl::file(&dir.path().join("replay.db"));
        Ok(Some(Self { url, _dir: dir }))
    }
}

/// Installs the templates for each tenant before its first event.
struct Loader<'a> {
    db: &'a WorkerDb,
    templates: Vec<FolderTemplate>,
    tenants: HashSet<TenantId>,
    loaded: u64,
}

impl Loader<'_> {
    /// Meets all tenants of recordings that can be read twice, so that the measured time has no set-up in it. A line that
    /// cannot be read ends the look, not the command: the replay gets as far as that line.
    async fn look_ahead(&mut self, sources: &[Source]) -> Result<(), CommandError> {
        if self.templates.is_empty() || sources.iter().any(|source| source.bytes().is_none()) {
            return Ok(());
        }
        let mut batches = read_ahead(sources.to_vec(), const { std::num::NonZeroU32::MIN });
        while let Some(Ok(batch)) = batches.recv().await {
            self.meet(&batch).await?;
        }
        Ok(())
    }

    /// Returns the tenants that got templates.
    async fn meet(&mut self, batch: &Batch) -> Result<Vec<TenantId>, DbError> {
        let tenants = batch.events.iter().map(|event| event.tenant);
        let new: Vec<TenantId> = tenants.filter(|tenant| self.tenants.insert(*tenant)).collect();
        for template in &self.templates {
            let wanted: Vec<_> = new.iter().copied().filter(|tenant| template.tenants.contains(*tenant)).collect();
            store::push_for_all(self.db, &wanted, template).await?;
            self.loaded += wanted.len() as u64;
        }
        Ok(if self.templates.is_empty() { Vec::new() } else { new })
    }
}

/// Ends the workers: in good order if that is possible within this time and nobody interrupts it.
async fn end(workers: &impl WorkerLike, bars: &MultiProgress, patience: Duration) -> Background {
    let started = Instant::now();
    let message =
        format!("waiting at most {} s for what templates have left running; ctrl-c ends it", patience.as_secs());
    let spinner = bars.add(ProgressBar::new_spinner().with_message(message));
    spinner.enable_steady_tick(Duration::from_millis(100));
    let finished = tokio::select! {
        // A worker that cannot answer has nothing left that runs.
        _ = workers.drain() => true,
        () = tokio::time::sleep(patience) => false,
        _ = tokio::signal::ctrl_c() => false,
    };
    let seconds = started.elapsed().as_secs_f64();
    if !finished {
        // Whether it was still there to be killed matters to nobody.
        let _ = workers.kill().await;
    }
    spinner.finish_and_clear();
    Background { seconds, finished }
}

fn print(report: &Report, json: bool, results: bool, output: &mut Output) -> Result<(), CommandError> {
    match (results, json) {
        (false, false) => output.line(report.tables())?,
        (false, true) => output.json(report)?,
        (true, false) => {
            output.flush()?;
            complain(report.tables());
        }
        (true, true) => {
            output.flush()?;
            complain(serde_json::to_string(report).map_err(io::Error::from)?);
        }
    }
    Ok(())
}

fn outcome(report: &Report, ending: Ending) -> Result<Outcome, CommandError> {
    let lost: u64 = report.events.lost.values().sum();
    match ending {
        Ending::BadInput(error) => Err(CommandError::Recording(error)),
        Ending::Complete | Ending::Interrupted if lost > 0 => Err(CommandError::EventsLost(lost)),
        Ending::Complete | Ending::Interrupted if report.failed + report.threads_failed > 0 => Ok(Outcome::Bad),
        Ending::Complete | Ending::Interrupted => Ok(Outcome::Good),
    }
}
