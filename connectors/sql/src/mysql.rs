//! MySQL and MariaDB: a connection that only reads, and its rows, in the binary form of the wire.

use crate::config::{Database, Settings};
use crate::object::Object;
use crate::statement::{Column, Dialect, Kind, Page, Query};
use crate::taking::{Taking, Trouble};
use millrace_contract::Failure;
use millrace_kit::Tls;
use millrace_kit::shape::Shape;
use mysql_async::consts::{ColumnFlags, ColumnType};
use mysql_async::prelude::Queryable;
use mysql_async::{ClientIdentity, Column as Described, Conn, Error, Opts, OptsBuilder, Params, SslOpts, Value};
use std::future::Future;
use std::time::Duration;

const CONNECT: Duration = Duration::from_secs(10);
const GRACE: Duration = Duration::from_secs(5);
/// The character set of what is no text.
const BINARY: u16 = 63;

pub struct MySql {
    conn: Conn,
    within: Duration,
}

impl MySql {
    pub async fn connect(settings: &Settings) -> Result<Self, Failure> {
        let database = settings.database();
        let mut conn = open(&database).await?;
        let preparing = async {
            let version: Option<String> = conn.query_first("SELECT VERSION()").await?;
            let limit = if version.is_some_and(|version| version.contains("MariaDB")) {
                format!("max_statement_time = {}", settings.timeout.as_secs_f64())
            } else {
                format!("max_execution_time = {}", settings.timeout.as_millis())
            };
            conn.query_drop("SET SESSION TRANSACTION READ ONLY").await?;
            let lock = settings.timeout.as_secs().max(1);
            conn.query_drop(format!("SET SESSION time_zone = '+00:00', {limit}, lock_wait_timeout = {lock}")).await
        };
        match tokio::time::timeout(CONNECT, preparing).await {
            Ok(Ok(())) => Ok(Self { conn, within: settings.timeout + GRACE }),
            Ok(Err(error)) => Err(failure(&database.address(), &error)),
            Err(_) => Err(Failure::Reconnect(format!("no answer from {} within {CONNECT:?}", database.address()))),
        }
    }

    pub async fn columns(&mut self, query: &Query) -> Result<Vec<Column>, Trouble> {
        let statement = within(self.within, self.conn.prep(query.look(Dialect::MySql))).await?;
        Ok(statement.columns().iter().map(describe).collect())
    }

    /// One text.
    pub async fn ask(&mut self, page: &Page) -> Result<Option<String>, Trouble> {
        let asking = self.conn.exec_first::<Option<String>, _, _>(&page.sql, positional(page));
        Ok(within(self.within, asking).await?.flatten())
    }

    /// Reads a page; returns how many rows it had.
    pub async fn read(&mut self, page: &Page, columns: &[Column], query: &Query, taking: &mut Taking<'_>) -> Result<u64, Trouble> {
        let mut rows = within(self.within, self.conn.exec_iter(&page.sql, positional(page))).await?;
        let mut object = Object::new(columns.iter().map(|column| column.name.as_str()), taking.style);
        let mut place = vec![String::new(); 1 + query.id.len()];
        let mut count = 0;
        while let Some(row) = within(self.within, rows.next()).await? {
            count += 1;
            object.begin();
            for index in 0..columns.len() {
                object.name();
                value(&row.columns_ref()[index], row.as_ref(index).unwrap_or(&Value::NULL), &mut object);
            }
            object.end();
            if query.watermark.is_none() {
                taking.row(&object, None);
            } else {
                for (n, to) in place.iter_mut().enumerate() {
                    to.clear();
                    if let Some(Value::Bytes(bytes)) = row.as_ref(columns.len() + n) {
                        to.push_str(std::str::from_utf8(bytes).unwrap_or_default());
                    }
                }
                let is_recent = matches!(row.as_ref(columns.len() + place.len()), Some(Value::Int(1) | Value::UInt(1)));
                taking.row(&object, Some((&place, is_recent)));
            }
            if taking.is_full() {
                taking.flush().await?;
            }
        }
        Ok(count)
    }
}

