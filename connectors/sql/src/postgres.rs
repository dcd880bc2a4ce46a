//! PostgreSQL: a connection that only reads, and its rows, copied out in the binary form: `COPY (SELECT ..) TO STDOUT (FORMAT binary)`, which is the
//! shortest way for server and driver. [`crate::copied`] takes it apart. A server that speaks PostgreSQL's protocol and not this statement (CockroachDB,
//! older forks, some poolers) is asked for the same SELECT as it is: the values come in the same binary form, a message for each row.
//!
//! Types whose binary form says less than their text (money, ranges, network addresses) are cast to text by the server; arrays and composite types to
//! JSON. Everything else is decoded here, digit by digit.

use crate::config::{Database, Settings};
use crate::copied::Copied;
use crate::object::{Object, date_of};
use crate::postgres_tls::{Encrypt, Refused};
use crate::selected::{Fields, may_be_of_copy_alone};
use crate::statement::{Column, Dialect, Kind, Page, Query};
use crate::taking::{Taking, Trouble};
use futures_util::{FutureExt, StreamExt};
use millrace_config::Reason;
use millrace_contract::Failure;
use millrace_kit::shape::Shape;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{Kind as TypeKind, ToSql, Type};
use tokio_postgres::{Client, NoTls};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// Beyond the server's own timeout.
const GRACE: Duration = Duration::from_secs(5);
/// Days from 1970 to 2000.
const EPOCH_DAYS: i32 = 10_957;
const DAY: i64 = 86_400_000_000;

