//! Blobs, `@antiraid/datamgmt`, `@lune/serde` and `@lune/regex`.

use worker_core::TenantId;

use crate::harness::{Harness, OTHER, TENANT, finish, message, on_worker};
use crate::scripts::script;

#[test]
fn blobs_are_made_read_and_emptied() {
    on_worker(|| async { Harness::new().await.passes(script!("blob/methods")).await });
}

#[test]
fn blobs_count_in_the_memory_limit() {
    on_worker(|| async { Harness::new().await.passes(script!("blob/memory")).await });
}

#[test]
fn base64_is_encoded_and_decoded() {
    on_worker(|| async { Harness::new().await.passes(script!("datamgmt/base64")).await });
}

#[test]
fn encryption_reads_what_others_wrote() {
    on_worker(|| async { Harness::new().await.passes(script!("datamgmt/encryption")).await });
}

#[test]
fn archives_are_read_written_and_attacked() {
    on_worker(|| async { Harness::new().await.passes(script!("datamgmt/tar")).await });
}

/// The largest memory that this process ever had, in KiB.
fn peak_memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_thousand_encrypts_of_each_of_three_tenants_take_the_memory_of_two() {
    on_worker(|| async {
        let harness = Harness::new().await;
        let before = peak_memory_kib();
        let tenants = [TENANT, OTHER, TenantId::guild(3 << 22)];
        let script = script!("datamgmt/many_encrypts");
        for tenant in tenants {
            harness.install_script(tenant, &["*"], script, &[]).await;
        }
        let message = message(r#"{"content":"hello"}"#);
        let mut runs = Vec::new();
        for tenant in tenants {
            runs.push(harness.start(tenant, &message).await);
        }
        for runs in runs {
            for (_, result) in finish(runs).await {
                assert_eq!(result, Ok("ok".into()));
            }
        }
        // Two key derivations take 128 MiB; three are too many.
        let grown = peak_memory_kib() - before;
        assert!(grown < 180 << 10, "the process grew by {grown} KiB");
    });
}

#[test]
fn json_is_read_and_written() {
    on_worker(|| async { Harness::new().await.passes(script!("serde/json")).await });
}

#[test]
fn yaml_is_read_and_written_and_nobody_laughs_a_billion_times() {
    on_worker(|| async { Harness::new().await.passes(script!("serde/yaml")).await });
}

#[test]
fn toml_is_read_and_written() {
    on_worker(|| async { Harness::new().await.passes(script!("serde/toml")).await });
}

#[test]
fn hashes_are_those_of_others() {
    on_worker(|| async { Harness::new().await.passes(script!("serde/hashes")).await });
}

#[test]
fn what_was_compressed_comes_back() {
    on_worker(|| async { Harness::new().await.passes(script!("serde/compression")).await });
}