/// Opens a connection.
pub(crate) async fn open(database: &Database) -> Result<Conn, Failure> {
    let address = database.address();
    let mut options = OptsBuilder::default()
        .ip_or_hostname(database.host.clone())
        .tcp_port(database.port)
        .db_name(Some(database.name.clone()))
        .prefer_socket(false)
        .ssl_opts(database.tls.as_ref().map(encryption));
    if let Some(login) = &database.login {
        options = options.user(Some(login.user.clone())).pass(Some(login.password.expose().to_owned()));
    }
    match tokio::time::timeout(CONNECT, Conn::new(Opts::from(options))).await {
        Ok(Ok(conn)) => Ok(conn),
        Ok(Err(error)) => Err(failure(&address, &error)),
        Err(_) => Err(Failure::Reconnect(format!("no answer from {address} within {CONNECT:?}"))),
    }
}

fn positional(page: &Page) -> Params {
    match page.parameters.is_empty() {
        true => Params::Empty,
        false => Params::Positional(page.parameters.iter().map(|text| Value::Bytes(text.clone().into_bytes())).collect()),
    }
}

async fn within<T>(within: Duration, asking: impl Future<Output = Result<T, Error>>) -> Result<T, Trouble> {
    match tokio::time::timeout(within, asking).await {
        Ok(answer) => answer.map_err(|error| trouble(&error)),
        Err(_) => Err(Trouble::Lost(format!("no answer within {within:?}"))),
    }
}

fn encryption(tls: &Tls) -> SslOpts {
    let mut options = SslOpts::default();
    if let Some(ca) = &tls.ca {
        options = options.with_root_certs(vec![ca.clone().into()]).with_disable_built_in_roots(true);
    }
    if let (Some(cert), Some(key)) = (&tls.cert, &tls.key) {
        options = options.with_client_identity(Some(ClientIdentity::new(cert.clone().into(), key.clone().into())));
    }
    if let Some(name) = &tls.server_name {
        options = options.with_danger_tls_hostname_override(Some(name.clone()));
    }
    options
}

fn describe(column: &Described) -> Column {
    let name = column.name_str().into_owned();
    let kind = match column.column_type() {
        ColumnType::MYSQL_TYPE_TIMESTAMP | ColumnType::MYSQL_TYPE_TIMESTAMP2 => Kind::Instant,
        ColumnType::MYSQL_TYPE_DATETIME | ColumnType::MYSQL_TYPE_DATETIME2 | ColumnType::MYSQL_TYPE_DATE => Kind::Civil,
        ColumnType::MYSQL_TYPE_TINY
        | ColumnType::MYSQL_TYPE_SHORT
        | ColumnType::MYSQL_TYPE_INT24
        | ColumnType::MYSQL_TYPE_LONG
        | ColumnType::MYSQL_TYPE_LONGLONG => Kind::Number,
        _ => Kind::Other,
    };
    Column { name, cast: String::new(), select: None, kind, shape: shape(column) }
}

