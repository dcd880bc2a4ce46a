//! SQL Server: a connection that reads, and its rows, in the binary form of TDS.
//!
//! The columns of a statement are asked for by `sys.dm_exec_describe_first_result_set`, which knows precision and scale. Types that the driver knows
//! only as a float (money) are cast to a decimal by the server, those it does not know (`geography`, `sql_variant`) to text. Everything else is decoded
//! here, digit by digit: a `datetime` is in three hundredths of a second, a `datetime2` in units of 100 ns, a `datetimeoffset` keeps its offset.
//!
//! There is no read-only session in SQL Server: what a user may not write is up to the user's rights. Nothing is read WITH (NOLOCK): that skips rows and
//! reads rows twice. READ COMMITTED waits for who writes, unless the database has READ_COMMITTED_SNAPSHOT; for no longer than the timeout.

use crate::config::{Database, Settings};
use crate::object::{Object, date_of};
use crate::statement::{Column, Dialect, Kind, Page, Query};
use crate::taking::{Taking, Trouble};
use futures_util::TryStreamExt;
use futures_util::io::{AsyncRead, AsyncWrite};
use millrace_config::Reason;
use millrace_contract::Failure;
use millrace_kit::shape::Shape;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tiberius::error::Error;
use tiberius::time::{DateTime2, DateTimeOffset, Time};
use tiberius::{AuthMethod, Client, ColumnData, Config, EncryptionLevel, QueryItem, QueryStream, ToSql};
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// Beyond the server's own timeout, which is that of locks alone.
const GRACE: Duration = Duration::from_secs(5);
/// An availability group sends a connection on; not from one to the next for ever.
const ROUTES: usize = 3;
/// Days from 1970-01-01 back to 1900-01-01, and to 0001-01-01.
const DAYS_1900: i64 = 25_567;
const DAYS_1: i64 = 719_162;
/// In microseconds.
const DAY: u64 = 86_400_000_000;

const DESCRIBE: &str = "SELECT name, system_type_name, error_number, error_message FROM sys.dm_exec_describe_first_result_set(@P1, NULL, 0) \
                        ORDER BY column_ordinal";

pub struct SqlServer {
    client: Client<Wire>,
    within: Duration,
}

impl SqlServer {
    pub async fn connect(settings: &Settings) -> Result<Self, Failure> {
        let database = settings.database();
        let mut this = Self { client: open(&database, settings.is_read_only).await?, within: settings.timeout + GRACE };
        // Dates as texts mean the same whatever the login's language is.
        let set = format!(
            "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCK_TIMEOUT {}; SET DATEFORMAT ymd",
            i32::try_from(settings.timeout.as_millis()).unwrap_or(i32::MAX)
        );
        let setting = async {
            this.client.simple_query(set).await?.into_results().await?;
            Ok(())
        };
        match tokio::time::timeout(CONNECT, setting).await {
            Ok(done) => done.map_err(|error| failure(&database.address(), &error))?,
            Err(_) => return Err(Failure::Reconnect(format!("no answer from {} within {CONNECT:?}", database.address()))),
        }
        Ok(this)
    }

    pub async fn columns(&mut self, query: &Query) -> Result<Vec<Column>, Trouble> {
        let page = Page { sql: DESCRIBE.into(), parameters: vec![query.look(Dialect::SqlServer)] };
        let within = self.within;
        let mut rows = ask(&mut self.client, within, &page).await?;
        let mut columns = Vec::new();
        while let Some(item) = limited(within, rows.try_next()).await? {
            let QueryItem::Row(row) = item else { continue };
            let cells: Vec<_> = row.cells().map(|(_, data)| data).collect();
            let [name, of, number, message] = cells[..] else { return Err(Trouble::Query("the columns cannot be told".into())) };
            if let Some(message) = text(message) {
                let number = if let ColumnData::I32(Some(number)) = number { format!(" ({number})") } else { String::new() };
                return Err(Trouble::Query(format!("{message}{number}")));
            }
            columns.push(describe(text(name).unwrap_or_default(), text(of)));
        }
        Ok(columns)
    }

