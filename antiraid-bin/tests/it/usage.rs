//! The command line.

use crate::antiraid::Antiraid;

#[test]
fn help_teaches() {
    Antiraid::new().run(["--help"]).with_status(0).says(&[
        "antiraid replay --templates examples/templates examples/raid/raid.jsonl",
        "flags",
        "ANTIRAID_WORKERS=2",
        "Exit status",
    ]);
    Antiraid::new().run(["replay", "--help"]).with_status(0).says(&["Examples:", "- is standard input"]);
    Antiraid::new().run(["template", "check", "--help"]).with_status(0).says(&["template.toml", "capabilities = ["]);
}

#[test]
fn bad_flags_are_status_2() {
    for args in [
        &["replay"][..],
        &["--nonsense"],
        &["frobnicate"],
        &["replay", "--repeat", "0", "x"],
        &["replay", "--in-flight", "many", "x"],
        &["config", "--set", "workers"],
        &["config", "--set", "=1"],
        &["config", "--set", "limits..x=1"],
    ] {
        let ran = Antiraid::new().run(args).with_status(2);
        assert!(ran.stderr.contains("error:"), "{args:?}: {ran:?}");
    }
}

#[test]
fn without_a_command_the_help_comes() {
    Antiraid::new().run([""; 0]).with_status(2).says(&["Usage:", "replay"]);
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let antiraid = Antiraid::new();
    let mut child = antiraid.command(["config"]).spawn().unwrap();
    drop(child.stdout.take());
    let ran: crate::antiraid::Ran = child.wait_with_output().unwrap().into();
    assert_eq!((ran.status, &*ran.stderr), (0, ""));
}
