//! `include_dir!` sees changes of the files that it embedded, but not that one was added or removed.

fn main() {
    println!("cargo::rerun-if-changed=builtins");
}
