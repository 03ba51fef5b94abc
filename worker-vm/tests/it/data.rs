//! Blobs, `@antiraid/datamgmt`, `@lune/serde` and `@lune/regex`.

use base64::Engine;
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

/// 32 MiB of zeros, in few bytes.
fn bombs() -> String {
    use std::io::Write;
    static ZEROS: [u8; 1 << 20] = [0; 1 << 20];
    const MIB: usize = 32;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    let mut brotli = brotli::CompressorWriter::new(Vec::new(), 4_096, 5, 22);
    for _ in 0..MIB {
        gzip.write_all(&ZEROS).unwrap();
        zlib.write_all(&ZEROS).unwrap();
        brotli.write_all(&ZEROS).unwrap();
    }
    let packed = [("gzip", gzip.finish().unwrap()), ("zlib", zlib.finish().unwrap()), ("brotli", brotli.into_inner())];
    let fields = packed.map(|(format, bytes)| {
        assert!(bytes.len() < 64 << 10, "{format}: {} bytes", bytes.len());
        format!("{format} = \"{}\"", base64::engine::general_purpose::STANDARD.encode(bytes))
    });
    format!("return {{ {} }}", fields.join(", "))
}

#[test]
fn bombs_are_measured_while_they_go_off() {
    on_worker(|| async {
        let harness = Harness::new().await;
        let files = bombs();
        let before = peak_memory_kib();
        harness.passes_as(TENANT, &["*"], script!("serde/bombs"), &[("bombs.luau", &files)]).await;
        let grown = peak_memory_kib() - before;
        assert!(grown < 64 << 10, "the process grew by {grown} KiB");
    });
}

#[test]
fn patterns_match_split_and_replace() {
    on_worker(|| async { Harness::new().await.passes(script!("regex/methods")).await });
}

#[test]
fn patterns_take_linear_time_and_bounded_memory() {
    on_worker(|| async { Harness::new().await.passes(script!("regex/bombs")).await });
}
