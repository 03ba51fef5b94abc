//! The program `antiraid`. Everything is in the library, so that tests reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    antiraid_bin::cli::main()
}
