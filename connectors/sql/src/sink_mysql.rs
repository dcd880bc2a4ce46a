//! Rows into MariaDB and MySQL: by INSERTs of many rows, with the positions in Kafka moved in the same transaction.
//!
//! ```text
//! START TRANSACTION; UPDATE millrace_positions SET next = new WHERE id = .. AND next = as it was    (no row: fenced)
//!                    INSERT INTO table VALUES (..), (..) [ON DUPLICATE KEY UPDATE ..]               (refused: each half by itself, to the row)
//! COMMIT
//! ```

use crate::mysql::{failure, open};
use crate::sink_config::SinkSettings;
use crate::sink_rows::{Row, with_keys};
use crate::statement::Dialect;
use millrace_contract::{Failure, Offset, Refused};
use millrace_kit::documents::{Cell, Column, Day, Kind, Unit};
use millrace_kit::parts::Move;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Params, Value};
use std::collections::HashMap;

/// Placeholders of one statement; the protocol has 65,535.
const PLACEHOLDERS: usize = 20_000;
/// Bytes of one statement: below the server's smallest `max_allowed_packet`, which is 1 MiB.
const PIECE: usize = 768 << 10;

/// A connection, and what is known of the table.
pub struct Target {
    conn: Conn,
    address: String,
    table: Vec<String>,
    key: Vec<String>,
    types: HashMap<String, String>,
}

fn quoted(name: &str) -> String {
    Dialect::MySql.quote(name)
}

impl Target {
    /// Connects, makes what is missing, and looks at the table.
    ///
    /// Errors: `Blocked`: the table has other columns than the rows, or this user may not; `Reconnect`: the database can't be reached.
    pub async fn open(settings: &SinkSettings, columns: &[Column], key: &[Column]) -> Result<Self, Failure> {
        let conn = open(&settings.database).await?;
        let address = settings.database.address();
        let table = settings.table.split('.').map(str::to_owned).collect();
        let mut this =
            Self { conn, address, table, key: key.iter().map(|column| column.name.to_string()).collect(), types: HashMap::new() };
        let lock = settings.timeout.as_secs().max(1);
        this.run(&format!(
            "SET SESSION time_zone = '+00:00', sql_mode = 'STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE', innodb_lock_wait_timeout = {lock}"
        ))
        .await?;
        let positions = this.positions_table();
        this.run(&format!(
            "CREATE TABLE IF NOT EXISTS {positions} (id varchar(500) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PRIMARY KEY, next bigint NOT NULL) ENGINE=InnoDB"
        ))
        .await?;
        this.look().await?;
        if this.types.is_empty() {
            this.make(columns, key).await?;
        }
        this.widen(columns).await?;
        Ok(this)
    }

    fn name(&self) -> String {
        Dialect::MySql.path(&self.table)
    }

    fn positions_table(&self) -> String {
        Dialect::MySql.positions_beside(&self.table)
    }

    async fn run(&mut self, sql: &str) -> Result<(), Failure> {
        let done = self.conn.query_drop(sql).await;
        done.map_err(|error| failure(&self.address, &error))
    }

    async fn make(&mut self, columns: &[Column], key: &[Column]) -> Result<(), Failure> {
        let is_key = |name: &str| key.iter().any(|column| *column.name == *name);
        let mut all: Vec<String> =
            columns.iter().map(|column| format!("{} {}", quoted(&column.name), type_of(column.kind, is_key(&column.name)))).collect();
        for column in key.iter().filter(|column| !columns.iter().any(|known| known.name == column.name)) {
            all.push(format!("{} {}", quoted(&column.name), type_of(column.kind, true)));
        }
        if !key.is_empty() {
            let names: Vec<String> = key.iter().map(|column| quoted(&column.name)).collect();
            all.push(format!("PRIMARY KEY ({})", names.join(", ")));
        } else if columns.iter().any(|column| &*column.name == "tag") {
            all.push("INDEX (tag(200), time)".into());
        }
        let name = self.name();
        self.run(&format!(
            "CREATE TABLE IF NOT EXISTS {name} ({}) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
            all.join(", ")
        ))
        .await?;
        tracing::info!(table = name, "made a table");
        self.look().await
    }

