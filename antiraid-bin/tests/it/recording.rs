//! The recording that comes with the repository.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::time::Instant;

use antiraid_bin::recording::{Skipped, Source, read_ahead};

use crate::antiraid::workspace;

#[tokio::test]
async fn the_recorded_raid_is_varied_and_without_fault() {
    let started = Instant::now();
    let file = Source::File(workspace().join("examples/raid/raid.jsonl"));
    let mut batches = read_ahead(vec![file], NonZeroU32::MIN);
    let (mut events, mut kinds, mut guilds) = (0, HashSet::new(), HashSet::new());
    let mut skipped = Skipped::default();
    while let Some(batch) = batches.recv().await {
        let batch = batch.unwrap();
        skipped.add(batch.skipped);
        for recorded in batch.events {
            events += 1;
            kinds.insert(recorded.event.name().clone());
            guilds.insert(recorded.tenant);
        }
    }
    assert!(events >= 5_000, "{events} events");
    assert!(kinds.len() >= 20, "{} kinds", kinds.len());
    assert!(guilds.len() >= 200, "{} guilds", guilds.len());
    assert!(skipped.iter().filter(|(_, count)| *count > 0).count() >= 4, "{skipped:?}");
    // With --no-capture: what reading costs in this build.
    println!("{events} events, {skipped:?}, {:?}", started.elapsed());
}
