-- As SQLite's, which explains it.

DROP INDEX kv_records_due;
ALTER TABLE kv_records
    ADD COLUMN due_at      BIGINT,
    ADD COLUMN lease_owner BIGINT,
    ADD COLUMN fence       BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN attempts    BIGINT NOT NULL DEFAULT 0;
UPDATE kv_records SET due_at = expires_at WHERE expires_at IS NOT NULL;

CREATE INDEX kv_records_due ON kv_records (due_at, tenant_kind, tenant_id, id) WHERE due_at IS NOT NULL;
CREATE INDEX kv_records_leased ON kv_records (lease_owner) WHERE lease_owner IS NOT NULL;

CREATE TABLE kv_dead (
    tenant_kind     BIGINT NOT NULL,
    tenant_id       BIGINT NOT NULL,
    id              TEXT COLLATE "C" NOT NULL,
    key             TEXT COLLATE "C" NOT NULL,
    scopes_hash     BYTEA NOT NULL,
    version         BIGINT NOT NULL,
    fixed_bytes     BIGINT NOT NULL,
    value_bytes     BIGINT NOT NULL,
    created_at      BIGINT NOT NULL,
    last_updated_at BIGINT NOT NULL,
    expires_at      BIGINT NOT NULL,
    fence           BIGINT NOT NULL,
    attempts        BIGINT NOT NULL,
    resume          BOOLEAN NOT NULL,
    died_at         BIGINT NOT NULL,
    error           TEXT NOT NULL,
    scopes          TEXT NOT NULL,
    value           TEXT NOT NULL,
    PRIMARY KEY (tenant_kind, tenant_id, id)
);

CREATE TABLE expiry_owners (
    process TEXT COLLATE "C" NOT NULL,
    worker  BIGINT NOT NULL,
    session BIGINT NOT NULL,
    PRIMARY KEY (process, worker)
);
