//! `antiraid bench`: that it measures and says so. What the figures are is no test's business.

use crate::antiraid::Antiraid;

#[test]
fn rows_come_as_json_and_as_a_table() {
    let ran = Antiraid::new().run(["bench", "--quick", "--only", "unsubscribed", "--json"]).with_status(0);
    let document = ran.json();
    let rows = document["rows"].as_array().unwrap();
    assert_eq!((&document["quick"], rows.len()), (&true.into(), 1));
    assert!(rows[0]["measured"].as_f64().unwrap() > 0.0, "{ran:?}");
    assert_eq!(rows[0]["unit"], "ns");
    assert_eq!(rows[0]["bar"]["at_most"], 500.0);

    let ran = Antiraid::new().run(["bench", "--quick", "--only", "unsubscribed"]).with_status(0);
    ran.says(&["question", "spread", "nobody subscribed", "≤ 500.0 ns"]);
}

#[test]
fn a_process_tells_what_memory_it_holds() {
    let ran = Antiraid::new().run(["bench-memory", "tenants", "20"]).with_status(0);
    let figures = ran.json();
    let [rows, small, all] = ["rows", "small", "all"].map(|name| figures[name].as_f64().unwrap());
    assert!(rows < small && rows < all && all > 10e3, "{ran:?}");
}

#[test]
fn a_row_that_is_not_there_is_a_mistake_that_lists_those_that_are() {
    let ran = Antiraid::new().run(["bench", "--only", "nonsense"]).with_status(2);
    ran.says(&["nonsense", "dispatch-1,", "unsubscribed", "slices-fib", "replay"]);
}
