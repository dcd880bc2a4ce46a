//! The SQL of a page: which rows, after which, in which order.
//!
//! ```text
//! SELECT columns.., watermark as text, ids as text, is it recent?
//! FROM  table
//! WHERE w >= a AND (w > a OR (w = a AND id > b))      after the cursor: rows of one moment are told apart by their ids
//!   AND w <= now + 1 day                              a clock gone wrong does not take the cursor with it
//!   AND w < bound                                     where the database can tell below what nothing appears any more
//! ORDER BY w, id LIMIT page                           TOP (page) in SQL Server
//! ```
//!
//! Values go as the text that the server gave for them, and are cast to the column's type there: as parameters, but for PostgreSQL, whose COPY takes none;
//! there they stand in the statement.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use millrace_kit::shape::Shape;
use schemars::JsonSchema;
use serde::Deserialize;
use std::fmt::Write;
use std::time::Duration;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialect {
    Postgres,
    MySql,
    SqlServer,
}

/// Below what no row can appear any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The watermark is the number of the writing transaction (`pg_current_xact_id()`, as xid8 or bigint): below the oldest that is running.
    Snapshot,
    /// The watermark is the start of the writing transaction (`now()`): before the oldest that is running. The user needs `pg_read_all_stats`.
    Transactions,
}

/// Where rows come from.
#[derive(Clone, PartialEq, Debug)]
pub enum From {
    Table(Vec<String>),
    Query(String),
}

/// What is read, as declared.
#[derive(Clone, PartialEq, Debug)]
pub struct Query {
    pub from: From,
    pub watermark: Option<String>,
    pub id: Vec<String>,
    pub overlap: Duration,
    pub overlap_ids: u32,
    pub bound: Option<Bound>,
    pub start: Option<String>,
    pub zone: TimeZone,
    pub page: u32,
}

/// What a watermark is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A time with its zone, or kept in UTC.
    Instant,
    /// A time without zone.
    Civil,
    /// An integer.
    Number,
    /// SQL Server's counter of writes: below what open transactions may still write nothing appears any more.
    RowVersion,
    /// Anything that has an order.
    Other,
}

/// A column of the result.
#[derive(Clone, PartialEq, Debug)]
pub struct Column {
    pub name: String,
    /// The type, as the server reads it in a cast.
    pub cast: String,
    /// How it is selected; `None`: as it is.
    pub select: Option<String>,
    pub kind: Kind,
    /// What it is in a document.
    pub shape: Shape,
}

/// Where a page begins.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct After {
    pub watermark: Option<String>,
    /// With ids: strictly after; without: from there on, it included.
    pub ids: Option<Vec<String>>,
}

/// A statement and its parameters.
#[derive(Clone, PartialEq, Debug)]
pub struct Page {
    pub sql: String,
    pub parameters: Vec<String>,
}

/// A watermark so far ahead of the server's clock is none.
const AHEAD: Duration = Duration::from_secs(86_400);

impl Dialect {
    /// As the address of a database begins.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::MySql => "mysql",
            Self::SqlServer => "mssql",
        }
    }

    pub fn quote(self, name: &str) -> String {
        match self {
            Self::Postgres => format!("\"{}\"", name.replace('"', "\"\"")),
            Self::MySql => format!("`{}`", name.replace('`', "``")),
            Self::SqlServer => format!("[{}]", name.replace(']', "]]")),
        }
    }

    /// A name of several parts: `schema.table`.
    pub fn path<'n>(self, parts: impl IntoIterator<Item = &'n String>) -> String {
        parts.into_iter().map(|part| self.quote(part)).collect::<Vec<_>>().join(".")
    }

    /// The sinks' table of positions: beside `table`, in its schema.
    pub fn positions_beside(self, table: &[String]) -> String {
        let schema = &table[..table.len() - 1];
        self.path(schema.iter().chain([&"millrace_positions".to_owned()]))
    }

    /// The moment as the database reads it, in the column's zone.
    pub fn time(self, kind: Kind, micros: i64, zone: &TimeZone) -> String {
        let time = Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH);
        let zone = if kind == Kind::Instant { &TimeZone::UTC } else { zone };
        let text = time.to_zoned(zone.clone()).datetime().to_string().replace('T', " ");
        match (kind, self) {
            (Kind::Instant, Self::Postgres) => format!("{text}+00"),
            (Kind::Instant, Self::SqlServer) => format!("{text}+00:00"),
            _ => text,
        }
    }
}

