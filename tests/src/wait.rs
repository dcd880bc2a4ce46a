//! Waiting for events, free ports and scratch folders.

use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The deadline of waits that do not name one: far longer than anything healthy takes on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(150);

/// Waits until `event` yields something; panics with `what` after [`PATIENCE`].
pub fn eventually<T>(what: &str, event: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, event)
}

/// Waits until `event` yields something; panics with `what` after `deadline`.
pub fn within<T>(deadline: Duration, what: &str, mut event: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    let mut pause = Duration::from_millis(5);
    loop {
        if let Some(outcome) = event() {
            return outcome;
        }
        assert!(Instant::now() < end, "{}", late(what, deadline));
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// What a wait that ran out says: `tests/run` knows by these words that a test was late, not wrong.
pub fn late(what: &str, patience: Duration) -> String {
    format!("{what}: did not happen within {patience:?}")
}

/// A port of 127.0.0.1 that nobody listens on and that this process hands out once.
///
/// Below the range the kernel takes for outgoing connections, so that it stays free until its peer binds it, and while the peer is restarted.
pub fn free_port() -> u16 {
    static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    for _ in 0..1_000 {
        let port = fastrand::u16(15_000..32_000);
        if TAKEN.lock().contains(&port) {
            continue;
        }
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() && TAKEN.lock().insert(port) {
            return port;
        }
    }
    panic!("no free port between 15000 and 32000 on 127.0.0.1");
}

/// A new folder for a peer's data; removed with the value. Folders of killed test runs are swept at the next start.
pub fn scratch(name: &str) -> tempfile::TempDir {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    let root = ROOT.get_or_init(|| {
        let all = std::env::temp_dir().join("millrace-tests");
        for entry in std::fs::read_dir(&all).into_iter().flatten().flatten() {
            let owner = entry.file_name().to_string_lossy().into_owned();
            if !PathBuf::from("/proc").join(&owner).exists() {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        let mine = all.join(std::process::id().to_string());
        std::fs::create_dir_all(&mine).expect("the folder for temporary data can be made");
        mine
    });
    tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(root).expect("a temporary folder can be made")
}
