//! Rows into PostgreSQL: by COPY in its binary form. With a key: into a temporary table, then the last row of each key `INSERT .. ON CONFLICT DO UPDATE`,
//! sorted, and tombstones DELETE.
//!
//! A connection that breaks in COMMIT tells nothing; the session ends, and the next one reads the positions.

use crate::postgres::{open, said};
use crate::sink_config::SinkSettings;
use crate::sink_rows::{Row, with_keys};
use crate::sink_table::{Database, Table, To, decimal_of};
use crate::statement::Dialect;
use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::SinkExt;
use millrace_contract::{Failure, Offset, Refused};
use millrace_kit::documents::{Cell, Column, Day, Kind, Unit};
use millrace_kit::parts::Move;
use std::collections::HashMap;
use std::pin::pin;
use tokio_postgres::{Client, Error};

/// Microseconds and days from 1970 to 2000.
const EPOCH_MICROS: i64 = 946_684_800_000_000;
const EPOCH_DAYS: i32 = 10_957;
/// Bytes handed to the connection at once.
const PIECE: usize = 1 << 20;
/// The beginning of a binary COPY: its signature, no flags, no extension. Source: PostgreSQL's documentation of COPY, "Binary Format".
const HEAD: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// The staged rows of an upsert, and their number.
const STAGE: &str = "millrace_stage";
const NUMBER: &str = "millrace_row";

/// A connection.
pub struct Postgres {
    client: Client,
    connection: tokio::task::JoinHandle<()>,
    address: String,
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn quoted(name: &str) -> String {
    Dialect::Postgres.quote(name)
}

impl Postgres {
    pub async fn connect(settings: &SinkSettings) -> Result<Self, Failure> {
        let (client, connection) = open(&settings.database).await?;
        let mut this = Self { client, connection, address: settings.database.address() };
        let millis = settings.timeout.as_millis();
        this.run(&format!("SET TimeZone = 'UTC'; SET statement_timeout = {millis}; SET lock_timeout = {millis}")).await?;
        Ok(this)
    }

    async fn copy(&self, into: &To<'_>, rows: &[Row<'_>]) -> Result<(), Error> {
        let (columns, numbered) = (into.columns, into.is_numbered);
        let mut names: Vec<String> = columns.iter().map(|column| quoted(&column.name)).collect();
        if numbered {
            names.push(quoted(NUMBER));
        }
        let types: Vec<&str> = columns.iter().map(|column| into.table.types.get(&*column.name).map_or("", String::as_str)).collect();
        let sink =
            self.client.copy_in::<_, Bytes>(&format!("COPY {} ({}) FROM STDIN (FORMAT binary)", into.name, names.join(", "))).await?;
        let mut sink = pin!(sink);
        let mut out = BytesMut::with_capacity(PIECE + (64 << 10));
        out.put_slice(HEAD);
        for (number, row) in (0_i64..).zip(rows) {
            out.put_i16(names.len() as i16);
            for (index, (column, of)) in (0_u16..).zip(columns.iter().zip(&types)) {
                match row.cell(index) {
                    None => out.put_i32(-1),
                    Some(cell) => field(&mut out, cell, column.kind, of, row.day),
                }
            }
            if numbered {
                out.put_i32(8);
                out.put_i64(number);
            }
            if out.len() >= PIECE {
                sink.feed(out.split().freeze()).await?;
            }
        }
        out.put_i16(-1);
        sink.feed(out.freeze()).await?;
        sink.finish().await?;
        Ok(())
    }

