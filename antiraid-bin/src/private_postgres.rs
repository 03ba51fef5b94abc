//! A PostgreSQL of this process's own, for measurements and tests: of installed binaries, in a temporary folder, on a Unix
//! socket there.

use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A server that can be stopped and started. It ends, and its folder goes, when it is dropped.
#[derive(Debug)]
pub struct PrivatePostgres {
    binaries: PathBuf,
    folder: TempDir,
    user: Option<(u32, u32)>,
    settings: &'static [&'static str],
}

impl PrivatePostgres {
    /// Makes a database and starts a server over it, with these settings (`fsync=off`) beside its defaults.
    pub fn start(settings: &'static [&'static str]) -> io::Result<Self> {
        let missing = "there is no PostgreSQL here (Debian: apt-get install postgresql)";
        let binaries = binaries().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, missing))?;
        let folder = tempfile::Builder::new().prefix("antiraid-pg-").tempdir()?;
        let user = unprivileged_user()?;
        if let Some((uid, gid)) = user {
            chown(folder.path(), Some(uid), Some(gid))?;
        }
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
        let server = Self { binaries, folder, user, settings };
        server.run("initdb", &["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync"])?;
        server.resume()?;
        Ok(server)
    }

    /// Starts the server again, and waits until it answers.
    pub fn resume(&self) -> io::Result<()> {
        let mut options = format!("-k {} -c listen_addresses=", self.folder.path().display());
        for setting in self.settings {
            options.push_str(" -c ");
            options.push_str(setting);
        }
        let log = self.folder.path().join("log");
        self.run("pg_ctl", &["start", "-w", "-o", &options, "-l", &log.to_string_lossy()])
    }

    /// Ends the server as a crash would.
    pub fn crash(&self) -> io::Result<()> {
        self.run("pg_ctl", &["stop", "-m", "immediate"])
    }

    /// Stops all processes of the server: it takes connections and answers nothing.
    pub fn freeze(&self) -> io::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets them go on.
    pub fn thaw(&self) -> io::Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid_file = std::fs::read_to_string(self.folder.path().join("data/postmaster.pid"))?;
        let postmaster = pid_file.lines().next().unwrap_or_default().to_owned();
        let children = std::fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children"))?;
        for pid in [postmaster.as_str()].into_iter().chain(children.split_whitespace()) {
            let pid = pid.parse().map_err(|_| io::Error::other(format!("{pid:?} is no process")))?;
            let Some(pid) = Pid::from_raw(pid) else { continue };
            match kill_process(pid, signal) {
                // It ended meanwhile.
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Where it is reached.
    pub fn url(&self) -> String {
        format!("postgres://postgres@localhost:5432/postgres?host={}", self.folder.path().display())
    }

    fn run(&self, program: &str, args: &[&str]) -> io::Result<()> {
        let mut command = command(&self.binaries.join(program));
        command.arg("-D").arg(self.folder.path().join("data")).args(args);
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        match command.status()? {
            status if status.success() => Ok(()),
            status => Err(io::Error::other(format!("{command:?} ended with {status}"))),
        }
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        // It may have been stopped already.
        let _ = self.crash();
    }
}

/// Of the newest version that Debian's packages installed, else those on the path.
fn binaries() -> Option<PathBuf> {
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let newest = installed.filter_map(|entry| {
        let path = entry.ok()?.path();
        Some((path.file_name()?.to_str()?.parse::<u32>().ok()?, path.join("bin")))
    });
    let on_path = || std::env::split_paths(&std::env::var_os("PATH")?).find(|folder| folder.join("initdb").exists());
    newest.max().map(|(_, folder)| folder).or_else(on_path)
}

/// PostgreSQL refuses to run as root: then, the user that its package made.
fn unprivileged_user() -> io::Result<Option<(u32, u32)>> {
    let id = |args: &[&str]| -> Option<u32> {
        let output = command(Path::new("id")).stdout(Stdio::piped()).args(args).output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    };
    if id(&["-u"]) != Some(0) {
        return Ok(None);
    }
    let user = ["postgres", "nobody"].iter().find_map(|user| Some((id(&["-u", user])?, id(&["-g", user])?)));
    user.map(Some).ok_or_else(|| io::Error::other("PostgreSQL does not run as root, and there is no user for it"))
}

fn command(program: &Path) -> Command {
    #[expect(clippy::disallowed_methods, reason = "a server beside this program, no worker")]
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
    command
}
