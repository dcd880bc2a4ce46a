//! What systemd is told (`Type=notify`, `WatchdogSec=`): that the service is ready, alive, stopping. Without `NOTIFY_SOCKET` nothing is said.
//!
//! Alive means that this runtime's tasks are served and that the engine answers; a service that hangs is killed and started anew by systemd, and its log
//! loses nothing by that.

use millrace_engine::Engine;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

/// The service takes data.
pub fn ready() {
    say("READY=1");
}

/// It stops, and takes the time that takes.
pub fn stopping() {
    say("STOPPING=1");
}

/// Says now and then that it lives, where systemd wants to know.
pub fn watchdog(engine: &Arc<Engine>) {
    let Some(every) = every(std::env::var("WATCHDOG_USEC").ok().as_deref(), std::env::var("WATCHDOG_PID").ok().as_deref()) else { return };
    let engine = Arc::downgrade(engine);
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(every);
        loop {
            ticks.tick().await;
            let Some(engine) = engine.upgrade() else { return };
            // It takes every lock that a reading takes.
            let answered = tokio::task::spawn_blocking(move || engine.report()).await;
            if answered.is_ok() {
                say("WATCHDOG=1");
            }
        }
    });
}

/// Half of what systemd waits, where it is this process that is watched.
fn every(micros: Option<&str>, pid: Option<&str>) -> Option<Duration> {
    if pid.is_some_and(|pid| pid != std::process::id().to_string()) {
        return None;
    }
    let micros: u64 = micros?.parse().ok()?;
    (micros > 0).then(|| Duration::from_micros(micros / 2).max(Duration::from_millis(100)))
}

fn say(words: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&socket, words) {
        tracing::warn!("cannot tell systemd {words}: {error}");
    }
}

fn send(socket: &OsStr, words: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    UnixDatagram::unbound()?.send_to_addr(words.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_hears_it_on_a_path_and_on_an_abstract_socket() {
        let path = std::env::temp_dir().join(format!("millrace-notify-{}", std::process::id()));
        let name = format!("millrace-notify-{}", std::process::id());
        let sockets = [
            (path.as_os_str().to_owned(), UnixDatagram::bind(&path).unwrap()),
            (format!("@{name}").into(), UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name.as_bytes()).unwrap()).unwrap()),
        ];
        for (address, socket) in sockets {
            send(&address, "READY=1").unwrap();
            let mut buffer = [0; 64];
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"READY=1");
        }
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn it_is_said_twice_as_often_as_systemd_wants_it() {
        let me = std::process::id().to_string();
        assert_eq!(every(Some("30000000"), Some(&me)), Some(Duration::from_secs(15)));
        assert_eq!(every(Some("30000000"), Some("1")), None, "another process is watched");
        assert_eq!(every(None, None), None);
    }
}
