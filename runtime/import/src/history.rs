//! Exports of historians as CSV: what separates the cells, which column is what, how times and numbers are written.
//!
//! ```text
//! TagName;TimeStamp;Value;Status               columns by their names, in any order
//! TIC101.PV;01-Jan-2024 00:00:05;12,5;Good     the format of the times and the decimal sign by the first lines
//! ```
//!
//! Invariant: what could be two things (`03/04/2024`) is not guessed; whoever has the file says it.

use crate::text::{rows, separator};
use millrace_config::Reason;

/// What is known beforehand, and not to be found.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// Lines before the header.
    pub skip_lines: usize,
    pub delimiter: Option<char>,
    /// Names of the columns, of a file without a header.
    pub columns: Option<Vec<String>>,
    /// A column, or a text with columns in braces.
    pub tag: Option<String>,
    /// Of several columns, their texts with a space between them.
    pub time: Vec<String>,
    pub value: Option<String>,
    pub status: Option<String>,
    pub time_format: Option<String>,
    pub time_unit: Option<String>,
    pub decimal: Option<char>,
}

/// How an export is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    pub delimiter: char,
    /// The tag of a row: a text with columns in braces.
    pub tag: String,
    pub time: Vec<String>,
    pub value: String,
    pub status: Option<String>,
    /// As `strftime` has it; `None`: ISO 8601, or a number of `time_unit`.
    pub time_format: Option<String>,
    pub time_unit: Option<String>,
    /// The times say themselves where on earth they are meant.
    pub has_zone: bool,
    pub decimal: char,
}

const TAGS: &[&str] = &[
    "tag",
    "tagname",
    "point",
    "pointname",
    "name",
    "item",
    "itemname",
    "itemid",
    "signal",
    "series",
    "path",
    "variable",
    "sensor",
    "tagid",
    "pointid",
];
const TIMES: &[&str] = &[
    "timestamp",
    "time",
    "datetime",
    "sourcetimestamp",
    "eventtime",
    "timestamputc",
    "timeutc",
    "datetimeutc",
    "utc",
    "ts",
    "zeitstempel",
    "zeit",
    "date",
    "datum",
];
const VALUES: &[&str] = &["value", "pvalue", "val", "numericvalue", "reading", "measurement", "wert", "valeur", "valor"];
const STATUSES: &[&str] = &["status", "quality", "qualitycode", "statuscode", "opcquality", "pointstatus", "valuestatus", "qualität"];
/// What historians write where there is no value, and OPC UA's status of that. The names are those of PI's system digital states and what others
/// write for the like.
pub const STATES: &[(&str, u32)] = &[
    ("No Data", 0x809B_0000),
    ("No Result", 0x809B_0000),
    ("No Sample", 0x809B_0000),
    ("null", 0x809B_0000),
    ("NULL", 0x809B_0000),
    ("NaN", 0x809B_0000),
    ("Pt Created", 0x8032_0000),
    ("Bad", 0x8000_0000),
    ("Bad Data", 0x8000_0000),
    ("Bad Quality", 0x8000_0000),
    ("Bad Total", 0x8000_0000),
    ("Bad_Quality", 0x8000_0000),
    ("Set to Bad", 0x8000_0000),
    ("Error", 0x8000_0000),
    ("Failed", 0x8000_0000),
    ("Calc Failed", 0x8000_0000),
    ("Invalid Data", 0x8000_0000),
    ("Bad Input", 0x8000_0000),
    ("Bad Output", 0x8000_0000),
    ("Equip Fail", 0x808B_0000),
    ("DCS failed", 0x808B_0000),
    ("I/O Timeout", 0x8031_0000),
    ("IO Timeout", 0x8031_0000),
    ("Scan Timeout", 0x8031_0000),
    ("Comm Fail", 0x8031_0000),
    ("Intf Shut", 0x8031_0000),
    ("Shutdown", 0x808D_0000),
    ("Scan Off", 0x808D_0000),
    ("Out of Serv", 0x808D_0000),
    ("Unit Down", 0x808D_0000),
    ("Arc Off-line", 0x808D_0000),
    ("Not Connect", 0x808A_0000),
    ("Configure", 0x8089_0000),
    ("Over Range", 0x803C_0000),
    ("Under Range", 0x803C_0000),
    ("Out Range", 0x803C_0000),
    ("Inp OutRange", 0x803C_0000),
];