    /// One text.
    pub async fn ask(&mut self, page: &Page) -> Result<Option<String>, Trouble> {
        let within = self.within;
        let rows = ask(&mut self.client, within, page).await?;
        let row = limited(within, rows.into_row()).await?;
        Ok(row.and_then(|row| row.cells().next().and_then(|(_, data)| text(data).map(str::to_owned))))
    }

    /// Reads a page; returns how many rows it had.
    pub async fn read(&mut self, page: &Page, columns: &[Column], query: &Query, taking: &mut Taking<'_>) -> Result<u64, Trouble> {
        let within = self.within;
        let mut rows = ask(&mut self.client, within, page).await?;
        let mut object = Object::new(columns.iter().map(|column| column.name.as_str()), taking.style);
        let mut place = vec![String::new(); 1 + query.id.len()];
        let mut count = 0;
        while let Some(item) = limited(within, rows.try_next()).await? {
            let QueryItem::Row(row) = item else { continue };
            count += 1;
            object.begin();
            let mut cells = row.cells().map(|(_, data)| data);
            for (column, data) in columns.iter().zip(&mut cells) {
                object.name();
                value(column, data, &mut object).map_err(|why| Trouble::Query(format!("column `{}`: {why}", column.name)))?;
            }
            object.end();
            if query.watermark.is_none() {
                taking.row(&object, None);
            } else {
                for (to, data) in place.iter_mut().zip(&mut cells) {
                    to.clear();
                    to.push_str(text(data).unwrap_or_default());
                }
                let is_recent = matches!(cells.next(), Some(ColumnData::I32(Some(1))));
                taking.row(&object, Some((&place, is_recent)));
            }
            if taking.is_full() {
                taking.flush().await?;
            }
        }
        Ok(count)
    }
}

async fn ask<'c>(client: &'c mut Client<Wire>, within: Duration, page: &Page) -> Result<QueryStream<'c>, Trouble> {
    let parameters: Vec<&dyn ToSql> = page.parameters.iter().map(|text| text as &dyn ToSql).collect();
    limited(within, client.query(page.sql.as_str(), &parameters)).await
}

async fn limited<T>(within: Duration, asking: impl Future<Output = Result<T, Error>>) -> Result<T, Trouble> {
    match tokio::time::timeout(within, asking).await {
        Ok(answer) => answer.map_err(|error| trouble(&error)),
        // The statement ends with the connection.
        Err(_) => Err(Trouble::Lost(format!("no answer within {within:?}"))),
    }
}

/// Opens a connection, where an availability group sends it.
async fn open(database: &Database, is_read_only: bool) -> Result<Client<Wire>, Failure> {
    let address = database.address();
    let connecting = async {
        let config = config(database, is_read_only)?;
        let mut to = (database.host.clone(), database.port);
        for _ in 0..ROUTES {
            let stream = TcpStream::connect((to.0.as_str(), to.1))
                .await
                .map_err(|error| Failure::Reconnect(format!("cannot connect to {}:{}: {error}", to.0, to.1)))?;
            let _ = stream.set_nodelay(true);
            let mut config = config.clone();
            if to.0 != database.host {
                config.host(&to.0);
            }
            match Client::connect(config, Wire(stream)).await {
                Err(Error::Routing { host, port }) => to = (host, port),
                Err(error) => return Err(failure(&address, &error)),
                Ok(client) => return Ok(client),
            }
        }
        Err(Failure::Reconnect(format!("{address} sends the connection on and on, now to {}:{}", to.0, to.1)))
    };
    match tokio::time::timeout(CONNECT, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(Failure::Reconnect(format!("no answer from {address} within {CONNECT:?}"))),
    }
}

