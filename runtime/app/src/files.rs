//! The factory's files, as a command line names them.

use clap::Args;
use std::path::PathBuf;

/// The factory's files.
#[derive(Args, Clone)]
pub struct Files {
    /// The factory's YAML: a file, several, or a folder.
    #[arg(short, long = "config", required_unless_present = "named", value_name = "FILE")]
    config: Vec<PathBuf>,
    /// The same, without `-c`.
    #[arg(value_name = "FILE", conflicts_with = "config")]
    named: Vec<PathBuf>,
}

impl Files {
    pub fn paths(self) -> Vec<PathBuf> {
        if self.config.is_empty() { self.named } else { self.config }
    }
}
