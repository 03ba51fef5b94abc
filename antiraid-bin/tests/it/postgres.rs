//! A PostgreSQL of this process's own, which can be stopped and started.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

pub(crate) struct Postgres {
    binaries: PathBuf,
    folder: TempDir,
    user: Option<(u32, u32)>,
}

impl Postgres {
    pub(crate) fn start() -> Self {
        let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
        let newest = installed.filter_map(|entry| {
            let path = entry.ok()?.path();
            Some((path.file_name()?.to_str()?.parse::<u32>().ok()?, path.join("bin")))
        });
        let on_path = || {
            let paths = std::env::var_os("PATH")?;
            std::env::split_paths(&paths).find(|folder| folder.join("initdb").exists())
        };
        let binaries = newest.max().map(|(_, folder)| folder).or_else(on_path);
        let binaries = binaries.expect("these tests need PostgreSQL (Debian: apt-get install postgresql)");
        let folder = tempfile::Builder::new().prefix("antiraid-pg-").tempdir().unwrap();
        let user = unprivileged_user();
        if let Some((uid, gid)) = user {
            chown(folder.path(), Some(uid), Some(gid)).unwrap();
        }
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let server = Self { binaries, folder, user };
        server.run("initdb", &["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync"]);
        server.resume();
        server
    }

    /// Starts the server again, and waits until it answers.
    pub(crate) fn resume(&self) {
        let socket = self.folder.path().display();
        let options = format!("-k {socket} -c listen_addresses= -c fsync=off -c max_connections=64");
        let log = self.folder.path().join("log");
        self.run("pg_ctl", &["start", "-w", "-o", &options, "-l", log.to_str().unwrap()]);
    }

    /// Ends the server as a crash would.
    pub(crate) fn crash(&self) {
        self.run("pg_ctl", &["stop", "-m", "immediate"]);
    }

    /// Stops all processes of the server: it takes connections and answers nothing.
    pub(crate) fn freeze(&self) {
        self.processes().into_iter().for_each(|pid| rustix::process::kill_process(pid, Signal::STOP).unwrap());
    }

    /// Lets them go on.
    pub(crate) fn thaw(&self) {
        // One that ended meanwhile needs it no more.
        for pid in self.processes() {
            let _ = rustix::process::kill_process(pid, Signal::CONT);
        }
    }

    fn processes(&self) -> Vec<Pid> {
        let pid_file = std::fs::read_to_string(self.folder.path().join("data/postmaster.pid")).unwrap();
        let postmaster: i32 = pid_file.lines().next().unwrap().parse().unwrap();
        let children = std::fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children")).unwrap();
        let children = children.split_whitespace().map(|pid| pid.parse().unwrap());
        [postmaster].into_iter().chain(children).filter_map(Pid::from_raw).collect()
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@localhost:5432/postgres?host={}", self.folder.path().display())
    }

    fn run(&self, program: &str, args: &[&str]) {
        let mut command = command(&self.binaries.join(program));
        command.arg("-D").arg(self.folder.path().join("data")).args(args);
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        assert!(command.status().unwrap().success(), "{command:?}");
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.crash();
    }
}

/// PostgreSQL refuses to run as root: then, the user that its package made.
fn unprivileged_user() -> Option<(u32, u32)> {
    let id = |args: &[&str]| -> Option<u32> {
        let output = command(Path::new("id")).stdout(Stdio::piped()).args(args).output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    };
    if id(&["-u"])? != 0 {
        return None;
    }
    let user = ["postgres", "nobody"].iter().find_map(|user| Some((id(&["-u", user])?, id(&["-g", user])?)));
    Some(user.expect("because Debian has `nobody` where it has no `postgres`"))
}

fn command(program: &Path) -> Command {
    #[expect(clippy::disallowed_methods, reason = "the tests' own server, no worker")]
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
    command
}
