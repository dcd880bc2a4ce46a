//! How the program speaks. WARN: something is wrong, nothing is lost. ERROR: something is lost, or a human is needed.

use crate::messages::Keep;
use millrace_config::factory::{Level, MessageFormat, Messages};
use std::fs::File;
use std::path::Path;
use std::sync::Mutex;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts the log lines, on stderr: text for people, JSON for machines. `RUST_LOG` overrides the level.
///
/// Whoever reads them may end before the service does: then they are lost, and nothing else (the library's own word on it would be a panic).
pub fn start(messages: &Messages) {
    let builder = tracing_subscriber::fmt().with_env_filter(filter(messages)).with_writer(std::io::stderr).log_internal_errors(false);
    match messages.format {
        MessageFormat::Json => builder.json().flatten_event(true).finish().with(Keep).init(),
        MessageFormat::Text => {
            let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            builder.with_ansi(is_terminal).with_target(false).finish().with(Keep).init();
        }
    }
}

/// Starts the log lines in a file, where the terminal is used otherwise.
pub fn to_file(messages: &Messages, path: &Path) -> std::io::Result<()> {
    let file = File::options().create(true).append(true).open(path)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter(messages)).with_writer(Mutex::new(file)).log_internal_errors(false);
    match messages.format {
        MessageFormat::Json => builder.json().flatten_event(true).init(),
        MessageFormat::Text => builder.with_ansi(false).with_target(false).init(),
    }
    Ok(())
}

fn filter(messages: &Messages) -> EnvFilter {
    let level = match messages.level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    };
    // The OPC UA library calls errors what it then returns, and what an unsecured connection never had: its own certificate. Delta's kernel does so, too.
    let silence = match messages.level {
        Level::Debug | Level::Trace => "",
        _ => ",opcua_core=off,opcua_crypto=off,opcua_server=off,delta_kernel=off,delta_kernel_default_engine=off",
    };
    EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(format!("{level}{silence}")))
}
