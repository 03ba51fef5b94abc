-- Tenants that are paused because their code was running when their worker died, too often.
CREATE TABLE quarantine (
    tenant_kind INTEGER NOT NULL,
    tenant_id   INTEGER NOT NULL,
    evidence    TEXT NOT NULL,      -- JSON
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (tenant_kind, tenant_id)
) STRICT, WITHOUT ROWID;
