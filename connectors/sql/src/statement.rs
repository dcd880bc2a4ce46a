//! The SQL of a page: which rows, after which, in which order.
//!
//! ```text
//! SELECT columns.., watermark as text, ids as text, is it recent?
//! FROM  table
//! WHERE w >= a AND (w > a OR (w = a AND id > b))      after the cursor: rows of one moment are told apart by their ids
//!   AND w <= now + 1 day                              a clock gone wrong does not take the cursor with it
//!   AND w < bound                                     where the database can tell below what nothing appears any more
//! ORDER BY w, id LIMIT page
//! ```
//!
//! Values go as parameters, as the text that the server gave for them, and are cast to the column's type there.

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
    pub fn quote(self, name: &str) -> String {
        match self {
            Self::Postgres => format!("\"{}\"", name.replace('"', "\"\"")),
            Self::MySql => format!("`{}`", name.replace('`', "``")),
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
        if kind == Kind::Instant && self == Self::Postgres { format!("{text}+00") } else { text }
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
        format!("SELECT * FROM {} LIMIT 0", self.from(dialect))
    }

    /// The server's clock in microseconds; of a watermark that is a number, the highest.
    pub fn now(&self, dialect: Dialect, kind: Kind) -> Option<String> {
        match (kind, &self.watermark) {
            (Kind::Number, Some(column)) => {
                let column = dialect.quote(column);
                let text = match dialect {
                    Dialect::Postgres => format!("max(q.{column})::text"),
                    Dialect::MySql => format!("CAST(MAX(q.{column}) AS CHAR)"),
                };
                Some(format!("SELECT {text} FROM {}", self.from(dialect)))
            }
            (Kind::Instant | Kind::Civil, _) => Some(match dialect {
                Dialect::Postgres => "SELECT ((extract(epoch from clock_timestamp()) * 1000000)::bigint)::text".into(),
                Dialect::MySql => "SELECT CAST(CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED) AS CHAR)".into(),
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
        let text = if dialect == Dialect::Postgres { "count(*)::text" } else { "CAST(COUNT(*) AS CHAR)" };
        let sql =
            format!("SELECT {text} FROM (SELECT 1 AS one FROM {} WHERE q.{quoted} IS NULL{ahead} LIMIT 1000) AS u", self.from(dialect));
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
            Kind::Other => None,
        }
    }

    /// What [`recent`](Self::recent) says, as the server reads it.
    pub fn recent_text(&self, dialect: Dialect, kind: Kind, recent: i128) -> String {
        match kind {
            Kind::Instant | Kind::Civil => dialect.time(kind, i64::try_from(recent).unwrap_or_default(), &self.zone),
            Kind::Number | Kind::Other => recent.to_string(),
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
            Dialect::Postgres => format!("q.{}::text", dialect.quote(name)),
            Dialect::MySql => format!("CAST(q.{} AS CHAR)", dialect.quote(name)),
        };
        list.push(format!("{} AS millrace_w", text(watermark)));
        for (n, id) in self.id.iter().enumerate() {
            list.push(format!("{} AS millrace_{n}", text(id)));
        }
        let w = format!("q.{}", dialect.quote(watermark));
        // MySQL knows parameters by their place in the text alone: each is pushed where it is written.
        let mut parameter = |name: &String, value: &str| {
            parameters.push(value.to_owned());
            find(name).map_or_else(|| "NULL".to_owned(), |column| cast(dialect, column, parameters.len()))
        };
        list.push(match recent {
            Some(recent) => format!("({w} >= {}) AS millrace_r", parameter(watermark, recent)),
            None => "(1 = 0) AS millrace_r".into(),
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
        let sql = format!(
            "SELECT {} FROM {} WHERE {} ORDER BY {} LIMIT {}",
            list.join(", "),
            self.from(dialect),
            conditions.join(" AND "),
            order.join(", "),
            self.page
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

/// The n-th parameter as a value of the column's type.
fn cast(dialect: Dialect, column: &Column, n: usize) -> String {
    match (dialect, column.kind) {
        (Dialect::Postgres, _) => format!("${n}::text::{}", column.cast),
        (Dialect::MySql, Kind::Instant | Kind::Civil) => "CAST(? AS DATETIME(6))".into(),
        (Dialect::MySql, Kind::Number) => "CAST(? AS DECIMAL(65,0))".into(),
        (Dialect::MySql, Kind::Other) => "?".into(),
    }
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
        let after = After { watermark: Some("2026-01-01 00:00:00+00".into()), ids: Some(vec!["a".into(), "7".into()]) };
        let page = query(&["line", "id"]).page(Dialect::Postgres, &columns(Kind::Instant), &after, Some("1767225600000000"), None);
        assert_eq!(
            page.sql,
            "SELECT q.\"id\", q.\"line\", q.\"changed\", q.\"changed\"::text AS millrace_w, q.\"line\"::text AS millrace_0, q.\"id\"::text AS millrace_1, \
             (1 = 0) AS millrace_r FROM \"mes\".\"or\"\"ders\" AS q WHERE q.\"changed\" >= $1::text::timestamptz AND (q.\"changed\" > $2::text::timestamptz OR \
             (q.\"changed\" = $3::text::timestamptz AND (q.\"line\" > $4::text::text OR (q.\"line\" = $5::text::text AND q.\"id\" > $6::text::int8)))) AND \
             q.\"changed\" <= $7::text::timestamptz AND q.\"changed\" IS NOT NULL ORDER BY q.\"changed\", q.\"line\", q.\"id\" LIMIT 100"
        );
        let moment = "2026-01-01 00:00:00+00";
        assert_eq!(page.parameters, [moment, moment, moment, "a", "a", "7", "2026-01-02 00:00:00+00"]);
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
    fn what_is_recent_is_told_by_the_servers_clock_or_by_the_highest_number() {
        let query = query(&[]);
        let recent = query.recent(Kind::Instant, Some("1767225600500000")).expect("a clock says it");
        assert_eq!(query.recent_text(Dialect::Postgres, Kind::Instant, recent), "2025-12-31 23:59:00.5+00");
        assert_eq!(query.recent(Kind::Number, Some("5000")), Some(4000));
        assert_eq!(query.recent(Kind::Number, None), Some(-1000), "an empty table: all that appears is recent");
        let number = After { watermark: Some("5".into()), ids: Some(Vec::new()) };
        let columns = [Column { name: "changed".into(), cast: "int8".into(), select: None, kind: Kind::Number, shape: Shape::Long }];
        let page = query.page(Dialect::Postgres, &columns, &number, None, None);
        assert!(page.sql.contains("q.\"changed\" >= $1::text::int8 AND q.\"changed\" > $2::text::int8 AND"), "{}", page.sql);
    }
}
