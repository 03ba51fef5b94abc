-- What a shard needs to go on with its session at Discord's gateway after a restart.
CREATE TABLE gateway_sessions (
    bot        INTEGER NOT NULL,   -- whose session: the bot's user id
    shards     INTEGER NOT NULL,   -- how many there are: with another number, sessions are worth nothing
    shard      INTEGER NOT NULL,
    session_id TEXT NOT NULL,
    resume_url TEXT NOT NULL,
    sequence   INTEGER NOT NULL,   -- of the last event that was taken
    saved_at   INTEGER NOT NULL,
    PRIMARY KEY (bot, shards, shard)
) STRICT, WITHOUT ROWID;

-- When the next shard of a bucket may identify (max_concurrency), for all processes of all hosts.
CREATE TABLE gateway_identifies (
    bot     INTEGER NOT NULL,
    bucket  INTEGER NOT NULL,
    free_at INTEGER NOT NULL,
    PRIMARY KEY (bot, bucket)
) STRICT, WITHOUT ROWID;
