//! A recording: gateway frames as lines of JSON, in files or from standard input, read ahead on a thread of its own.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use bytes::Bytes;
use tokio::sync::mpsc;
use worker_core::{Event, TenantId};

use crate::gateway_frame::{FrameError, GatewaySession, Sifted, SkipReason};

/// Bytes that are read before they are cut into lines. Each event keeps its block alive until it is done, so blocks are
/// small; a block of this size has 40 events of common size.
const BLOCK_BYTES: usize = 64 << 10;
/// Bytes of a line; the largest real frames, `GUILD_CREATE` of huge guilds, have a few MiB.
const LINE_BYTES_MAX: usize = 64 << 20;
/// Batches that are read ahead.
const BATCHES_AHEAD: usize = 16;

/// Where frames come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Standard input; written `-`.
    Stdin,
    /// A file.
    File(PathBuf),
}

impl Source {
    /// Its size, where that is known.
    pub fn bytes(&self) -> Option<u64> {
        match self {
            Self::Stdin => None,
            Self::File(path) => {
                path.metadata().ok().filter(|metadata| metadata.is_file()).map(|metadata| metadata.len())
            }
        }
    }

    fn open(&self) -> io::Result<Box<dyn Read>> {
        Ok(match self {
            Self::Stdin => Box::new(io::stdin()),
            Self::File(path) => Box::new(File::open(path)?),
        })
    }
}

impl FromStr for Source {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(if text == "-" { Self::Stdin } else { Self::File(Path::new(text).into()) })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdin => f.write_str("standard input"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// An event of a recording.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Its line in its file, from 1.
    pub line: u64,
    /// Whose it is.
    pub tenant: TenantId,
    /// What happened.
    pub event: Event,
}

/// Some lines, in order.
#[derive(Debug, Default)]
pub struct Batch {
    /// What is to be delivered.
    pub events: Vec<Recorded>,
    /// What is not, by reason.
    pub skipped: Skipped,
    /// Bytes of all the lines.
    pub bytes: u64,
}

/// How many frames were skipped, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped([u64; SkipReason::ALL.len()]);

impl Skipped {
    fn count(&mut self, reason: SkipReason) {
        self.0[reason as usize] += 1;
    }

    /// Adds another count.
    pub fn add(&mut self, other: Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }

    /// Every reason with its count.
    pub fn iter(&self) -> impl Iterator<Item = (SkipReason, u64)> {
        SkipReason::ALL.into_iter().zip(self.0)
    }

    /// The sum.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// Why a recording cannot be read on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordingError {
    /// The file cannot be read.
    #[error("{from}: cannot be read")]
    Unreadable {
        /// The file.
        from: Source,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// A line without end.
    #[error("{from}:{line}: a line of more than {} MiB; a recording is JSON, one frame a line", LINE_BYTES_MAX >> 20)]
    LineTooLong {
        /// The file.
        from: Source,
        /// The line.
        line: u64,
    },
    /// A line that is no frame.
    #[error("{from}:{line}: {error}")]
    BadLine {
        /// The file.
        from: Source,
        /// The line.
        line: u64,
        /// What is wrong with it. Part of the text, because it is what to correct.
        error: FrameError,
    },
}

/// Reads the sources one after the other, all of it `times` times. What comes is bounded: a receiver that is slow slows the
/// reading. After an error nothing more comes.
pub fn read_ahead(sources: Vec<Source>, times: NonZeroU32) -> mpsc::Receiver<Result<Batch, RecordingError>> {
    let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut session = GatewaySession::default();
        for source in (0..times.get()).flat_map(|_| &sources) {
            match read_source(source, &mut session, &sender) {
                Ok(Reading::GoOn) => {}
                Ok(Reading::Stop) => return,
                // The receiver may have gone; then nobody minds.
                Err(error) => return drop(sender.blocking_send(Err(error))),
            }
        }
    });
    receiver
}

enum Reading {
    GoOn,
    /// Nobody wants more.
    Stop,
}

fn read_source(
    source: &Source,
    session: &mut GatewaySession,
    to: &mpsc::Sender<Result<Batch, RecordingError>>,
) -> Result<Reading, RecordingError> {
    let unreadable = |error| RecordingError::Unreadable { from: source.clone(), error };
    let mut reader = BufReader::with_capacity(BLOCK_BYTES, source.open().map_err(unreadable)?);
    let mut number = 0;
    loop {
        let (block, ends) = read_block(&mut reader).map_err(unreadable)?;
        if block.is_empty() {
            return Ok(Reading::GoOn);
        }
        let mut batch = Batch { bytes: block.len() as u64, ..Batch::default() };
        let mut start = 0;
        let mut outcome = Ok(());
        for end in ends {
            number += 1;
            let line = block.slice(start..end);
            start = end;
            outcome = sift(line, number, session, &mut batch, source);
            if outcome.is_err() {
                break;
            }
        }
        // What stood before a bad line is delivered.
        if to.blocking_send(Ok(batch)).is_err() {
            return Ok(Reading::Stop);
        }
        outcome?;
    }
}