fn config(database: &Database, is_read_only: bool) -> Result<Config, Failure> {
    let mut config = Config::new();
    config.host(&database.host);
    config.port(database.port);
    config.database(&database.name);
    config.application_name("millrace");
    config.readonly(is_read_only);
    // Ours are around every answer.
    config.command_timeout(None);
    config.handshake_timeout(None);
    // A half of a pair that stands alone is a value, not the end of the connection.
    config.lossy_utf16_decoding(true);
    if let Some(login) = &database.login {
        config.authentication(AuthMethod::sql_server(&login.user, login.password.expose()));
    }
    match &database.tls {
        None => config.encryption(EncryptionLevel::NotSupported),
        Some(tls) => {
            config.encryption(EncryptionLevel::Required);
            if let Some(ca) = &tls.ca {
                let pem = std::fs::read(ca).map_err(|error| Failure::Blocked(format!("cannot read `tls.ca` {}: {error}", ca.display())))?;
                config.trust_cert_ca_bundle(pem);
            }
            if let Some(name) = &tls.server_name {
                config.hostname_in_certificate(name);
            }
        }
    }
    Ok(config)
}

/// A column by the type's name as SQL Server writes it: `decimal(10,2)`. None of the CLR's has one.
fn describe(name: &str, of: Option<&str>) -> Column {
    let quoted = format!("q.{}", Dialect::SqlServer.quote(name));
    let of = of.unwrap_or_default();
    let (base, sizes) = of.split_once('(').unwrap_or((of, ""));
    let sizes: Vec<u32> = sizes.trim_end_matches(')').split(',').filter_map(|size| size.trim().parse().ok()).collect();
    let scale = sizes.first().copied().unwrap_or(7);
    let (kind, shape, select) = match base {
        "bit" => (Kind::Other, Shape::Bool, None),
        "tinyint" | "smallint" | "int" => (Kind::Number, Shape::Int, None),
        "bigint" => (Kind::Number, Shape::Long, None),
        "decimal" | "numeric" => match sizes[..] {
            [precision, scale] => (Kind::Other, Shape::Decimal(Some((precision, scale))), None),
            _ => (Kind::Other, Shape::Number, None),
        },
        "money" => (Kind::Other, Shape::Decimal(Some((19, 4))), Some(format!("CAST({quoted} AS decimal(19,4))"))),
        "smallmoney" => (Kind::Other, Shape::Decimal(Some((10, 4))), Some(format!("CAST({quoted} AS decimal(10,4))"))),
        "real" | "float" => (Kind::Other, Shape::Double, None),
        "char" | "varchar" | "nchar" | "nvarchar" | "text" | "ntext" | "xml" => (Kind::Other, Shape::Text, None),
        "uniqueidentifier" => (Kind::Other, Shape::Guid, None),
        "binary" | "varbinary" | "image" => (Kind::Other, Shape::Binary, None),
        "timestamp" => (Kind::RowVersion, Shape::UNSIGNED, Some(format!("CAST({quoted} AS binary(8))"))),
        "date" => (Kind::Civil, Shape::Date, None),
        "datetime" | "smalldatetime" => (Kind::Civil, Shape::LocalTime, None),
        // Avro's times end at microseconds.
        "datetime2" => (Kind::Civil, if scale > 6 { Shape::Text } else { Shape::LocalTime }, None),
        "time" => (Kind::Other, if scale > 6 { Shape::Text } else { Shape::TimeOfDay }, None),
        "datetimeoffset" => (Kind::Instant, Shape::Moment(scale), None),
        "" => (Kind::Other, Shape::Text, Some(format!("{quoted}.ToString()"))),
        "sql_variant" => (Kind::Other, Shape::Text, Some(format!("CAST({quoted} AS nvarchar(4000))"))),
        _ => (Kind::Other, Shape::Text, Some(format!("CAST({quoted} AS nvarchar(max))"))),
    };
    Column { name: name.to_owned(), cast: of.to_owned(), select, kind, shape }
}

