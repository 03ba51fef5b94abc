//! The command line: what may be asked, and what the exit status means.

#![allow(rustdoc::invalid_html_tags, reason = "comments of arguments are the help, where `<id>` stands for an id")]

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use indicatif::MultiProgress;
use jiff::Timestamp;
use tracing_subscriber::EnvFilter;
use worker_core::{Snowflake, TemplateName, TenantId, ValueError, WorkerError};
use worker_db::DbError;
use worker_vm::BotRestError;

use crate::bench::{BenchError, Measurement, MemoryArgs};
use crate::config::{Config, DatabaseUrl, FlagSetting};
use crate::dev::live_folder::LiveFolderError;
use crate::engine::Topology;
use crate::gateway::{GatewayEnd, PlanError};
use crate::mistake::Mistakes;
use crate::output::{Output, complain};
use crate::recording::{RecordingError, Source};
use crate::type_check::TypeCheckError;
use crate::{
    bench, bench_command, check_command, config_command, dev_command, expiry_command, kv_command, reference_command,
    register_command, replay_command, run_command, template_command, tenant_command, test_command, top_command,
    types_command, worker_command,
};

const LONG_ABOUT: &str = "\
Runs Luau moderation templates for Discord guilds, each guild in a sandbox of its own.

Start with a recording of gateway events and a folder of templates:

  antiraid replay --templates examples/templates examples/raid/raid.jsonl";

const AFTER_HELP: &str = "\
Settings come from four places; the first that has one wins:
  1. flags                       --workers 2, or --set KEY=VALUE for any setting
  2. the environment             ANTIRAID_WORKERS=2, ANTIRAID_LIMITS_VM_MEMORY_MIB_MAX=64
  3. a file                      antiraid.toml here, or --config PATH
  4. defaults
`antiraid config` lists every setting, its value, and where that comes from.

Exit status:
  0  all went well
  1  a template failed, a check found something, or what was asked for is not there
  2  the command line, the settings, or a file given has mistakes; all of them are named
  3  the database, a worker or the output failed";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "antiraid", version, about = "Runs Luau moderation templates for Discord guilds", long_about = LONG_ABOUT, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(flatten)]
    settings: SettingArgs,
    #[command(subcommand)]
    command: Command,
}

/// The part of the help for what every command takes.
const SETTINGS: &str = "Settings";

/// Settings that every command takes.
#[derive(Debug, Args)]
struct SettingArgs {
    /// The file with the settings [default: antiraid.toml, if it is there]
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "PATH", env = "ANTIRAID_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
    /// One setting, for example --set limits.vm_memory_mib_max=64; may be repeated
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "KEY=VALUE", value_parser = key_and_value)]
    set: Vec<(String, String)>,
    /// What is logged to stderr: error, warn, info, debug, trace, or target=level,…
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "FILTER")]
    log: Option<String>,
    /// The database: sqlite:<file>, sqlite::memory: or postgres://… [default: sqlite:antiraid.db; in memory for replay]
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "URL")]
    db: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Replay(ReplayArgs),
    Check(CheckArgs),
    Test(TestArgs),
    Types(TypesArgs),
    /// Write the reference for authors, a page a module
    #[command(hide = true)]
    Reference(ReferenceArgs),
    /// Check, install, list, pause and remove templates
    #[command(subcommand)]
    Template(TemplateCommand),
    /// Read and write the records of a tenant
    #[command(subcommand)]
    Kv(KvCommand),
    /// Show what expires, and try again or drop what failed
    #[command(subcommand)]
    Expiry(ExpiryCommand),
    /// Show the settings in force and where each comes from
    Config(ConfigArgs),
    Bench(BenchArgs),
    Dev(DevArgs),
    Run(RunArgs),
    Register(RegisterArgs),
    Top(TopArgs),
    /// List the tenants that are quarantined, with the evidence, and release them
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// Be a worker process, for another antiraid
    #[command(hide = true)]
    Worker,
    /// Measure the memory of this process, for `bench`
    #[command(hide = true)]
    BenchMemory(MemoryArgs),
}