    /// Rows with a key: the last of each counts; a tombstone deletes the row whose key is the record's in Kafka.
    async fn merge(&mut self, table: &Table, columns: &[Column], rows: &[Row<'_>], refused: &mut Vec<Refused>) -> Result<(), Failure> {
        let rows = with_keys(columns, rows, &table.key, refused);
        let (name, stage) = (&table.name, quoted(STAGE));
        let key: Vec<String> = table.key.iter().map(|name| quoted(name)).collect();
        let nullable: Vec<String> = key.iter().map(|name| format!("ALTER COLUMN {name} DROP NOT NULL")).collect();
        self.run(&format!(
            "CREATE TEMPORARY TABLE {stage} (LIKE {name} INCLUDING CONSTRAINTS) ON COMMIT DROP; \
             ALTER TABLE {stage} ADD COLUMN {NUMBER} bigint, {}",
            nullable.join(", ")
        ))
        .await?;
        self.bisect(&To { table, name: &stage, columns, is_numbered: true }, vec![&rows], refused).await?;
        let parts: Vec<String> = key.iter().map(|name| format!("{name}::text")).collect();
        // One text for each key, so that a tombstone has it, too.
        let whole = match &parts[..] {
            [one] => format!("CASE WHEN kafka_tombstone THEN kafka_key ELSE {one} END"),
            many => format!("ROW({})::text", many.join(", ")),
        };
        let all: Vec<String> = columns.iter().map(|column| quoted(&column.name)).collect();
        let others: Vec<&String> = all.iter().filter(|name| !key.contains(name)).collect();
        let set: Vec<String> = others.iter().map(|name| format!("{name} = EXCLUDED.{name}")).collect();
        let (first, key, all) = (key[0].clone(), key.join(", "), all.join(", "));
        let sql = format!(
            "DELETE FROM {stage} WHERE {NUMBER} NOT IN (SELECT max({NUMBER}) FROM {stage} GROUP BY {whole}); \
             DELETE FROM {name} AS t USING {stage} AS s WHERE s.kafka_tombstone AND t.{first}::text = s.kafka_key; \
             INSERT INTO {name} ({all}) SELECT {all} FROM {stage} WHERE NOT kafka_tombstone ORDER BY {key} \
             ON CONFLICT ({key}) DO UPDATE SET {}",
            set.join(", ")
        );
        self.client.batch_execute(&sql).await.map_err(|error| match is_of_a_row(&error) {
            true => Failure::Blocked(format!("{}: rows of table {name} can't be merged: {}", self.address, said(&error))),
            false if is_without_index(&error) => {
                Failure::Blocked(format!("{}: {}; make a unique index on ({})", self.address, said(&error), table.key.join(", ")))
            }
            false => self.failure(&error),
        })
    }

    fn failure(&self, error: &Error) -> Failure {
        let text = format!("{}: {}", self.address, said(error));
        let Some(code) = error.as_db_error().map(|server| server.code().code().to_owned()) else { return Failure::Reconnect(text) };
        match &code[..2] {
            // Another runtime made the same table at the same time; a deadlock; a server that stops; a lock that is held.
            "40" | "55" | "57" | "53" | "58" | "08" | "23" => Failure::Reconnect(text),
            "42" if code == "42501" => {
                Failure::Blocked(format!("{text}; the user needs the right to read and write the table and to make it"))
            }
            "42" | "28" | "3D" | "3F" | "0A" => Failure::Blocked(text),
            _ => Failure::Reconnect(text),
        }
    }
}

#[async_trait]
impl Database for Postgres {
    fn dialect(&self) -> Dialect {
        Dialect::Postgres
    }

    fn type_of(&self, kind: Kind, _is_key: bool) -> String {
        type_of(kind)
    }

    fn kind_of(&self, of: &str) -> Kind {
        kind_of(of)
    }

    fn make(&self, table: &Table, columns: &str, has_tags: bool) -> Vec<String> {
        let mut made = vec![format!("CREATE TABLE IF NOT EXISTS {} ({columns})", table.name)];
        if has_tags {
            let index = quoted(&format!("{}_tag_time", table.path.last().map_or("", String::as_str)));
            made.push(format!("CREATE INDEX IF NOT EXISTS {index} ON {} (tag, time)", table.name));
        }
        made
    }

