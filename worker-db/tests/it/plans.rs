//! How the databases run each statement of the crate, with tables as large as in use: through an index, never by looking
//! at every row.

use serde_json::Value;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection, Executor, Row};
use worker_db::{Backend, statements};

use crate::store::Store;

/// 2 000 tenants with ten records of two scopes and ten templates each; every hundredth record is resumed.
const FILL: &str = "
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
    INSERT INTO kv_records (tenant_kind, tenant_id, id, key, scopes_hash, version, fixed_bytes, value_bytes, created_at,
            last_updated_at, expires_at, due_at, lease_owner, resume, scopes, value)
        SELECT 0, i % 2000, 'id' || i, 'key' || i, CAST('h' || i AS BYTES), 1, 1, 1, i, i, i, i,
            CASE WHEN i % 100 = 0 THEN i END, i % 100 = 0, '[]', '1'
        FROM n;
    INSERT INTO kv_dead SELECT tenant_kind, tenant_id, id, key, scopes_hash, 1, 1, 1, 1, 1, 1, 1, 1, resume, 1, '', '[]', '1'
        FROM kv_records;
    INSERT INTO expiry_owners SELECT key, 0, created_at FROM kv_records;
    INSERT INTO kv_scopes SELECT 0, tenant_id, 'a', key, id, key FROM kv_records;
    INSERT INTO kv_scopes SELECT 0, tenant_id, 'b', key, id, key FROM kv_records;
    INSERT INTO tenant_usage SELECT DISTINCT tenant_kind, tenant_id, 0, 0 FROM kv_records;
    INSERT INTO template_contents SELECT id, '{}' FROM kv_records WHERE version = 1;
    INSERT INTO shop_names SELECT key, '1' FROM kv_records;
    INSERT INTO shop_versions SELECT key, '1', NULL, NULL, id, 0 FROM kv_records;
    INSERT INTO gateway_sessions SELECT 1, 20000, created_at, 's', 'u', 1, 1 FROM kv_records;
    INSERT INTO gateway_identifies SELECT 1, created_at, 1 FROM kv_records;
    INSERT INTO templates SELECT 0, tenant_id, key, id, key, NULL, '[]', '[]', NULL, NULL, FALSE, 0, 0 FROM kv_records;
    ANALYZE;";

/// Where every row is wanted: the index holds the wanted rows and no others.
const WHOLE_INDEX: &str = "kv_records_resume";

/// Where every row is wanted and there are few: a tenant that is paused is an exception.
const WHOLE_TABLE: &str = "quarantine";

/// Looks at all templates, once when the program starts.
const AT_START: &str = "TEMPLATE_EVENTS";

#[tokio::test]
async fn sqlite_uses_an_index_for_every_statement() {
    let store = Store::sqlite_file().await;
    store.raw(&FILL.replace("BYTES", "BLOB")).await;
    let mut connection = SqliteConnection::connect(&store.url).await.unwrap();
    let mut steps = 0;
    for (name, text) in statements(Backend::Sqlite).filter(|(name, _)| *name != AT_START) {
        let plan = connection.fetch_all(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {text}"))).await.unwrap();
        for step in &plan {
            let step: String = step.get("detail");
            steps += 1;
            if let Some(scanned) = step.strip_prefix("SCAN ") {
                let no_table =
                    ["json_each ", "page", "CONSTANT ROW", "(subquery"].iter().any(|what| scanned.starts_with(what));
                let whole = scanned.contains(WHOLE_INDEX) || scanned == WHOLE_TABLE;
                assert!(no_table || whole, "{name} looks at every row: {step}\n{text}");
            }
        }
    }
    assert!(steps > 30, "{steps} steps: plans were read");
}

#[tokio::test]
async fn postgres_uses_an_index_for_every_statement() {
    let store = Store::postgres().await;
    store.raw(&FILL.replace("BYTES", "BYTEA")).await;
    let mut connection = PgConnection::connect(&store.url).await.unwrap();
    connection.execute("SET plan_cache_mode = force_generic_plan").await.unwrap();
    let mut scans = 0;
    for (name, text) in statements(Backend::Postgres).filter(|(name, _)| *name != AT_START) {
        // What is only passed on has no type of its own there; the crate's arguments have theirs.
        let types = match name {
            "KV_INSERT_SCOPES" => "(bigint, bigint, text, text, text, text)",
            "FILL_RECORDS" => "(bigint, bigint, bytea, bigint, bigint, bigint, bigint, text, text)",
            _ => "",
        };
        connection.execute(AssertSqlSafe(format!("PREPARE p{types} AS {text}"))).await.unwrap();
        let count = (1..).take_while(|n| text.contains(&format!("${n}"))).count();
        let nulls = vec!["NULL"; count].join(", ");
        let explain = if count == 0 { "EXECUTE p".to_owned() } else { format!("EXECUTE p({nulls})") };
        let plan = connection.fetch_one(AssertSqlSafe(format!("EXPLAIN (FORMAT JSON) {explain}"))).await.unwrap();
        scans += check_node(name, &plan.get::<Value, _>(0)[0]["Plan"]);
        connection.execute("DEALLOCATE p").await.unwrap();
    }
    assert!(scans > 30, "{scans} scans: plans were read");
}

/// Checks a step of a plan and all below it; says how many of them read a table.
fn check_node(statement: &str, node: &Value) -> usize {
    let kind = node["Node Type"].as_str().unwrap();
    let whole = node["Relation Name"] == WHOLE_TABLE;
    assert!(whole || kind != "Seq Scan", "{statement} looks at every row: {node:#}");
    // Locked once, and not again for each row of another table, whatever the statistics say.
    let place = node["Parent Relationship"].as_str();
    assert!(kind != "LockRows" || matches!(place, None | Some("InitPlan")), "{statement} locks in a join: {node:#}");
    let through_index = kind.contains("Index");
    if through_index && node["Index Name"] != WHOLE_INDEX {
        assert!(node["Index Cond"].is_string(), "{statement} looks at a whole index: {node:#}");
    }
    let below = node["Plans"].as_array().into_iter().flatten();
    usize::from(through_index) + below.map(|node| check_node(statement, node)).sum::<usize>()
}
