//! What was written to a SQLite file goes to a log first. Copying it from there into the file waits for the disk, so that is
//! done here, beside who writes, and not by whoever comes to write when the log has become long.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::Notify;

use crate::home::AbortOnDrop;

/// Pages of the log from which on writers are held up for a moment, so that it can begin anew: 64 MiB.
pub(crate) const LOG_PAGES: i64 = 16_384;

/// Between two times.
const PACE: Duration = Duration::from_millis(250);

/// How long writers are held up at the most while others still read what is in the log.
const BUSY_TIMEOUT: &str = "PRAGMA busy_timeout = 20";

/// The task that copies, with a connection of its own. It ends when this is dropped.
pub(crate) struct Checkpoints {
    stop: Arc<Notify>,
    task: Mutex<Option<AbortOnDrop<()>>>,
}

impl Checkpoints {
    /// Must be called on the runtime that connections belong to.
    pub(crate) async fn start(options: &SqliteConnectOptions) -> Result<Self, sqlx::Error> {
        let mut connection = options.connect().await?;
        // Opening may take its time, where others open the file as well.
        sqlx::query(BUSY_TIMEOUT).execute(&mut connection).await?;
        let stop = Arc::new(Notify::new());
        let task = AbortOnDrop(tokio::spawn(run(connection, stop.clone())));
        Ok(Self { stop, task: Mutex::new(Some(task)) })
    }

    /// Ends the task and waits until its connection is closed: the last connection of all removes the log.
    pub(crate) async fn end(&self) {
        self.stop.notify_one();
        let task = self.task.lock().take();
        if let Some(mut task) = task {
            // It ended, however it did.
            let _ = (&mut task.0).await;
        }
    }
}

async fn run(mut connection: SqliteConnection, stop: Arc<Notify>) {
    loop {
        let is_stopped = tokio::time::timeout(PACE, stop.notified()).await.is_ok();
        if is_stopped || !copy(&mut connection).await {
            // There is nothing that could be done about it.
            let _ = connection.close().await;
            return;
        }
    }
}

/// Whether that works.
async fn copy(connection: &mut SqliteConnection) -> bool {
    let copied = async {
        if checkpoint(connection, "PRAGMA wal_checkpoint(PASSIVE)").await? > LOG_PAGES {
            checkpoint(connection, "PRAGMA wal_checkpoint(FULL)").await?;
        }
        Ok::<_, sqlx::Error>(())
    };
    match copied.await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(error = &error as &dyn Error, "the log of the database is copied by those who write");
            false
        }
    }
}

/// Copies what it can. Pages that are in the log.
async fn checkpoint(connection: &mut SqliteConnection, statement: &'static str) -> Result<i64, sqlx::Error> {
    let (_busy, pages, _copied): (i64, i64, i64) = sqlx::query_as(statement).fetch_one(connection).await?;
    Ok(pages)
}