    fn positions_columns(&self) -> &'static str {
        "(id text PRIMARY KEY, next bigint NOT NULL, at timestamptz NOT NULL DEFAULT now())"
    }

    async fn run(&mut self, sql: &str) -> Result<(), Failure> {
        self.client.batch_execute(sql).await.map_err(|error| self.failure(&error))
    }

    async fn types(&mut self, table: &Table) -> Result<HashMap<String, String>, Failure> {
        let sql = "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped";
        let rows = self.client.query(sql, &[&table.name]).await.map_err(|error| self.failure(&error))?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    async fn add(&mut self, table: &Table, columns: &[String]) -> Result<(), Failure> {
        let clauses: Vec<String> = columns.iter().map(|column| format!("ADD COLUMN IF NOT EXISTS {column}")).collect();
        self.run(&format!("ALTER TABLE {} {}", table.name, clauses.join(", "))).await
    }

    async fn positions(&mut self, table: &str, ids: &[String]) -> Result<Vec<Option<Offset>>, Failure> {
        let sql = format!("SELECT id, next FROM {table} WHERE id = ANY($1)");
        let rows = self.client.query(&sql, &[&ids]).await.map_err(|error| self.failure(&error))?;
        let held: HashMap<String, Offset> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        Ok(ids.iter().map(|id| held.get(id).copied()).collect())
    }

    async fn advance(&mut self, table: &str, one: &Move) -> Result<bool, Failure> {
        let moved = match one.from {
            Some(from) => {
                let sql = format!("UPDATE {table} SET next = $1, at = now() WHERE id = $2 AND next = $3");
                self.client.execute(&sql, &[&one.to, &one.id, &from]).await
            }
            None => {
                let sql = format!("INSERT INTO {table} (id, next) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING");
                self.client.execute(&sql, &[&one.id, &one.to]).await
            }
        };
        moved.map(|rows| rows == 1).map_err(|error| self.failure(&error))
    }

    async fn rows(&mut self, table: &Table, columns: &[Column], rows: &[Row<'_>], refused: &mut Vec<Refused>) -> Result<(), Failure> {
        match table.key.is_empty() {
            true => self.bisect(&To { table, name: &table.name, columns, is_numbered: false }, vec![rows], refused).await,
            false => self.merge(table, columns, rows, refused).await,
        }
    }

    async fn put(&mut self, into: &To<'_>, rows: &[Row<'_>]) -> Result<Option<String>, Failure> {
        match self.copy(into, rows).await {
            Ok(()) => Ok(None),
            Err(error) if is_of_a_row(&error) => Ok(Some(said(&error))),
            Err(error) => Err(self.failure(&error)),
        }
    }
}

/// Whether rows of a key cannot be found: there is no unique index.
fn is_without_index(error: &Error) -> bool {
    error.as_db_error().is_some_and(|server| server.code().code() == "42P10")
}

/// Whether a table refused a row for what it is: data, or a constraint.
fn is_of_a_row(error: &Error) -> bool {
    error.as_db_error().is_some_and(|server| matches!(&server.code().code()[..2], "22" | "23"))
}

fn type_of(kind: Kind) -> String {
    match kind {
        Kind::Bool => "boolean".into(),
        Kind::Long => "bigint".into(),
        Kind::Double => "double precision".into(),
        Kind::Decimal(precision, scale) => format!("numeric({precision},{scale})"),
        Kind::Time(_) => "timestamp with time zone".into(),
        Kind::Date => "date".into(),
        Kind::Text | Kind::Other => "text".into(),
        Kind::Json => "jsonb".into(),
    }
}

/// What can be written to a column, by its type's name.
fn kind_of(of: &str) -> Kind {
    match of {
        "boolean" => Kind::Bool,
        "bigint" => Kind::Long,
        "double precision" => Kind::Double,
        "timestamp with time zone" => Kind::Time(Unit::Micros),
        "date" => Kind::Date,
        "text" => Kind::Text,
        "jsonb" | "json" => Kind::Json,
        _ if of.starts_with("character varying") => Kind::Text,
        _ => decimal_of(of, "numeric"),
    }
}

/// One field of a binary COPY: its length, then its bytes.
fn field(out: &mut BytesMut, cell: Cell, kind: Kind, of: &str, day: &Day) {
    match (cell, kind) {
        (Cell::Bool(value), _) => {
            out.put_i32(1);
            out.put_u8(u8::from(value));
        }
        (Cell::Long(micros), Kind::Time(_)) => {
            out.put_i32(8);
            out.put_i64(micros - EPOCH_MICROS);
        }
        (Cell::Long(value), _) => {
            out.put_i32(8);
            out.put_i64(value);
        }
        (Cell::Double(value), _) => {
            out.put_i32(8);
            out.put_f64(value);
        }
        (Cell::Days(days), _) => {
            out.put_i32(4);
            out.put_i32(days - EPOCH_DAYS);
        }
        (Cell::Decimal(unscaled), Kind::Decimal(_, scale)) => numeric(out, unscaled, scale),
        (Cell::Decimal(unscaled), _) => numeric(out, unscaled, 0),
        (Cell::Text(span), _) => {
            let text = day.text(span).as_bytes();
            let version = usize::from(of == "jsonb");
            out.put_i32((text.len() + version) as i32);
            out.put_bytes(1, version);
            out.put_slice(text);
        }
    }
}

/// A NUMERIC: groups of four digits, a weight, a sign and the digits shown behind the point.
///
/// Source: src/backend/utils/adt/numeric.c, `numeric_recv`.
fn numeric(out: &mut BytesMut, unscaled: i128, scale: u8) {
    // To whole groups behind the point.
    let digits = unscaled.unsigned_abs().to_string();
    let behind = usize::from(scale).div_ceil(4) * 4;
    let mut text = digits + &"0".repeat(behind - usize::from(scale));
    let whole = text.len().div_ceil(4) * 4;
    text.insert_str(0, &"0".repeat(whole - text.len()));
    let mut groups: Vec<i16> =
        text.as_bytes().chunks(4).map(|group| group.iter().fold(0, |sum, digit| sum * 10 + i16::from(digit - b'0'))).collect();
    let mut weight = groups.len() as i16 - 1 - (behind / 4) as i16;
    let zeros = groups.iter().take_while(|group| **group == 0).count();
    groups.drain(..zeros);
    weight -= zeros as i16;
    while groups.last() == Some(&0) {
        groups.pop();
    }
    if groups.is_empty() {
        weight = 0;
    }
    out.put_i32(8 + 2 * groups.len() as i32);
    out.put_i16(groups.len() as i16);
    out.put_i16(weight);
    out.put_u16(if unscaled < 0 { 0x4000 } else { 0 });
    out.put_i16(i16::from(scale));
    groups.iter().for_each(|group| out.put_i16(*group));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decimal_is_groups_of_four_digits() {
        let of = |unscaled: i128, scale: u8| {
            let mut out = BytesMut::new();
            numeric(&mut out, unscaled, scale);
            out[4..].chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect::<Vec<_>>()
        };
        // As `numeric_send` writes 12345.678, -0.00010, 100000000 and 0.0.
        assert_eq!(of(12_345_678, 3), [3, 1, 0, 3, 1, 2345, 6780]);
        assert_eq!(of(-10, 5), [1, u16::MAX, 0x4000, 5, 1]);
        assert_eq!(of(100_000_000, 0), [1, 2, 0, 0, 1]);
        assert_eq!(of(0, 1), [0, 0, 0, 1]);
    }

    #[test]
    fn what_can_be_written_is_told_by_the_type() {
        for (of, kind) in
            [("numeric(12,2)", Kind::Decimal(12, 2)), ("numeric", Kind::Other), ("integer", Kind::Other), ("jsonb", Kind::Json)]
        {
            assert_eq!(kind_of(of), kind, "{of}");
        }
    }
}