fn text<'d>(data: &'d ColumnData<'_>) -> Option<&'d str> {
    match data {
        ColumnData::String(text) => text.as_deref(),
        _ => None,
    }
}

/// Writes one value. Errors: one that cannot be of its type.
fn value(column: &Column, data: &ColumnData<'_>, object: &mut Object) -> Result<(), Reason> {
    match data {
        ColumnData::U8(Some(int)) => object.int(*int),
        ColumnData::I16(Some(int)) => object.int(*int),
        ColumnData::I32(Some(int)) => object.int(*int),
        ColumnData::I64(Some(int)) => object.int(*int),
        ColumnData::F32(Some(double)) => object.double(f64::from(*double)),
        ColumnData::F64(Some(double)) => object.double(*double),
        ColumnData::Bit(Some(flag)) => object.bool(*flag),
        ColumnData::String(Some(text)) => object.text(text),
        ColumnData::Xml(Some(xml)) => object.text(xml.as_ref().as_ref()),
        ColumnData::Guid(Some(id)) => object.text(&id.to_string()),
        ColumnData::Binary(Some(bytes)) if column.kind == Kind::RowVersion => {
            let bytes = bytes.as_ref().try_into().map_err(|_| format!("a rowversion of {} bytes", bytes.len()))?;
            object.uint(u64::from_be_bytes(bytes));
        }
        ColumnData::Binary(Some(bytes)) => object.binary(bytes),
        ColumnData::Numeric(Some(number)) => {
            object.decimal(&decimal(number.value(), number.scale()), matches!(column.shape, Shape::Decimal(Some(_))));
        }
        ColumnData::DateTime(Some(time)) => {
            let thirds = time.seconds_fragments();
            // As the server writes it: .003 and .007 of a second for one and two thirds of a hundredth.
            let millis = (thirds % 300 * 10 + 1) / 3;
            let micros = u64::from(thirds / 300) * 1_000_000 + u64::from(millis) * 1000;
            let is_time = micros < DAY && object.moment(i64::from(time.days()) - DAYS_1900, micros, "");
            return is_time.then_some(()).ok_or_else(|| format!("{} days and {thirds} parts are no time", time.days()).into());
        }
        ColumnData::SmallDateTime(Some(time)) => {
            let micros = u64::from(time.seconds_fragments()) * 60_000_000;
            let is_time = micros < DAY && object.moment(i64::from(time.days()) - DAYS_1900, micros, "");
            return is_time.then_some(()).ok_or_else(|| format!("{} minutes are no time of a day", time.seconds_fragments()).into());
        }
        ColumnData::Date(Some(date)) => {
            return object
                .date(i64::from(date.days()) - DAYS_1)
                .then_some(())
                .ok_or_else(|| format!("{} days are no date", date.days()).into());
        }
        ColumnData::Time(Some(time)) => {
            let (seconds, fraction) = split(*time)?;
            object.text(&format!("{}{fraction}", of_day(seconds)));
        }
        ColumnData::DateTime2(Some(time)) => object.text(&moment(*time, 0)?),
        // TDS carries UTC and the offset.
        ColumnData::DateTimeOffset(Some(time)) => {
            let offset = time.offset();
            let (sign, minutes) = (if offset < 0 { '-' } else { '+' }, offset.unsigned_abs());
            let zone = if offset == 0 { "Z".to_owned() } else { format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60) };
            object.text(&(moment(DateTimeOffset::datetime2(*time), offset)? + &zone));
        }
        _ => object.null(),
    }
    Ok(())
}

fn decimal(value: i128, scale: u8) -> String {
    let digits = format!("{:0width$}", value.unsigned_abs(), width = usize::from(scale) + 1);
    let (whole, fraction) = digits.split_at(digits.len() - usize::from(scale));
    format!("{}{whole}{}{fraction}", if value < 0 { "-" } else { "" }, if fraction.is_empty() { "" } else { "." })
}