fn shape(column: &Described) -> Shape {
    let is_unsigned = column.flags().contains(ColumnFlags::UNSIGNED_FLAG);
    match column.column_type() {
        ColumnType::MYSQL_TYPE_TINY | ColumnType::MYSQL_TYPE_SHORT | ColumnType::MYSQL_TYPE_INT24 | ColumnType::MYSQL_TYPE_YEAR => {
            Shape::Int
        }
        ColumnType::MYSQL_TYPE_LONG if !is_unsigned => Shape::Int,
        ColumnType::MYSQL_TYPE_LONGLONG if !is_unsigned => Shape::Long,
        ColumnType::MYSQL_TYPE_LONG => Shape::Long,
        // What 64 bits without a sign hold is more than Avro's long.
        ColumnType::MYSQL_TYPE_LONGLONG | ColumnType::MYSQL_TYPE_BIT => Shape::Decimal(Some((20, 0))),
        ColumnType::MYSQL_TYPE_FLOAT | ColumnType::MYSQL_TYPE_DOUBLE => Shape::Double,
        ColumnType::MYSQL_TYPE_DECIMAL | ColumnType::MYSQL_TYPE_NEWDECIMAL => {
            // The length counts the sign and the point.
            let scale = u32::from(column.decimals());
            let precision = column.column_length().saturating_sub(u32::from(scale > 0) + u32::from(!is_unsigned));
            Shape::Decimal(Some((precision.max(scale).max(1), scale)))
        }
        ColumnType::MYSQL_TYPE_DATE | ColumnType::MYSQL_TYPE_NEWDATE => Shape::Date,
        ColumnType::MYSQL_TYPE_DATETIME | ColumnType::MYSQL_TYPE_DATETIME2 => Shape::LocalTime,
        ColumnType::MYSQL_TYPE_TIMESTAMP | ColumnType::MYSQL_TYPE_TIMESTAMP2 => Shape::Moment(6),
        ColumnType::MYSQL_TYPE_JSON => Shape::Any,
        _ if is_binary(column) => Shape::Binary,
        // TIME is a span that may be negative or longer than a day.
        _ => Shape::Text,
    }
}

fn is_binary(column: &Described) -> bool {
    column.character_set() == BINARY
        && column.flags().contains(ColumnFlags::BINARY_FLAG)
        && !matches!(column.column_type(), ColumnType::MYSQL_TYPE_TIME | ColumnType::MYSQL_TYPE_TIME2)
}

fn value(column: &Described, value: &Value, object: &mut Object) {
    let of = column.column_type();
    match value {
        Value::NULL => object.null(),
        Value::Int(int) => object.int(*int),
        Value::UInt(int) => object.uint(*int),
        Value::Float(float) => object.double(f64::from(*float)),
        Value::Double(double) => object.double(*double),
        Value::Date(year, month, day, hour, minute, second, micros) => {
            if !is_day(*year, *month, *day) {
                let fraction = if *micros > 0 { format!(".{micros:06}") } else { String::new() };
                let time = match of {
                    ColumnType::MYSQL_TYPE_DATE => String::new(),
                    _ => format!("T{hour:02}:{minute:02}:{second:02}{fraction}"),
                };
                return object.unfit(&format!("{year:04}-{month:02}-{day:02}{time}"));
            }
            if of == ColumnType::MYSQL_TYPE_DATE {
                return object.format(format_args!("{year:04}-{month:02}-{day:02}"), 0, "");
            }
            // TIMESTAMP is in the connection's zone, which is UTC.
            let is_utc = matches!(of, ColumnType::MYSQL_TYPE_TIMESTAMP | ColumnType::MYSQL_TYPE_TIMESTAMP2);
            let text = format_args!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
            object.format(text, i64::from(*micros), if is_utc { "Z" } else { "" });
        }
        Value::Time(is_negative, days, hours, minutes, seconds, micros) => {
            let sign = if *is_negative { "-" } else { "" };
            let hours = u64::from(*days) * 24 + u64::from(*hours);
            object.format(format_args!("{sign}{hours:02}:{minutes:02}:{seconds:02}"), i64::from(*micros), "");
        }
        Value::Bytes(bytes) => match of {
            ColumnType::MYSQL_TYPE_DECIMAL | ColumnType::MYSQL_TYPE_NEWDECIMAL => {
                object.decimal(std::str::from_utf8(bytes).unwrap_or("NaN"), true)
            }
            ColumnType::MYSQL_TYPE_BIT => object.uint(bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))),
            ColumnType::MYSQL_TYPE_JSON => object.raw(bytes),
            _ if is_binary(column) => object.binary(bytes),
            _ => object.text_or_bytes(bytes),
        },
    }
}