impl Query {
    fn from(&self, dialect: Dialect) -> String {
        match &self.from {
            From::Table(parts) => format!("{} AS q", dialect.path(parts)),
            From::Query(text) => format!("({text}) AS q"),
        }
    }

    /// A statement that names the columns and reads no row.
    pub fn look(&self, dialect: Dialect) -> String {
        match dialect {
            Dialect::SqlServer => format!("SELECT TOP (0) * FROM {}", self.from(dialect)),
            _ => format!("SELECT * FROM {} LIMIT 0", self.from(dialect)),
        }
    }

    /// What asks for the server's clock, in [`clock`]'s form; of a watermark that is a number, the highest; of a rowversion, the lowest that an open
    /// transaction may still write. Asked before a page: what is committed between the two is not below it.
    pub fn now(&self, dialect: Dialect, kind: Kind) -> Option<String> {
        match (kind, &self.watermark) {
            (Kind::Number, Some(column)) => {
                let column = dialect.quote(column);
                let text = match dialect {
                    Dialect::Postgres => format!("max(q.{column})::text"),
                    Dialect::MySql => format!("CAST(MAX(q.{column}) AS CHAR)"),
                    Dialect::SqlServer => format!("CAST(MAX(q.{column}) AS nvarchar(40))"),
                };
                Some(format!("SELECT {text} FROM {}", self.from(dialect)))
            }
            (Kind::RowVersion, _) => Some("SELECT CONVERT(nvarchar(18), MIN_ACTIVE_ROWVERSION(), 1)".into()),
            (Kind::Instant | Kind::Civil, _) => Some(match dialect {
                Dialect::Postgres => "SELECT ((extract(epoch from clock_timestamp()) * 1000000)::bigint)::text".into(),
                Dialect::MySql => "SELECT CAST(CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED) AS CHAR)".into(),
                Dialect::SqlServer => "SELECT CONVERT(nvarchar(40), SYSUTCDATETIME(), 126)".into(),
            }),
            _ => None,
        }
    }

    /// How many rows have no watermark, or one that is too far ahead: none of them is read.
    pub fn unreachable(&self, dialect: Dialect, column: &Column, now: Option<&str>) -> Option<Page> {
        let quoted = dialect.quote(self.watermark.as_ref()?);
        let mut parameters = Vec::new();
        let mut ahead = String::new();
        if let (Kind::Instant | Kind::Civil, Some(now)) = (column.kind, now) {
            parameters.push(self.ahead(dialect, column.kind, now));
            let _ = write!(ahead, " OR q.{quoted} > {}", cast(dialect, column, 1));
        }
        let (text, top, limit) = match dialect {
            Dialect::Postgres => ("count(*)::text", "", " LIMIT 1000"),
            Dialect::MySql => ("CAST(COUNT(*) AS CHAR)", "", " LIMIT 1000"),
            Dialect::SqlServer => ("CAST(COUNT(*) AS nvarchar(20))", "TOP (1000) ", ""),
        };
        let sql =
            format!("SELECT {text} FROM (SELECT {top}1 AS one FROM {} WHERE q.{quoted} IS NULL{ahead}{limit}) AS u", self.from(dialect));
        Some(Page { sql, parameters })
    }

    fn ahead(&self, dialect: Dialect, kind: Kind, now: &str) -> String {
        let micros = now.parse::<i64>().unwrap_or(0) + AHEAD.as_micros() as i64;
        dialect.time(kind, micros, &self.zone)
    }

