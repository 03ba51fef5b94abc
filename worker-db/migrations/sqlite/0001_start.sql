-- Tenants are (kind, id): kind 0 is a guild, 1 a user; the id is Discord's 64 bits, as a signed integer.
-- Times are microseconds since the Unix epoch.

-- What a tenant uses. Every write of a tenant locks its row first, so quotas are exact.
CREATE TABLE tenant_usage (
    tenant_kind INTEGER NOT NULL,
    tenant_id   INTEGER NOT NULL,
    kv_rows     INTEGER NOT NULL DEFAULT 0,
    kv_bytes    INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_kind, tenant_id)
) STRICT, WITHOUT ROWID;

-- Files of templates, once for each content.
CREATE TABLE template_contents (
    hash  TEXT NOT NULL PRIMARY KEY, -- SHA-256, hexadecimal
    files TEXT NOT NULL              -- JSON: path -> source
) STRICT;

CREATE TABLE shop_names (
    name   TEXT NOT NULL PRIMARY KEY,
    latest TEXT NOT NULL             -- the highest version; the order is Rust's (ShopVersion)
) STRICT, WITHOUT ROWID;

CREATE TABLE shop_versions (
    name        TEXT NOT NULL REFERENCES shop_names (name),
    version     TEXT NOT NULL,
    owner       INTEGER,             -- a guild
    description TEXT,
    content     TEXT NOT NULL REFERENCES template_contents (hash),
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (name, version)
) STRICT;
CREATE INDEX shop_versions_content ON shop_versions (content);

CREATE TABLE templates (
    tenant_kind   INTEGER NOT NULL,
    tenant_id     INTEGER NOT NULL,
    name          TEXT NOT NULL,
    content       TEXT REFERENCES template_contents (hash), -- none for $builtins and $shop/...
    shop_name     TEXT,              -- the parts of `$shop/<name>#<version>`
    shop_version  TEXT,              -- none for the latest
    events        TEXT NOT NULL,     -- JSON: [text]
    allowed_caps  TEXT NOT NULL,     -- JSON: [text]
    error_channel INTEGER,
    compat        TEXT,
    paused        INTEGER NOT NULL CHECK (paused IN (0, 1)),
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL,
    PRIMARY KEY (tenant_kind, tenant_id, name)
) STRICT;
CREATE INDEX templates_content ON templates (content) WHERE content IS NOT NULL;
CREATE INDEX templates_shop ON templates (shop_name) WHERE shop_name IS NOT NULL;

-- The value comes last: what does not need it does not read its overflow pages.
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
    resume          INTEGER NOT NULL CHECK (resume IN (0, 1)),
    scopes          TEXT NOT NULL,   -- JSON: [text], sorted, each once
    value           TEXT NOT NULL,   -- JSON
    PRIMARY KEY (tenant_kind, tenant_id, id)
) STRICT;
CREATE UNIQUE INDEX kv_records_exact ON kv_records (tenant_kind, tenant_id, key, scopes_hash);
CREATE INDEX kv_records_due ON kv_records (expires_at, tenant_kind, tenant_id, id) WHERE expires_at IS NOT NULL;
CREATE INDEX kv_records_resume ON kv_records (tenant_kind, tenant_id, created_at, id) WHERE resume;

-- A row for each scope of each record, in the order in which lists are given.
CREATE TABLE kv_scopes (
    tenant_kind INTEGER NOT NULL,
    tenant_id   INTEGER NOT NULL,
    scope       TEXT NOT NULL,
    key         TEXT NOT NULL,
    id          TEXT NOT NULL,
    key_folded  TEXT NOT NULL,       -- the key in lower case, what patterns are matched with
    PRIMARY KEY (tenant_kind, tenant_id, scope, key, id)
) STRICT, WITHOUT ROWID;
