//! Tests of the house itself: floors, layout, words, licences, corpora. They read the workspace, start nothing.

mod circles;
mod corpora;
mod floors;
mod licences;
mod links;
mod messages;
mod words;

use cargo_metadata::{Metadata, MetadataCommand, Package};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The top of the checkout.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies at the top")
}

fn metadata() -> &'static Metadata {
    static METADATA: OnceLock<Metadata> = OnceLock::new();
    METADATA.get_or_init(|| {
        MetadataCommand::new()
            .manifest_path(root().join("Cargo.toml"))
            .other_options(["--locked".into()])
            .exec()
            .expect("cargo metadata answers")
    })
}

fn members() -> Vec<&'static Package> {
    metadata().workspace_packages()
}

/// Every file git knows or would take, relative to the top.
fn files() -> &'static [PathBuf] {
    static FILES: OnceLock<Vec<PathBuf>> = OnceLock::new();
    FILES.get_or_init(|| {
        let listed =
            Command::new("git").args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(root()).output();
        let listed = listed.expect("git lists the files");
        assert!(listed.status.success(), "git: {}", String::from_utf8_lossy(&listed.stderr));
        let names = String::from_utf8(listed.stdout).expect("names of files are UTF-8");
        names.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).filter(|name| root().join(name).is_file()).collect()
    })
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("cannot read {}: {error}", file.display()))
}
