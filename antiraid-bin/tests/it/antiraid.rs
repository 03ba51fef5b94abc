//! How tests run the program.

use std::ffi::OsStr;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// The program in an empty folder of its own, without the settings of whoever runs the tests.
pub(crate) struct Antiraid {
    dir: TempDir,
    env: Vec<(&'static str, String)>,
}

/// What a run printed, and its exit status.
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Antiraid {
    pub(crate) fn new() -> Self {
        Self { dir: TempDir::new().unwrap(), env: Vec::new() }
    }

    /// With a variable of the environment.
    pub(crate) fn env(self, name: &'static str, value: &'static str) -> Self {
        self.env_of(name, value)
    }

    /// With a variable of the environment that is made up as the test goes.
    pub(crate) fn env_of(mut self, name: &'static str, value: &str) -> Self {
        self.env.push((name, value.into()));
        self
    }

    /// With a file, given by its path from the folder.
    pub(crate) fn file(self, path: &str, text: impl AsRef<[u8]>) -> Self {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        self.run_with_input(args, b"")
    }

    pub(crate) fn run_with_input<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>, input: &[u8]) -> Ran {
        let mut child = self.command(args).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let output = std::thread::scope(|scope| {
            // On a thread of its own: a program that prints before it has read everything must not hang the test. It may
            // also end without reading.
            scope.spawn(move || stdin.write_all(input));
            child.wait_with_output().unwrap()
        });
        output.into()
    }

    #[expect(clippy::disallowed_methods, reason = "the program under test, which no worker process supervises")]
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_antiraid"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().to_uppercase().starts_with("ANTIRAID_") {
                command.env_remove(name);
            }
        }
        command.env_remove("DISCORD_TOKEN");
        command.args(args).current_dir(self.dir.path()).envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// For messages of tests: not whole, where it is long.
impl fmt::Debug for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const CHARS_SHOWN: usize = 3_000;
        let begin = |text: &str| text.chars().take(CHARS_SHOWN).collect::<String>();
        write!(f, "status {}\nstdout:\n{}\nstderr:\n{}", self.status, begin(&self.stdout), begin(&self.stderr))
    }
}

impl Ran {
    /// The run, if it ended with this status.
    #[track_caller]
    pub(crate) fn with_status(self, status: i32) -> Self {
        assert_eq!(self.status, status, "{self:#?}");
        self
    }

    /// Stdout as one JSON document.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }

    /// Stdout and stderr contain each of the texts.
    #[track_caller]
    pub(crate) fn says(&self, texts: &[&str]) {
        let said = format!("{}\n{}", self.stdout, self.stderr);
        for text in texts {
            assert!(said.contains(text), "`{text}` is missing in:\n{said}");
        }
    }
}

/// The root of the workspace.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}
