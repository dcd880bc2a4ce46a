//! `millrace config`: the reference and the JSON Schema of the YAML, from the types that parse it.

use crate::catalog;
use anyhow::Result;
use millrace_config::schema::{Catalog, SchemaOf};
use millrace_contract::Role;
use std::process::ExitCode;

#[derive(clap::Subcommand)]
pub enum Command {
    /// The reference, in Markdown: every key, its type, its default, what it means.
    Reference,
    /// The JSON Schema, for editors (`# yaml-language-server: $schema=...`).
    Schema,
}

pub fn print(command: &Command) -> Result<ExitCode> {
    let of = |role| -> Vec<(&str, SchemaOf)> { catalog::of(role).map(|e| (e.type_name, e.schema)).collect() };
    let (sources, mut sinks) = (of(Role::Source), of(Role::Sink));
    sinks.push((millrace_config::factory::COMMANDS, |g| g.subschema_for::<millrace_engine::commands::CommandConfig>()));
    let catalog = Catalog { sources: &sources, sinks: &sinks, tag_options: |g| g.subschema_for::<millrace_contract::TagOptions>() };
    match command {
        Command::Reference => print!("{}", millrace_config::schema::reference(&catalog)),
        Command::Schema => println!("{}", serde_json::to_string_pretty(&millrace_config::schema::schema(&catalog))?),
    }
    Ok(ExitCode::SUCCESS)
}