/// So many days after 1970-01-01, so many seconds into the day, shifted by minutes.
fn moment(time: DateTime2, shift: i16) -> Result<String, Reason> {
    let (seconds, fraction) = split(time.time())?;
    let all = (i64::from(time.date().days()) - DAYS_1) * 86_400 + i64::from(seconds) + i64::from(shift) * 60;
    Ok(civil(all.div_euclid(86_400), all.rem_euclid(86_400).unsigned_abs())? + &fraction)
}

fn civil(days: i64, seconds: u64) -> Result<String, Reason> {
    let (year, month, day) = date_of(days);
    if seconds >= 86_400 || !(1..=9999).contains(&year) {
        return Err(format!("{days} days and {seconds} seconds are no time").into());
    }
    Ok(format!("{year:04}-{month:02}-{day:02}T{}", of_day(u32::try_from(seconds).unwrap_or_default())))
}

fn of_day(seconds: u32) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// The seconds of a time of day, and the text of the rest: `.25`, or nothing.
fn split(time: Time) -> Result<(u32, String), Reason> {
    let unit =
        10_u64.checked_pow(time.scale().into()).filter(|_| time.scale() <= 7).ok_or_else(|| format!("a scale of {}", time.scale()))?;
    let seconds = u32::try_from(time.increments() / unit).ok().filter(|seconds| *seconds < 86_400);
    let seconds = seconds.ok_or_else(|| format!("{} is no time of a day", time.increments()))?;
    let fraction = format!(".{:0width$}", time.increments() % unit, width = usize::from(time.scale()));
    Ok((seconds, fraction.trim_end_matches('0').trim_end_matches('.').to_owned()))
}

/// Errors of a login that a person must mend: wrong, locked, expired, to be changed, of Windows alone, disabled; no such database.
const HUMAN: [u32; 9] = [4060, 18_452, 18_456, 18_461, 18_470, 18_486, 18_487, 18_488, 911];
/// A lock that was waited for too long.
const LOCKED: u32 = 1222;

/// What an error of a statement means.
fn trouble(error: &Error) -> Trouble {
    match error {
        Error::Server(server) if HUMAN.contains(&server.code()) => Trouble::Human(said(error)),
        // The server ends the connection with these; so does Azure when it moves a database.
        Error::Server(server) if server.class() >= 20 || matches!(server.code(), 40_197 | 40_501 | 40_613) => Trouble::Lost(said(error)),
        Error::Server(server) if server.code() == LOCKED => {
            Trouble::Query(format!("{}; others hold the rows: switch READ_COMMITTED_SNAPSHOT on in this database", said(error)))
        }
        Error::Server(_) | Error::Conversion(_) => Trouble::Query(said(error)),
        _ => Trouble::Lost(said(error)),
    }
}

/// What an error of a connection means.
fn failure(address: &str, error: &Error) -> Failure {
    let text = format!("{address}: {}", said(error));
    match error {
        Error::Server(server) if HUMAN.contains(&server.code()) => {
            Failure::Blocked(format!("{text}; check `login` and `endpoint`, or whether the password has expired"))
        }
        Error::Tls(_) => Failure::Blocked(format!("{text}; check `tls`")),
        Error::Protocol(why) if why.contains("encryption level") => {
            Failure::Blocked(format!("{text}; the server has no certificate, or `tls` is to be left out"))
        }
        _ => Failure::Reconnect(text),
    }
}

fn said(error: &Error) -> String {
    match error {
        Error::Server(server) => format!("{} ({})", server.message().trim_end_matches('.'), server.code()),
        other => other.to_string(),
    }
}

