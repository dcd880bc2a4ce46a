//! What the program prints. Whoever closes the pipe (`| head`) ends the program quietly; nothing here panics.

use serde_json::Value;
use std::fmt::Arguments;
use std::io::{ErrorKind, Write, stderr, stdout};

/// Prints to standard output; the program ends quietly where nobody reads it any more.
pub fn out(text: Arguments) {
    let mut stdout = stdout().lock();
    let outcome = stdout.write_fmt(text).and_then(|()| stdout.flush());
    end_with_the_reader(outcome);
}

/// Writes bytes to standard output as they are: a file that was asked for, never to a terminal.
pub fn bytes(bytes: &[u8]) {
    let mut stdout = stdout().lock();
    let outcome = stdout.write_all(bytes).and_then(|()| stdout.flush());
    end_with_the_reader(outcome);
}

/// Prints to standard error. Nobody reads it any more: what is done matters more than what is said of it.
pub fn err(text: Arguments) {
    let _ = stderr().lock().write_all(visible_lines(&text.to_string()).as_bytes());
}

/// Prints a JSON document, over several lines.
pub fn json(value: &Value) {
    out(format_args!("{}\n", visible_json(&format!("{value:#}"))));
}

/// Prints a JSON document in one line: one of several.
pub fn json_line(value: &Value) {
    out(format_args!("{}\n", visible_json(&value.to_string())));
}

fn end_with_the_reader(outcome: std::io::Result<()>) {
    match outcome {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        // A full disk behind `> file`: there is no other place to say it.
        Err(error) => {
            let _ = writeln!(stderr(), "millrace: cannot print: {error}");
            std::process::exit(1);
        }
        Ok(()) => {}
    }
}

/// `println!`, for whoever may stop reading.
macro_rules! say {
    () => { $crate::say::out(format_args!("\n")) };
    ($($arg:tt)*) => { $crate::say::out(format_args!("{}\n", format_args!($($arg)*))) };
}

/// `print!`, likewise.
macro_rules! say_part {
    ($($arg:tt)*) => { $crate::say::out(format_args!($($arg)*)) };
}

/// `eprintln!`, for whoever may stop reading.
macro_rules! tell {
    ($($arg:tt)*) => { $crate::say::err(format_args!("{}\n", format_args!($($arg)*))) };
}

/// `eprint!`, likewise.
macro_rules! tell_part {
    ($($arg:tt)*) => { $crate::say::err(format_args!($($arg)*)) };
}

pub(crate) use {say, say_part, tell, tell_part};

/// A text as a terminal may show it: control characters, escapes and marks of direction are written out.
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 || c as u32 == 0x7F => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if c.is_control() || is_mark_of_direction(c) => out.push_str(&format!("\\u{{{:x}}}", c as u32)),
            c => out.push(c),
        }
    }
    out
}

fn is_mark_of_direction(c: char) -> bool {
    matches!(c, '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}' | '\u{FEFF}')
}

/// A text of several lines as a terminal may show it: as [`visible`], and its lines and tabs stay what they are.
pub fn visible_lines(text: &str) -> String {
    let is_shown = |c: char| matches!(c, '\n' | '\t') || !(c.is_control() || is_mark_of_direction(c));
    if text.chars().all(is_shown) {
        return text.to_owned();
    }
    text.chars().map(|c| if is_shown(c) { c.to_string() } else { visible(c.encode_utf8(&mut [0; 4])) }).collect()
}

/// Bytes as a terminal may show them: text where they are text, else hexadecimal.
pub fn visible_bytes(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => visible(text),
        Err(_) => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("hex:{digits}")
        }
    }
}

/// Bytes in JSON: text where they are text without controls, else `{"base64": ".."}`.
pub fn json_bytes(bytes: &[u8]) -> serde_json::Value {
    use base64::Engine as _;
    match std::str::from_utf8(bytes) {
        // serde_json escapes what is below 0x20; the rest would reach a terminal as it is.
        Ok(text) if !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t') || is_mark_of_direction(c)) => text.into(),
        _ => serde_json::json!({ "base64": base64::engine::general_purpose::STANDARD.encode(bytes) }),
    }
}

/// Valid JSON as a terminal may show it: what [`visible`] writes out is escaped as JSON does it; lines stay lines.
pub fn visible_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c.is_control() && c != '\n' || is_mark_of_direction(c) {
            true => out.push_str(&format!("\\u{:04x}", c as u32)),
            false => out.push(c),
        }
    }
    out
}

/// A point in time, microseconds since 1970, as `2026-11-28T12:01:02.123Z`.
pub fn time(micros: i64) -> String {
    match jiff::Timestamp::from_microsecond(micros) {
        Ok(time) => format!("{time:.3}"),
        Err(_) => format!("{micros} us"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_escape_of_a_payload_reaches_the_terminal() {
        for text in ["\x1b[2J\x1b]0;owned\x07", "a\u{9b}31m", "\u{202e}evil", "line\r\x1b[1A"] {
            let shown = visible(text);
            assert!(!shown.chars().any(|c| c.is_control() || is_mark_of_direction(c)), "{shown:?}");
            let json = json_bytes(text.as_bytes()).to_string();
            assert!(!json.chars().any(|c| c.is_control() || is_mark_of_direction(c)), "{json:?}");
        }
        let line = visible_json("{\"a\":\"\u{9b}31m\u{202e}\"}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap()["a"], "\u{9b}31m\u{202e}");
        assert!(line.is_ascii());
        let document = serde_json::json!({"a": ["\u{9b}31m\u{202e}", "two\nlines"]});
        let shown = visible_json(&format!("{document:#}"));
        assert!(shown.is_ascii() && shown.lines().count() > 1, "{shown}");
        assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), document);
        assert_eq!(visible("22.5 °C"), "22.5 °C");
        assert_eq!(visible_lines("a\tb\n\x1b[2Jé\n"), "a\tb\n\\x1b[2Jé\n");
        assert_eq!(visible_bytes(&[0xff, 0x00, 0x1b]), "hex:ff001b");
        assert_eq!(json_bytes(&[0xff, 0x00]), serde_json::json!({"base64": "/wA="}));
    }

    #[test]
    fn a_time_is_written_in_utc_with_milliseconds() {
        assert_eq!(time(3_661_000_123), "1970-01-01T01:01:01.000Z");
    }
}