/// Send recorded gateway events through the whole engine, and say what came of it
///
/// A recording has one gateway frame a line: {"op":0,"t":"MESSAGE_CREATE","s":1,"d":{…}}. Events go to the templates of
/// the guild that they name, in the order of the recording.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  antiraid replay --templates examples/templates examples/raid/raid.jsonl
  antiraid replay --templates my-template --results raid.jsonl | jq .value
  zcat frames.jsonl.gz | antiraid replay --templates my-template -
  antiraid replay --templates examples/templates --workers 1 --repeat 10 --json raid.jsonl

The database is in memory and gone afterwards, whatever the settings say, unless --db names one.
After the last event, what templates have left running may go on for 5 s. Ctrl-C ends the replay, with its summary; a
second one ends the waiting for what runs.
Exit status: 1 if a template failed, 2 for a line that is no frame (what stood before it was replayed).")]
pub struct ReplayArgs {
    /// Recordings, read one after the other; - is standard input
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<Source>,
    /// A template, or a folder of templates; each goes to the tenants that its template.toml names
    #[arg(long, value_name = "DIR")]
    pub templates: Option<PathBuf>,
    /// Worker threads [default: one a core]
    #[arg(long, value_name = "N")]
    pub workers: Option<String>,
    /// How workers are put together: thread, process or process*thread, with numbers as in process:2*thread:2
    #[arg(long, value_name = "TOPOLOGY", default_value = "thread")]
    pub topology: Topology,
    /// Replay everything so many times
    #[arg(long, value_name = "K", default_value = "1")]
    pub repeat: NonZeroU32,
    /// Events in flight for each worker thread
    #[arg(long, value_name = "N", default_value = "64")]
    pub in_flight: NonZeroUsize,
    /// Print each result as a line of JSON on stdout; the summary goes to stderr
    #[arg(long)]
    pub results: bool,
    /// Print the summary as one JSON document instead of tables
    #[arg(long)]
    pub json: bool,
}

/// Check the types of templates, with file, line and column
///
/// Does what `template check` does, and then checks the types of every file, with those of the shared library and of the
/// modules that the runtime has. Nothing is run. Exit status: 1 if anything is wrong.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  antiraid check my-template
  antiraid check --strict examples/templates

A file that begins with --!strict is checked strictly, one with --!nocheck not at all; else the nearest .luaurc decides
by its languageMode, and without one only what is certainly wrong is named.")]
pub struct CheckArgs {
    /// A template, or a folder of templates
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Check every file as if it began with --!strict
    #[arg(long)]
    pub strict: bool,
}