/// A socket as the driver wants it.
struct Wire(TcpStream);

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(to);
        ready!(tokio::io::AsyncRead::poll_read(Pin::new(&mut self.0), cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        tokio::io::AsyncWrite::poll_write(Pin::new(&mut self.0), cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        tokio::io::AsyncWrite::poll_flush(Pin::new(&mut self.0), cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        tokio::io::AsyncWrite::poll_shutdown(Pin::new(&mut self.0), cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Style;
    use tiberius::numeric::Numeric;
    use tiberius::time::{Date, DateTime};

    fn written(of: &str, data: ColumnData<'_>) -> String {
        let column = describe("v", Some(of));
        let mut object = Object::new(["v"], Style::default());
        object.begin();
        object.name();
        value(&column, &data, &mut object).unwrap();
        String::from_utf8(object.bytes[5..].to_vec()).unwrap()
    }

    #[test]
    fn values_keep_their_digits() {
        // [MS-TDS] 2.2.5.5.1.8: 1900-01-01 plus days, three hundredths of a second.
        for (thirds, text) in
            [(0, "00:00:00"), (1, "00:00:00.003"), (2, "00:00:00.007"), (299, "00:00:00.997"), (25_919_999, "23:59:59.997")]
        {
            assert_eq!(written("datetime", ColumnData::DateTime(Some(DateTime::new(0, thirds)))), format!("\"1900-01-01T{text}\""));
        }
        assert_eq!(written("datetime", ColumnData::DateTime(Some(DateTime::new(-53_690, 0)))), "\"1753-01-01T00:00:00\"");
        let last = DateTime2::new(Date::new(3_652_058), Time::new(863_999_999_999, 7));
        assert_eq!(written("datetime2(7)", ColumnData::DateTime2(Some(last))), "\"9999-12-31T23:59:59.9999999\"");
        let new_year = DateTime2::new(Date::new(739_616), Time::new(0, 3));
        let offset = |minutes| written("datetimeoffset(3)", ColumnData::DateTimeOffset(Some(DateTimeOffset::new(new_year, minutes))));
        assert_eq!(offset(0), "\"2026-01-01T00:00:00Z\"");
        assert_eq!(offset(-210), "\"2025-12-31T20:30:00-03:30\"");
        let decimal = |value, scale| written("decimal(38,10)", ColumnData::Numeric(Some(Numeric::new_with_scale(value, scale))));
        assert_eq!(decimal(-5, 4), "-0.0005");
        assert_eq!(decimal(i128::MAX, 0), "170141183460469231731687303715884105727");
        assert_eq!(written("timestamp", ColumnData::Binary(Some(u64::MAX.to_be_bytes().to_vec().into()))), "18446744073709551615");
    }

    #[test]
    fn a_time_that_is_none_is_an_error_and_no_panic() {
        let column = describe("v", Some("datetime2(7)"));
        let mut object = Object::new(["v"], Style::default());
        object.begin();
        object.name();
        for time in [Time::new(u64::MAX, 0), Time::new(0, 200), Time::new(864_000_000_000, 7)] {
            let data = ColumnData::DateTime2(Some(DateTime2::new(Date::new(0), time)));
            assert!(value(&column, &data, &mut object).is_err());
        }
        let late = ColumnData::DateTimeOffset(Some(DateTimeOffset::new(DateTime2::new(Date::new(0), Time::new(0, 0)), -1)));
        assert!(value(&column, &late, &mut object).is_err(), "before the year 1");
    }

    #[test]
    fn a_type_is_read_by_its_name() {
        assert_eq!(describe("v", Some("decimal(10,2)")).shape, Shape::Decimal(Some((10, 2))));
        assert_eq!(describe("v", Some("datetime2(7)")).shape, Shape::Text);
        assert_eq!(describe("a]b", Some("money")).select.as_deref(), Some("CAST(q.[a]]b] AS decimal(19,4))"));
        assert_eq!(describe("v", None).select.as_deref(), Some("q.[v].ToString()"));
        assert_eq!(describe("v", Some("sql_variant")).select.as_deref(), Some("CAST(q.[v] AS nvarchar(4000))"));
        assert_eq!(describe("v", Some("json")).select.as_deref(), Some("CAST(q.[v] AS nvarchar(max))"));
    }
}