    async fn look(&mut self) -> Result<(), Failure> {
        let sql = "SELECT column_name, IF(column_comment = 'json', 'json', column_type) FROM information_schema.columns WHERE table_schema = coalesce(?, database()) AND table_name = ?";
        let schema = (self.table.len() > 1).then(|| self.table[0].clone());
        let name = self.table.last().cloned().unwrap_or_default();
        let rows: Result<Vec<(String, String)>, Error> = self.conn.exec(sql, (schema, name)).await;
        self.types = rows.map_err(|error| failure(&self.address, &error))?.into_iter().collect();
        Ok(())
    }

    /// The table's columns, by what can be written to them.
    pub fn columns(&self) -> Vec<Column> {
        self.types.iter().map(|(name, of)| Column::new(name, kind_of(of))).collect()
    }

    /// Adds columns that the table lacks. It ends a transaction: not in the middle of one.
    ///
    /// Errors: one is there with another type.
    pub async fn widen(&mut self, columns: &[Column]) -> Result<(), Failure> {
        let lacking: Vec<String> = columns
            .iter()
            .filter(|column| !self.types.contains_key(&*column.name))
            .map(|column| format!("ADD COLUMN {} {}", quoted(&column.name), type_of(column.kind, false)))
            .collect();
        let name = self.name();
        for column in columns {
            let Some(of) = self.types.get(&*column.name) else { continue };
            let there = kind_of(of);
            let is_so = there == column.kind
                || matches!(
                    (there, column.kind),
                    (Kind::Time(_), Kind::Time(_)) | (Kind::Text, Kind::Json) | (Kind::Decimal(..), Kind::Decimal(..))
                );
            if !is_so {
                return Err(Failure::Blocked(format!(
                    "column `{}` of table {name} is {of}, and what comes is {}; name another table",
                    column.name, column.kind
                )));
            }
        }
        if !lacking.is_empty() {
            match self.conn.query_drop(format!("ALTER TABLE {name} {}", lacking.join(", "))).await {
                Ok(()) => {}
                // Another runtime was quicker.
                Err(Error::Server(server)) if server.code == 1060 => {}
                Err(error) => return Err(failure(&self.address, &error)),
            }
            self.look().await?;
        }
        Ok(())
    }

    /// The next offsets that the database holds.
    pub async fn positions(&mut self, ids: &[String]) -> Result<Vec<Option<Offset>>, Failure> {
        let sql = format!("SELECT next FROM {} WHERE id = ?", self.positions_table());
        let mut held = Vec::with_capacity(ids.len());
        for id in ids {
            let next: Result<Option<Offset>, Error> = self.conn.exec_first(&sql, (id,)).await;
            held.push(next.map_err(|error| failure(&self.address, &error))?);
        }
        Ok(held)
    }