pub struct Postgres {
    client: Client,
    /// For messages.
    address: String,
    /// What moves the bytes; it ends with the client.
    connection: JoinHandle<()>,
    within: Duration,
    /// The server has no COPY of a SELECT: it was asked once.
    has_no_copy: AtomicBool,
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Postgres {
    pub async fn connect(settings: &Settings) -> Result<Self, Failure> {
        let database = settings.database();
        let (client, connection) = open(&database).await?;
        let this =
            Self { client, address: database.address(), connection, within: settings.timeout + GRACE, has_no_copy: AtomicBool::new(false) };
        let millis = settings.timeout.as_millis();
        let set = format!(
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY; SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET IntervalStyle = 'iso_8601'; \
             SET extra_float_digits = 3; SET bytea_output = 'hex'; SET statement_timeout = {millis}; SET lock_timeout = {millis}"
        );
        match tokio::time::timeout(CONNECT, this.client.batch_execute(&set)).await {
            Ok(done) => done.map_err(|error| failure(&database.address(), &error))?,
            Err(_) => return Err(Failure::Reconnect(format!("no answer from {} within {CONNECT:?}", database.address()))),
        }
        Ok(this)
    }

    async fn within<T>(&self, asking: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Trouble> {
        match tokio::time::timeout(self.within, asking).await {
            Ok(answer) => answer.map_err(|error| trouble(&error)),
            Err(_) => Err(Trouble::Lost(format!("no answer within {:?}", self.within))),
        }
    }

    pub async fn columns(&self, query: &Query) -> Result<Vec<Column>, Trouble> {
        let statement = self.within(self.client.prepare(&query.look(Dialect::Postgres))).await?;
        Ok(statement.columns().iter().map(|column| describe(column.name(), column.type_(), column.type_modifier())).collect())
    }

    /// One text.
    pub async fn ask(&self, page: &Page) -> Result<Option<String>, Trouble> {
        let parameters: Vec<&(dyn ToSql + Sync)> = page.parameters.iter().map(|text| text as _).collect();
        let row = self.within(self.client.query_one(&page.sql, &parameters)).await?;
        row.try_get(0).map_err(|error| Trouble::Query(error.to_string()))
    }

    /// Reads a page; returns how many rows it had.
    pub async fn read(&self, page: &Page, columns: &[Column], query: &Query, taking: &mut Taking<'_>) -> Result<u64, Trouble> {
        if self.has_no_copy.load(Ordering::Relaxed) {
            return self.select(page, columns, query, taking).await;
        }
        let copy = format!("COPY ({}) TO STDOUT (FORMAT binary)", page.sql);
        let pieces = match tokio::time::timeout(self.within, self.client.copy_out(&copy)).await {
            Ok(Err(error)) if may_be_of_copy_alone(&error) => {
                let count = self.select(page, columns, query, taking).await?;
                let address = &*self.address;
                tracing::info!(address, "the database refuses COPY; rows are read by the SELECT alone, which is slower: {}", said(&error));
                self.has_no_copy.store(true, Ordering::Relaxed);
                return Ok(count);
            }
            Ok(pieces) => pieces.map_err(|error| trouble(&error))?,
            Err(_) => return Err(Trouble::Lost(format!("no answer within {:?}", self.within))),
        };
        let mut pieces = pin!(pieces);
        let mut rows = Rows::new(columns, query, taking);
        let mut copied = Copied::default();
        loop {
            // Most rows are here already: no clock is wound up for them.
            let next = match pieces.next().now_or_never() {
                Some(piece) => piece.transpose().map_err(|error| trouble(&error))?,
                None => self.within(async { pieces.next().await.transpose() }).await?,
            };
            let Some(piece) = next else { break };
            copied.take(&piece, |fields| rows.row(fields, taking)).map_err(|why| Trouble::Query(why.into()))?;
            if taking.is_full() {
                taking.flush().await?;
            }
        }
        if copied.is_whole() { Ok(rows.count) } else { Err(Trouble::Lost("the rows end in the middle".into())) }
    }

    /// Reads a page without COPY. The rows are taken as they come: neither they nor the server's answer is held whole.
    async fn select(&self, page: &Page, columns: &[Column], query: &Query, taking: &mut Taking<'_>) -> Result<u64, Trouble> {
        let none: [(&(dyn ToSql + Sync), Type); 0] = [];
        let mut found = pin!(self.within(self.client.query_typed_raw(&page.sql, none)).await?);
        let mut rows = Rows::new(columns, query, taking);
        loop {
            let next = match found.next().now_or_never() {
                Some(row) => row.transpose().map_err(|error| trouble(&error))?,
                None => self.within(async { found.next().await.transpose() }).await?,
            };
            let Some(row) = next else { return Ok(rows.count) };
            rows.row(&row, taking).map_err(|why| Trouble::Query(why.into()))?;
            if taking.is_full() {
                taking.flush().await?;
            }
        }
    }
}

/// How a value stands on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wire {
    Bool,
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    /// Whether its scale is known.
    Numeric(bool),
    Uuid,
    Timestamp(&'static str),
    Date,
    Time,
    Bytes,
    Json,
    JsonB,
    Text,
}

impl Wire {
    fn of(column: &Column) -> Self {
        match (&column.select, &column.shape, column.cast.as_str()) {
            // As [`describe`] has it selected.
            (Some(_), Shape::Any, _) => Self::JsonB,
            (Some(_), ..) => Self::Text,
            (None, shape, "numeric") => Self::Numeric(matches!(shape, Shape::Decimal(_))),
            (None, _, "bool") => Self::Bool,
            (None, _, "int2") => Self::Int2,
            (None, _, "int4") => Self::Int4,
            (None, _, "int8") => Self::Int8,
            (None, _, "oid") => Self::Oid,
            (None, _, "float4") => Self::Float4,
            (None, _, "float8") => Self::Float8,
            (None, _, "uuid") => Self::Uuid,
            (None, _, "timestamp") => Self::Timestamp(""),
            (None, _, "timestamptz") => Self::Timestamp("Z"),
            (None, _, "date") => Self::Date,
            (None, _, "time") => Self::Time,
            (None, _, "bytea") => Self::Bytes,
            (None, _, "json") => Self::Json,
            (None, _, "jsonb") => Self::JsonB,
            _ => Self::Text,
        }
    }
}

/// Rows of a page into the batch. What it needs is made once for the page: nothing is allocated for a row.
struct Rows<'c> {
    columns: &'c [Column],
    wires: Vec<Wire>,
    object: Object,
    /// Watermark and ids; none without a watermark.
    place: Vec<String>,
    /// Where a part of the place is a whole number among the columns: those are not sent twice, their text is made of the column.
    numbers: Vec<Option<usize>>,
    scratch: Vec<u8>,
    count: u64,
}

impl<'c> Rows<'c> {
    fn new(columns: &'c [Column], query: &Query, taking: &Taking<'_>) -> Self {
        let place: Vec<&String> = query.watermark.iter().flat_map(|watermark| std::iter::once(watermark).chain(&query.id)).collect();
        Self {
            columns,
            wires: columns.iter().map(Wire::of).collect(),
            object: Object::new(columns.iter().map(|column| column.name.as_str()), taking.style),
            numbers: place.iter().map(|name| number_among(columns, name)).collect(),
            place: vec![String::new(); place.len()],
            scratch: Vec::new(),
            count: 0,
        }
    }