/// What historians call the status of a value that is there.
pub const WORDS: &[(&str, u32)] = &[
    ("", 0),
    ("Good", 0),
    ("OK", 0),
    ("True", 0),
    ("Good, Annotated", 0),
    ("Uncertain", 0x4000_0000),
    ("Questionable", 0x4000_0000),
    ("Doubtful", 0x4000_0000),
    ("Substituted", 0x4091_0000),
    ("Bad", 0x8000_0000),
    ("False", 0x8000_0000),
];

/// A day and a time of day, in columns of their own.
const HALVES: &[(&str, &str)] = &[("date", "time"), ("datum", "zeit"), ("datum", "uhrzeit")];

/// Finds out how an export is written, by its first lines. The last of them must be whole.
///
/// Errors: one line for a person: what can't be found, with what there is.
pub fn layout(head: &str, given: &Given) -> Result<Layout, Reason> {
    let body = head.split_inclusive('\n').skip(given.skip_lines).collect::<String>();
    let first = body.lines().find(|line| !line.trim().is_empty()).ok_or("there is no line in it")?;
    let delimiter = given.delimiter.unwrap_or_else(|| match separator(first) {
        found if first.contains(found) => found,
        found if !first.contains('|') => found,
        _ => '|',
    });
    let mut rows = rows(&body, delimiter).into_iter().map(|(_, cells)| cells);
    let columns = match &given.columns {
        Some(columns) => columns.clone(),
        None => rows.next().unwrap_or_default().iter().map(|cell| cell.trim().to_owned()).collect(),
    };
    let rows: Vec<Vec<String>> = rows.collect();
    let there = || columns.iter().map(|column| format!("`{column}`")).collect::<Vec<_>>().join(", ");
    let plain: Vec<String> = columns.iter().map(|column| plain(column)).collect();
    let named = |names: &[&str]| names.iter().find_map(|name| plain.iter().position(|column| column == name)).map(|at| columns[at].clone());
    let known = |column: &String, flag: &str| match columns.contains(column) {
        true => Ok(column.clone()),
        false => Err(Reason::from(format!("no column `{column}` ({flag}); there are {}", there()))),
    };
    let missing = |what: &str, flag: &str| format!("no column is called like {what}; there are {}; name it with {flag}", there());
    let tag = match &given.tag {
        Some(text) if text.contains('{') => text.clone(),
        Some(column) => format!("{{{}}}", known(column, "--tag")?),
        None => format!("{{{}}}", named(TAGS).ok_or_else(|| missing("a tag", "--tag, or --tag '{file}' where each file is one tag's"))?),
    };
    let halves = || HALVES.iter().find_map(|(day, time)| Some(vec![named(&[day])?, named(&[time])?]));
    let time = match &given.time[..] {
        [] => halves().or_else(|| Some(vec![named(TIMES)?])).ok_or_else(|| missing("a time", "--time"))?,
        columns => columns.iter().map(|column| known(column, "--time")).collect::<Result<_, _>>()?,
    };
    let value = match &given.value {
        Some(column) => known(column, "--value")?,
        None => named(VALUES).ok_or_else(|| missing("a value", "--value"))?,
    };
    let status = match &given.status {
        Some(column) => Some(known(column, "--status")?),
        None => named(STATUSES),
    };
    let at = |name: &String| columns.iter().position(|column| column == name).unwrap_or(usize::MAX);
    let cells = |name: &String| {
        let at = at(name);
        rows.iter().filter_map(move |row| row.get(at)).map(|cell| cell.trim())
    };
    let times: Vec<String> = rows
        .iter()
        .map(|row| time.iter().filter_map(|name| row.get(at(name))).map(|cell| cell.trim()).collect::<Vec<_>>().join(" "))
        .filter(|text| !text.trim().is_empty())
        .collect();
    let found = match (&given.time_format, &given.time_unit) {
        (None, None) => clock(&times)?,
        (format, unit) => Times { format: format.clone(), unit: unit.clone(), has_zone: unit.is_some() || says_zone(format.as_deref()) },
    };
    let is_utc = time.iter().any(|name| self::plain(name).ends_with("utc"));
    Ok(Layout {
        delimiter,
        tag,
        time_format: found.format,
        time_unit: found.unit,
        has_zone: found.has_zone || is_utc,
        decimal: given.decimal.unwrap_or_else(|| decimal(cells(&value))),
        time,
        value,
        status,
    })
}

