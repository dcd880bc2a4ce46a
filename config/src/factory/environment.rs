//! What a factory is loaded from beside its own text: the environment, and where files come from.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How to load.
#[derive(Clone, Debug)]
pub struct Load {
    /// Whether `${file:..}` is read; `check` and `plan` read no secrets and verify the syntax only.
    pub read_secrets: bool,
    /// The environment: `${env:..}` and `MILLRACE_*`.
    pub env: BTreeMap<String, String>,
    /// Where files come from.
    pub files: Arc<dyn Files>,
}

impl Load {
    /// For `run`: with this process's environment, secrets read.
    pub fn to_run() -> Self {
        let env = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect();
        Self { read_secrets: true, env, files: Arc::new(Disk) }
    }

    /// For `check` and `plan`: no secret is read.
    pub fn to_check() -> Self {
        Self { read_secrets: false, ..Self::to_run() }
    }
}

/// Where files come from: the disk, or for tests and fuzzing a map.
pub trait Files: fmt::Debug + Send + Sync {
    /// Reads a file; an error if it is longer than `limit`.
    fn read(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>>;
    /// Names in a folder, and whether each is a folder.
    fn list(&self, folder: &Path) -> io::Result<Vec<(String, bool)>>;
}

/// The disk.
#[derive(Clone, Copy, Debug)]
pub struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        // One that nobody writes to would be waited for without end; that of a shell's `<(..)` has its writer.
        #[cfg(unix)]
        if std::os::unix::fs::FileTypeExt::is_fifo(&std::fs::metadata(path)?.file_type()) && !path.starts_with("/dev") {
            return Err(io::Error::other("it is a named pipe, not a file"));
        }
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(limit as u64 + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<(String, bool)>> {
        let mut names = Vec::new();
        // The folder of `factory.yaml` is the current one.
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string() {
                names.push((name, entry.path().is_dir()));
            }
        }
        Ok(names)
    }
}

/// Nothing but what is given: for tests and fuzzing.
#[derive(Clone, Debug, Default)]
pub struct Given(pub std::collections::BTreeMap<PathBuf, Vec<u8>>);

impl Files for Given {
    fn read(&self, path: &Path, _: usize) -> io::Result<Vec<u8>> {
        self.0.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<(String, bool)>> {
        let below: BTreeSet<_> = self
            .0
            .keys()
            .filter_map(|path| path.strip_prefix(folder).ok())
            .filter_map(|path| Some((path.components().next()?.as_os_str().to_str()?.to_owned(), path.components().count() > 1)))
            .collect();
        if below.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(below.into_iter().collect()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_a_bare_name_is_the_current_one() {
        let names = |folder: &str| Disk.list(Path::new(folder)).expect("it can be listed").into_iter().collect::<BTreeSet<_>>();
        assert!(names("").contains(&("Cargo.toml".to_owned(), false)));
        assert_eq!(names(""), names("."));
    }
}
