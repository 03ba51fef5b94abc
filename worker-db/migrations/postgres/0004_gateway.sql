-- What a shard needs to go on with its session at Discord's gateway after a restart.
CREATE TABLE gateway_sessions (
    bot        BIGINT NOT NULL,   -- whose session: the bot's user id
    shards     BIGINT NOT NULL,   -- how many there are: with another number, sessions are worth nothing
    shard      BIGINT NOT NULL,
    session_id TEXT NOT NULL,
    resume_url TEXT NOT NULL,
    sequence   BIGINT NOT NULL,   -- of the last event that was taken
    saved_at   BIGINT NOT NULL,
    PRIMARY KEY (bot, shards, shard)
);

-- When the next shard of a bucket may identify (max_concurrency), for all processes of all hosts.
CREATE TABLE gateway_identifies (
    bot     BIGINT NOT NULL,
    bucket  BIGINT NOT NULL,
    free_at BIGINT NOT NULL,
    PRIMARY KEY (bot, bucket)
);