fn sift(
    line: Bytes,
    number: u64,
    session: &mut GatewaySession,
    batch: &mut Batch,
    source: &Source,
) -> Result<(), RecordingError> {
    if line.len() > LINE_BYTES_MAX {
        return Err(RecordingError::LineTooLong { from: source.clone(), line: number });
    }
    if line.iter().all(u8::is_ascii_whitespace) {
        return Ok(());
    }
    match session.sift(&line) {
        Ok(Sifted::Deliver { tenant, event }) => batch.events.push(Recorded { line: number, tenant, event }),
        Ok(Sifted::Skip(reason)) => batch.skipped.count(reason),
        Err(error) => return Err(RecordingError::BadLine { from: source.clone(), line: number, error }),
    }
    Ok(())
}

/// Whole lines of about [`BLOCK_BYTES`] in all, and where each ends. Empty at the end of the source.
fn read_block(reader: &mut BufReader<impl Read>) -> io::Result<(Bytes, Vec<usize>)> {
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    let mut ends = Vec::new();
    while block.len() < BLOCK_BYTES {
        // One byte more than is allowed, which the caller sees.
        let read = reader.by_ref().take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut block)?;
        if read == 0 {
            break;
        }
        ends.push(block.len());
        // Who writes as it happens may write no more for long: what is there is not held back for what may come.
        if read > LINE_BYTES_MAX || reader.buffer().is_empty() {
            break;
        }
    }
    Ok((block.into(), ends))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(text: &str) -> Vec<(Bytes, Vec<usize>)> {
        let mut reader = BufReader::with_capacity(7, text.as_bytes());
        let mut blocks = Vec::new();
        loop {
            let (block, ends) = read_block(&mut reader).unwrap();
            if block.is_empty() {
                return blocks;
            }
            blocks.push((block, ends));
        }
    }

    #[test]
    fn blocks_hold_whole_lines_and_lose_nothing() {
        let text: String = (0..5_000).map(|i| format!("{}\n", "x".repeat(i % 97))).collect::<String>() + "no end";
        let blocks = blocks(&text);
        assert!(blocks.len() > 2);
        let mut joined = Vec::new();
        for (block, ends) in &blocks {
            assert_eq!(ends.last(), Some(&block.len()));
            assert!(ends.iter().all(|&end| block[end - 1] == b'\n' || end == block.len()));
            joined.extend_from_slice(block);
        }
        assert_eq!(joined, text.as_bytes());
    }

    #[test]
    fn a_line_larger_than_a_block_is_one_block() {
        let text = "y".repeat(3 * BLOCK_BYTES) + "\nz\n";
        let blocks = blocks(&text);
        assert_eq!(blocks[0].1, [3 * BLOCK_BYTES + 1]);
        assert_eq!(&blocks[1].0[..], b"z\n");
    }

    #[tokio::test]
    async fn what_stood_before_a_bad_line_is_delivered_and_nothing_after_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let event = r#"{"op":0,"t":"X","s":1,"d":{"guild_id":"1"}}"#;
        std::fs::write(file.path(), format!("{event}\r\n\n{{\"op\":11}}\n{event}\nbad\n{event}\n")).unwrap();
        let mut batches = read_ahead(vec![Source::File(file.path().into())], NonZeroU32::MIN);
        let batch = batches.recv().await.unwrap().unwrap();
        assert_eq!(batch.events.iter().map(|event| event.line).collect::<Vec<_>>(), [1, 4]);
        assert_eq!(batch.skipped.total(), 1);
        let error = batches.recv().await.unwrap().unwrap_err().to_string();
        assert!(error.contains(":5: byte"), "{error}");
        assert!(batches.recv().await.is_none());
    }

    #[tokio::test]
    async fn a_receiver_that_goes_ends_the_reading() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let event = r#"{"op":0,"t":"X","s":1,"d":{"guild_id":"1"}}"#;
        std::fs::write(file.path(), format!("{event}\n").repeat(10_000)).unwrap();
        let mut batches = read_ahead(vec![Source::File(file.path().into())], NonZeroU32::MAX);
        assert!(batches.recv().await.is_some());
        // If the reader went on, the runtime of this test would wait for it for ever.
        drop(batches);
    }
}
