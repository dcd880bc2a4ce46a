//! PostgreSQL: a connection that only reads, and its rows, in the binary form of the wire.
//!
//! Types whose binary form says less than their text (money, ranges, network addresses) are cast to text by the server; arrays and composite types to
//! JSON. Everything else is decoded here, digit by digit.

use crate::config::{Database, Settings};
use crate::object::{Object, date_of};
use crate::statement::{Column, Dialect, Kind, Page, Query};
use crate::taking::{Taking, Trouble};
use futures_util::{FutureExt, StreamExt};
use millrace_config::Reason;
use millrace_contract::Failure;
use millrace_kit::Tls;
use millrace_kit::shape::Shape;
use std::fmt::Write;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_postgres::types::{FromSql, Kind as TypeKind, Type};
use tokio_postgres::{Client, NoTls, Row};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// Beyond the server's own timeout.
const GRACE: Duration = Duration::from_secs(5);
/// Days from 1970 to 2000.
const EPOCH_DAYS: i32 = 10_957;
const DAY: i64 = 86_400_000_000;

pub struct Postgres {
    client: Client,
    /// What moves the bytes; it ends with the client.
    connection: JoinHandle<()>,
    within: Duration,
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
        let this = Self { client, connection, within: settings.timeout + GRACE };
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
        let parameters: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> = page.parameters.iter().map(|text| text as _).collect();
        let row = self.within(self.client.query_one(&page.sql, &parameters)).await?;
        row.try_get(0).map_err(|error| Trouble::Query(error.to_string()))
    }

    /// Reads a page; returns how many rows it had.
    pub async fn read(&self, page: &Page, columns: &[Column], query: &Query, taking: &mut Taking<'_>) -> Result<u64, Trouble> {
        let parameters: Vec<_> = page.parameters.iter().map(String::as_str).collect();
        let rows = self.within(self.client.query_raw(&page.sql, parameters)).await?;
        let mut rows = pin!(rows);
        let mut object = Object::new(columns.iter().map(|column| column.name.as_str()), taking.style);
        let mut place = vec![String::new(); 1 + query.id.len()];
        // Whole numbers are not sent twice: their text is made of the column.
        let numbers: Vec<_> = query.watermark.iter().chain(&query.id).map(|name| number_among(columns, name)).collect();
        let mut count = 0;
        loop {
            // Most rows are here already: no clock is wound up for them.
            let next = match rows.next().now_or_never() {
                Some(row) => row.transpose().map_err(|error| trouble(&error))?,
                None => self.within(async { rows.next().await.transpose() }).await?,
            };
            let Some(row) = next else { return Ok(count) };
            count += 1;
            object.begin();
            for (index, column) in columns.iter().enumerate() {
                object.name();
                let is_fixed = matches!(column.shape, Shape::Decimal(_));
                value(row.columns()[index].type_(), is_fixed, raw(&row, index)?, &mut object)
                    .map_err(|why| Trouble::Query(format!("column `{}`: {why}", column.name)))?;
            }
            object.end();
            if query.watermark.is_none() {
                taking.row(&object, None);
            } else {
                for (n, to) in place.iter_mut().enumerate() {
                    to.clear();
                    match numbers[n] {
                        Some(at) => push_number(raw(&row, at)?.unwrap_or_default(), to),
                        None => to.push_str(std::str::from_utf8(raw(&row, columns.len() + n)?.unwrap_or_default()).unwrap_or_default()),
                    }
                }
                let is_recent = raw(&row, columns.len() + place.len())?.is_some_and(|flag| flag == [1]);
                taking.row(&object, Some((&place, is_recent)));
            }
            if taking.is_full() {
                taking.flush().await?;
            }
        }
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
    // Writing to memory can't fail.
    let _ = write!(to, "{number}");
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

/// The bytes of a value as they came.
struct Raw<'a>(Option<&'a [u8]>);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(Some(raw)))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(None))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

