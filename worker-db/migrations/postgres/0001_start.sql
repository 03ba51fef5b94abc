-- The same tables as SQLite's; what they hold is explained there.
-- COLLATE "C" orders text by bytes, as SQLite does, whatever the locale of the database.

CREATE TABLE tenant_usage (
    tenant_kind BIGINT NOT NULL,
    tenant_id   BIGINT NOT NULL,
    kv_rows     BIGINT NOT NULL DEFAULT 0,
    kv_bytes    BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_kind, tenant_id)
) WITH (fillfactor = 50); -- updated by every write that grows: leave room for it on the page

CREATE TABLE template_contents (
    hash  TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    files TEXT NOT NULL
);

CREATE TABLE shop_names (
    name   TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    latest TEXT COLLATE "C" NOT NULL
);

CREATE TABLE shop_versions (
    name        TEXT COLLATE "C" NOT NULL REFERENCES shop_names (name),
    version     TEXT COLLATE "C" NOT NULL,
    owner       BIGINT,
    description TEXT,
    content     TEXT COLLATE "C" NOT NULL REFERENCES template_contents (hash),
    created_at  BIGINT NOT NULL,
    PRIMARY KEY (name, version)
);
CREATE INDEX shop_versions_content ON shop_versions (content);

CREATE TABLE templates (
    tenant_kind   BIGINT NOT NULL,
    tenant_id     BIGINT NOT NULL,
    name          TEXT COLLATE "C" NOT NULL,
    content       TEXT COLLATE "C" REFERENCES template_contents (hash),
    shop_name     TEXT COLLATE "C",
    shop_version  TEXT COLLATE "C",
    events        TEXT NOT NULL,
    allowed_caps  TEXT NOT NULL,
    error_channel BIGINT,
    compat        TEXT,
    paused        BOOLEAN NOT NULL,
    created_at    BIGINT NOT NULL,
    updated_at    BIGINT NOT NULL,
    PRIMARY KEY (tenant_kind, tenant_id, name)
);
CREATE INDEX templates_content ON templates (content) WHERE content IS NOT NULL;
CREATE INDEX templates_shop ON templates (shop_name) WHERE shop_name IS NOT NULL;

CREATE TABLE kv_records (
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
    expires_at      BIGINT,
    resume          BOOLEAN NOT NULL,
    scopes          TEXT NOT NULL,
    value           TEXT NOT NULL,
    PRIMARY KEY (tenant_kind, tenant_id, id)
);
CREATE UNIQUE INDEX kv_records_exact ON kv_records (tenant_kind, tenant_id, key, scopes_hash);
CREATE INDEX kv_records_due ON kv_records (expires_at, tenant_kind, tenant_id, id) WHERE expires_at IS NOT NULL;
CREATE INDEX kv_records_resume ON kv_records (tenant_kind, tenant_id, created_at, id) WHERE resume;

CREATE TABLE kv_scopes (
    tenant_kind BIGINT NOT NULL,
    tenant_id   BIGINT NOT NULL,
    scope       TEXT COLLATE "C" NOT NULL,
    key         TEXT COLLATE "C" NOT NULL,
    id          TEXT COLLATE "C" NOT NULL,
    key_folded  TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant_kind, tenant_id, scope, key, id)
);
