//! What an event costs the whole of `antiraid replay`.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::Path;

use indicatif::{MultiProgress, ProgressDrawTarget};
use tokio::runtime::Builder;
use worker_vm::floor::EVENT_JSON;

use super::dispatch::{BARE, floor_rounds};
use super::harness::{Order, handler};
use super::paired::by_turns;
use super::{Bar, BenchError, BenchRow, Effort};
use crate::cli::{CommandError, ReplayArgs};
use crate::config::{Config, DatabaseUrl};
use crate::recording::Source;
use crate::replay_command;

const TENANTS: usize = 240;

/// What names the guild of the floor's event.
const GUILD: &str = r#""guild_id":"802345678901234000""#;

const MANIFEST: &str = "\
name = \"bench\"
description = \"Reads eight fields of a message and returns a table.\"
events = [\"MESSAGE\"]
capabilities = []
tenants = \"all\"
";

/// A recording of messages, one worker; from its first event's submission to the last answer, VMs made and all.
pub(super) fn replay(effort: Effort) -> Result<Vec<BenchRow>, CommandError> {
    let events = effort.choose(48_000, 20_000);
    let dir = tempfile::tempdir()?;
    let recording = dir.path().join("recording.jsonl");
    write_recording(&recording, events)?;
    let templates = dir.path().join("templates");
    fs::create_dir_all(templates.join("bench"))?;
    fs::write(templates.join("bench/template.toml"), MANIFEST)?;
    fs::write(templates.join("bench/init.luau"), handler())?;

    let runtime = Builder::new_current_thread().enable_all().build().map_err(CommandError::Runtime)?;
    let database = DatabaseUrl::memory();
    let config = Config { workers: NonZeroUsize::MIN, ..Config::default() };
    let bars = MultiProgress::with_draw_target(ProgressDrawTarget::hidden());
    let mut floor = floor_rounds(TENANTS);
    let rounds = by_turns(
        effort.choose(9, 1),
        || (0..10).map(|_| floor()).sum::<Result<f64, _>>().map(|sum| sum / 10.0),
        || {
            let args = ReplayArgs {
                topology: crate::engine::Topology::default(),
                files: vec![Source::File(recording.clone())],
                templates: Some(templates.clone()),
                workers: None,
                repeat: NonZeroU32::MIN,
                in_flight: NonZeroUsize::new(64).unwrap_or(NonZeroUsize::MIN),
                results: false,
                json: false,
            };
            let replay = replay_command::replay(args, &config, &database, &bars, None);
            let (report, _) = runtime.block_on(replay)?;
            if report.results != events as u64 {
                let got = format!("{} results, {} errors", report.results, report.failed);
                return Err(BenchError::Unexpected { expected: "a result for each event", got }.into());
            }
            Ok(report.seconds * 1e9 / events as f64)
        },
    )?;
    let question =
        format!("`antiraid replay`: an event of {}, {TENANTS} tenants", indicatif::HumanCount(events as u64));
    Ok(vec![rounds.row("replay", question, BARE).with_bar(Bar::Ratio(2.0))])
}

/// Writes so many messages, of tenants in random order.
fn write_recording(path: &Path, events: usize) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let mut order = Order::new();
    let event = EVENT_JSON.trim_end();
    let (before, after) = event.split_once(GUILD).unwrap_or((event, ""));
    for number in 0..events {
        let guild = (order.below(TENANTS) as u64 + 1) << 22;
        writeln!(file, r#"{{"op":0,"t":"MESSAGE_CREATE","s":{number},"d":{before}"guild_id":"{guild}"{after}}}"#)?;
    }
    file.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floors_event_names_its_guild_once() {
        assert_eq!(EVENT_JSON.matches(GUILD).count(), 1);
    }
}
