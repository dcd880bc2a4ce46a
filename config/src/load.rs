//! From paths on the command line to a factory.

use crate::factory::Factory;
use crate::problem::Problems;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// How to load.
#[derive(Clone, Debug)]
pub struct Load {
    /// Whether `${file:..}` is read; `check` and `plan` read no secrets and verify the syntax only.
    pub read_secrets: bool,
    /// The environment: `${env:..}` and `MILLRACE_*`.
    pub env: BTreeMap<String, String>,
}

impl Load {
    /// For `run`: with this process's environment, secrets read.
    pub fn to_run() -> Self {
        Self {
            read_secrets: true,
            env: std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect(),
        }
    }

    /// For `check` and `plan`: no secret is read.
    pub fn to_check() -> Self {
        Self { read_secrets: false, ..Self::to_run() }
    }
}

/// Loads one factory from files and folders. Every problem found is in `problems`; where they are not fatal, the factory is there too, so that the
/// connectors' own problems can be found in the same go.
pub fn load(_paths: &[PathBuf], _how: &Load, _problems: &mut Problems) -> Option<Factory> {
    todo!()
}
