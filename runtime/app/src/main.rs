//! `millrace`: one service per factory, declared in YAML.
//!
//! - [`catalog`]: the connectors of this build; the only place that names them.
//! - [`run`], [`check`], [`tap`], [`dead`], [`logs`], [`browse`], [`broker`], [`pki`], [`schema`], [`simulate`]: a command or two each. [`reference`]: what the documentation is
//!   generated from.
//! - [`demo`]: the whole product in one command.
//! - [`registry`]: the schema registry a factory names. [`service`]: what a factory needs in this process, started and stopped in order.
//! - [`voice`]: how the program speaks: log lines for people or machines.

mod broker;
mod browse;
mod catalog;
mod check;
mod dead;
mod demo;
mod logs;
mod pki;
mod reference;
mod registry;
mod run;
mod schema;
mod service;
mod simulate;
mod tap;
mod voice;

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// For librdkafka, too, which makes each message on one thread and drops it on another: the C library's allocator takes twice the time there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Carries a factory's data into Kafka: once acknowledged, never lost.
#[derive(Parser)]
#[command(name = "millrace", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// The factory's files.
#[derive(Args, Clone)]
struct Files {
    /// The factory's YAML: a file, several, or a folder.
    #[arg(short, long = "config", required = true, value_name = "FILE")]
    config: Vec<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Shows everything at once: a simulated plant, the runtime, a Kafka broker, and a screen that shows that nothing is lost.
    Demo(demo::Options),
    /// Runs the factory until it is told to stop (SIGTERM, Ctrl-C).
    Run {
        #[command(flatten)]
        files: Files,
    },
    /// Checks the factory's files without any I/O beyond reading them; exit code 1 if anything is wrong.
    Check {
        #[command(flatten)]
        files: Files,
        /// Prints every problem as JSON.
        #[arg(long)]
        json: bool,
        /// Prints what templates, includes and CSV files made.
        #[arg(long)]
        expanded: bool,
    },
    /// Says what would be done: connections, subscriptions, topics, and what each source guarantees.
    Plan {
        #[command(flatten)]
        files: Files,
        #[arg(long)]
        json: bool,
    },
    /// Looks at a device or broker and prints a tree that can be pasted as YAML.
    Browse(browse::Options),
    /// Looks at a device and says what it says of itself: limits, profiles, security. At most two connections.
    Probe(browse::ProbeOptions),
    /// Shows live records: of a source, of tags (`*` matches), or of a Kafka topic.
    Tap(tap::Options),
    /// Runs one simulated device or broker alone, with faults, to test a factory's YAML against.
    #[command(subcommand)]
    Simulate(simulate::Command),
    /// Lists, shows and replays dead letters.
    #[command(subcommand)]
    Dead(dead::Command),
    /// Runs the embedded Kafka broker alone, until it is told to stop (SIGTERM, Ctrl-C).
    Broker(broker::Options),
    /// Looks at the logs on disk, repairs and moves them.
    #[command(subcommand)]
    Log(logs::Command),
    /// Lists the topics' schemas, asks the registry whether it takes them, registers them, says what a change breaks.
    #[command(subcommand)]
    Schema(schema::Command),
    /// Looks after certificates: our own, and those of OPC UA servers.
    #[command(subcommand)]
    Pki(pki::Command),
    /// Prints the configuration's reference (Markdown) or its JSON Schema, generated from the types that parse it.
    #[command(subcommand)]
    Config(reference::Command),
}

fn main() -> ExitCode {
    // Two providers end up in the tree; the first thing is to say which.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Demo(options) => demo::demo(options),
        Command::Run { files } => run::run(&files.config),
        Command::Check { files, json, expanded } => check::check(&files.config, json, expanded),
        Command::Plan { files, json } => check::plan(&files.config, json),
        Command::Browse(options) => browse::browse(options),
        Command::Probe(options) => browse::probe(options),
        Command::Tap(options) => tap::tap(&options),
        Command::Simulate(command) => simulate::simulate(command),
        Command::Dead(command) => dead::dead(command),
        Command::Broker(options) => broker::broker(options),
        Command::Log(command) => logs::log(command),
        Command::Schema(command) => schema::schema(command),
        Command::Pki(command) => pki::pki(command),
        Command::Config(command) => reference::print(&command),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("millrace: {error:#}");
            ExitCode::FAILURE
        }
    }
}
