//! Samples out of a table's rows by the names of their columns.

use super::extracted::{Extracted, State};
use super::rules::Rules;
use super::status::StatusNotation;
use crate::time::{Clock, cut};
use millrace_config::Reason;
use millrace_schemas::Batch;

/// What is to be found in each row of one table, by the names of its columns.
#[derive(Clone, Debug)]
pub struct RowExtraction {
    samples: Box<[(usize, Rules)]>,
    time: Option<(Box<[usize]>, Box<str>, Clock)>,
    status: Option<(usize, StatusNotation)>,
}

impl RowExtraction {
    /// Finds the columns in a table's header. The time may stand in several columns, read as one text with a space between them.
    ///
    /// Errors: a column that isn't there, with those that are.
    pub fn new<'a>(
        header: &[&str],
        samples: impl IntoIterator<Item = (&'a str, Rules)>,
        time: Option<(&[&str], Clock)>,
        status: Option<(&str, StatusNotation)>,
    ) -> Result<Self, Reason> {
        let column = |name: &str| column(header, name);
        let time = time.map(|(names, clock)| {
            let columns = names.iter().map(|name| column(name)).collect::<Result<_, _>>()?;
            Ok::<_, String>((columns, names.join("` and `").into(), clock))
        });
        Ok(Self {
            samples: samples.into_iter().map(|(name, rules)| Ok((column(name)?, rules))).collect::<Result<_, Reason>>()?,
            time: time.transpose()?,
            status: status.map(|(name, notation)| Ok::<_, String>((column(name)?, notation))).transpose()?,
        })
    }

    /// Reads one row; a cell that the row lacks is missing, an empty one is null.
    ///
    /// Errors: the row's time is missing or not readable: it is to be rejected, with this reason.
    pub fn read<'c>(&self, row: impl Fn(usize) -> Option<&'c str>, batch: &mut Batch, into: &mut Extracted) -> Result<(), Reason> {
        into.begin(self.samples.len());
        if let Some((columns, name, clock)) = &self.time {
            let cell = |column: &usize| row(*column).map(str::trim).filter(|cell| !cell.is_empty());
            let read = match &**columns {
                [column] => cell(column).map(|text| clock.text(text)),
                columns => columns.iter().map(cell).collect::<Option<Vec<_>>>().map(|cells| clock.text(&cells.join(" "))),
            };
            match read {
                Some(read) => into.time = Some(read.map_err(|error| format!("the time in column `{name}` cannot be read: {error}"))?),
                None if clock.missing_is_read => {}
                None => {
                    return Err(format!(
                        "the time is missing: column `{name}` is empty; `time: {{missing: read}}` takes the time of reading"
                    )
                    .into());
                }
            }
        }
        if let Some((column, notation)) = &self.status {
            into.set_status(notation.read(row(*column).unwrap_or("")));
        }
        for ((column, rules), slot) in self.samples.iter().zip(&mut into.slots) {
            if let Some(text) = row(*column) {
                slot.state = State::Value(rules.cell(text, batch));
            }
        }
        Ok(())
    }
}

/// Finds a column by its name. Errors: it isn't there; with those that are.
pub fn column(header: &[&str], name: &str) -> Result<usize, Reason> {
    header.iter().position(|column| column.trim() == name).ok_or_else(|| format!("no column `{name}`; there are {}", list(header)).into())
}

/// The names of columns, for a message.
pub fn list(header: &[&str]) -> String {
    let names: Vec<_> = header.iter().take(20).map(|name| cut(name.trim())).collect();
    let more = if header.len() > names.len() { ", .." } else { "" };
    format!("{}{more}", names.join(", "))
}