/// Whether a day exists: `0000-00-00` and, with `ALLOW_INVALID_DATES`, the 31st of February are kept by a server, too.
fn is_day(year: u16, month: u8, day: u8) -> bool {
    year > 0 && i16::try_from(year).is_ok_and(|year| jiff::civil::Date::new(year, month.cast_signed(), day.cast_signed()).is_ok())
}

/// Codes of a login that a person must mend: denied, no such database, a password that has expired.
const HUMAN: [u16; 7] = [1044, 1045, 1049, 1698, 1820, 1862, 3118];

fn trouble(error: &Error) -> Trouble {
    match error {
        Error::Server(server) if HUMAN.contains(&server.code) => Trouble::Human(said(error)),
        // Killed, shut down, too many connections.
        Error::Server(server) if matches!(server.code, 1040 | 1053 | 1927) => Trouble::Lost(said(error)),
        Error::Server(_) => Trouble::Query(said(error)),
        Error::Io(_) | Error::Driver(_) => Trouble::Lost(said(error)),
        _ => Trouble::Query(said(error)),
    }
}

pub(crate) fn failure(address: &str, error: &Error) -> Failure {
    let text = format!("{address}: {}", said(error));
    match error {
        Error::Server(server) if HUMAN.contains(&server.code) => {
            Failure::Blocked(format!("{text}; check `login` and `endpoint`, or whether the password has expired"))
        }
        Error::Io(mysql_async::IoError::Tls(_)) => Failure::Blocked(format!("{text}; check `tls`")),
        _ => Failure::Reconnect(text),
    }
}

fn said(error: &Error) -> String {
    match error {
        Error::Server(server) => format!("{} ({})", server.message, server.code),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Style;

    #[test]
    fn a_date_that_does_not_exist_is_null_with_its_text_beside_it() {
        use ColumnType::{MYSQL_TYPE_DATE as DATE, MYSQL_TYPE_DATETIME as DATETIME, MYSQL_TYPE_TIMESTAMP as TIMESTAMP};
        for (of, date, json, unfit) in [
            (DATE, Value::Date(2026, 7, 1, 0, 0, 0, 0), r#""2026-07-01""#, ""),
            (DATE, Value::Date(9999, 12, 31, 0, 0, 0, 0), r#""9999-12-31""#, ""),
            (DATETIME, Value::Date(9999, 12, 31, 23, 59, 59, 999_999), r#""9999-12-31T23:59:59.999999""#, ""),
            (TIMESTAMP, Value::Date(2038, 1, 19, 3, 14, 7, 0), r#""2038-01-19T03:14:07Z""#, ""),
            (DATE, Value::Date(0, 0, 0, 0, 0, 0, 0), "null", r#"{"v":"0000-00-00"}"#),
            (DATE, Value::Date(0, 5, 1, 0, 0, 0, 0), "null", r#"{"v":"0000-05-01"}"#),
            (DATE, Value::Date(2026, 2, 31, 0, 0, 0, 0), "null", r#"{"v":"2026-02-31"}"#),
            (DATE, Value::Date(2026, 13, 1, 0, 0, 0, 0), "null", r#"{"v":"2026-13-01"}"#),
            (DATE, Value::Date(65_535, 255, 255, 0, 0, 0, 0), "null", r#"{"v":"65535-255-255"}"#),
            (DATETIME, Value::Date(2026, 0, 0, 1, 2, 3, 500_000), "null", r#"{"v":"2026-00-00T01:02:03.500000"}"#),
        ] {
            let mut object = Object::new(["v"], Style { is_document: true, is_avro: false });
            object.begin();
            object.name();
            value(&Described::new(of), &date, &mut object);
            object.end();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            assert_eq!((text(&object.bytes), text(&object.unfit)), (format!("{{\"v\":{json}}}"), unfit.to_owned()), "{date:?}");
        }
    }
}