/// Run the specs of templates: tests in Luau, in the same runtime, with a clock that they move
///
/// Every *.spec.luau at and below DIR is run beside the template in whose folder it is. Each test starts with an empty
/// store, a new VM, and the clock at 2026-01-01; it sends events and looks at what came of them.
#[derive(Debug, Args)]
#[command(after_help = "\
A spec, my-template/greeting.spec.luau:

  local t = require(\"@antiraid-test\")
  local test, expect, event = t.test, t.expect, t.event

  test(\"greets whoever says hello\", function()
      expect(t.dispatch(event.message({ content = \"hello\" }))):toEqual(\"hello to you\")
  end)

  test(\"forgets after a minute\", function()
      t.dispatch(event.message({ content = \"remember me\" }))
      t.clock.advance(60)
      expect(t.kv.get(\"remembered\", { \"greeter\" })):toBeNil()
  end)

Examples:
  antiraid test                              # every spec below this folder
  antiraid test my-template --filter greets
  antiraid test examples/templates --json | jq '.tests[] | select(.status == \"failed\")'

`@antiraid-test` is described in antiraid-bin/README.md; its types are in the shared library.
Exit status: 1 if a test failed, 2 if a template or a spec has mistakes, or there is no spec.")]
pub struct TestArgs {
    /// The folder with the specs, or one spec
    #[arg(value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
    /// Only tests with this in their name, which begins with the names of their groups
    #[arg(long, value_name = "SUBSTRING")]
    pub filter: Option<String>,
    /// What random numbers are made from; the summary names that of a run [default: another one each time]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Print one JSON document instead of lines
    #[arg(long)]
    pub json: bool,
    /// Seconds that a test may take by the clock on the wall
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
}

/// Write the types of everything that a template can use, and the settings that editors read them by
///
/// Goes into the folder that your templates are in: the shared library, the globals, a .luaurc with the aliases, and the
/// settings of Visual Studio Code for luau-lsp. Run it again after an update.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  antiraid types .

Other editors: start luau-lsp with --definitions=@antiraid=templating-types/globals.d.luau and turn on its new solver.
A file that this command did not write, or that was changed since, is not overwritten without --force.")]
pub struct TypesArgs {
    /// The folder that templates are in
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Replace files that this command did not write
    #[arg(long)]
    pub force: bool,
}

/// Where the reference goes.
#[derive(Debug, Args)]
pub struct ReferenceArgs {
    /// The folder of the pages
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

/// What can be done with templates.
#[derive(Debug, Subcommand)]
pub enum TemplateCommand {
    /// Say what is wrong with the templates of a folder, with file and line
    ///
    /// Reads each template.toml, compiles every file, and follows every require of a literal path. Nothing is run.
    #[command(after_help = "\
Example:
  antiraid template check examples/templates

A template is a folder with template.toml and init.luau:
  name = \"raid-detector\"                    # its name in each tenant
  description = \"What it does, in a sentence.\"
  events = [\"GUILD_MEMBER_ADD\"]              # when it runs
  capabilities = [\"kv[raid-detector]:*\"]     # what it may do
  tenants = \"all\"                            # or a list of guild ids
  error_channel = \"81384788765712384\"        # optional: where its errors go
  compat = \"2026-11\"                         # optional: the rules of which month it relies on
  paused = false                             # optional")]
    Check {
        /// A template, or a folder of templates
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// Install the templates of a folder, or replace those that are installed
    #[command(after_help = "\
Examples:
  antiraid template push my-template --tenant 81384788765712384
  antiraid template push examples/templates                       # for the tenants that each template.toml lists")]
    Push {
        /// A template, or a folder of templates
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// For this tenant, not those of template.toml: a guild id, or user:<id>; may be repeated
        #[arg(long = "tenant", value_name = "ID")]
        tenants: Vec<TenantId>,
    },
    /// Show what is installed
    List {
        /// Of this tenant only; may be repeated
        #[arg(long = "tenant", value_name = "ID")]
        tenants: Vec<TenantId>,
        /// A line of JSON for each template instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Keep a template without running it
    Pause(InstalledArgs),
    /// Run a paused template again
    Resume(InstalledArgs),
    /// Remove a template; its records stay
    Remove(InstalledArgs),
}

/// A template that is installed.
#[derive(Debug, Args)]
pub struct InstalledArgs {
    /// The template
    #[arg(value_name = "NAME")]
    pub name: TemplateName,
    /// The tenant that has it: a guild id, or user:<id>; may be repeated
    #[arg(long = "tenant", value_name = "ID", required = true)]
    pub tenants: Vec<TenantId>,
}

/// What can be done with records.
#[derive(Debug, Subcommand)]
pub enum KvCommand {
    /// Print the value of a record
    ///
    /// If no record has exactly these scopes, the one last updated is taken of those that have these and more.
    #[command(after_help = "\
Example:
  antiraid kv get joins --tenant 81384788765712384 --scope raid-detector")]
    Get {
        /// Its key
        #[arg(value_name = "KEY")]
        key: String,
        /// Whose record, in which scopes.
        #[command(flatten)]
        record: ScopedArgs,
        /// The whole record as a line of JSON, not its value alone
        #[arg(long)]
        json: bool,
    },
    /// Write a record
    ///
    /// Without --expires-at and --resume the record loses them, as with `ctx.KV:set`.
    #[command(after_help = "\
Examples:
  antiraid kv set limit 25 --tenant 81384788765712384 --scope raid-detector
  antiraid kv set words '[\"spam\",\"scam\"]' --tenant 81384788765712384 --scope spam-filter
  antiraid kv set note '\"text needs quotes\"' --tenant user:7 --scope notes
  antiraid kv set ban true --tenant user:7 --scope notes --expires-at 2030-01-01T00:00:00Z")]
    Set {
        /// Its key
        #[arg(value_name = "KEY")]
        key: String,
        /// Its value, as JSON
        #[arg(value_name = "JSON", allow_hyphen_values = true)]
        value: String,
        /// Whose record, in which scopes.
        #[command(flatten)]
        record: ScopedArgs,
        /// When it expires, in RFC 3339
        #[arg(long, value_name = "TIME")]
        expires_at: Option<Timestamp>,
        /// Send KeyResume for it whenever the tenant's templates are loaded
        #[arg(long)]
        resume: bool,
    },
    /// List records, or without --scope the scopes that there are
    List {
        /// Which keys: % is any run of characters, _ one, \ makes the next one literal; case does not count
        #[arg(value_name = "PATTERN", default_value = "%")]
        pattern: String,
        /// The tenant: a guild id, or user:<id>
        #[arg(long, value_name = "ID")]
        tenant: TenantId,
        /// A scope that the records have, with others or alone; may be repeated
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
        /// A line of JSON for each record instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Delete a record
    ///
    /// If no record has exactly these scopes, the only one that has these and more is taken; several are refused.
    Delete {
        /// Its key
        #[arg(value_name = "KEY")]
        key: String,
        /// Whose record, in which scopes.
        #[command(flatten)]
        record: ScopedArgs,
    },
}

/// What can be done with records that expire.
#[derive(Debug, Subcommand)]
pub enum ExpiryCommand {
    /// List records with an expiry, in the order in which they are due
    List {
        /// Of this tenant only: a guild id, or user:<id>
        #[arg(long, value_name = "ID")]
        tenant: Option<TenantId>,
        /// Records at most
        #[arg(long, value_name = "N", default_value = "1000")]
        limit: usize,
        /// A line of JSON for each record instead of a table
        #[arg(long)]
        json: bool,
    },
    /// List dead letters: records whose KeyExpiry never succeeded. Templates do not see them
    Dead {
        /// Of this tenant only: a guild id, or user:<id>
        #[arg(long, value_name = "ID")]
        tenant: Option<TenantId>,
        /// A line of JSON for each record instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Try again at once: dead letters, or records that wait for their next attempt
    ///
    /// A dead letter is a record again, with all its attempts, unless there is a newer one with its key and scopes.
    #[command(after_help = "\
Examples:
  antiraid expiry dead --tenant 81384788765712384
  antiraid expiry retry --tenant 81384788765712384 --all")]
    Retry(DeadRecordArgs),
    /// Delete dead letters
    Drop(DeadRecordArgs),
    /// Handle what expires, and nothing else, until standard input ends: for tests that kill this program
    #[command(hide = true)]
    Serve {
        /// Stand still for ever at this step: due, claimed, handled, removed
        #[arg(long, value_name = "STEP")]
        halt_at: Option<String>,
    },
}

/// Which records are meant.
#[derive(Debug, Args)]
pub struct DeadRecordArgs {
    /// The tenant: a guild id, or user:<id>
    #[arg(long, value_name = "ID")]
    pub tenant: TenantId,
    /// Ids of records
    #[arg(value_name = "RECORD")]
    pub ids: Vec<String>,
    /// All dead letters of the tenant
    #[arg(long)]
    pub all: bool,
}

/// Whose record, in which scopes.
#[derive(Debug, Args)]
pub struct ScopedArgs {
    /// The tenant: a guild id, or user:<id>
    #[arg(long, value_name = "ID")]
    pub tenant: TenantId,
    /// A scope of the record; may be repeated
    #[arg(long = "scope", value_name = "SCOPE", required = true)]
    pub scopes: Vec<String>,
}

/// How `antiraid config` prints.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// As a JSON document
    #[arg(long)]
    pub json: bool,
}

/// Measure this machine: what events cost, how long tenants wait for each other, what an idle one holds
///
/// Each figure stands beside a floor that is measured by turns with it: the bare Luau C API doing the same work, unless the
/// row says what else. Ratios are medians of many short rounds; the spread is the middle half of the rounds.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  antiraid bench
  antiraid bench --quick --only dispatch
  antiraid bench --json | jq '.rows[] | {question, measured, unit, ratio}'

It takes about two minutes and 2 GB of memory; with --quick less than 20 s and 0.5 GB. Databases are in memory or
temporary, and the settings do not matter. A bar is what this project holds itself to on a quiet machine; a figure above
it is no failure.")]
pub struct BenchArgs {
    /// Print one JSON document instead of a table
    #[arg(long)]
    pub json: bool,
    /// Measure for seconds, not minutes
    #[arg(long)]
    pub quick: bool,
    /// Measure only what has this name, or has it in its name: hog, dispatch, thread-100
    #[arg(long, value_name = "SUBSTRING", value_parser = measurements)]
    pub only: Option<Measurements>,
}

/// Serve Discord's guilds with the bot's token, or events from standard input without it
///
/// The token is in the variable DISCORD_TOKEN (or the setting discord.token). Sessions at Discord's gateway are kept in the
/// database, so that the next start goes on where this one ends.
///
/// With --offline, events come on standard input as gateway frames, one a line, as `antiraid replay` reads them; each result
/// is a line of JSON on standard output. In either case, POST /events takes the same lines over HTTP on this host and
/// answers with the same; GET /stats tells figures, which `antiraid top` shows.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  DISCORD_TOKEN=… antiraid run --topology process:2
  antiraid run --offline --topology process:2 < raid.jsonl
  curl --data-binary @raid.jsonl http://127.0.0.1:7878/events

SIGTERM and ctrl-c end it in good order: events that were taken are finished first.
What Discord sends follows from what the templates in the database subscribe to when it starts, or the setting
discord.intents.")]
pub struct RunArgs {
    /// Without Discord
    #[arg(long)]
    pub offline: bool,
    /// How workers are put together: thread, process or process*thread, with numbers as in process:2*thread:2
    #[arg(long, value_name = "TOPOLOGY", default_value = "thread")]
    pub topology: Topology,
    /// Where HTTP is served; an address of this host only. Port 0 is any that is free
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7878")]
    pub listen: SocketAddr,
    /// Worker threads or processes [default: one a core]
    #[arg(long, value_name = "N")]
    pub workers: Option<String>,
}

/// Try templates in a Discord of your own, in the browser
///
/// Starts the engine and a simulated Discord on this host, and prints the address of a page that shows its channels and
/// members. There you write messages as any member, run commands, press buttons, let members join and leave, or a raid of
/// them, and see what each template answers, prints and asks of Discord. Templates of DIR are loaded for every simulated
/// guild, and again as soon as a file of theirs is saved. No token and no network are needed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  antiraid dev                               # the templates of this folder
  antiraid dev examples/templates
  antiraid dev my-template --guilds 2 --db sqlite:dev.db

The database is in memory and gone afterwards, unless --db names one; guilds have the same ids each time, so a database
can be kept. Mistakes in a template are shown in the page and here; what ran before runs on until they are corrected.
The engine is at this Discord as it is at the real one, by REST and the gateway over loopback. Ctrl-C ends it.")]
pub struct DevArgs {
    /// A template, or a folder of templates
    #[arg(value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
    /// Where the page is served; an address of this host only. Port 0 is any that is free
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7879")]
    pub listen: SocketAddr,
    /// How many guilds there are
    #[arg(long, value_name = "N", default_value = "1")]
    pub guilds: NonZeroUsize,
    /// What ids, invite codes and the like are made from
    #[arg(long, value_name = "N", default_value = "1")]
    pub seed: u64,
    /// Worker threads [default: one a core]
    #[arg(long, value_name = "N")]
    pub workers: Option<String>,
}

/// Register the slash commands of the built-in template with Discord, after showing what would change
///
/// The bot's token is in the variable DISCORD_TOKEN (or the setting discord.token). Discord's commands become exactly those
/// of the built-in template; what has not changed keeps its id and its permissions.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  antiraid register --dry-run                       # only show
  antiraid register --guild 81384788765712384       # in one guild, at once: to try them
  antiraid register                                 # everywhere

Exit status: 1 if there were changes and they were not made.")]
pub struct RegisterArgs {
    /// In this guild only, beside the global ones
    #[arg(long, value_name = "ID")]
    pub guild: Option<Snowflake>,
    /// Show what would change, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long, conflicts_with = "dry_run")]
    pub yes: bool,
}

/// Watch the workers of a running `antiraid run`: what they do, who uses them, what waits
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Where that serves HTTP
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7878")]
    pub address: SocketAddr,
}

/// What can be done about quarantined tenants.
#[derive(Debug, Subcommand)]
pub enum TenantCommand {
    /// List who is quarantined, and why
    List {
        /// As lines of JSON
        #[arg(long)]
        json: bool,
    },
    /// Let a tenant run again; a running `antiraid run` sees it within seconds
    Release {
        /// The tenant: a guild id, or user:<id>
        tenant: TenantId,
    },
}

/// What is to be measured.
pub type Measurements = std::sync::Arc<[Measurement]>;

/// How a command ended that could do its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All went well.
    Good,
    /// A template failed, a check found something, or what was asked for is not there.
    Bad,
}

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// What was given has mistakes.
    #[error("{count} to correct\n{0}", count = .0.iter().len())]
    Mistakes(Mistakes),
    /// Flags that do not go together.
    #[error("{0}")]
    Usage(&'static str),
    /// A recording that cannot be read on.
    #[error(transparent)]
    Recording(RecordingError),
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] DbError),
    /// A worker did not start.
    #[error("the workers cannot be started")]
    Workers(#[source] WorkerError),
    /// Workers failed in a way that is not the templates' fault.
    #[error("{0} events were lost by the workers; the log above says why, --log info says more")]
    EventsLost(u64),
    /// A value for a record that is not one.
    #[error("{0}; a value is JSON, and text needs quotes of its own: '\"text\"'")]
    BadValue(ValueError),
    /// The types could not be checked.
    #[error(transparent)]
    TypeCheck(#[from] TypeCheckError),
    /// Something could not be measured.
    #[error(transparent)]
    Bench(#[from] BenchError),
    /// Templates are not loaded any more when they change.
    #[error(transparent)]
    LiveFolder(#[from] LiveFolderError),
    /// Standard output failed, other than by its reader's going away.
    #[error("the output cannot be written")]
    Output(#[from] io::Error),
    /// Discord was asked and did not say how to go on.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Discord's REST API refused or failed.
    #[error(transparent)]
    Rest(#[from] BotRestError),
    /// Discord will not have the bot's connections back.
    #[error(transparent)]
    Gateway(#[from] GatewayEnd),
    /// Something that every command stands on is missing.
    #[error("the runtime cannot be started")]
    Runtime(#[source] io::Error),
}

impl From<Mistakes> for CommandError {
    fn from(mistakes: Mistakes) -> Self {
        Self::Mistakes(mistakes)
    }
}

impl CommandError {
    fn status(&self) -> u8 {
        match self {
            Self::Store(DbError::NotFound(_)) => 1,
            Self::Store(error) if error.is_callers_fault() || matches!(error, DbError::BadUrl { .. }) => 2,
            Self::Mistakes(_) | Self::Usage(_) | Self::Recording(_) | Self::BadValue(_) => 2,
            Self::Plan(PlanError::Shards { .. } | PlanError::NotAllowed(_)) => 2,
            Self::Rest(BotRestError::Unauthorized) | Self::Plan(PlanError::Rest(BotRestError::Unauthorized)) => 2,
            Self::Plan(_) | Self::Rest(_) | Self::Gateway(_) => 3,
            Self::Store(_) | Self::Workers(_) | Self::EventsLost(_) => 3,
            Self::TypeCheck(_) | Self::Bench(_) | Self::LiveFolder(_) | Self::Output(_) | Self::Runtime(_) => 3,
        }
    }
}

/// Runs the program with its own arguments.
pub fn main() -> ExitCode {
    // Clap prints help and its own mistakes, and ends with status 0 and 2.
    let cli = Cli::parse();
    // It gets its settings from its parent, and has no others.
    if let Command::Worker = cli.command {
        return worker_command::run();
    }
    match run(cli) {
        Ok(Outcome::Good) => ExitCode::SUCCESS,
        Ok(Outcome::Bad) => ExitCode::from(1),
        Err(error) => {
            complain(format_args!("antiraid: {}", chain(&error)));
            ExitCode::from(error.status())
        }
    }
}

fn run(cli: Cli) -> Result<Outcome, CommandError> {
    let (config, effective) = Config::load(cli.settings.config.as_deref(), &cli.flag_settings())?;
    let bars = MultiProgress::new();
    let filter = EnvFilter::new(&config.log_filter);
    match &cli.command {
        Command::Expiry(command) => expiry_command::start_log(command, filter, &bars),
        _ => crate::log::start(filter, &bars),
    }
    let mut output = Output::stdout();
    // These make runtimes of their own.
    match &cli.command {
        Command::Test(args) => return test_command::run(args, &config, &mut output),
        Command::Bench(args) => return bench_command::run(args, &bars, &mut output),
        Command::BenchMemory(args) => {
            bench::run_memory(args, &mut output)?;
            return Ok(Outcome::Good);
        }
        _ => {}
    }
    // One thread for the program itself: what is heavy has threads of its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CommandError::Runtime)?;
    let outcome = runtime.block_on(async {
        match cli.command {
            Command::Config(args) => config_command::run(&args, &effective, &mut output),
            Command::Check(args) => check_command::run(&args, &config, &mut output),
            Command::Types(args) => types_command::run(&args, &config, &mut output),
            Command::Reference(args) => reference_command::run(&args, &config, &mut output),
            Command::Template(command) => template_command::run(command, &config, &mut output).await,
            Command::Kv(command) => kv_command::run(command, &config, &mut output).await,
            Command::Expiry(command) => expiry_command::run(command, &config, &mut output).await,
            Command::Replay(args) => {
                let database =
                    cli.settings.db.as_ref().map_or_else(DatabaseUrl::memory, |_| config.database_url.clone());
                replay_command::run(args, &config, &database, &bars, &mut output).await
            }
            Command::Dev(args) => {
                let database =
                    cli.settings.db.as_ref().map_or_else(DatabaseUrl::memory, |_| config.database_url.clone());
                dev_command::run(args, &config, &database).await
            }
            Command::Run(args) => run_command::run(args, &config, &mut output).await,
            Command::Register(args) => register_command::run(&args, &config, &mut output).await,
            Command::Top(args) => top_command::run(&args).await,
            Command::Tenant(command) => tenant_command::run(command, &config, &mut output).await,
            Command::Bench(_) | Command::BenchMemory(_) | Command::Test(_) | Command::Worker => {
                unreachable!("because these have run")
            }
        }
    });
    // A read of standard input cannot be cancelled; it must not keep the program from ending.
    runtime.shutdown_background();
    output.flush()?;
    outcome
}

impl Cli {
    /// The flags that are settings, weakest first.
    fn flag_settings(&self) -> Vec<FlagSetting> {
        let mut flags: Vec<_> = (self.settings.set.iter())
            .map(|(key, value)| FlagSetting { flag: format!("--set {key}"), key: key.clone(), value: value.clone() })
            .collect();
        let mut flag = |flag: &str, key: &str, value: Option<&String>| {
            flags.extend(value.map(|value| FlagSetting { flag: flag.into(), key: key.into(), value: value.clone() }));
        };
        flag("--log", "log.filter", self.settings.log.as_ref());
        flag("--db", "database.url", self.settings.db.as_ref());
        if let Command::Replay(args) = &self.command {
            flag("--workers", "workers", args.workers.as_ref());
        }
        if let Command::Dev(args) = &self.command {
            flag("--workers", "workers", args.workers.as_ref());
        }
        if let Command::Run(args) = &self.command {
            flag("--workers", "workers", args.workers.as_ref());
        }
        flags
    }
}

fn measurements(part: &str) -> Result<Measurements, String> {
    Measurement::named(part).map(Into::into)
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE, for example workers=2")?;
    if key.split('.').any(|part| part.trim().is_empty()) {
        return Err(format!("`{key}` is not the name of a setting; `antiraid config` lists them"));
    }
    Ok((key.into(), value.into()))
}

/// The error and all that caused it, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