/// A name of a column as it is compared: `Time Stamp`, `time_stamp` and `TimeStamp` are one.
fn plain(name: &str) -> String {
    name.chars().filter(|char| char.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// A comma, where numbers have commas and none has a point.
fn decimal<'c>(cells: impl Iterator<Item = &'c str>) -> char {
    let mut found = '.';
    for cell in cells {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = cell.strip_prefix(['+', '-']).unwrap_or(cell);
        let number = number.split(['e', 'E']).next().unwrap_or_default();
        if number.split_once('.').is_some_and(|(whole, part)| digits(whole) && digits(part)) {
            return '.';
        }
        if number.split_once(',').is_some_and(|(whole, part)| digits(whole) && digits(part)) {
            found = ',';
        }
    }
    found
}

struct Times {
    format: Option<String>,
    unit: Option<String>,
    has_zone: bool,
}

fn says_zone(format: Option<&str>) -> bool {
    format.is_some_and(|format| ["%z", "%:z", "%Q", "%s"].iter().any(|part| format.contains(part)))
}

/// How times are written.
fn clock(times: &[String]) -> Result<Times, Reason> {
    let Some(first) = times.first() else { return Ok(Times { format: None, unit: None, has_zone: true }) };
    let unknown = || {
        Reason::from(format!("the time `{first}` is written in no way known here; say how with --time-format, as in '%d.%m.%Y %H:%M:%S'"))
    };
    if first.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        let whole = first.split('.').next().unwrap_or_default();
        let unit = match whole.len() {
            5 => "excel",
            10 => "s",
            13 => "ms",
            16 => "us",
            18 => "filetime",
            19 => "ns",
            _ => {
                return Err(
                    format!("the time `{first}` is a number; say what it counts with --time-unit: s, ms, us, ns, excel, filetime").into()
                );
            }
        };
        return Ok(Times { format: None, unit: Some(unit.into()), has_zone: unit != "excel" });
    }
    let date_end = first.find([' ', 'T']).unwrap_or(first.len());
    let date = &first[..date_end];
    let parts: Vec<&str> = date.split(['-', '.', '/']).collect();
    let sign = date.chars().find(|char| matches!(char, '-' | '.' | '/')).ok_or_else(unknown)?;
    let [a, b, c] = parts[..] else { return Err(unknown()) };
    let is_number = |text: &str| !text.is_empty() && text.len() <= 4 && text.bytes().all(|byte| byte.is_ascii_digit());
    if a.len() == 4 && sign == '-' && is_number(a) && is_number(b) && is_number(c) {
        let rest = &first[date_end..];
        return Ok(Times { format: None, unit: None, has_zone: rest.ends_with('Z') || rest.contains(['+', '-']) });
    }
    let year = if c.len() == 4 { "%Y" } else { "%y" };
    let day = if a.len() == 4 && is_number(a) && is_number(b) && is_number(c) {
        format!("%Y{sign}%m{sign}%d")
    } else if is_number(a) && is_number(c) && b.len() >= 3 && b.chars().all(char::is_alphabetic) {
        format!("%d{sign}{}{sign}{year}", if b.len() == 3 { "%b" } else { "%B" })
    } else if is_number(a) && is_number(b) && is_number(c) {
        match (sign, day_first(times)) {
            ('.', _) | (_, Some(true)) => format!("%d{sign}%m{sign}{year}"),
            (_, Some(false)) => format!("%m{sign}%d{sign}{year}"),
            (_, None) => {
                return Err(format!(
                    "the time `{first}` may begin with the day or with the month; say it with --time-format: '%d{sign}%m{sign}{year} %H:%M:%S' or '%m{sign}%d{sign}{year} %H:%M:%S'"
                ).into());
            }
        }
    } else {
        return Err(unknown());
    };
    let rest = &first[date_end..];
    let (clock, half) = match rest.to_ascii_uppercase() {
        upper if upper.ends_with(" AM") || upper.ends_with(" PM") => (&rest[..rest.len() - 3], " %p"),
        _ => (rest, ""),
    };
    let hour = if half.is_empty() { "%H" } else { "%I" };
    let between = clock.chars().next().ok_or_else(unknown)?;
    let colons = clock.matches(':').count();
    let is_clock = clock[1..].bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b':' | b'.'));
    let time = match colons {
        1 if is_clock => format!("{hour}:%M"),
        2 if is_clock => format!("{hour}:%M:%S%.f"),
        _ => return Err(unknown()),
    };
    Ok(Times { format: Some(format!("{day}{between}{time}{half}")), unit: None, has_zone: false })
}

