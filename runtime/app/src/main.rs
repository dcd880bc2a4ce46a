//! `millrace`: one service per factory, declared in YAML.
//!
//! - [`catalog`]: the connectors of this build; the only place that names them.
//! - [`run`], [`check`], [`tap`], [`dead`], [`logs`], [`browse`], [`broker`], [`pki`], [`schema`], [`simulate`]: a command or two each. [`reference`]: what the documentation is
//!   generated from.
//! - [`reload`]: changed files, taken while it runs. [`history`]: which ones ran, [`kept`]: where they are.
//! - [`ask`]: what a running service answers. [`support`]: what is around it, and what to send to somebody who helps.
//! - [`query`], [`lake`]: history out of a lake's tables, and their upkeep.
//! - [`replicate`]: a copy in another cluster, looked at from outside.
//! - [`import`]: tables of tags out of what other programs write, and their history.
//! - [`demo`]: the whole product in one command.
//! - [`registry`]: the schema registry a factory names. [`service`]: what a factory needs in this process, started and stopped in order.
//! - [`control`]: what the console may ask of this program.
//! - [`files`]: the factory's files, as a command line names them. [`release`]: which release this is.
//! - [`notify`]: what systemd is told. [`shell`]: completions and manual pages.
//! - [`logging`]: how the program speaks: log lines for people or machines. [`messages`]: the last of them. [`say`]: what a command prints.

mod alarm;
mod ask;
mod broker;
mod browse;
mod catalog;
mod check;
mod connect;
mod control;
mod dead;
#[cfg(feature = "demo")]
mod demo;
mod doctor;
mod face;
mod files;
mod history;
mod import;
mod in_place;
mod kept;
mod lake;
mod logging;
mod logs;
mod messages;
mod notify;
mod pki;
mod query;
mod reference;
mod registry;
mod release;
mod reload;
mod replay;
mod replicate;
mod run;
mod say;
mod schema;
mod service;
mod shell;
#[cfg(feature = "demo")]
mod simulate;
mod sql;
mod support;
mod tap;

use crate::files::Files;
use crate::release::VERSION;
use crate::say::tell;
use clap::{CommandFactory, Parser, Subcommand};
use std::process::ExitCode;

/// For librdkafka, too, which makes each message on one thread and drops it on another: the C library's allocator takes twice the time there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Carries a factory's data into Kafka: once acknowledged, never lost.
#[derive(Parser)]
#[command(name = "millrace", version = VERSION, max_term_width = 110, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes:
  0    done
  1    not done, or something is wrong: standard error says what (`check`: problems; `schema check`: refused;
       `log verify`: damage; `lake check`: a file is missing; `replicate verify`: a range differs; `demo`: a value is missing; `status`: something is Blocked)
  2    the command line is not understood
  130  `run` was told twice to stop; what is in the log goes next time";