    /// Errors: the row is not what was asked for.
    fn row(&mut self, fields: &impl Fields, taking: &mut Taking<'_>) -> Result<(), Reason> {
        let asked = self.columns.len() + if self.place.is_empty() { 0 } else { self.place.len() + 1 };
        if fields.count() != asked {
            return Err(format!("{} columns where {asked} were asked for", fields.count()).into());
        }
        self.count += 1;
        let object = &mut self.object;
        object.begin();
        for (index, wire) in self.wires.iter().enumerate() {
            object.name();
            value(*wire, fields.get(index), object, &mut self.scratch)
                .map_err(|why| format!("column `{}`: {why}", self.columns[index].name))?;
        }
        object.end();
        if self.place.is_empty() {
            taking.row(object, None);
            return Ok(());
        }
        for (n, (to, number)) in self.place.iter_mut().zip(&self.numbers).enumerate() {
            to.clear();
            match number {
                Some(at) => push_number(fields.get(*at).unwrap_or_default(), to),
                None => to.push_str(std::str::from_utf8(fields.get(self.columns.len() + n).unwrap_or_default()).unwrap_or_default()),
            }
        }
        let is_recent = fields.get(asked - 1).is_some_and(|flag| flag == [1]);
        taking.row(object, Some((&self.place, is_recent)));
        Ok(())
    }
}

/// Where a column stands that is a whole number.
fn number_among(columns: &[Column], name: &str) -> Option<usize> {
    columns.iter().position(|column| column.name == name).filter(|at| columns[*at].kind == Kind::Number)
}

/// The text of int2, int4 or int8, as the server writes it.
fn push_number(raw: &[u8], to: &mut String) {
    let number = match *raw {
        [a, b] => i64::from(i16::from_be_bytes([a, b])),
        [a, b, c, d] => i64::from(i32::from_be_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => i64::from_be_bytes([a, b, c, d, e, f, g, h]),
        _ => return,
    };
    to.push_str(itoa::Buffer::new().format(number));
}

/// Opens a connection, and the task that moves its bytes.
pub(crate) async fn open(database: &Database) -> Result<(Client, JoinHandle<()>), Failure> {
    let address = database.address();
    let connecting = async {
        let stream = TcpStream::connect((database.host.as_str(), database.port))
            .await
            .map_err(|error| Failure::Reconnect(format!("cannot connect to {address}: {error}")))?;
        let _ = stream.set_nodelay(true);
        let mut config = tokio_postgres::Config::new();
        config.dbname(&database.name).application_name("millrace");
        if let Some(login) = &database.login {
            config.user(&login.user).password(login.password.expose());
        }
        let refused = |error: tokio_postgres::Error| failure(&address, &error);
        Ok(match &database.tls {
            None => {
                let (client, connection) = config.ssl_mode(SslMode::Disable).connect_raw(stream, NoTls).await.map_err(refused)?;
                (client, tokio::spawn(async move { _ = connection.await }))
            }
            Some(tls) => {
                let tls = Encrypt { tls: tls.clone(), host: database.host.clone(), address: address.clone() };
                let (client, connection) = config.ssl_mode(SslMode::Require).connect_raw(stream, tls).await.map_err(refused)?;
                (client, tokio::spawn(async move { _ = connection.await }))
            }
        })
    };
    match tokio::time::timeout(CONNECT, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(Failure::Reconnect(format!("no answer from {address} within {CONNECT:?}"))),
    }
}

fn describe(name: &str, of: &Type, modifier: i32) -> Column {
    let quoted = Dialect::Postgres.quote(name);
    let is_read_here = matches!(
        *of,
        Type::BOOL
            | Type::INT2
            | Type::INT4
            | Type::INT8
            | Type::OID
            | Type::FLOAT4
            | Type::FLOAT8
            | Type::NUMERIC
            | Type::TEXT
            | Type::VARCHAR
            | Type::BPCHAR
            | Type::NAME
            | Type::UUID
            | Type::TIMESTAMP
            | Type::TIMESTAMPTZ
            | Type::DATE
            | Type::TIME
            | Type::BYTEA
            | Type::JSON
            | Type::JSONB
    );
    let select = match (of, of.kind()) {
        _ if is_read_here => None,
        (&Type::MONEY, _) => Some(format!("q.{quoted}::numeric::text")),
        (_, TypeKind::Array(_) | TypeKind::Composite(_)) => Some(format!("to_jsonb(q.{quoted})")),
        _ => Some(format!("q.{quoted}::text")),
    };
    let kind = match *of {
        Type::TIMESTAMPTZ => Kind::Instant,
        Type::TIMESTAMP | Type::DATE => Kind::Civil,
        Type::INT2 | Type::INT4 | Type::INT8 => Kind::Number,
        _ => Kind::Other,
    };
    let cast = match of.schema() {
        "pg_catalog" => of.name().to_owned(),
        schema => format!("{}.{}", Dialect::Postgres.quote(schema), Dialect::Postgres.quote(of.name())),
    };
    Column { name: name.into(), cast, select, kind, shape: shape(of, modifier) }
}

fn shape(of: &Type, modifier: i32) -> Shape {
    match (of, of.kind()) {
        (&Type::BOOL, _) => Shape::Bool,
        (&(Type::INT2 | Type::INT4), _) => Shape::Int,
        (&(Type::INT8 | Type::OID), _) => Shape::Long,
        (&(Type::FLOAT4 | Type::FLOAT8), _) => Shape::Double,
        (&Type::NUMERIC, _) => numeric_shape(modifier),
        (&Type::UUID, _) => Shape::Guid,
        (&Type::TIMESTAMP, _) => Shape::LocalTime,
        (&Type::TIMESTAMPTZ, _) => Shape::Moment(6),
        (&Type::DATE, _) => Shape::Date,
        (&Type::TIME, _) => Shape::TimeOfDay,
        (&Type::BYTEA, _) => Shape::Binary,
        (&(Type::JSON | Type::JSONB), _) | (_, TypeKind::Array(_) | TypeKind::Composite(_)) => Shape::Any,
        _ => Shape::Text,
    }
}

/// `numeric(p, s)`, where both are said.
///
/// Source: src/backend/utils/adt/numeric.c, `make_numeric_typmod`.
fn numeric_shape(modifier: i32) -> Shape {
    let Ok(said) = u32::try_from(modifier - 4) else { return Shape::Number };
    let (precision, scale) = (said >> 16 & 0xFFFF, ((said & 0x7FF) as i32 ^ 1024) - 1024);
    match u32::try_from(scale) {
        Ok(scale) if scale <= precision => Shape::Decimal(Some((precision, scale))),
        _ => Shape::Number,
    }
}

/// Writes one value. `scratch`: what a numeric's text is made in. Errors: bytes that are not of their type.
fn value(of: Wire, raw: Option<&[u8]>, object: &mut Object, scratch: &mut Vec<u8>) -> Result<(), Reason> {
    let Some(raw) = raw else {
        object.null();
        return Ok(());
    };
    fn bytes<const N: usize>(raw: &[u8]) -> Result<[u8; N], Reason> {
        raw.try_into().map_err(|_| format!("{} bytes where {N} should be", raw.len()).into())
    }
    match of {
        Wire::Bool => object.bool(raw == [1]),
        Wire::Int2 => object.int(i16::from_be_bytes(bytes(raw)?)),
        Wire::Int4 => object.int(i32::from_be_bytes(bytes(raw)?)),
        Wire::Int8 => object.int(i64::from_be_bytes(bytes(raw)?)),
        Wire::Oid => object.int(u32::from_be_bytes(bytes(raw)?)),
        Wire::Float4 => object.double(f64::from(f32::from_be_bytes(bytes(raw)?))),
        Wire::Float8 => object.double(f64::from_be_bytes(bytes(raw)?)),
        Wire::Numeric(is_fixed) => object.decimal(numeric(raw, scratch)?, is_fixed),
        Wire::Uuid => {
            let id: [u8; 16] = bytes(raw)?;
            let (mut text, mut end) = ([b'-'; 36], 0);
            for (n, byte) in id.into_iter().enumerate() {
                end += usize::from(matches!(n, 4 | 6 | 8 | 10));
                text[end] = b"0123456789abcdef"[usize::from(byte >> 4)];
                text[end + 1] = b"0123456789abcdef"[usize::from(byte & 15)];
                end += 2;
            }
            object.text_or_bytes(&text);
        }
        Wire::Timestamp(suffix) => match i64::from_be_bytes(bytes(raw)?) {
            i64::MAX => object.unfit("infinity"),
            i64::MIN => object.unfit("-infinity"),
            micros => {
                let (days, of_day) = (micros.div_euclid(DAY) + i64::from(EPOCH_DAYS), micros.rem_euclid(DAY).unsigned_abs());
                if !object.moment(days, of_day, suffix) {
                    let ((year, month, day), seconds) = (date_of(days), of_day / 1_000_000);
                    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
                    let fraction = if of_day % 1_000_000 > 0 { format!(".{:06}", of_day % 1_000_000) } else { String::new() };
                    object.unfit(&format!("{year:+05}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}{suffix}"));
                }
            }
        },
        Wire::Date => match i32::from_be_bytes(bytes(raw)?) {
            i32::MAX => object.unfit("infinity"),
            i32::MIN => object.unfit("-infinity"),
            days => {
                let days = i64::from(days) + i64::from(EPOCH_DAYS);
                if !object.date(days) {
                    let (year, month, day) = date_of(days);
                    object.unfit(&format!("{year:+05}-{month:02}-{day:02}"));
                }
            }
        },
        Wire::Time => match i64::from_be_bytes(bytes(raw)?) {
            // 24:00:00 is a time of PostgreSQL, and of no one else.
            DAY.. => object.unfit("24:00:00"),
            micros => object.time_of_day(micros.unsigned_abs()),
        },
        Wire::Bytes => object.binary(raw),
        Wire::Json => object.raw(raw),
        Wire::JsonB => object.raw(raw.get(1..).unwrap_or_default()),
        Wire::Text => object.text_or_bytes(raw),
    }
    Ok(())
}

/// A NUMERIC as its text: groups of four digits, a weight, a sign and the digits shown behind the point.
///
/// Source: src/backend/utils/adt/numeric.c, `numeric_send`.
fn numeric<'s>(raw: &[u8], text: &'s mut Vec<u8>) -> Result<&'s str, Reason> {
    let word = |n: usize| raw.get(2 * n..2 * n + 2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).ok_or("a numeric that is cut");
    let (count, weight, sign, scale) = (word(0)? as usize, word(1)? as i16, word(2)?, word(3)?);
    match sign {
        0xC000 => return Ok("NaN"),
        0xD000 => return Ok("Infinity"),
        0xF000 => return Ok("-Infinity"),
        _ => {}
    }
    let group = |n: i32| -> Result<u16, &str> { if n >= 0 && (n as usize) < count { word(4 + n as usize) } else { Ok(0) } };
    text.clear();
    let four = |group: u16, text: &mut Vec<u8>| text.extend([1000, 100, 10, 1].map(|unit| b'0' + (group / unit % 10) as u8));
    if sign == 0x4000 {
        text.push(b'-');
    }
    if weight < 0 {
        text.push(b'0');
    }
    for n in 0..=i32::from(weight) {
        let start = text.len();
        four(group(n)?, text);
        if n == 0 {
            let zeros = text[start..].iter().take(3).take_while(|digit| **digit == b'0').count();
            text.drain(start..start + zeros);
        }
    }
    if scale > 0 {
        text.push(b'.');
        let end = text.len() + scale as usize;
        let mut n = i32::from(weight) + 1;
        while text.len() < end {
            four(group(n)?, text);
            n += 1;
        }
        text.truncate(end);
    }
    std::str::from_utf8(text).map_err(|_| "a numeric that is none".into())
}

