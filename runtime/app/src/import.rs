//! `millrace import FORMAT FILE`: what the crate `millrace_import` makes of a file, written as a table for `tags_from`.
//!
//! - [`history`]: exports of historians, into a topic.

mod history;
mod watched;

use crate::say::{self, say_part, tell};
use anyhow::{Context, Result, bail};
use millrace_import::{Imported, block, ignition, kepware, sheet, step7, text, tia};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Tag tables of TIA Portal: XLSX, SDF, Openness XML; and standard blocks as Openness XML.
    Tia(Options),
    /// Symbol tables of STEP 7: SDF, ASC, SEQ.
    Step7(Options),
    /// The source text of a data block.
    Db(Options),
    /// CSV of KEPServerEX.
    Kepware(Options),
    /// JSON of Ignition.
    Ignition(Options),
    /// CSV exports of a historian (tag, time, value, status) into a topic, with the origin `backfill`. Begun anew after it broke off, it goes on.
    History(Box<history::Options>),
}

#[derive(clap::Args)]
pub struct Options {
    /// The file.
    file: PathBuf,
    /// Of a block whose text names it by a symbol: its number.
    #[arg(long, value_name = "N")]
    db: Option<u16>,
    /// The file's encoding, where it is not UTF-8, UTF-16 or windows-1252: windows-1250, gbk.
    #[arg(long, value_name = "NAME")]
    encoding: Option<String>,
    /// Further files with the types (UDT) that a block uses.
    #[arg(long = "types", value_name = "FILE")]
    types: Vec<PathBuf>,
    /// Modbus tags of Ignition count from zero (a setting of its device).
    #[arg(long)]
    zero_based: bool,
    /// Where the table is written; left out: to the terminal.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Says what was made and left out as JSON.
    #[arg(long)]
    json: bool,
}

/// What wrote a file.
#[derive(Clone, Copy)]
enum Format {
    Tia,
    Step7,
    Db,
    Kepware,
    Ignition,
}

/// The largest file that is read.
const FILE_BYTES_MOST: u64 = 256 << 20;

fn read(path: &PathBuf) -> Result<Vec<u8>> {
    let size = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
    if size > FILE_BYTES_MOST {
        bail!("{} has {size} bytes; at most {FILE_BYTES_MOST} are read", path.display());
    }
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

pub fn import(command: Command) -> Result<ExitCode> {
    let (format, options) = match command {
        Command::Tia(options) => (Format::Tia, options),
        Command::Step7(options) => (Format::Step7, options),
        Command::Db(options) => (Format::Db, options),
        Command::Kepware(options) => (Format::Kepware, options),
        Command::Ignition(options) => (Format::Ignition, options),
        Command::History(options) => return history::history(&options),
    };
    table(format, &options)
}

fn table(format: Format, options: &Options) -> Result<ExitCode> {
    let bytes = read(&options.file)?;
    let decode = |bytes: &[u8]| text::decode(bytes, options.encoding.as_deref());
    let imported = match format {
        Format::Tia if bytes.starts_with(b"PK") => tia::workbook(&sheet::read(&bytes).with_context(|| options.file.display().to_string())?),
        Format::Tia => tia::text(&decode(&bytes)?, options.db),
        Format::Step7 => step7::symbols(&decode(&bytes)?),
        Format::Db => {
            let types = options.types.iter().map(|path| Ok(decode(&read(path)?)?)).collect::<Result<Vec<_>>>()?;
            block::source(&decode(&bytes)?, &types, options.db)
        }
        Format::Kepware => kepware::table(&decode(&bytes)?),
        Format::Ignition => ignition::tags(&decode(&bytes)?, options.zero_based),
    };
    match &options.output {
        Some(path) => std::fs::write(path, imported.table()).with_context(|| format!("cannot write {}", path.display()))?,
        None if options.json => {}
        None => say_part!("{}", imported.table()),
    }
    if options.json {
        say::json(&imported.json());
    }
    tell_of(&imported);
    Ok(if imported.tags.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// To the other stream: the table may go into a pipe.
fn tell_of(imported: &Imported) {
    for skipped in &imported.skipped {
        tell!("{skipped}");
    }
    for note in &imported.notes {
        tell!("{note}");
    }
    let kind = imported.tags.first().map_or("", |tag| tag.protocol.name());
    tell!("{} {kind} tags, {} left out", imported.tags.len(), imported.skipped.len());
}
