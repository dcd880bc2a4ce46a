//! Rows into MariaDB and MySQL: by INSERTs of many rows; with a key `ON DUPLICATE KEY UPDATE`, and tombstones DELETE.

use crate::mysql::{failure, open};
use crate::sink_config::SinkSettings;
use crate::sink_rows::{Row, with_keys};
use crate::sink_table::{Database, Table, To, decimal_of};
use crate::statement::Dialect;
use async_trait::async_trait;
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

/// A connection.
pub struct MySql {
    conn: Conn,
    address: String,
}

fn quoted(name: &str) -> String {
    Dialect::MySql.quote(name)
}

impl MySql {
    pub async fn connect(settings: &SinkSettings) -> Result<Self, Failure> {
        let conn = open(&settings.database).await?;
        let mut this = Self { conn, address: settings.database.address() };
        let lock = settings.timeout.as_secs().max(1);
        this.run(&format!(
            "SET SESSION time_zone = '+00:00', sql_mode = 'STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE', innodb_lock_wait_timeout = {lock}"
        ))
        .await?;
        Ok(this)
    }

    async fn delete(&mut self, table: &Table, columns: &[Column], rows: &[Row<'_>]) -> Result<(), Failure> {
        let kafka_key = columns.iter().zip(0_u16..).find(|(column, _)| &*column.name == "kafka_key").map_or(0, |(_, index)| index);
        let sql = format!("DELETE FROM {} WHERE {} = ?", table.name, quoted(&table.key[0]));
        for row in rows {
            let Some(Cell::Text(span)) = row.cell(kafka_key) else { continue };
            let done = self.conn.exec_drop(&sql, (row.day.text(span),)).await;
            done.map_err(|error| failure(&self.address, &error))?;
        }
        Ok(())
    }

    async fn insert(&mut self, into: &To<'_>, rows: &[Row<'_>]) -> Result<(), Error> {
        let columns = into.columns;
        let names: Vec<String> = columns.iter().map(|column| quoted(&column.name)).collect();
        let one = format!("({})", vec!["?"; columns.len()].join(","));
        let mut sql = format!("INSERT INTO {} ({}) VALUES {}", into.name, names.join(","), vec![one.as_str(); rows.len()].join(","));
        if !into.table.key.is_empty() {
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

#[async_trait]
impl Database for MySql {
    fn dialect(&self) -> Dialect {
        Dialect::MySql
    }

    fn type_of(&self, kind: Kind, is_key: bool) -> String {
        type_of(kind, is_key)
    }

    fn kind_of(&self, of: &str) -> Kind {
        kind_of(of)
    }

    fn make(&self, table: &Table, columns: &str, has_tags: bool) -> Vec<String> {
        let index = if has_tags { ", INDEX (tag(200), time)" } else { "" };
        vec![format!(
            "CREATE TABLE IF NOT EXISTS {} ({columns}{index}) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
            table.name
        )]
    }

    fn positions_columns(&self) -> &'static str {
        "(id varchar(500) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PRIMARY KEY, next bigint NOT NULL) ENGINE=InnoDB"
    }

    async fn run(&mut self, sql: &str) -> Result<(), Failure> {
        let done = self.conn.query_drop(sql).await;
        done.map_err(|error| failure(&self.address, &error))
    }

    async fn types(&mut self, table: &Table) -> Result<HashMap<String, String>, Failure> {
        let sql = "SELECT column_name, IF(column_comment = 'json', 'json', column_type) FROM information_schema.columns WHERE table_schema = coalesce(?, database()) AND table_name = ?";
        let schema = (table.path.len() > 1).then(|| table.path[0].clone());
        let name = table.path.last().cloned().unwrap_or_default();
        let rows: Result<Vec<(String, String)>, Error> = self.conn.exec(sql, (schema, name)).await;
        Ok(rows.map_err(|error| failure(&self.address, &error))?.into_iter().collect())
    }

    async fn add(&mut self, table: &Table, columns: &[String]) -> Result<(), Failure> {
        let clauses: Vec<String> = columns.iter().map(|column| format!("ADD COLUMN {column}")).collect();
        match self.conn.query_drop(format!("ALTER TABLE {} {}", table.name, clauses.join(", "))).await {
            // Another runtime was quicker.
            Err(Error::Server(server)) if server.code == 1060 => Ok(()),
            done => done.map_err(|error| failure(&self.address, &error)),
        }
    }

    async fn positions(&mut self, table: &str, ids: &[String]) -> Result<Vec<Option<Offset>>, Failure> {
        let sql = format!("SELECT next FROM {table} WHERE id = ?");
        let mut held = Vec::with_capacity(ids.len());
        for id in ids {
            let next: Result<Option<Offset>, Error> = self.conn.exec_first(&sql, (id,)).await;
            held.push(next.map_err(|error| failure(&self.address, &error))?);
        }
        Ok(held)
    }

    async fn advance(&mut self, table: &str, one: &Move) -> Result<bool, Failure> {
        let done = match one.from {
            Some(from) => {
                let sql = format!("UPDATE {table} SET next = ? WHERE id = ? AND next = ?");
                self.conn.exec_drop(sql, (one.to, &one.id, from)).await
            }
            None => self.conn.exec_drop(format!("INSERT IGNORE INTO {table} (id, next) VALUES (?, ?)"), (&one.id, one.to)).await,
        };
        done.map_err(|error| failure(&self.address, &error))?;
        Ok(self.conn.affected_rows() == 1)
    }

    async fn rows(&mut self, table: &Table, columns: &[Column], rows: &[Row<'_>], refused: &mut Vec<Refused>) -> Result<(), Failure> {
        let kept;
        let rows = match table.key.is_empty() {
            true => rows,
            false => {
                kept = with_keys(columns, rows, &table.key, refused);
                &kept
            }
        };
        let into = To { table, name: &table.name, columns, is_numbered: false };
        // An INSERT and a DELETE of one key keep their order.
        let tombstone = columns.iter().zip(0_u16..).find(|(column, _)| &*column.name == "kafka_tombstone").map(|(_, index)| index);
        let deletes = |row: &Row<'_>| !table.key.is_empty() && tombstone.and_then(|index| row.cell(index)) == Some(Cell::Bool(true));
        let groups: Vec<&[Row<'_>]> = rows.chunk_by(|a, b| deletes(a) == deletes(b)).collect();
        let kinds: Vec<bool> = groups.iter().map(|group| deletes(&group[0])).collect();
        for (group, is_delete) in groups.into_iter().zip(kinds) {
            if is_delete {
                self.delete(table, columns, group).await?;
            } else {
                self.bisect(&into, statements(group, columns.len()), refused).await?;
            }
        }
        Ok(())
    }

    async fn put(&mut self, into: &To<'_>, rows: &[Row<'_>]) -> Result<Option<String>, Failure> {
        match self.insert(into, rows).await {
            Ok(()) => Ok(None),
            Err(error) if is_of_a_row(&error) => Ok(Some(error.to_string())),
            Err(error) => Err(failure(&self.address, &error)),
        }
    }
}

/// Rows as one statement takes them, in their order.
fn statements<'r, 'd>(rows: &'r [Row<'d>], columns: usize) -> Vec<&'r [Row<'d>]> {
    let mut open: Vec<&[Row<'_>]> = rows.chunks((PLACEHOLDERS / columns.max(1)).max(1)).rev().collect();
    let mut fit = Vec::with_capacity(open.len());
    while let Some(rows) = open.pop() {
        if rows.len() > 1 && size(rows) > PIECE {
            let (first, second) = rows.split_at(rows.len() / 2);
            open.extend([second, first]);
        } else {
            fit.push(rows);
        }
    }
    fit
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
        _ => decimal_of(of, "decimal"),
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
