-- When a record is due, who holds it, and what became of those whose handler never succeeded.
-- The table is made anew so that the value still comes last.

DROP INDEX kv_records_due;
DROP INDEX kv_records_exact;
DROP INDEX kv_records_resume;
ALTER TABLE kv_records RENAME TO kv_records_0001;

CREATE TABLE kv_records (
    tenant_kind     INTEGER NOT NULL,
    tenant_id       INTEGER NOT NULL,
    id              TEXT NOT NULL,
    key             TEXT NOT NULL,
    scopes_hash     BLOB NOT NULL,   -- SHA-256 of `scopes`: the set is too long for an index
    version         INTEGER NOT NULL,
    fixed_bytes     INTEGER NOT NULL, -- of key and scopes
    value_bytes     INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    last_updated_at INTEGER NOT NULL,
    expires_at      INTEGER,
    due_at          INTEGER,         -- when somebody should look: at the expiry, at the next try, at the end of a lease
    lease_owner     INTEGER,         -- the session that handles it now
    fence           INTEGER NOT NULL DEFAULT 0, -- one more at each claim and each write of the expiry
    attempts        INTEGER NOT NULL DEFAULT 0, -- claims since the expiry was written
    resume          INTEGER NOT NULL CHECK (resume IN (0, 1)),
    scopes          TEXT NOT NULL,   -- JSON: [text], sorted, each once
    value           TEXT NOT NULL,   -- JSON
    PRIMARY KEY (tenant_kind, tenant_id, id)
) STRICT;
INSERT INTO kv_records (tenant_kind, tenant_id, id, key, scopes_hash, version, fixed_bytes, value_bytes, created_at,
        last_updated_at, expires_at, due_at, resume, scopes, value)
    SELECT tenant_kind, tenant_id, id, key, scopes_hash, version, fixed_bytes, value_bytes, created_at,
        last_updated_at, expires_at, expires_at, resume, scopes, value
    FROM kv_records_0001;
DROP TABLE kv_records_0001;

CREATE UNIQUE INDEX kv_records_exact ON kv_records (tenant_kind, tenant_id, key, scopes_hash);
CREATE INDEX kv_records_due ON kv_records (due_at, tenant_kind, tenant_id, id) WHERE due_at IS NOT NULL;
CREATE INDEX kv_records_leased ON kv_records (lease_owner) WHERE lease_owner IS NOT NULL;
CREATE INDEX kv_records_resume ON kv_records (tenant_kind, tenant_id, created_at, id) WHERE resume;

-- Dead letters. They count in `tenant_usage`, or a tenant could keep any number of them.
CREATE TABLE kv_dead (
    tenant_kind     INTEGER NOT NULL,
    tenant_id       INTEGER NOT NULL,
    id              TEXT NOT NULL,
    key             TEXT NOT NULL,
    scopes_hash     BLOB NOT NULL,
    version         INTEGER NOT NULL,
    fixed_bytes     INTEGER NOT NULL,
    value_bytes     INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    last_updated_at INTEGER NOT NULL,
    expires_at      INTEGER NOT NULL,
    fence           INTEGER NOT NULL,
    attempts        INTEGER NOT NULL,
    resume          INTEGER NOT NULL CHECK (resume IN (0, 1)),
    died_at         INTEGER NOT NULL,
    error           TEXT NOT NULL,   -- how the last attempt failed
    scopes          TEXT NOT NULL,
    value           TEXT NOT NULL,
    PRIMARY KEY (tenant_kind, tenant_id, id)
) STRICT;

-- Who claims: so that what a process held is free at once when a process of the same name starts again.
CREATE TABLE expiry_owners (
    process TEXT NOT NULL,
    worker  INTEGER NOT NULL,
    session INTEGER NOT NULL,
    PRIMARY KEY (process, worker)
) STRICT, WITHOUT ROWID;