#[derive(Subcommand)]
enum Command {
    #[cfg(feature = "demo")]
    /// Shows everything at once: a simulated plant, the runtime, a Kafka broker, and a screen that shows that nothing is lost.
    Demo(demo::Options),
    /// Runs the factory until it is told to stop (SIGTERM, Ctrl-C).
    Run {
        #[command(flatten)]
        files: Files,
        /// Takes changed files by itself, as `reload` does: a mistake changes nothing and is told.
        #[arg(long)]
        watch: bool,
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
    /// Lets a running service take its changed files, as SIGHUP does: only what changed is started anew, a mistake changes nothing.
    Reload(reload::Options),
    /// Says how a running service is: what is wrong first, since when, and what to do. Exit code 1 if something is Blocked.
    Status(ask::StatusOptions),
    /// Lists tags of a running service with value, quality and age.
    Tags(ask::TagsOptions),
    /// Follows one tag from its address to Kafka and the sinks, and names the hop that is broken.
    Why(ask::WhyOptions),
    /// Says what did not arrive in Kafka, by source and reason.
    Lost(ask::LostOptions),
    /// Shows live rates.
    Top(ask::TopOptions),
    /// Looks at what is around a factory: directory, ports, names, Kafka, registry, certificates.
    Doctor(support::DoctorOptions),
    /// Writes configuration, status, losses and metrics of a running service into one file, for somebody who helps.
    Bundle(support::BundleOptions),
    /// Makes a table for `tags_from` out of tag lists and blocks: TIA Portal, STEP 7, KEPServerEX, Ignition. Sends a historian's exports into a topic.
    #[command(subcommand)]
    Import(import::Command),
    /// Shows live records: of a source, of tags (`*` matches), or of a Kafka topic.
    Tap(tap::Options),
    #[cfg(feature = "demo")]
    /// Runs one simulated device or broker alone, with faults, to test a factory's YAML against.
    #[command(subcommand)]
    Simulate(simulate::Command),
    /// Lists the alarms that stand, and tries whether alarms arrive.
    #[command(subcommand)]
    Alarm(alarm::Command),
    /// Lists, shows and replays dead letters.
    #[command(subcommand)]
    Dead(dead::Command),
    /// Runs the embedded Kafka broker alone, until it is told to stop (SIGTERM, Ctrl-C).
    Broker(broker::Options),
    /// Says what tags were: samples, the last value, averages, plots, out of the tables of a sink of type `lake`.
    Query(query::Options),
    /// Sends samples of a range once more, out of a topic or of the lake into a topic, with the origin `replay`.
    Replay(replay::Options),
    /// Says how far a sink of type `kafka` has copied, and whether both clusters have the same.
    #[command(subcommand)]
    Replicate(replicate::Command),
    /// Looks after the tables of a sink of type `lake`: checks, compacts, deletes what nobody needs.
    #[command(subcommand)]
    Lake(lake::Command),
    /// Looks at the logs on disk, repairs and moves them.
    #[command(subcommand)]
    Log(logs::Command),
    /// Lists the topics' schemas, asks the registry whether it takes them, registers them, says what a change breaks.
    #[command(subcommand)]
    Schema(schema::Command),
    /// Looks after certificates: our own, and those of OPC UA servers.
    #[command(subcommand)]
    Pki(pki::Command),
    /// Which configurations ran, what differs, and back to one of them; the reference and the JSON Schema, generated from the types that parse it.
    #[command(subcommand)]
    Config(reference::Command),
    /// Completions for a shell, and manual pages.
    #[command(subcommand)]
    Shell(shell::Command),
}

fn main() -> ExitCode {
    // Two providers end up in the tree; the first thing is to say which.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = Cli::parse();
    let outcome = match cli.command {
        #[cfg(feature = "demo")]
        Command::Demo(options) => demo::demo(options),
        Command::Run { files, watch } => run::run(&files.paths(), watch),
        Command::Check { files, json, expanded } => check::check(&files.paths(), json, expanded),
        Command::Plan { files, json } => check::plan(&files.paths(), json),
        Command::Browse(options) => browse::browse(options),
        Command::Probe(options) => browse::probe(options),
        Command::Reload(options) => reload::reload(options),
        Command::Status(options) => ask::status(&options),
        Command::Tags(options) => ask::tags(&options),
        Command::Why(options) => ask::why(&options),
        Command::Lost(options) => ask::lost(&options),
        Command::Top(options) => ask::top(&options),
        Command::Doctor(options) => support::doctor(&options),
        Command::Bundle(options) => support::bundle(&options),
        Command::Import(command) => import::import(command),
        Command::Tap(options) => tap::tap(&options),
        #[cfg(feature = "demo")]
        Command::Simulate(command) => simulate::simulate(command),
        Command::Alarm(command) => alarm::alarm(command),
        Command::Dead(command) => dead::dead(command),
        Command::Broker(options) => broker::broker(options),
        Command::Query(options) => match &options.sql {
            Some(sql) => sql::query(sql, &options),
            None => query::query(&options),
        },
        Command::Replay(options) => replay::replay(&options),
        Command::Replicate(command) => replicate::replicate(command),
        Command::Lake(command) => lake::lake(command),
        Command::Log(command) => logs::log(command),
        Command::Schema(command) => schema::schema(command),
        Command::Pki(command) => pki::pki(command),
        Command::Config(command) => reference::config(command),
        Command::Shell(command) => shell::shell(command, &mut Cli::command()),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            tell!("millrace: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    //! What holds for every command, as clap knows them: nobody keeps a list.

    use super::*;
    use clap::CommandFactory;
    use millrace_config::Period;
    use std::any::TypeId;

    /// Every command that has none below it, by its words.
    fn commands() -> Vec<(String, clap::Command)> {
        fn walk(path: &str, command: &clap::Command, found: &mut Vec<(String, clap::Command)>) {
            for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
                let path = format!("{path} {}", below.get_name());
                walk(path.trim(), below, found);
            }
            if !command.has_subcommands() {
                found.push((path.to_owned(), command.clone()));
            }
        }
        let mut cli = Cli::command();
        cli.build();
        let mut found = Vec::new();
        walk("", &cli, &mut found);
        assert!(found.len() > 40, "{found:?}");
        found
    }

    #[test]
    fn every_command_that_answers_answers_in_json_too() {
        // What serves has no answer; what another program takes as it is needs no second form.
        let without = |name: &str| {
            name.starts_with("simulate ")
                || ["run", "broker", "config reference", "config schema", "config hash", "shell completions", "shell man"].contains(&name)
        };
        for (name, command) in commands() {
            let has = command.get_arguments().any(|arg| arg.get_long() == Some("json"));
            assert_eq!(has, !without(&name), "millrace {name}: --json");
        }
    }

    #[cfg(feature = "demo")]
    #[test]
    fn what_the_demo_says_to_type_next_is_understood() {
        for line in demo::NEXT {
            let words = line.split_whitespace().take_while(|word| *word != ">");
            let parsed = Cli::try_parse_from(std::iter::once("millrace").chain(words));
            assert!(parsed.is_ok(), "{line}: {}", parsed.err().map(|error| error.to_string()).unwrap_or_default());
        }
    }

    #[test]
    fn every_duration_is_a_number_with_its_unit() {
        let numbers = [TypeId::of::<u16>(), TypeId::of::<u32>(), TypeId::of::<u64>(), TypeId::of::<i64>(), TypeId::of::<f64>()];
        let mut periods = 0;
        for (name, command) in commands() {
            for arg in command.get_arguments() {
                let id = arg.get_id().as_str();
                let kind = arg.get_value_parser().type_id();
                let is_period = kind == TypeId::of::<Period>();
                let of_time = arg.get_value_names().is_some_and(|names| names.iter().any(|name| name.as_str() == "PERIOD"));
                assert_eq!(is_period, of_time, "millrace {name} {id}: a duration is a Period, and its value is called PERIOD");
                periods += usize::from(is_period);
                let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                let says = format!("{help} {id}").to_lowercase().replace("per second", "").replace("every second", "");
                let is_bare = numbers.iter().any(|number| kind == *number);
                let units = ["second", "minute", "hour", "days", "milli", "_ms", "_secs"];
                assert!(
                    !is_bare || !units.iter().any(|unit| says.contains(unit)),
                    "millrace {name} {id}: a number without its unit: {says}"
                );
            }
        }
        assert!(periods > 10, "{periods}");
        assert_eq!("30s".parse::<Period>().map(|period| period.0.as_secs()), Ok(30));
    }
}
