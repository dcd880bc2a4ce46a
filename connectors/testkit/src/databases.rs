//! Databases of Debian for a test: each in a folder of its own, on a free port of 127.0.0.1, as a user who is not root.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The user of whom nobody expects anything.
const NOBODY: u32 = 65_534;

/// A PostgreSQL or MariaDB server with an empty database `plant`, user `millrace`, password `secret`.
pub struct Database {
    folder: PathBuf,
    port: u16,
    server: Child,
    is_postgres: bool,
}

impl Drop for Database {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Database {
    /// Debian's `postgresql`.
    pub fn postgres() -> Self {
        Self::start_postgres_in(initialized())
    }

    /// As [`Database::postgres`], but over the network it speaks TLS alone, and to those whose certificate this authority signed.
    pub fn postgres_with_client_certificates(ca: &Path, cert: &Path, key: &Path) -> Self {
        let folder = initialized();
        let data = folder.join("data");
        for (from, to) in [(ca, "ca.pem"), (cert, "server.pem"), (key, "server.key")] {
            let to = data.join(to);
            std::fs::copy(from, &to).expect("a certificate can be read");
            std::fs::set_permissions(&to, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("it is ours");
            give_away(&to);
        }
        let rules = "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-ca\n";
        std::fs::write(data.join("pg_hba.conf"), rules).expect("a file can be written");
        let settings = "\nssl = on\nssl_ca_file = 'ca.pem'\nssl_cert_file = 'server.pem'\nssl_key_file = 'server.key'\n";
        let conf = data.join("postgresql.conf");
        let before = std::fs::read_to_string(&conf).expect("initdb wrote it");
        std::fs::write(&conf, before + settings).expect("a file can be written");
        Self::start_postgres_in(folder)
    }

    fn start_postgres_in(folder: PathBuf) -> Self {
        let port = free_port();
        let mut this = Self { server: start_postgres(&folder, port), folder, port, is_postgres: true };
        this.wait();
        this.run_in("postgres", "CREATE ROLE millrace LOGIN PASSWORD 'secret'");
        this.run_in("postgres", "CREATE DATABASE plant OWNER millrace");
        this
    }

    /// Debian's `mariadb-server`.
    pub fn mariadb() -> Self {
        Self::start_mariadb_in(folder("mariadb"), "")
    }

    /// As [`Database::mariadb`], but over the network it speaks TLS alone, and to those whose certificate this authority signed.
    pub fn mariadb_with_client_certificates(ca: &Path, cert: &Path, key: &Path) -> Self {
        let folder = folder("mariadb");
        for (from, to) in [(ca, "ca.pem"), (cert, "server.pem"), (key, "server.key")] {
            let to = folder.join(to);
            std::fs::copy(from, &to).expect("a certificate can be read");
            give_away(&to);
        }
        Self::start_mariadb_in(folder, "REQUIRE X509")
    }

    fn start_mariadb_in(folder: PathBuf, wants: &str) -> Self {
        let mut init = command(Path::new("mariadb-install-db"), &folder);
        init.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
        run(init.arg(format!("--datadir={}", folder.join("data").display())));
        let port = free_port();
        let mut this = Self { server: start_mariadb(&folder, port), folder, port, is_postgres: false };
        this.wait();
        this.run_in("mysql", "CREATE DATABASE plant");
        for host in ["localhost", "127.0.0.1"] {
            let user = format!("millrace@{host}");
            this.run_in("mysql", &format!("CREATE USER {user} IDENTIFIED BY 'secret' {wants}; GRANT ALL ON plant.* TO {user}"));
        }
        this
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs statements in `plant`, as the server's own administrator; returns what they say.
    pub fn run(&self, sql: &str) -> String {
        self.run_in("plant", sql)
    }

    fn run_in(&self, database: &str, sql: &str) -> String {
        self.try_in(database, sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    fn client(&self, database: &str) -> Command {
        let mut client = if self.is_postgres {
            let mut client = command(&postgres_program("psql"), &self.folder);
            client.args(["-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1", "-U", "root", "-h"]).arg(&self.folder);
            client.args(["-p", &self.port.to_string(), "-d", database]);
            client
        } else {
            let mut client = command(Path::new("mariadb"), &self.folder);
            client.args(["--no-defaults", "-N", "-B", "-u", "root", "--default-character-set=utf8mb4"]);
            client.arg(format!("--socket={}", self.folder.join("socket").display())).arg(database);
            client
        };
        client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        client
    }

    fn try_in(&self, database: &str, sql: &str) -> Result<String, String> {
        let mut client = self.client(database).spawn().map_err(|error| error.to_string())?;
        std::io::Write::write_all(&mut client.stdin.take().expect("a pipe"), sql.as_bytes()).map_err(|error| error.to_string())?;
        let done = client.wait_with_output().map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&done.stdout).trim().to_owned();
        if done.status.success() { Ok(text) } else { Err(String::from_utf8_lossy(&done.stderr).into_owned()) }
    }

    /// A client that stays: what is written to it is run in one session, so that a transaction can be left open.
    pub fn session(&self) -> Session {
        Session(self.client("plant").stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the client starts"))
    }

    pub fn kill9(&mut self) {
        // PostgreSQL's own children end when their parent is gone.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }

    /// Starts it again on the same port and data.
    pub fn restart(&mut self) {
        self.kill9();
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            self.server = if self.is_postgres { start_postgres(&self.folder, self.port) } else { start_mariadb(&self.folder, self.port) };
            std::thread::sleep(Duration::from_millis(300));
            if self.server.try_wait().is_ok_and(|ended| ended.is_none()) {
                break;
            }
            assert!(Instant::now() < deadline, "the database does not start again");
        }
        self.wait();
    }

    fn wait(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(120);
        let any = if self.is_postgres { "postgres" } else { "mysql" };
        while let Err(error) = self.try_in(any, "SELECT 1;") {
            assert!(Instant::now() < deadline, "the database does not answer: {error}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// See [`Database::session`]; it ends, and rolls back, when it is dropped.
pub struct Session(Child);

impl Session {
    pub fn say(&mut self, sql: &str) {
        use std::io::Write;
        let orders = self.0.stdin.as_mut().expect("a pipe");
        writeln!(orders, "{sql};").and_then(|()| orders.flush()).expect("the client listens");
    }

    /// Says nothing more and waits until all is done.
    pub fn finish(mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub(crate) fn folder(name: &str) -> PathBuf {
    let folder = tempfile::Builder::new().prefix(name).tempdir().expect("a folder").keep();
    give_away(&folder);
    folder
}

pub(crate) fn give_away(path: &Path) {
    if is_root() {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).expect("root may give it away");
    }
}

fn initialized() -> PathBuf {
    let folder = folder("postgres");
    let mut init = command(&postgres_program("initdb"), &folder);
    init.args(["--no-sync", "--no-instructions", "--auth-local=trust", "--auth-host=scram-sha-256", "-U", "root", "-E", "UTF8", "-D"]);
    run(init.arg(folder.join("data")));
    folder
}

pub(crate) fn command(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    // A MariaDB that starts deletes the temporary tables it finds, its neighbours' too: each has a folder of its own for them.
    command.current_dir(folder).env("HOME", folder).env("TMPDIR", folder).env("LC_ALL", "C.UTF-8");
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// Debian keeps them out of the PATH, in a folder of the version.
fn postgres_program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok().into_iter().flatten().filter_map(Result::ok);
    let newest = versions.map(|version| version.path().join("bin").join(name)).filter(|program| program.exists()).max();
    newest.unwrap_or_else(|| panic!("{name} is needed and not installed; type: sudo apt-get install -y --no-install-recommends postgresql"))
}

fn run(command: &mut Command) {
    let done = command.output().unwrap_or_else(|error| {
        panic!("{command:?}: {error}; type: sudo apt-get install -y --no-install-recommends postgresql mariadb-server")
    });
    assert!(done.status.success(), "{command:?}: {}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
}

pub(crate) fn log(folder: &Path) -> File {
    File::options().create(true).append(true).open(folder.join("log")).expect("a file for the log")
}

fn start_postgres(folder: &Path, port: u16) -> Child {
    let mut server = command(&postgres_program("postgres"), folder);
    server.arg("-D").arg(folder.join("data")).args(["-p", &port.to_string(), "-k"]).arg(folder);
    server.args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=30"]);
    server.stdout(log(folder)).stderr(log(folder)).spawn().expect("PostgreSQL starts")
}

fn start_mariadb(folder: &Path, port: u16) -> Child {
    let program = if Path::new("/usr/sbin/mariadbd").exists() { "/usr/sbin/mariadbd" } else { "mariadbd" };
    let mut server = command(Path::new(program), folder);
    server.args(["--no-defaults", "--bind-address=127.0.0.1", "--skip-name-resolve", "--character-set-server=utf8mb4"]);
    server.arg(format!("--datadir={}", folder.join("data").display())).arg(format!("--port={port}"));
    server.arg(format!("--socket={}", folder.join("socket").display())).arg(format!("--pid-file={}", folder.join("pid").display()));
    if folder.join("ca.pem").exists() {
        let file = |name: &str| folder.join(name).display().to_string();
        server.arg("--require-secure-transport=ON").arg(format!("--ssl-ca={}", file("ca.pem")));
        server.arg(format!("--ssl-cert={}", file("server.pem"))).arg(format!("--ssl-key={}", file("server.key")));
    }
    server.arg("--innodb-buffer-pool-size=32M").stdout(log(folder)).stderr(log(folder)).spawn().expect("MariaDB starts")
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}
