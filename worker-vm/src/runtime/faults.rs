//! Native faults on demand, in debug builds only: tests of what contains them need one that happens inside a template's
//! run.

/// Brings the process down if a template printed that it should.
pub(super) fn strike(line: &str) {
    match line {
        "ANTIRAID_TEST_ABORT" => std::process::abort(),
        "ANTIRAID_TEST_OVERFLOW" => {
            std::hint::black_box(overflow(1));
        }
        _ => {}
    }
}

#[expect(unconditional_recursion, reason = "it is what the test needs")]
fn overflow(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 64]);
    overflow(depth + 1) + frame[3]
}