    /// From where on a row may still appear after it was looked for, in microseconds or as a number: the next reading begins there.
    pub fn recent(&self, kind: Kind, now: Option<&str>) -> Option<i128> {
        if self.bound.is_some() {
            return None;
        }
        match kind {
            Kind::Instant | Kind::Civil => Some(now?.parse::<i128>().ok()? - self.overlap.as_micros() as i128),
            // Of an empty table: numbers begin somewhere about zero.
            Kind::Number => Some(now.map_or(Some(0), |now| now.parse().ok())? - i128::from(self.overlap_ids)),
            Kind::RowVersion | Kind::Other => None,
        }
    }

    /// What [`recent`](Self::recent) says, as the server reads it.
    pub fn recent_text(&self, dialect: Dialect, kind: Kind, recent: i128) -> String {
        match kind {
            Kind::Instant | Kind::Civil => dialect.time(kind, i64::try_from(recent).unwrap_or_default(), &self.zone),
            Kind::Number | Kind::RowVersion | Kind::Other => recent.to_string(),
        }
    }

    /// The statement of a page. `recent`: as [`Query::recent_text`] said at the start of the reading.
    pub fn page(&self, dialect: Dialect, columns: &[Column], after: &After, now: Option<&str>, recent: Option<&str>) -> Page {
        let mut parameters = Vec::new();
        let mut list: Vec<String> = columns
            .iter()
            .map(|column| {
                let quoted = dialect.quote(&column.name);
                column.select.as_ref().map_or_else(|| format!("q.{quoted}"), |select| format!("{select} AS {quoted}"))
            })
            .collect();
        let Some(watermark) = &self.watermark else {
            return Page { sql: format!("SELECT {} FROM {}", list.join(", "), self.from(dialect)), parameters };
        };
        let find = |name: &String| columns.iter().find(|column| column.name == *name);
        let text = |name: &String| match dialect {
            // Read out of the column itself.
            Dialect::Postgres if find(name).is_some_and(|column| column.kind == Kind::Number) => "NULL".to_owned(),
            Dialect::Postgres => format!("q.{}::text", dialect.quote(name)),
            Dialect::MySql => format!("CAST(q.{} AS CHAR)", dialect.quote(name)),
            Dialect::SqlServer => text_of(&format!("q.{}", dialect.quote(name)), find(name).map_or("", |column| &column.cast)),
        };
        list.push(format!("{} AS millrace_w", text(watermark)));
        for (n, id) in self.id.iter().enumerate() {
            list.push(format!("{} AS millrace_{n}", text(id)));
        }
        let w = format!("q.{}", dialect.quote(watermark));
        // MySQL knows parameters by their place in the text alone: each is pushed where it is written.
        let mut parameter = |name: &String, value: &str| {
            let Some(column) = find(name) else { return "NULL".to_owned() };
            if dialect == Dialect::Postgres {
                return format!("{}::text::{}", literal(value), column.cast);
            }
            parameters.push(value.to_owned());
            cast(dialect, column, parameters.len())
        };
        let recent = recent.map_or_else(|| "1 = 0".to_owned(), |recent| format!("{w} >= {}", parameter(watermark, recent)));
        list.push(match dialect {
            // It has no truth in a result.
            Dialect::SqlServer => format!("CASE WHEN {recent} THEN 1 ELSE 0 END AS millrace_r"),
            _ => format!("({recent}) AS millrace_r"),
        });
        let mut conditions = Vec::new();
        if let Some(value) = &after.watermark {
            conditions.push(format!("{w} >= {}", parameter(watermark, value)));
            if let Some(ids) = &after.ids {
                let columns: Vec<_> = std::iter::once((watermark, value)).chain(self.id.iter().zip(ids)).collect();
                conditions.push(beyond(dialect, &columns, &mut parameter));
            }
        }
        // A reading that begins in the overlap may begin before it.
        if let (Some(start), None) = (&self.start, &after.ids) {
            conditions.push(format!("{w} >= {}", parameter(watermark, start)));
        }
        let kind = find(watermark).map_or(Kind::Other, |column| column.kind);
        if let (Kind::Instant | Kind::Civil, Some(now)) = (kind, now) {
            conditions.push(format!("{w} <= {}", parameter(watermark, &self.ahead(dialect, kind, now))));
        }
        if let (Kind::RowVersion, Some(bound)) = (kind, now) {
            conditions.push(format!("{w} < {}", parameter(watermark, bound)));
        }
        let cast_of = find(watermark).map_or("bigint", |column| column.cast.as_str());
        match self.bound {
            None => conditions.push(format!("{w} IS NOT NULL")),
            Some(Bound::Snapshot) if cast_of == "xid8" => conditions.push(format!("{w} < pg_snapshot_xmin(pg_current_snapshot())")),
            Some(Bound::Snapshot) => conditions.push(format!("{w} < pg_snapshot_xmin(pg_current_snapshot())::text::bigint")),
            // The moment of this statement's own transaction, where no other is older.
            Some(Bound::Transactions) => conditions.push(format!(
                "{w} < (SELECT coalesce(min(xact_start), now()) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND xact_start IS NOT NULL){}",
                if kind == Kind::Civil { format!(" AT TIME ZONE '{}'", self.zone.iana_name().unwrap_or("UTC")) } else { String::new() }
            )),
        }
        let order: Vec<_> = std::iter::once(watermark).chain(&self.id).map(|name| format!("q.{}", dialect.quote(name))).collect();
        let (top, limit) = match dialect {
            Dialect::SqlServer => (format!("TOP ({}) ", self.page), String::new()),
            _ => (String::new(), format!(" LIMIT {}", self.page)),
        };
        let sql = format!(
            "SELECT {top}{} FROM {} WHERE {} ORDER BY {}{limit}",
            list.join(", "),
            self.from(dialect),
            conditions.join(" AND "),
            order.join(", "),
        );
        Page { sql, parameters }
    }
}