/// What an error of a statement means.
fn trouble(error: &tokio_postgres::Error) -> Trouble {
    let Some(server) = error.as_db_error() else {
        return if error.is_closed() || std::error::Error::source(error).is_some_and(|cause| cause.is::<io::Error>()) {
            Trouble::Lost(said(error))
        } else {
            Trouble::Query(said(error))
        };
    };
    let code = server.code();
    let class = &code.code()[..2];
    if class == "28" {
        Trouble::Human(said(error))
    } else if class == "08" || class == "57" && *code != SqlState::QUERY_CANCELED {
        Trouble::Lost(said(error))
    } else {
        Trouble::Query(said(error))
    }
}

/// What an error of a connection means.
fn failure(address: &str, error: &tokio_postgres::Error) -> Failure {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(refused) = inner.downcast_ref::<Refused>() {
            return refused.0.clone();
        }
        cause = inner.source();
    }
    let text = format!("{address}: {}", said(error));
    match error.as_db_error().map(|error| error.code().code()[..2].to_owned()).as_deref() {
        Some("28") => Failure::Blocked(format!("{text}; check `login`, or whether the password has expired")),
        Some("3D") => Failure::Blocked(format!("{text}; check the name in `endpoint`")),
        None if error.to_string().contains("password") => Failure::Blocked(format!("{text}; add `login`")),
        _ => Failure::Reconnect(text),
    }
}