    /// Writes rows and moves positions, in one transaction. The rows that the table will never take are returned; then nothing was written, and the
    /// others are to be written without them.
    ///
    /// Errors: a position is not where it was; the database can't be reached, or is in the way.
    pub async fn write(&mut self, columns: &[Column], rows: &[Row<'_>], moves: &[Move]) -> Result<Vec<Refused>, Failure> {
        self.run("START TRANSACTION").await?;
        let table = self.positions_table();
        for one in moves {
            let done = match one.from {
                Some(from) => {
                    let sql = format!("UPDATE {table} SET next = ? WHERE id = ? AND next = ?");
                    self.conn.exec_drop(sql, (one.to, &one.id, from)).await
                }
                None => self.conn.exec_drop(format!("INSERT IGNORE INTO {table} (id, next) VALUES (?, ?)"), (&one.id, one.to)).await,
            };
            done.map_err(|error| failure(&self.address, &error))?;
            if self.conn.affected_rows() != 1 {
                return Err(Failure::Reconnect(format!(
                    "another writer moved the position of {}; what was read since is read again",
                    one.id
                )));
            }
        }
        let mut refused = Vec::new();
        let kept;
        let rows = match self.key.is_empty() {
            true => rows,
            false => {
                kept = with_keys(columns, rows, &self.key, &mut refused);
                &kept
            }
        };
        let per_statement = (PLACEHOLDERS / columns.len().max(1)).max(1);
        // An INSERT and a DELETE of one key keep their order.
        let tombstone = columns.iter().zip(0_u16..).find(|(column, _)| &*column.name == "kafka_tombstone").map(|(_, index)| index);
        let deletes = |row: &Row<'_>| !self.key.is_empty() && tombstone.and_then(|index| row.cell(index)) == Some(Cell::Bool(true));
        let groups: Vec<&[Row<'_>]> = rows.chunk_by(|a, b| deletes(a) == deletes(b)).collect();
        let kinds: Vec<bool> = groups.iter().map(|group| deletes(&group[0])).collect();
        for (group, is_delete) in groups.into_iter().zip(kinds) {
            if is_delete {
                self.delete(columns, group).await?;
            } else {
                self.bisect(columns, group, per_statement, &mut refused).await?;
            }
        }
        // Nothing counts before the dead letters of what was refused are safe.
        self.run(if refused.is_empty() { "COMMIT" } else { "ROLLBACK" }).await?;
        Ok(refused)
    }

    async fn delete(&mut self, columns: &[Column], rows: &[Row<'_>]) -> Result<(), Failure> {
        let kafka_key = columns.iter().zip(0_u16..).find(|(column, _)| &*column.name == "kafka_key").map_or(0, |(_, index)| index);
        let sql = format!("DELETE FROM {} WHERE {} = ?", self.name(), quoted(&self.key[0]));
        for row in rows {
            let Some(Cell::Text(span)) = row.cell(kafka_key) else { continue };
            let done = self.conn.exec_drop(&sql, (row.day.text(span),)).await;
            done.map_err(|error| failure(&self.address, &error))?;
        }
        Ok(())
    }

    async fn bisect(&mut self, columns: &[Column], rows: &[Row<'_>], most: usize, refused: &mut Vec<Refused>) -> Result<(), Failure> {
        let mut open: Vec<&[Row<'_>]> = rows.chunks(most).rev().collect();
        while let Some(rows) = open.pop() {
            if rows.len() > 1 && size(rows) > PIECE {
                let (first, second) = rows.split_at(rows.len() / 2);
                open.extend([second, first]);
                continue;
            }
            self.run("SAVEPOINT millrace").await?;
            match self.insert(columns, rows).await {
                Ok(()) => {}
                Err(error) if !is_of_a_row(&error) => return Err(failure(&self.address, &error)),
                Err(error) => {
                    self.run("ROLLBACK TO SAVEPOINT millrace").await?;
                    match rows {
                        [row] => refused.push(Refused { partition: row.partition.clone(), offset: row.offset, reason: error.to_string() }),
                        rows => {
                            let (first, second) = rows.split_at(rows.len() / 2);
                            open.extend([second, first]);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    async fn insert(&mut self, columns: &[Column], rows: &[Row<'_>]) -> Result<(), Error> {
        let names: Vec<String> = columns.iter().map(|column| quoted(&column.name)).collect();
        let one = format!("({})", vec!["?"; columns.len()].join(","));
        let mut sql = format!("INSERT INTO {} ({}) VALUES {}", self.name(), names.join(","), vec![one.as_str(); rows.len()].join(","));
        if !self.key.is_empty() {
            let set: Vec<String> = names.iter().map(|name| format!("{name}=VALUES({name})")).collect();
            sql.push_str(&format!(" ON DUPLICATE KEY UPDATE {}", set.join(",")));
        }
        let mut values = Vec::with_capacity(rows.len() * columns.len());
        for row in rows {
            for (index, column) in (0_u16..).zip(columns) {
                values.push(row.cell(index).map_or(Value::NULL, |cell| value(cell, column.kind, row.day)));
            }
        }
        self.conn.exec_drop(sql, Params::Positional(values)).await
    }
}

fn size(rows: &[Row<'_>]) -> usize {
    let text = |cell: &Cell| if let Cell::Text(span) = cell { span.len as usize } else { 16 };
    rows.iter().flat_map(|row| row.cells()).map(|(_, cell)| text(cell)).sum()
}

/// Whether the table refused a row for what it is: out of range, no such text, a constraint, a value it has already.
fn is_of_a_row(error: &Error) -> bool {
    const CODES: [u16; 12] = [1048, 1062, 1264, 1265, 1292, 1366, 1406, 1452, 3140, 4025, 1367, 1153];
    matches!(error, Error::Server(server) if CODES.contains(&server.code))
}

fn type_of(kind: Kind, is_key: bool) -> String {
    match kind {
        Kind::Bool => "tinyint(1)".into(),
        Kind::Long => "bigint".into(),
        Kind::Double => "double".into(),
        Kind::Decimal(precision, scale) => format!("decimal({precision},{scale})"),
        // TIMESTAMP ends in 2038.
        Kind::Time(_) => "datetime(6)".into(),
        Kind::Date => "date".into(),
        Kind::Text | Kind::Other if is_key => "varchar(255)".into(),
        Kind::Text | Kind::Other => "longtext".into(),
        // MariaDB forgets that it is no text.
        Kind::Json => "json COMMENT 'json'".into(),
    }
}

fn kind_of(of: &str) -> Kind {
    match of {
        "tinyint(1)" => Kind::Bool,
        "double" => Kind::Double,
        "datetime(6)" => Kind::Time(Unit::Micros),
        "date" => Kind::Date,
        "json" => Kind::Json,
        _ if of == "bigint" || of == "bigint(20)" => Kind::Long,
        _ if of.ends_with("text") || of.starts_with("varchar") => Kind::Text,
        _ => {
            let inner = of.strip_prefix("decimal(").and_then(|rest| rest.strip_suffix(')')).and_then(|inner| inner.split_once(','));
            match inner.and_then(|(precision, scale)| Some((precision.parse().ok()?, scale.parse().ok()?))) {
                Some((precision @ 1..=38, scale)) => Kind::Decimal(precision, scale),
                _ => Kind::Other,
            }
        }
    }
}

fn value(cell: Cell, kind: Kind, day: &Day) -> Value {
    match (cell, kind) {
        (Cell::Bool(value), _) => Value::Int(i64::from(value)),
        (Cell::Long(micros), Kind::Time(_)) => time(micros),
        (Cell::Long(value), _) => Value::Int(value),
        // Refused by the server, as a row: it has no NaN and no infinity.
        (Cell::Double(value), _) if !value.is_finite() => Value::Bytes(value.to_string().into_bytes()),
        (Cell::Double(value), _) => Value::Double(value),
        (Cell::Days(days), _) => match time(i64::from(days) * 86_400_000_000) {
            Value::Date(year, month, day, ..) => Value::Date(year, month, day, 0, 0, 0, 0),
            other => other,
        },
        (Cell::Decimal(unscaled), Kind::Decimal(_, scale)) => Value::Bytes(decimal(unscaled, scale).into_bytes()),
        (Cell::Decimal(unscaled), _) => Value::Bytes(unscaled.to_string().into_bytes()),
        (Cell::Text(span), _) => Value::Bytes(day.text(span).as_bytes().to_vec()),
    }
}

fn time(micros: i64) -> Value {
    let Ok(time) = jiff::Timestamp::from_microsecond(micros) else { return Value::NULL };
    let time = time.to_zoned(jiff::tz::TimeZone::UTC).datetime();
    let part = |part: i8| u8::try_from(part).unwrap_or_default();
    let year = u16::try_from(time.year()).unwrap_or_default();
    let micros = (time.subsec_nanosecond() / 1000).unsigned_abs();
    Value::Date(year, part(time.month()), part(time.day()), part(time.hour()), part(time.minute()), part(time.second()), micros)
}

fn decimal(unscaled: i128, scale: u8) -> String {
    let digits = format!("{:0>width$}", unscaled.unsigned_abs(), width = usize::from(scale) + 1);
    let (whole, fraction) = digits.split_at(digits.len() - usize::from(scale));
    let sign = if unscaled < 0 { "-" } else { "" };
    if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_and_times_keep_every_digit() {
        assert_eq!([decimal(-10, 5), decimal(1_234_567, 2), decimal(0, 2), decimal(7, 0)], ["-0.00010", "12345.67", "0.00", "7"]);
        assert_eq!(time(1_795_824_000_000_123), Value::Date(2026, 11, 28, 0, 0, 0, 123));
        assert_eq!(time(-1), Value::Date(1969, 12, 31, 23, 59, 59, 999_999));
    }
}
