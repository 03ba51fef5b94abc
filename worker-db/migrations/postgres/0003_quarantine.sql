-- Tenants that are paused because their code was running when their worker died, too often.
CREATE TABLE quarantine (
    tenant_kind BIGINT NOT NULL,
    tenant_id   BIGINT NOT NULL,
    evidence    TEXT NOT NULL,      -- JSON
    created_at  BIGINT NOT NULL,
    PRIMARY KEY (tenant_kind, tenant_id)
);
