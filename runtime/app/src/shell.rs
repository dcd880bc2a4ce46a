//! `millrace shell`: completions and manual pages, made of the command line itself, for packages and for a person.

use crate::say::say_part;
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Prints the completions of a shell: `millrace shell completions bash > /etc/bash_completion.d/millrace`.
    Completions { shell: clap_complete::Shell },
    /// Writes the manual pages, one for each command, into a folder.
    Man {
        /// The folder to write to.
        to: PathBuf,
    },
}

/// `line`: the whole command line.
pub fn shell(command: Command, line: &mut clap::Command) -> Result<ExitCode> {
    match command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, line, "millrace", &mut script);
            say_part!("{}", String::from_utf8_lossy(&script));
        }
        Command::Man { to } => {
            std::fs::create_dir_all(&to).with_context(|| format!("cannot make {}", to.display()))?;
            clap_mangen::generate_to(line.clone(), &to).with_context(|| format!("cannot write to {}", to.display()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