/// The rows behind a place in an order of several columns.
fn beyond(dialect: Dialect, columns: &[(&String, &String)], parameter: &mut dyn FnMut(&String, &str) -> String) -> String {
    let Some(((name, value), rest)) = columns.split_first() else { return "(1 = 0)".into() };
    let column = format!("q.{}", dialect.quote(name));
    let greater = format!("{column} > {}", parameter(name, value));
    if rest.is_empty() {
        return greater;
    }
    let equal = parameter(name, value);
    format!("({greater} OR ({column} = {equal} AND {}))", beyond(dialect, rest, parameter))
}

/// A text of PostgreSQL, whatever `standard_conforming_strings` says.
fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// The n-th parameter as a value of the column's type.
fn cast(dialect: Dialect, column: &Column, n: usize) -> String {
    match (dialect, column.kind) {
        (Dialect::Postgres, _) => format!("${n}::text::{}", column.cast),
        (Dialect::MySql, Kind::Instant | Kind::Civil) => "CAST(? AS DATETIME(6))".into(),
        (Dialect::MySql, Kind::Number) => "CAST(? AS DECIMAL(65,0))".into(),
        (Dialect::MySql, Kind::RowVersion | Kind::Other) => "?".into(),
        (Dialect::SqlServer, Kind::Instant) => format!("CAST(@P{n} AS datetimeoffset(7))"),
        // The column's own type, or SQL Server converts the column: a `datetime` of .003 is .0033333 then, and equal to nothing. By way of
        // `datetime2`, whose text means the same in every language.
        (Dialect::SqlServer, Kind::Civil) => format!("CAST(CAST(@P{n} AS datetime2(7)) AS {})", column.cast),
        (Dialect::SqlServer, Kind::Number) => format!("CAST(@P{n} AS bigint)"),
        (Dialect::SqlServer, Kind::RowVersion) => format!("CONVERT(binary(8), @P{n}, 1)"),
        (Dialect::SqlServer, Kind::Other) => match column.cast.as_str() {
            of if of.starts_with("binary") || of.starts_with("varbinary") => format!("CONVERT({of}, @P{n}, 1)"),
            of => format!("CAST(@P{n} AS {of})"),
        },
    }
}

