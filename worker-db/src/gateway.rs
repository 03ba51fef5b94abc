//! What processes that are connected to Discord's gateway tell each other and their successors.

use std::collections::BTreeSet;
use std::time::Duration;

use worker_core::Snowflake;

use crate::connection::{args, statements};
use crate::kv::from_micros;
use crate::{DbError, WorkerDb};

/// What a shard needs to resume its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewaySessionRow {
    /// Which shard.
    pub shard: u32,
    /// The session.
    pub session_id: String,
    /// Where Discord wants it resumed.
    pub resume_url: String,
    /// Of the last event that was taken.
    pub sequence: u64,
}

/// Whether a shard may identify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentifyTurn {
    /// Now; nobody else of the bucket may for as long as was asked for.
    Now,
    /// Not before somebody else's turn is over: to be asked again after so long.
    After(Duration),
}

statements! {
    GATEWAY_SESSIONS = "SELECT shard, session_id, resume_url, sequence FROM gateway_sessions
        WHERE bot = $1 AND shards = $2 ORDER BY shard";
    GATEWAY_SESSION_PUT = "INSERT INTO gateway_sessions (bot, shards, shard, session_id, resume_url, sequence, saved_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7)
        ON CONFLICT (bot, shards, shard) DO UPDATE SET session_id = excluded.session_id,
            resume_url = excluded.resume_url, sequence = excluded.sequence, saved_at = excluded.saved_at";
    GATEWAY_SESSION_DELETE = "DELETE FROM gateway_sessions WHERE bot = $1 AND shards = $2 AND shard = $3";
    // A turn that ends later than any could was given before the clock was set back.
    GATEWAY_IDENTIFY = "INSERT INTO gateway_identifies (bot, bucket, free_at) VALUES ($1, $2, $4)
        ON CONFLICT (bot, bucket) DO UPDATE SET free_at = excluded.free_at
            WHERE gateway_identifies.free_at <= $3 OR gateway_identifies.free_at > $4";
    GATEWAY_IDENTIFY_FREE = "SELECT free_at FROM gateway_identifies WHERE bot = $1 AND bucket = $2";
    TEMPLATE_EVENTS = "SELECT DISTINCT events FROM templates WHERE NOT paused";
}

impl WorkerDb {
    /// The sessions that the bot's shards had when there were so many.
    pub async fn gateway_sessions(&self, bot: Snowflake, shards: u32) -> Result<Vec<GatewaySessionRow>, DbError> {
        let args = args![bot.get().cast_signed(), i64::from(shards)];
        let rows: Vec<(i64, String, String, i64)> = self.pools().fetch_all(&GATEWAY_SESSIONS, &args).await?;
        let session = |(shard, session_id, resume_url, sequence): (i64, String, String, i64)| {
            let (shard, sequence) = (shard.try_into().ok()?, sequence.cast_unsigned());
            Some(GatewaySessionRow { shard, session_id, resume_url, sequence })
        };
        Ok(rows.into_iter().filter_map(session).collect())
    }

    /// Notes the sessions of these shards.
    pub async fn gateway_sessions_put(
        &self,
        bot: Snowflake,
        shards: u32,
        sessions: &[GatewaySessionRow],
    ) -> Result<(), DbError> {
        let (bot, now) = (bot.get().cast_signed(), self.now().as_microsecond());
        let mut tx = self.pools().begin().await?;
        for GatewaySessionRow { shard, session_id, resume_url, sequence } in sessions {
            let (shards, shard) = (i64::from(shards), i64::from(*shard));
            let args = args![bot, shards, shard, session_id, resume_url, sequence.cast_signed(), now];
            tx.execute(&GATEWAY_SESSION_PUT, &args).await?;
        }
        self.commit(tx, Vec::new()).await
    }

    /// Forgets the session of a shard, which Discord does not let resume.
    pub async fn gateway_session_delete(&self, bot: Snowflake, shards: u32, shard: u32) -> Result<(), DbError> {
        let mut tx = self.pools().begin().await?;
        let args = args![bot.get().cast_signed(), i64::from(shards), i64::from(shard)];
        tx.execute(&GATEWAY_SESSION_DELETE, &args).await?;
        self.commit(tx, Vec::new()).await
    }

    /// Asks for a turn to identify: among all who ask with this bot and bucket, one gets it in each `spacing`.
    pub async fn gateway_identify(
        &self,
        bot: Snowflake,
        bucket: u32,
        spacing: Duration,
    ) -> Result<IdentifyTurn, DbError> {
        let (bot, bucket, now) = (bot.get().cast_signed(), i64::from(bucket), self.now());
        let free_at = now.saturating_add(spacing).unwrap_or(now);
        let mut tx = self.pools().begin().await?;
        let args = args![bot, bucket, now.as_microsecond(), free_at.as_microsecond()];
        if tx.execute(&GATEWAY_IDENTIFY, &args).await? > 0 {
            self.commit(tx, Vec::new()).await?;
            return Ok(IdentifyTurn::Now);
        }
        let taken: Option<(i64,)> = tx.fetch_optional(&GATEWAY_IDENTIFY_FREE, &args![bot, bucket]).await?;
        self.commit(tx, Vec::new()).await?;
        let until = taken.map_or(Ok(now), |(micros,)| from_micros("gateway_identifies", micros))?;
        Ok(IdentifyTurn::After(Duration::try_from(until.duration_since(now)).unwrap_or_default()))
    }

    /// What all templates that are not paused subscribe to. A list that cannot be read is left out: a load of its tenant
    /// reports it.
    pub async fn subscriptions(&self) -> Result<BTreeSet<String>, DbError> {
        let rows: Vec<(String,)> = self.pools().fetch_all(&TEMPLATE_EVENTS, &args![]).await?;
        let lists = rows.into_iter().filter_map(|(json,)| serde_json::from_str::<Vec<String>>(&json).ok());
        Ok(lists.flatten().collect())
    }
}
