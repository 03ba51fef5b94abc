//! `@antiraid/luau`.

use crate::harness::{Harness, TENANT, message, on_worker};
use crate::scripts::script;
use worker_core::Value;

#[test]
fn chunks_run_where_they_should() {
    on_worker(|| async {
        Harness::new()
            .await
            .passes_as(TENANT, &["*"], script!("luau/chunks"), &[("beside.luau", "return 'beside'")])
            .await;
    });
}

#[test]
fn values_are_shown() {
    on_worker(|| async { Harness::new().await.passes(script!("luau/format")).await });
}

#[test]
fn a_chunk_that_another_template_is_handed_gives_it_nothing() {
    on_worker(|| async {
        let h = Harness::new().await;
        h.install(
            TENANT,
            "a",
            "local evt, ctx = ... secret = 'a' ctx.store.chunk = require('@antiraid/luau').load('return secret') ctx.store.globals = _G return 'ok'",
        )
        .await;
        h.install(
            TENANT,
            "b",
            r#"
            local evt, ctx = ...
            secret = 'b'
            local chunk = ctx.store.chunk
            if not chunk then return 'ok' end
            assert(chunk:call() == 'a', 'as a function of the other template would')
            chunk.code = 'return secret'
            assert(chunk:call() == 'b', 'the text is mine now')
            chunk.environment = ctx.store.globals
            local ok, err = pcall(function() return chunk:call() end)
            assert(not ok and string.find(err, '^invalid_argument: environment'), err)
            return 'ok'
            "#,
        )
        .await;
        for _ in 0..2 {
            for (name, outcome) in h.run(TENANT, &message("{}")).await {
                assert_eq!(outcome, Ok(Value::from("ok")), "{name}");
            }
        }
    });
}
