//! A PostgreSQL for the tests, each in a database of its own.
//!
//! `ANTIRAID_TEST_POSTGRES` names a server, which `.ci/test` starts once for all tests. Without it, each test process
//! starts a private server of installed binaries, on a Unix socket in a temporary folder (about two seconds). Tests are
//! never skipped: with neither, they fail and say what to install.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};

/// A fresh, empty database.
pub struct Database {
    pub url: String,
    name: String,
}

impl Database {
    pub async fn create() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let nanos = std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
        let name = format!("antiraid_{}_{}_{nanos}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let server = server_url();
        let mut connection = PgConnection::connect(&server).await.unwrap_or_else(|error| panic!("{server}: {error}"));
        connection.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();
        connection.close().await.unwrap();
        Self { url: with_database(&server, &name), name }
    }
}

impl Drop for Database {
    /// Leaves nothing behind in a server that lives on.
    fn drop(&mut self) {
        let drop_database = async {
            let mut connection = PgConnection::connect(&server_url()).await?;
            connection.execute(AssertSqlSafe(format!("DROP DATABASE {} WITH (FORCE)", self.name))).await
        };
        // The test's own runtime cannot be waited for from here.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                if let Err(error) = runtime.block_on(drop_database) {
                    eprintln!("the database {} stays behind: {error}", self.name);
                }
            });
        });
    }
}

fn server_url() -> String {
    static PRIVATE: OnceLock<PrivateServer> = OnceLock::new();
    #[expect(clippy::disallowed_methods, reason = "how the tests are told of a server")]
    match std::env::var("ANTIRAID_TEST_POSTGRES") {
        Ok(url) => url,
        Err(_) => PRIVATE.get_or_init(PrivateServer::start).url.clone(),
    }
}

fn with_database(url: &str, name: &str) -> String {
    let (base, query) = url.split_once('?').map_or((url, String::new()), |(base, query)| (base, format!("?{query}")));
    let authority = base.find("://").map_or(0, |at| at + 3);
    let end = base[authority..].find('/').map_or(base.len(), |at| authority + at);
    format!("{}/{name}{query}", &base[..end])
}

struct PrivateServer {
    url: String,
    /// A shell that ends the server and removes its folder when its input ends: with this process, however that ends.
    _supervisor: Child,
}

impl PrivateServer {
    const SUPERVISOR: &str = r#"
        "$1/postgres" -D "$2/data" -k "$2" -c listen_addresses= -c port=5432 -c max_connections=64 \
            -c fsync=off -c synchronous_commit=off -c full_page_writes=off &
        cat > /dev/null
        kill -QUIT $!
        wait
        rm -rf "$2"
    "#;

    fn start() -> Self {
        let binaries = find_binaries().unwrap_or_else(|| {
            panic!(
                "these tests need PostgreSQL: install it (Debian: apt-get install postgresql), or name a server in \
                 ANTIRAID_TEST_POSTGRES (postgres://user@host/database)"
            )
        });
        // Not the target folder: a socket's path is short by force, and another user must reach it.
        let folder = tempfile::Builder::new().prefix("antiraid-pg-").tempdir().unwrap().keep();
        let user = unprivileged_user();
        if let Some((uid, gid)) = user {
            chown(&folder, Some(uid), Some(gid)).unwrap();
        }
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        run(command(&binaries.join("initdb"), user).arg("-D").arg(folder.join("data")).args([
            "-A",
            "trust",
            "-U",
            "postgres",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        ]));
        let log = fs::File::create(folder.join("log")).unwrap();
        let supervisor = command(Path::new("/bin/sh"), user)
            .args(["-c", Self::SUPERVISOR, "sh"])
            .args([&binaries, &folder])
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let socket = folder.join(".s.PGSQL.5432");
        let deadline = Instant::now() + Duration::from_secs(60);
        while !run_ok(command(&binaries.join("pg_isready"), user).arg("-q").arg("-h").arg(&folder)) {
            let log = || fs::read_to_string(folder.join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "no {} after a minute: {}", socket.display(), log());
            std::thread::sleep(Duration::from_millis(20));
        }
        let url = format!("postgres://postgres@localhost:5432/postgres?host={}", folder.display());
        Self { url, _supervisor: supervisor }
    }
}

/// Debian's place for each version, then what `pg_config` says, then the PATH.
fn find_binaries() -> Option<PathBuf> {
    let mut debian: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let version = path.file_name()?.to_str()?.parse().ok()?;
            Some((version, path.join("bin")))
        })
        .collect();
    debian.sort();
    let from_config = || {
        let output = command(Path::new("pg_config"), None).arg("--bindir").output().ok()?;
        Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
    };
    #[expect(clippy::disallowed_methods, reason = "PATH is where programs are")]
    let path = std::env::var("PATH").unwrap_or_default();
    let complete =
        |folder: &PathBuf| ["initdb", "postgres", "pg_isready"].iter().all(|name| folder.join(name).exists());
    debian
        .into_iter()
        .rev()
        .map(|(_, folder)| folder)
        .chain(from_config())
        .chain(std::env::split_paths(&path))
        .find(complete)
}

/// PostgreSQL refuses to run as root: then, the user that its package made.
fn unprivileged_user() -> Option<(u32, u32)> {
    let id = |args: &[&str]| -> Option<u32> {
        let output = command(Path::new("id"), None).args(args).output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    };
    if id(&["-u"])? != 0 {
        return None;
    }
    let user = ["postgres", "nobody"].iter().find_map(|user| Some((id(&["-u", user])?, id(&["-g", user])?)));
    Some(user.expect("because Debian has `nobody` where it has no `postgres`"))
}

fn command(program: &Path, user: Option<(u32, u32)>) -> Command {
    #[expect(clippy::disallowed_methods, reason = "the tests' own server, no worker")]
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).current_dir("/");
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    command
}

fn run(command: &mut Command) {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert!(child.wait().unwrap().success(), "{command:?}: {stderr}");
}

fn run_ok(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}