pub(crate) fn said(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(server) => {
            let hint = server.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
            format!("{} ({}){hint}", server.message(), server.code().code())
        }
        None => match std::error::Error::source(error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_numeric_says_its_scale() {
        assert_eq!(numeric_shape(((10 << 16) | 2) + 4), Shape::Decimal(Some((10, 2))));
        assert_eq!(numeric_shape(-1), Shape::Number);
        assert_eq!(numeric_shape(((3 << 16) | (0x7FF & -2)) + 4), Shape::Number, "a negative scale");
    }

    #[test]
    fn a_time_that_is_none_is_null_with_its_text_beside_it() {
        let date = |days: i32| days.to_be_bytes().to_vec();
        let time = |micros: i64| micros.to_be_bytes().to_vec();
        let (utc, civil) = (Wire::Timestamp("Z"), Wire::Timestamp(""));
        // Days and microseconds since 2000.
        for (wire, raw, json, unfit) in [
            (Wire::Date, date(0), r#""2000-01-01""#, ""),
            (Wire::Date, date(2_921_939), r#""9999-12-31""#, ""),
            (Wire::Date, date(2_921_940), "null", r#"{"v":"+10000-01-01"}"#),
            (Wire::Date, date(6_574_365), "null", r#"{"v":"+20000-01-01"}"#),
            (Wire::Date, date(-730_119), r#""0001-01-01""#, ""),
            (Wire::Date, date(-730_120), "null", r#"{"v":"+0000-12-31"}"#),
            (Wire::Date, date(i32::MAX), "null", r#"{"v":"infinity"}"#),
            (Wire::Date, date(i32::MIN), "null", r#"{"v":"-infinity"}"#),
            (civil, time(-1), r#""1999-12-31T23:59:59.999999""#, ""),
            (utc, time(2_921_940 * DAY - 1), r#""9999-12-31T23:59:59.999999Z""#, ""),
            (utc, time(2_921_940 * DAY), "null", r#"{"v":"+10000-01-01T00:00:00Z"}"#),
            (utc, time(i64::MAX), "null", r#"{"v":"infinity"}"#),
            (civil, time(i64::MIN), "null", r#"{"v":"-infinity"}"#),
            (civil, time(i64::MIN + 1), "null", r#"{"v":"-290278-12-22T19:59:05.224193"}"#),
            (Wire::Time, time(0), r#""00:00:00""#, ""),
            (Wire::Time, time(DAY - 1), r#""23:59:59.999999""#, ""),
            (Wire::Time, time(DAY), "null", r#"{"v":"24:00:00"}"#),
        ] {
            let mut object = Object::new(["v"], crate::object::Style { is_document: true, is_avro: false });
            object.begin();
            object.name();
            value(wire, Some(&raw), &mut object, &mut Vec::new()).unwrap();
            object.end();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            assert_eq!((text(&object.bytes), text(&object.unfit)), (format!("{{\"v\":{json}}}"), unfit.to_owned()), "{wire:?} {raw:?}");
        }
        assert!(value(Wire::Date, Some(&[0; 3]), &mut Object::new(["v"], crate::object::Style::default()), &mut Vec::new()).is_err());
    }

    #[test]
    fn numerics_keep_every_digit() {
        let words = |words: &[u16]| {
            let raw: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
            numeric(&raw, &mut Vec::new()).unwrap().to_owned()
        };
        // As `numeric_send` writes 12345.678, -0.00012, 100000000, 0, 0.0 and NaN.
        assert_eq!(words(&[3, 1, 0, 3, 1, 2345, 6780]), "12345.678");
        assert_eq!(words(&[1, u16::MAX, 0x4000, 5, 1]), "-0.00010");
        assert_eq!(words(&[1, 2, 0, 0, 1]), "100000000");
        assert_eq!(words(&[0, 0, 0, 0]), "0");
        assert_eq!(words(&[0, 0, 0, 1]), "0.0");
        assert_eq!(words(&[1, (-2_i16) as u16, 0, 8, 12]), "0.00000012");
        assert_eq!(words(&[0, 0, 0xC000, 0]), "NaN");
        assert!(numeric(&[0, 9, 0, 0], &mut Vec::new()).is_err());
    }
}
