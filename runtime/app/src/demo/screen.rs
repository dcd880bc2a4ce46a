//! The screen: plain ANSI, drawn anew four times a second; without a terminal a line now and then, with `--json` nothing but the summary.
//!
//! ```text
//! where everything is                          1 to 3
//! a row per source, their total                what came in and what became of it
//! the ledger, both equations                   and whether they hold
//! the devices, two in a row                    sent = in Kafka + on the way + missing
//! what happened                                as many lines as there are
//! how to look at the data
//! ```

use super::view::{Device, Source, View};
use anyhow::Result;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write, stdout};
use std::time::{Duration, Instant};

/// How often a line is told where there is no terminal.
const TELL_EVERY: Duration = Duration::from_secs(5);

pub enum Screen {
    Terminal { colours: bool },
    Lines { told: Option<Instant>, events: usize },
    Json,
}

/// A piece of a line, in a colour's code.
type Piece = (&'static str, String);

const PLAIN: &str = "";
const BOLD: &str = "1";
const DIM: &str = "2";
const GOOD: &str = "32";
const WARN: &str = "33";
const BAD: &str = "1;31";

impl Screen {
    pub fn open(json: bool) -> Self {
        if json {
            return Self::Json;
        }
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        if !stdout().is_terminal() || is_dumb {
            return Self::Lines { told: None, events: 0 };
        }
        // The other screen, without a cursor, lines not wrapped.
        let _ = write!(stdout(), "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J");
        Self::Terminal { colours: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) }
    }

    /// Shows the moment. False when nobody looks any more: the pipe was closed.
    pub fn draw(&mut self, view: &View) -> Result<bool> {
        match self {
            Self::Terminal { colours } => {
                let (width, height) = terminal_size::terminal_size().map_or((80, 24), |(w, h)| (w.0.into(), h.0.into()));
                let mut out = String::from("\x1b[H");
                let lines = frame(view, width, height);
                for (at, line) in lines.iter().enumerate() {
                    write(&mut out, line, width, *colours);
                    out.push_str(if at + 1 < lines.len() { "\x1b[K\r\n" } else { "\x1b[K\x1b[J" });
                }
                told(&out)
            }
            Self::Lines { told: last, events } => {
                let mut out = String::new();
                let new = view.events_total.saturating_sub(*events).min(view.events.len());
                for (at, what) in view.events.iter().skip(view.events.len() - new) {
                    let _ = writeln!(out, "{}  {what}", clock(*at));
                }
                *events = view.events_total;
                if last.is_none_or(|last| last.elapsed() >= TELL_EVERY) && view.total.ledger.received > 0 {
                    if last.is_none() {
                        let _ = writeln!(out, "{}", places(view));
                    }
                    let _ = writeln!(out, "{}  {}", clock(view.elapsed()), in_a_line(view));
                    *last = Some(Instant::now());
                }
                told(&out)
            }
            Self::Json => Ok(true),
        }
    }

    /// Gives the terminal back and says how it ended.
    pub fn close(self, view: &View) -> Result<()> {
        let last = if matches!(self, Self::Json) { format!("{}\n", view.summary()) } else { ending(view) };
        drop(self);
        told(&last).map(drop)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if matches!(self, Self::Terminal { .. }) {
            let _ = write!(stdout(), "\x1b[?7h\x1b[?25h\x1b[?1049l");
            let _ = stdout().flush();
        }
    }
}

