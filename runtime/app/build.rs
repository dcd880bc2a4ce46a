//! Says which commit the program is built from, where the sources are a checkout; a tarball builds as well.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

fn main() {
    let commit = commit(Path::new("../../.git")).unwrap_or_default();
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let version = if commit.is_empty() { version } else { format!("{version} ({})", &commit[..commit.len().min(12)]) };
    println!("cargo::rustc-env=MILLRACE_VERSION={version}");
    println!("cargo::rerun-if-changed=build.rs");
}

/// The commit that is checked out.
fn commit(git: &Path) -> Option<String> {
    // In a work tree `.git` is a file that names the folder.
    let folder = match read_to_string(git) {
        Ok(text) => PathBuf::from(text.strip_prefix("gitdir:")?.trim()),
        Err(_) => git.to_owned(),
    };
    let head = read_to_string(folder.join("HEAD")).ok()?;
    println!("cargo::rerun-if-changed={}", folder.join("HEAD").display());
    let Some(branch) = head.strip_prefix("ref:").map(str::trim) else { return hash(&head) };
    let common = read_to_string(folder.join("commondir")).map_or(folder.clone(), |common| folder.join(common.trim()));
    let loose = common.join(branch);
    if let Ok(text) = read_to_string(&loose) {
        println!("cargo::rerun-if-changed={}", loose.display());
        return hash(&text);
    }
    let packed = read_to_string(common.join("packed-refs")).ok()?;
    hash(packed.lines().find(|line| line.ends_with(branch))?.split(' ').next()?)
}

fn hash(text: &str) -> Option<String> {
    let text = text.trim();
    (text.len() >= 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| text.to_owned())
}
