//! `millrace config`: the reference and the JSON Schema of the YAML, from the types that parse it; what ran, in `history`.

use crate::say::{self, say, say_part, tell};
use crate::{catalog, history};
use anyhow::{Context, Result, anyhow, bail};
use millrace_config::schema::{Catalog, SchemaOf};
use millrace_contract::Role;
use std::process::ExitCode;

#[derive(clap::Subcommand)]
pub enum Command {
    /// The reference, in Markdown: every key, its type, its default, what it means.
    Reference,
    /// The JSON Schema, for editors (`# yaml-language-server: $schema=...`).
    Schema,
    /// Lists the configurations that ran, the newest first.
    History(history::HistoryOptions),
    /// Shows what differs between two that ran, as `check --expanded` prints them.
    Diff(history::DiffOptions),
    /// Writes the files as they were, and lets the running service take them. What it writes over is kept beside.
    Rollback(history::RollbackOptions),
    /// Reads a password from standard input and prints the hash that goes under `http.users`.
    Hash,
}

/// The hash of the first line of standard input.
fn hash() -> Result<ExitCode> {
    use argon2::PasswordHasher;
    use argon2::password_hash::SaltString;
    if std::io::IsTerminal::is_terminal(&std::io::stdin()) {
        tell!("the password (it is shown as it is typed; `pass show millrace | millrace config hash` does not show it):");
    }
    let mut password = String::new();
    std::io::stdin().read_line(&mut password).context("cannot read standard input")?;
    let password = password.trim_end_matches(['\r', '\n']);
    if password.chars().count() < SHORTEST_PASSWORD {
        bail!("a password has at least {SHORTEST_PASSWORD} characters");
    }
    let salt: [u8; 16] = millrace_console::logins::chance();
    let salt = SaltString::encode_b64(&salt).map_err(|error| anyhow!("cannot hash it: {error}"))?;
    let hash = argon2::Argon2::default().hash_password(password.as_bytes(), &salt).map_err(|error| anyhow!("cannot hash it: {error}"))?;
    say!("{hash}");
    Ok(ExitCode::SUCCESS)
}

const SHORTEST_PASSWORD: usize = 8;

pub fn config(command: Command) -> Result<ExitCode> {
    match command {
        Command::History(options) => history::history(options),
        Command::Diff(options) => history::diff(&options),
        Command::Rollback(options) => history::rollback(&options),
        Command::Hash => hash(),
        Command::Reference => print(false),
        Command::Schema => print(true),
    }
}

/// The JSON Schema of the file.
pub fn schema() -> serde_json::Value {
    with_catalog(millrace_config::schema::schema)
}

fn with_catalog<T>(make: impl FnOnce(&Catalog) -> T) -> T {
    let of = |role| -> Vec<(&str, SchemaOf)> { catalog::of(role).map(|e| (e.type_name, e.schema)).collect() };
    let (sources, mut sinks) = (of(Role::Source), of(Role::Sink));
    sinks.push((millrace_config::factory::COMMANDS, |g| g.subschema_for::<millrace_engine::commands::CommandConfig>()));
    let catalog = Catalog { sources: &sources, sinks: &sinks, tag_options: |g| g.subschema_for::<millrace_contract::TagOptions>() };
    make(&catalog)
}

fn print(as_schema: bool) -> Result<ExitCode> {
    match as_schema {
        false => say_part!("{}", with_catalog(millrace_config::schema::reference)),
        true => say::json(&schema()),
    }
    Ok(ExitCode::SUCCESS)
}