/// Whether the first number of dates is the day, as far as any of them shows it.
fn day_first(times: &[String]) -> Option<bool> {
    times.iter().find_map(|text| {
        let mut numbers = text.split(['-', '/', ' ', 'T']).map(|part| part.parse::<u32>().unwrap_or(0));
        match (numbers.next()?, numbers.next()?) {
            (13.., _) => Some(true),
            (_, 13..) => Some(false),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(head: &str) -> Result<Layout, Reason> {
        layout(head, &Given::default())
    }

    #[test]
    fn an_export_is_known_by_its_header_and_its_first_lines() {
        let german = of(
            "TagName;TimeStamp;Value;Status\nTIC101.PV;01-Jan-2024 00:00:05;12,5;Good\nTIC101.PV;01-Jan-2024 00:00:06;I/O Timeout;Bad\n",
        );
        let german = german.unwrap();
        assert_eq!((german.delimiter, german.decimal, german.tag.as_str()), (';', ',', "{TagName}"));
        assert_eq!(
            (&german.time[..], german.value.as_str(), german.status.as_deref()),
            (&["TimeStamp".to_owned()][..], "Value", Some("Status"))
        );
        assert_eq!((german.time_format.as_deref(), german.has_zone), (Some("%d-%b-%Y %H:%M:%S%.f"), false));

        let iso = of("\"value\",\"time\",\"tag\"\n\"1,250.5\",\"2024-01-01T00:00:05.123Z\",\"a|b\"\n").unwrap();
        assert_eq!((iso.delimiter, iso.decimal, iso.time_format, iso.has_zone, iso.status), (',', '.', None, true, None));

        let halves = of("Date\tTime\tPoint Name\tPValue\n13/02/2024\t7:05:09 PM\tx\t1\n").unwrap();
        assert_eq!((halves.delimiter, &halves.time[..]), ('\t', &["Date".to_owned(), "Time".to_owned()][..]));
        assert_eq!(halves.time_format.as_deref(), Some("%d/%m/%Y %I:%M:%S%.f %p"));

        let numbers = of("name|ts|val\nx|1704067200123|1\n").unwrap();
        assert_eq!((numbers.delimiter, numbers.time_unit.as_deref(), numbers.has_zone), ('|', Some("ms"), true));
        let utc = of("Tag,Timestamp (UTC),Value\nx,2024-01-01 00:00:00,1\n").unwrap();
        assert!(utc.has_zone && utc.time_format.is_none());
    }

    #[test]
    fn what_is_not_found_is_said_with_what_there_is() {
        let says = |head: &str, text: &str| {
            let error = of(head).unwrap_err();
            assert!(error.contains(text), "{error}");
        };
        says("", "there is no line in it");
        says("a;b\n1;2\n", "no column is called like a tag; there are `a`, `b`; name it with --tag");
        says("tag;b;value\nx;1;2\n", "no column is called like a time");
        says("tag;time;b\nx;1;2\n", "no column is called like a value");
        says("tag,time,value\nx,03/04/2024 01:02:03,1\n", "may begin with the day or with the month");
        says("tag,time,value\nx,*,1\n", "is written in no way known here");
        says("tag,time,value\nx,123,1\n", "--time-unit");
        let given = Given { value: Some("Wert".into()), ..Given::default() };
        assert_eq!(layout("tag;time;v\n", &given).unwrap_err(), "no column `Wert` (--value); there are `tag`, `time`, `v`");
    }

    #[test]
    fn what_is_given_is_not_looked_for() {
        let given = Given {
            skip_lines: 2,
            delimiter: Some(';'),
            columns: Some(["a", "b", "c"].map(str::to_owned).to_vec()),
            tag: Some("{file}/{a}".into()),
            time: vec!["b".into()],
            value: Some("c".into()),
            time_format: Some("%m/%d/%Y %H:%M %z".into()),
            decimal: Some(','),
            ..Given::default()
        };
        let found = layout("export of plant 7\n\nx;03/04/2024 01:02 +0100;1\n", &given).unwrap();
        assert_eq!((found.tag.as_str(), found.decimal, found.has_zone, found.status), ("{file}/{a}", ',', true, None));
    }
}
