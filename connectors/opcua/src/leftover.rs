//! Sessions that are open on servers, on disk: one that nobody will go on with is closed before another is asked for.
//!
//! ```text
//! <data_dir>/opcua/sessions/SOURCE.INDEX.HASH    source, index, endpoint, session id, token, nonce: a line each
//! ```
//!
//! A session outlives its connection by its `lifetime`, with its subscriptions. Whoever comes back goes on with it; but a source that was renamed or
//! removed, or has fewer sessions now, does not come back, and a small PLC has two or three sessions in all.
//!
//! Invariants: a session of a source that is in the YAML is closed by that source alone; a file is there before its session is used.

use crate::session::Kept;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What one session of a source knows of those on disk.
#[derive(Clone, Debug)]
pub struct Leftovers {
    folder: PathBuf,
    source: Arc<str>,
    index: usize,
    /// Every source of the YAML.
    sources: Arc<[String]>,
    /// How many sessions this source has.
    sessions: usize,
}

/// A session on disk.
#[derive(Clone)]
pub struct Left {
    pub source: String,
    pub kept: Kept,
    index: usize,
    url: String,
    path: PathBuf,
}

impl Leftovers {
    /// For the session at `index` of `sessions`; `sources` are the names of all that are in the YAML.
    pub fn new(data_dir: &Path, source: &str, (index, sessions): (usize, usize), sources: Arc<[String]>) -> Self {
        Self { folder: data_dir.join("opcua/sessions"), source: source.into(), index, sources, sessions }
    }

    fn path(&self, url: &str) -> PathBuf {
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
        let name: String = self.source.chars().map(plain).take(60).collect();
        let mut hash = crate::hash::Fnv::default();
        hash.add(self.source.as_bytes());
        hash.add(url.as_bytes());
        self.folder.join(format!("{name}.{}.{:016x}", self.index, hash.get()))
    }

    /// Writes down that this session is open on a server. Errors: the file can't be written.
    pub fn note(&self, url: &str, kept: &Kept) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        fs::create_dir_all(&self.folder)?;
        let path = self.path(url);
        let unfinished = path.with_extension("new");
        fs::write(&unfinished, format!("{}\n{}\n{url}\n{}", self.source, self.index, kept.write()))?;
        fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o600))?;
        fs::rename(&unfinished, &path)
    }

    /// It is closed.
    pub fn forget(&self, url: &str) {
        let _ = fs::remove_file(self.path(url));
    }

    /// Sessions on this server that nobody goes on with, `kept` apart.
    pub fn on(&self, url: &str, kept: Option<&Kept>) -> Vec<Left> {
        let Ok(entries) = fs::read_dir(&self.folder) else { return Vec::new() };
        let paths = entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_none_or(|extension| extension != "new"));
        let mut left: Vec<Left> = paths.filter_map(read).filter(|left| left.url == url && self.is_nobodys(left, kept)).collect();
        left.sort_by(|a, b| a.path.cmp(&b.path));
        left
    }

    fn is_nobodys(&self, left: &Left, kept: Option<&Kept>) -> bool {
        if *left.source != *self.source {
            return !self.sources.contains(&left.source);
        }
        left.index >= self.sessions || left.index == self.index && kept.is_none_or(|kept| kept.session_id != left.kept.session_id)
    }
}

impl Left {
    /// It is closed, or not there any more.
    pub fn forget(&self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn read(path: PathBuf) -> Option<Left> {
    let text = fs::read_to_string(&path).ok()?;
    let mut lines = text.splitn(4, '\n');
    let (source, index, url) = (lines.next()?.to_owned(), lines.next()?.parse().ok()?, lines.next()?.to_owned());
    Some(Left { source, index, url, kept: Kept::read(lines.next()?.as_bytes())?, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(id: u32) -> Kept {
        Kept::read(format!("ns=1;i={id}\nns=1;i={}\nAQID", id + 1000).as_bytes()).expect("is a session")
    }

    #[test]
    fn a_session_is_closed_by_its_own_source_or_where_its_source_is_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let sources: Arc<[String]> = ["press", "oven"].map(str::to_owned).into();
        let of = |name: &str, index, sessions| Leftovers::new(folder.path(), name, (index, sessions), sources.clone());
        let url = "opc.tcp://plc:4840";
        for (name, index, id) in [("press", 0, 1), ("press", 1, 2), ("oven", 0, 3), ("old name", 0, 4)] {
            of(name, index, 2).note(url, &kept(id)).expect("is written");
        }
        of("old name", 0, 1).note("opc.tcp://another", &kept(5)).expect("is written");
        let ids = |leftovers: &Leftovers, own: Option<&Kept>| -> Vec<String> {
            leftovers.on(url, own).iter().map(|left| left.kept.session_id.to_string()).collect()
        };
        let press = of("press", 0, 2);
        assert_eq!(
            ids(&press, Some(&kept(1))),
            ["ns=1;i=4"],
            "it goes on with its own; the other session and the oven are not its to close"
        );
        assert_eq!(ids(&press, None), ["ns=1;i=4", "ns=1;i=1"], "its own, with which it can't go on");
        assert_eq!(ids(&of("press", 0, 1), Some(&kept(1))), ["ns=1;i=4", "ns=1;i=2"], "it has one session now");
        press.on(url, Some(&kept(1)))[0].forget();
        press.forget(url);
        assert_eq!(ids(&press, None), Vec::<String>::new());
        assert_eq!(ids(&of("oven", 0, 1), Some(&kept(3))), Vec::<String>::new());
    }
}
