//! Configurations that ran, kept below the data directory.
//!
//! ```text
//! data_dir/configs/000012/about.json     when it was taken, what changed, and which of the files below lies where
//!                         running.yaml   as `check --expanded` prints it: secrets are references
//!                         file-0 ..      the factory's files and tables, byte by byte
//! ```
//!
//! A file that holds a secret is none of the factory's files. Schema files and certificates are not kept.

use crate::check;
use anyhow::{Context, Result};
use millrace_config::{Disk, Factory, Load, Problems};
use millrace_schemas::Micros;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, io};

/// Below the data directory.
pub const FOLDER: &str = "configs";

const ABOUT: &str = "about.json";

pub const RUNNING: &str = "running.yaml";

/// So many are kept.
const KEPT: usize = 50;

/// One configuration that ran.
#[derive(Serialize, Deserialize)]
pub struct About {
    pub number: u64,
    /// Microseconds since 1970.
    pub taken: i64,
    pub release: String,
    pub changes: Vec<String>,
    pub files: Vec<PathBuf>,
}

/// The disk, remembering what was read: exactly that is kept.
#[derive(Clone, Debug, Default)]
pub struct Remembering(Arc<Mutex<BTreeMap<PathBuf, Vec<u8>>>>);

impl millrace_config::Files for Remembering {
    fn read(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        let bytes = millrace_config::Files::read(&Disk, path, limit)?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), bytes.clone());
        Ok(bytes)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<(String, bool)>> {
        millrace_config::Files::list(&Disk, folder)
    }
}

/// The files that make a configuration, as they were read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReadFiles(Vec<(PathBuf, Vec<u8>)>);

impl ReadFiles {
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(|(path, _)| path.as_path())
    }
}

/// Loads and compiles as [`check::load`] does for `run`, and says which files that were.
pub fn load(paths: &[PathBuf], problems: &mut Problems) -> (Option<Factory>, Option<millrace_engine::compile::CompiledFactory>, ReadFiles) {
    let remembering = Remembering::default();
    let how = Load { files: Arc::new(remembering.clone()), ..Load::to_run() };
    let (factory, works) = check::load(paths, &how, problems);
    let mut read = std::mem::take(&mut *remembering.0.lock().unwrap_or_else(PoisonError::into_inner));
    // Wherever the next command is typed.
    let absolute = |(path, bytes): (PathBuf, Vec<u8>)| (std::path::absolute(&path).unwrap_or(path), bytes);
    let files = problems.files().filter_map(|name| read.remove_entry(Path::new(name)).map(absolute));
    let files = ReadFiles(files.collect());
    (factory, works, files)
}

/// Keeps what runs now, if it is not the last one that was kept.
pub fn keep(factory: &Factory, files: &ReadFiles, changes: &[String]) {
    if let Err(error) = try_keep(factory, files, changes) {
        tracing::warn!("cannot keep this configuration in {}: {error:#}", factory.data_dir.join(FOLDER).display());
    }
}

fn try_keep(factory: &Factory, files: &ReadFiles, changes: &[String]) -> Result<()> {
    let folder = factory.data_dir.join(FOLDER);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    let known = all(&folder)?;
    if let Some(last) = known.last()
        && last.files.len() == files.0.len()
        && last.files.iter().enumerate().all(|(at, path)| {
            files.0[at].0 == *path
                && fs::read(of(&folder, last.number).join(format!("file-{at}"))).is_ok_and(|bytes| bytes == files.0[at].1)
        })
    {
        return Ok(());
    }
    let number = known.last().map_or(1, |last| last.number + 1);
    let unfinished = folder.join("unfinished");
    let _ = fs::remove_dir_all(&unfinished);
    fs::DirBuilder::new().mode(0o700).create(&unfinished)?;
    let about = About {
        number,
        taken: Micros::now().0,
        release: crate::release::VERSION.to_owned(),
        changes: changes.to_vec(),
        files: files.0.iter().map(|(path, _)| path.clone()).collect(),
    };
    write(&unfinished.join(ABOUT), &serde_json::to_vec_pretty(&about)?)?;
    write(&unfinished.join(RUNNING), millrace_config::expanded(factory).as_bytes())?;
    for (at, (_, bytes)) in files.0.iter().enumerate() {
        write(&unfinished.join(format!("file-{at}")), bytes)?;
    }
    fs::rename(&unfinished, of(&folder, number))?;
    let surplus = (known.len() + 1).saturating_sub(KEPT);
    for old in known.iter().take(surplus) {
        fs::remove_dir_all(of(&folder, old.number))?;
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    io::Write::write_all(&mut file, bytes)?;
    file.sync_all()
}

pub fn of(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:06}"))
}

/// What is kept, the oldest first.
pub fn all(folder: &Path) -> Result<Vec<About>> {
    let names = match fs::read_dir(folder) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", folder.display())),
    };
    let mut found = Vec::new();
    for name in names {
        let path = name?.path();
        // A copy that a crash left unfinished is written anew.
        let Ok(bytes) = fs::read(path.join(ABOUT)) else { continue };
        found.push(serde_json::from_slice::<About>(&bytes).with_context(|| format!("{} is damaged", path.display()))?);
    }
    found.sort_by_key(|about| about.number);
    Ok(found)
}