/// The text that SQL Server gives for a value and reads again to the digit.
fn text_of(column: &str, of: &str) -> String {
    match of.split('(').next().unwrap_or_default() {
        "date" | "datetime" | "smalldatetime" | "datetime2" | "datetimeoffset" => format!("CONVERT(nvarchar(40), {column}, 126)"),
        "timestamp" => format!("CONVERT(nvarchar(18), CAST({column} AS binary(8)), 1)"),
        "binary" | "varbinary" => format!("CONVERT(nvarchar(4000), {column}, 1)"),
        "real" | "float" => format!("CONVERT(nvarchar(40), {column}, 3)"),
        "money" | "smallmoney" => format!("CONVERT(nvarchar(40), {column}, 2)"),
        _ => format!("CAST({column} AS nvarchar(4000))"),
    }
}

/// The server's clock in microseconds, as [`Query::now`] asks for it; other kinds of watermarks as they are.
pub fn clock(dialect: Dialect, kind: Kind, text: String) -> Option<String> {
    if dialect != Dialect::SqlServer || !matches!(kind, Kind::Instant | Kind::Civil) {
        return Some(text);
    }
    let time = text.parse::<jiff::civil::DateTime>().ok()?.to_zoned(TimeZone::UTC).ok()?;
    Some(time.timestamp().as_microsecond().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(id: &[&str]) -> Query {
        Query {
            from: From::Table(vec!["mes".into(), "or\"ders".into()]),
            watermark: Some("changed".into()),
            id: id.iter().map(|id| (*id).to_owned()).collect(),
            overlap: Duration::from_secs(60),
            overlap_ids: 1000,
            bound: None,
            start: None,
            zone: TimeZone::get("Europe/Berlin").unwrap(),
            page: 100,
        }
    }

    fn columns(kind: Kind) -> Vec<Column> {
        let column = |name: &str, cast: &str, kind| Column { name: name.into(), cast: cast.into(), select: None, kind, shape: Shape::Text };
        vec![column("id", "int8", Kind::Number), column("line", "text", Kind::Other), column("changed", "timestamptz", kind)]
    }

    #[test]
    fn a_page_begins_behind_the_cursor_and_ends_before_the_future() {
        let after = After { watermark: Some("2026-01-01 00:00:00+00".into()), ids: Some(vec!["a'\\".into(), "7".into()]) };
        let page = query(&["line", "id"]).page(Dialect::Postgres, &columns(Kind::Instant), &after, Some("1767225600000000"), None);
        assert_eq!(
            page.sql,
            "SELECT q.\"id\", q.\"line\", q.\"changed\", q.\"changed\"::text AS millrace_w, q.\"line\"::text AS millrace_0, NULL AS millrace_1, \
             (1 = 0) AS millrace_r FROM \"mes\".\"or\"\"ders\" AS q WHERE q.\"changed\" >= '2026-01-01 00:00:00+00'::text::timestamptz AND \
             (q.\"changed\" > '2026-01-01 00:00:00+00'::text::timestamptz OR (q.\"changed\" = '2026-01-01 00:00:00+00'::text::timestamptz AND \
             (q.\"line\" > E'a''\\\\'::text::text OR (q.\"line\" = E'a''\\\\'::text::text AND q.\"id\" > '7'::text::int8)))) AND \
             q.\"changed\" <= '2026-01-02 00:00:00+00'::text::timestamptz AND q.\"changed\" IS NOT NULL ORDER BY q.\"changed\", q.\"line\", q.\"id\" \
             LIMIT 100"
        );
        assert_eq!(page.parameters, [""; 0], "COPY takes none");
    }

    #[test]
    fn parameters_of_mysql_stand_in_the_order_of_the_text() {
        let after = After { watermark: Some("W".into()), ids: Some(vec!["7".into()]) };
        let page = query(&["id"]).page(Dialect::MySql, &columns(Kind::Civil), &after, Some("1767225600000000"), Some("R"));
        assert_eq!(page.sql.matches('?').count(), page.parameters.len());
        // The column's zone: an hour before UTC.
        assert_eq!(page.parameters, ["R", "W", "W", "W", "7", "2026-01-02 01:00:00"]);
        assert!(page.sql.contains("(q.`changed` >= CAST(? AS DATETIME(6))) AS millrace_r"), "{}", page.sql);
    }

    #[test]
    fn sql_server_compares_a_column_with_its_own_type() {
        let mut columns = columns(Kind::Civil);
        columns[2].cast = "datetime".into();
        columns[1].cast = "varchar(20)".into();
        let after = After { watermark: Some("2026-01-01T00:00:00.003".into()), ids: Some(vec!["a".into(), "7".into()]) };
        let page = query(&["line", "id"]).page(Dialect::SqlServer, &columns, &after, Some("1767225600000000"), Some("2026-01-01T00:00:00"));
        let w = |n| format!("CAST(CAST(@P{n} AS datetime2(7)) AS datetime)");
        assert_eq!(
            page.sql,
            format!(
                "SELECT TOP (100) q.[id], q.[line], q.[changed], CONVERT(nvarchar(40), q.[changed], 126) AS millrace_w, CAST(q.[line] AS nvarchar(4000)) AS \
                 millrace_0, CAST(q.[id] AS nvarchar(4000)) AS millrace_1, CASE WHEN q.[changed] >= {} THEN 1 ELSE 0 END AS millrace_r FROM \
                 [mes].[or\"ders] AS q WHERE q.[changed] >= {} AND (q.[changed] > {} OR (q.[changed] = {} AND (q.[line] > CAST(@P5 AS varchar(20)) OR \
                 (q.[line] = CAST(@P6 AS varchar(20)) AND q.[id] > CAST(@P7 AS bigint))))) AND q.[changed] <= {} AND q.[changed] IS NOT NULL ORDER BY \
                 q.[changed], q.[line], q.[id]",
                w(1),
                w(2),
                w(3),
                w(4),
                w(8)
            )
        );
        assert_eq!(page.parameters[7], "2026-01-02 01:00:00", "a day ahead, in the column's zone");
    }

    #[test]
    fn a_rowversion_is_read_below_what_open_transactions_may_still_write() {
        let mut columns = columns(Kind::RowVersion);
        columns[2].cast = "timestamp".into();
        let query = query(&[]);
        assert_eq!(query.recent(Kind::RowVersion, Some("0x00000000000007D5")), None);
        let after = After { watermark: Some("0x00000000000007D1".into()), ids: Some(Vec::new()) };
        let page = query.page(Dialect::SqlServer, &columns, &after, Some("0x00000000000007D5"), None);
        let end = "WHERE q.[changed] >= CONVERT(binary(8), @P1, 1) AND q.[changed] > CONVERT(binary(8), @P2, 1) AND q.[changed] < CONVERT(binary(8), @P3, 1) AND \
                   q.[changed] IS NOT NULL ORDER BY q.[changed]";
        assert!(page.sql.ends_with(end), "{}", page.sql);
        assert!(page.sql.contains("CONVERT(nvarchar(18), CAST(q.[changed] AS binary(8)), 1) AS millrace_w"), "{}", page.sql);
        assert_eq!(page.parameters[2], "0x00000000000007D5");
        assert_eq!(clock(Dialect::SqlServer, Kind::Civil, "2026-01-01T00:00:00.5000001".into()).as_deref(), Some("1767225600500000"));
    }

    #[test]
    fn what_is_recent_is_told_by_the_servers_clock_or_by_the_highest_number() {
        let query = query(&[]);
        let recent = query.recent(Kind::Instant, Some("1767225600500000")).expect("a clock says it");
        assert_eq!(query.recent_text(Dialect::Postgres, Kind::Instant, recent), "2025-12-31 23:59:00.5+00");
        assert_eq!(query.recent(Kind::Number, Some("5000")), Some(4000));
        assert_eq!(query.recent(Kind::Number, None), Some(-1000), "an empty table: all that appears is recent");
        let number = After { watermark: Some("5".into()), ids: Some(Vec::new()) };
        let columns = [Column { name: "changed".into(), cast: "int8".into(), select: None, kind: Kind::Number, shape: Shape::Long }];
        let page = query.page(Dialect::Postgres, &columns, &number, None, None);
        assert!(page.sql.contains("q.\"changed\" >= '5'::text::int8 AND q.\"changed\" > '5'::text::int8 AND"), "{}", page.sql);
    }
}
