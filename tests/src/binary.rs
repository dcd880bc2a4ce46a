//! The program that is tested.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The binary under test.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(binary) = std::env::var_os("MILLRACE_BIN") {
            return binary.into();
        }
        let exe = std::env::current_exe().expect("a process knows its own file");
        let target =
            exe.ancestors().find(|dir| dir.ends_with("deps")).and_then(Path::parent).expect("test binaries lie in target/PROFILE/deps");
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--quiet", "-p", "millrace"]).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        if target.ends_with("release") {
            cargo.arg("--release");
        }
        let built = cargo.status().expect("cargo starts");
        assert!(built.success(), "the millrace binary doesn't build");
        target.join("millrace")
    })
}