fn raw(row: &Row, index: usize) -> Result<Option<&[u8]>, Trouble> {
    row.try_get::<_, Raw<'_>>(index).map(|raw| raw.0).map_err(|error| Trouble::Query(error.to_string()))
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

/// Writes one value. `is_fixed`: a numeric whose scale is known. Errors: bytes that are not of their type.
fn value(of: &Type, is_fixed: bool, raw: Option<&[u8]>, object: &mut Object) -> Result<(), Reason> {
    let Some(raw) = raw else {
        object.null();
        return Ok(());
    };
    fn bytes<const N: usize>(raw: &[u8]) -> Result<[u8; N], Reason> {
        raw.try_into().map_err(|_| format!("{} bytes where {N} should be", raw.len()).into())
    }
    match *of {
        Type::BOOL => object.bool(raw == [1]),
        Type::INT2 => object.int(i16::from_be_bytes(bytes(raw)?)),
        Type::INT4 => object.int(i32::from_be_bytes(bytes(raw)?)),
        Type::INT8 => object.int(i64::from_be_bytes(bytes(raw)?)),
        Type::OID => object.int(u32::from_be_bytes(bytes(raw)?)),
        Type::FLOAT4 => object.double(f64::from(f32::from_be_bytes(bytes(raw)?))),
        Type::FLOAT8 => object.double(f64::from_be_bytes(bytes(raw)?)),
        Type::NUMERIC => object.decimal(&numeric(raw)?, is_fixed),
        Type::UUID => {
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
        Type::TIMESTAMP | Type::TIMESTAMPTZ => match i64::from_be_bytes(bytes(raw)?) {
            i64::MAX => object.unfit("infinity"),
            i64::MIN => object.unfit("-infinity"),
            micros => {
                let (days, of_day) = (micros.div_euclid(DAY) + i64::from(EPOCH_DAYS), micros.rem_euclid(DAY).unsigned_abs());
                let suffix = if *of == Type::TIMESTAMPTZ { "Z" } else { "" };
                if !object.moment(days, of_day, suffix) {
                    let ((year, month, day), seconds) = (date_of(days), of_day / 1_000_000);
                    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
                    object.unfit(&format!("{year:+05}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{suffix}"));
                }
            }
        },
        Type::DATE => match i32::from_be_bytes(bytes(raw)?) {
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
        Type::TIME => object.time_of_day(i64::from_be_bytes(bytes(raw)?).unsigned_abs()),
        Type::BYTEA => object.binary(raw),
        Type::JSON => object.raw(raw),
        Type::JSONB => object.raw(raw.get(1..).unwrap_or_default()),
        _ => object.text_or_bytes(raw),
    }
    Ok(())
}

/// A NUMERIC as its text: groups of four digits, a weight, a sign and the digits shown behind the point.
///
/// Source: src/backend/utils/adt/numeric.c, `numeric_send`.
fn numeric(raw: &[u8]) -> Result<String, Reason> {
    let word = |n: usize| raw.get(2 * n..2 * n + 2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).ok_or("a numeric that is cut");
    let (count, weight, sign, scale) = (word(0)? as usize, word(1)? as i16, word(2)?, word(3)?);
    match sign {
        0xC000 => return Ok("NaN".into()),
        0xD000 => return Ok("Infinity".into()),
        0xF000 => return Ok("-Infinity".into()),
        _ => {}
    }
    let group = |n: i32| -> Result<u16, &str> { if n >= 0 && (n as usize) < count { word(4 + n as usize) } else { Ok(0) } };
    let mut text = Vec::with_capacity(count * 4 + 8);
    let four = |group: u16, text: &mut Vec<u8>| text.extend([1000, 100, 10, 1].map(|unit| b'0' + (group / unit % 10) as u8));
    if sign == 0x4000 {
        text.push(b'-');
    }
    if weight < 0 {
        text.push(b'0');
    }
    for n in 0..=i32::from(weight) {
        let start = text.len();
        four(group(n)?, &mut text);
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
            four(group(n)?, &mut text);
            n += 1;
        }
        text.truncate(end);
    }
    String::from_utf8(text).map_err(|_| "a numeric that is none".into())
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

/// TLS as the kit has it.
struct Encrypt {
    tls: Tls,
    host: String,
    address: String,
}

/// Why the handshake failed, with what a session does next.
#[derive(Debug)]
struct Refused(Failure);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Refused {}

type Encrypted = tokio_rustls::client::TlsStream<TcpStream>;

impl TlsConnect<TcpStream> for Encrypt {
    type Stream = Wrapped;
    type Error = Refused;
    type Future = Pin<Box<dyn Future<Output = Result<Wrapped, Refused>> + Send>>;

    fn connect(self, stream: TcpStream) -> Self::Future {
        Box::pin(async move { self.tls.connect(stream, &self.host, &self.address).await.map(Wrapped).map_err(Refused) })
    }
}

struct Wrapped(Encrypted);

impl TlsStream for Wrapped {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Wrapped {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wrapped {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
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
    fn numerics_keep_every_digit() {
        let words = |words: &[u16]| numeric(&words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>()).unwrap();
        // As `numeric_send` writes 12345.678, -0.00012, 100000000, 0, 0.0 and NaN.
        assert_eq!(words(&[3, 1, 0, 3, 1, 2345, 6780]), "12345.678");
        assert_eq!(words(&[1, u16::MAX, 0x4000, 5, 1]), "-0.00010");
        assert_eq!(words(&[1, 2, 0, 0, 1]), "100000000");
        assert_eq!(words(&[0, 0, 0, 0]), "0");
        assert_eq!(words(&[0, 0, 0, 1]), "0.0");
        assert_eq!(words(&[1, (-2_i16) as u16, 0, 8, 12]), "0.00000012");
        assert_eq!(words(&[0, 0, 0xC000, 0]), "NaN");
        assert!(numeric(&[0, 9, 0, 0]).is_err());
    }
}