/// False where whoever listened has closed the pipe.
fn told(text: &str) -> Result<bool> {
    let mut out = stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Appends a line, cut at the width.
fn write(out: &mut String, line: &[Piece], width: usize, colours: bool) {
    let mut left = width;
    for (style, text) in line {
        let part: String = text.chars().take(left).collect();
        left -= part.chars().count();
        if colours && !style.is_empty() && !part.is_empty() {
            let _ = write!(out, "\x1b[{style}m{part}\x1b[0m");
        } else {
            out.push_str(&part);
        }
    }
}

/// `1,234,567`
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1:02`
fn clock(at: Duration) -> String {
    format!("{}:{:02}", at.as_secs() / 60, at.as_secs() % 60)
}

/// The whole screen, at most `height` lines; what happened takes what the rest leaves.
fn frame(view: &View, width: usize, height: usize) -> Vec<Vec<Piece>> {
    let is_tall = height >= 32;
    let parts = [head(view, width), sources(view, width), ledger(view, width), devices(view, width)];
    let foot = how_to_look(view, is_tall);
    let rest = height.saturating_sub(parts.iter().map(Vec::len).sum::<usize>() + foot.len() + 1);
    // Empty lines between the parts, where five events fit beside them.
    let is_airy = rest >= parts.len() + 4;
    let mut lines: Vec<Vec<Piece>> = Vec::new();
    for part in parts {
        if is_airy && !lines.is_empty() {
            lines.push(Vec::new());
        }
        lines.extend(part);
    }
    lines.push(Vec::new());
    let room = height.saturating_sub(lines.len() + foot.len() + usize::from(is_airy));
    let mut happened = events(view, width, room);
    // The foot stays at the bottom.
    happened.resize(room + usize::from(is_airy), Vec::new());
    lines.extend(happened);
    lines.extend(foot);
    lines.truncate(height);
    lines
}

fn head(view: &View, width: usize) -> Vec<Vec<Piece>> {
    let title = format!(" Millrace demo   {}   {}", view.site, clock(view.elapsed()));
    let data = format!("   data {}", view.data);
    let end = "Ctrl-C ends ";
    let gap = width.saturating_sub(title.chars().count() + data.chars().count() + end.len());
    let mut places = vec![(DIM, " Kafka ".into()), (PLAIN, view.kafka.clone())];
    if view.kafka_status != "Running" {
        places.push((colour_of(view.kafka_status), format!(" {}", view.kafka_status)));
    }
    if let Some(registry) = view.registry {
        places.extend([(DIM, "  registry ".into()), (PLAIN, registry.to_string())]);
    }
    places.extend([(DIM, "  console ".into()), (PLAIN, view.http.clone())]);
    vec![vec![(BOLD, title), (DIM, data), (PLAIN, " ".repeat(gap)), (DIM, end.into())], places]
}

fn colour_of(status: &str) -> &'static str {
    match status {
        "Running" => GOOD,
        "Blocked" => BAD,
        "Stopped" | "Stopping" => DIM,
        _ => WARN,
    }
}

/// A count that should be zero.
fn unwanted(count: u64, width: usize, style: &'static str) -> Piece {
    (if count == 0 { DIM } else { style }, format!("{:>width$}", grouped(count)))
}

fn sources(view: &View, width: usize) -> Vec<Vec<Piece>> {
    let head = format!(
        " {:<10}{:<9}{:>7}{:>11}{:>9}{:>6}{:>6}{:>11}",
        "SOURCE", "STATUS", "REC/S", "RECEIVED", "FILTERED", "DEAD", "LOST", "IN KAFKA"
    );
    let mut lines = vec![vec![(DIM, format!("{head}{:>9}", "WAITING"))]];
    let row = |source: &Source| {
        let ledger = &source.ledger;
        let lost: u64 = ledger.lost.values().sum::<u64>() + ledger.dropped_at_intake + ledger.dropped_from_log;
        let mut row = vec![
            (PLAIN, format!(" {:<10}", source.name)),
            (colour_of(source.status), format!("{:<9}", source.status)),
            (PLAIN, format!("{:>7}{:>11}", grouped(source.rate.round() as u64), grouped(ledger.received))),
            (DIM, format!("{:>9}", grouped(ledger.filtered))),
            unwanted(ledger.dead_at_intake + ledger.dead_at_send, 6, WARN),
            unwanted(lost, 6, BAD),
            (PLAIN, format!("{:>11}", grouped(ledger.produced))),
            (if ledger.waiting > 0 { PLAIN } else { DIM }, format!("{:>9}", grouped(ledger.waiting))),
        ];
        if let Some(reason) = source.reason.as_ref().filter(|_| width >= 110) {
            row.push((DIM, format!("  {reason}")));
        }
        row
    };
    lines.extend(view.sources.iter().map(row));
    let mut total = row(&view.total);
    total[1] = (DIM, format!("{:<9}", ""));
    lines.push(total.into_iter().map(|(style, text)| (if style == PLAIN { BOLD } else { style }, text)).collect());
    lines
}

fn ledger(view: &View, width: usize) -> Vec<Vec<Piece>> {
    let ledger = &view.total.ledger;
    let intake = [
        (ledger.filtered, "filtered"),
        (ledger.dropped_at_intake, "dropped"),
        (ledger.dead_at_intake, "dead"),
        (ledger.appended, "appended"),
    ];
    let drain =
        [(ledger.produced, "in Kafka"), (ledger.dead_at_send, "dead"), (ledger.dropped_from_log, "dropped"), (ledger.waiting, "waiting")];
    vec![equation((ledger.received, "received"), &intake, width), equation((ledger.appended, "appended"), &drain, width)]
}

/// Whether a sum is that of its parts; parts of nothing stand there only where there is room for all.
fn equation((sum, what): (u64, &str), parts: &[(u64, &str)], width: usize) -> Vec<Piece> {
    let holds = sum == parts.iter().map(|(count, _)| count).sum::<u64>();
    let verdict = if holds { (GOOD, " adds up   ".to_owned()) } else { (BAD, " is wrong  ".to_owned()) };
    let written = |least: u64| {
        let parts = parts.iter().filter(|(count, _)| *count >= least);
        let parts: Vec<String> = parts.map(|(count, what)| format!("{} {what}", grouped(*count))).collect();
        format!("{} {what} = {}", grouped(sum), parts.join(" + "))
    };
    let whole = written(0);
    let fits = verdict.1.len() + whole.len() <= width;
    vec![verdict, (PLAIN, if fits { whole } else { written(1) })]
}

/// The devices, two in a row, each number of theirs compared with what a consumer reads out of Kafka.
fn devices(view: &View, width: usize) -> Vec<Vec<Piece>> {
    let head = format!(" {:<9}{:>7}{:>9}{:>6}{:>6}", "DEVICE", "SENT", "IN KAFKA", "TWICE", "MISS");
    let mut lines = vec![vec![(DIM, format!("{head}  {head}"))]];
    let cell = |device: &Device| -> Vec<Piece> {
        let state = if device.connected { PLAIN } else { WARN };
        let is_behind = device.on_the_way() > 20;
        vec![
            (state, format!(" {:<9}", device.name)),
            (PLAIN, format!("{:>7}", grouped(device.sent))),
            (if is_behind { WARN } else { PLAIN }, format!("{:>9}", grouped(device.in_kafka))),
            (DIM, format!("{:>6}", grouped(device.repeats))),
            unwanted(device.missing, 6, BAD),
        ]
    };
    for pair in view.devices.chunks(2) {
        let mut line = cell(&pair[0]);
        if let Some(right) = pair.get(1) {
            line.push((PLAIN, "  ".into()));
            line.extend(cell(right));
        }
        lines.push(line);
    }
    let stored: u64 = view.devices.iter().map(|device| device.stored).sum();
    let way: u64 = view.devices.iter().map(Device::on_the_way).sum();
    let miss = view.missing();
    let mut sum = vec![
        (BOLD, format!(" {} sent = {} in Kafka + {} on the way + ", grouped(view.sent()), grouped(view.in_kafka()), grouped(way))),
        (if miss == 0 { GOOD } else { BAD }, format!("{} missing", grouped(miss))),
    ];
    // As much as there is room for, each whole or not at all.
    let age = view.age.map(|age| format!("   newest {:.1} s old", age.as_secs_f64()));
    for more in age.into_iter().chain([format!("   {} stored", grouped(stored))]) {
        let taken: usize = sum.iter().map(|(_, text)| text.chars().count()).sum();
        if taken + more.chars().count() <= width {
            sum.push((DIM, more));
        }
    }
    lines.push(sum);
    let office = view.office;
    let twice = match office.twice {
        0 => (GOOD, "none posted twice".to_owned()),
        twice => (BAD, format!("{} posted twice", grouped(twice))),
    };
    let told = format!(" ERP: {} orders, {} parts confirmed, {} answers lost, ", office.orders, office.confirmed, office.answers_lost);
    lines.push(vec![(PLAIN, told), twice]);
    if let Some(lake) = view.in_lake() {
        // It is committed and counted every few seconds: behind Kafka, but never beyond.
        let of = format!(" Lake: {} of {} readings in Kafka are in its table", grouped(lake), grouped(view.in_kafka()));
        lines.push(vec![(if lake > view.in_kafka() { BAD } else { PLAIN }, of)]);
    }
    lines
}

fn events(view: &View, width: usize, room: usize) -> Vec<Vec<Piece>> {
    let skip = view.events.len().saturating_sub(room);
    let line = |(at, what): &(Duration, String)| {
        let clock = format!(" {:>5}  ", clock(*at));
        let left = width.saturating_sub(clock.len());
        let what = match what.chars().count() > left {
            true => what.chars().take(left.saturating_sub(1)).chain(['…']).collect(),
            false => what.clone(),
        };
        vec![(DIM, clock), (PLAIN, what)]
    };
    view.events.iter().skip(skip).map(line).collect()
}

/// The words of the screen, for whoever sees them first.
const WORDS: [&str; 4] = [
    " received  taken in by Millrace          sent   made by a device, as it counts",
    " in Kafka  acknowledged by Kafka         twice  read again after an outage",
    " waiting   in the log, not yet in Kafka  miss   overtaken by later numbers",
    " filtered  unchanged, not sent again     dead   broke its contract, kept aside",
];

/// The program as it can be typed here: `millrace` where it is on the path, else where it lies.
pub fn program() -> String {
    let Ok(path) = std::env::current_exe() else { return "millrace".into() };
    let on_the_path =
        std::env::var_os("PATH").is_some_and(|list| std::env::split_paths(&list).any(|folder| path.parent() == Some(&folder)));
    if on_the_path {
        return "millrace".into();
    }
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(&path).display().to_string()
}

/// Lines that can be typed as they stand.
fn how_to_look(view: &View, is_tall: bool) -> Vec<Vec<Piece>> {
    let program = program();
    let tap = match view.http.as_str() {
        "http://127.0.0.1:8080" => format!("{program} tap 'assembly/*'"),
        http => format!("{program} tap --url {http} 'assembly/*'"),
    };
    if !is_tall {
        return vec![vec![(DIM, " look  ".into()), (PLAIN, tap)]];
    }
    let file = format!("{}/demo.yaml", view.data);
    let mut lines: Vec<Vec<Piece>> = WORDS.iter().map(|words| vec![(DIM, (*words).to_owned())]).collect();
    for (at, line) in [
        tap,
        format!("{program} status --url {}", view.http),
        format!("{program} tap -c {file} --topic telemetry"),
        format!("{program} dead list -c {file}"),
    ]
    .into_iter()
    .chain(
        // The last minute, and with yesterday, which is generated.
        view.in_lake()
            .iter()
            .flat_map(|_| ["1m", "1d"])
            .map(|from| format!("{program} query -c {file} body/press-1/force --from {from} --output plot")),
    )
    .enumerate()
    {
        lines.push(vec![(DIM, if at == 0 { " look  " } else { "       " }.to_owned()), (PLAIN, line)]);
    }
    lines
}

fn places(view: &View) -> String {
    let kind = if view.is_embedded { " (embedded)" } else { "" };
    let registry = view.registry.map_or(String::new(), |registry| format!(", registry {registry}"));
    format!("Millrace demo, {}: Kafka {}{kind}{registry}\n      console {}, data {}", view.site, view.kafka, view.http, view.data)
}

fn in_a_line(view: &View) -> String {
    let ledger = &view.total.ledger;
    format!(
        "{} received, {} in Kafka, {} waiting: the ledger {}\n      devices sent {}, in Kafka {}, missing {}, twice {}",
        grouped(ledger.received),
        grouped(ledger.produced),
        grouped(ledger.waiting),
        if view.total.adds_up { "adds up" } else { "does not add up" },
        grouped(view.sent()),
        grouped(view.in_kafka()),
        grouped(view.missing()),
        grouped(view.repeats()),
    )
}

/// What stays on the terminal.
fn ending(view: &View) -> String {
    let mut out = String::new();
    let mut lines = sources(view, 80);
    lines.push(Vec::new());
    lines.extend(ledger(view, usize::MAX));
    lines.push(Vec::new());
    lines.extend(devices(view, 80));
    for line in lines {
        write(&mut out, &line, usize::MAX, false);
        out.push('\n');
    }
    let waiting = view.total.ledger.waiting;
    let verdict = match view.missing() {
        _ if view.is_good() && view.sent() == 0 => "it ended before a reading was made, and the ledger adds up".to_owned(),
        _ if view.is_good() => "every reading is in Kafka, and the ledger adds up".to_owned(),
        _ if view.sent() == 0 => format!("no reading was made: Kafka at {} did not answer; see {}/millrace.log", view.kafka, view.data),
        0 if waiting > 0 => format!("{} records wait in the log for the next start", grouped(waiting)),
        0 if view.in_lake().is_some_and(|lake| lake > view.in_kafka()) => {
            format!("{} readings are in the lake, and {} in Kafka", grouped(view.in_lake().unwrap_or(0)), grouped(view.in_kafka()))
        }
        0 => "the end did not wait for all that was on the way".to_owned(),
        missing => format!("{} readings are not in Kafka", grouped(missing)),
    };
    let _ = writeln!(out, "\n {} after {}: {verdict}", if view.is_good() { "Good" } else { "Not good" }, clock(view.elapsed()));
    let _ = writeln!(out, " the factory's file, its data and its messages stay in {}", view.data);
    let _ = writeln!(out, "\n{}", WORDS.join("\n"));
    let program = program();
    let _ = writeln!(out, "\n Next, with a device of your own:");
    for line in NEXT {
        let _ = writeln!(out, "   {program} {line}");
    }
    out
}

/// What to type after the demo.
pub const NEXT: [&str; 3] =
    ["browse opcua opc.tcp://SERVER:4840 --site acme/plant > factory.yaml", "check factory.yaml", "run factory.yaml"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_equation_leaves_out_what_is_nothing_where_there_is_no_room() {
        let parts = [(1_200_000, "in Kafka"), (0, "dead"), (34_567, "waiting")];
        let at = |width| equation((1_234_567, "appended"), &parts, width)[1].1.clone();
        assert_eq!(at(120), "1,234,567 appended = 1,200,000 in Kafka + 0 dead + 34,567 waiting");
        assert_eq!(at(70), "1,234,567 appended = 1,200,000 in Kafka + 34,567 waiting");
        assert_eq!(equation((2, "appended"), &[(1, "waiting")], 80)[0], (BAD, " is wrong  ".to_owned()));
    }

    #[test]
    fn what_explains_the_screen_fits_into_eighty_columns() {
        assert!(WORDS.iter().chain(&NEXT).all(|line| line.chars().count() <= 80), "{WORDS:?}");
    }

    #[test]
    fn numbers_are_grouped_and_lines_cut_where_the_terminal_ends() {
        assert_eq!((grouped(7), grouped(1234), grouped(1_234_567)), ("7".into(), "1,234".into(), "1,234,567".into()));
        let mut out = String::new();
        write(&mut out, &[(GOOD, "abc".into()), (PLAIN, "defg".into())], 5, true);
        assert_eq!(out, "\x1b[32mabc\x1b[0mde");
        assert_eq!(clock(Duration::from_secs(125)), "2:05");
    }
}
