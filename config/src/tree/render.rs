//! Problems as text for a person, and as JSON for a program.
//!
//! ```text
//! error: unknown key `dedband`
//!   --> factory.yaml:12:9  sources.press-1.groups[0].tags.force.dedband
//!    |
//! 12 |         dedband: 1
//!    |         ^^^^^^^
//!    = help: did you mean `deadband`?
//!    = in template `press`, used at factory.yaml:40:3 (sources.press-1)
//! ```

use crate::tree::place::{Location, Place};
use crate::tree::problem::{Problem, Problems, Severity};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt::Write;

/// More problems than this are counted, not shown, to a person.
const SHOWN: usize = 50;
/// Longer lines are cut around the caret.
const WIDTH: usize = 160;

/// A problem with its place resolved, and how often a template brings it about.
struct Located<'p> {
    problem: &'p Problem,
    at: Location,
    times: usize,
}

impl Problems {
    /// Every problem for a person: sorted, with its line, a caret, what to do, and the other places.
    pub fn render(&self) -> String {
        let mut text = String::new();
        let located = self.located();
        for located in located.iter().take(SHOWN) {
            self.render_one(located, &mut text);
            text.push('\n');
        }
        if located.len() > SHOWN {
            let _ = writeln!(text, "and {} more\n", located.len() - SHOWN);
        }
        let count = |severity| located.iter().filter(|located| located.problem.severity == severity).count();
        let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
        let plural = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
        match (errors, warnings) {
            (0, 0) => {}
            (errors, 0) => _ = writeln!(text, "{}", plural(errors, "error")),
            (0, warnings) => _ = writeln!(text, "{}", plural(warnings, "warning")),
            (errors, warnings) => _ = writeln!(text, "{}, {}", plural(errors, "error"), plural(warnings, "warning")),
        }
        text
    }

    /// Every problem for a program: sorted, one object each.
    pub fn to_json(&self) -> Value {
        let place = |place: Place, more: (&str, &str)| {
            let at = self.locate(place);
            json!({"file": &*at.file, "line": at.line, "column": at.column, "path": at.path, more.0: more.1})
        };
        let redact = |text: &str| self.places.redact(text);
        let problems = self.located().into_iter().map(|located| {
            let Located { problem, at, times } = located;
            json!({
                "severity": match problem.severity { Severity::Error => "error", Severity::Warning => "warning" },
                "message": redact(&problem.message),
                "help": problem.help.as_deref().map(|help| self.help(problem, help)),
                "file": &*at.file,
                "line": at.line,
                "column": at.column,
                "path": at.path,
                "times": times,
                "related": problem.related.iter().map(|(related, note)| place(*related, ("note", &redact(note)))).collect::<Vec<_>>(),
                "uses": at.uses.iter().map(|(what, used)| place(*used, ("in", what))).collect::<Vec<_>>(),
            })
        });
        Value::Array(problems.collect())
    }

    fn help(&self, problem: &Problem, help: &str) -> String {
        if problem.is_plain { help.to_owned() } else { self.places.redact(help) }
    }

    /// Sorted by place; the same problem of one template's line, found in many uses, once.
    fn located(&self) -> Vec<Located<'_>> {
        let mut located: Vec<Located> = Vec::new();
        let mut known: HashMap<_, usize> = HashMap::new();
        for problem in self.iter() {
            let key = (problem.place.0 as u32, &problem.message, problem.severity);
            match known.get(&key) {
                Some(index) if !problem.place.is_none() => located[*index].times += 1,
                _ => {
                    known.insert(key, located.len());
                    located.push(Located { problem, at: self.locate(problem.place), times: 1 });
                }
            }
        }
        located.sort_by(|a, b| {
            let order = |located: &Located| {
                (located.problem.severity, self.places.file_order(located.problem.place), located.at.line, located.at.column)
            };
            order(a).cmp(&order(b)).then_with(|| a.problem.message.cmp(&b.problem.message))
        });
        located
    }

    fn render_one(&self, located: &Located, text: &mut String) {
        let Located { problem, at, times } = located;
        let severity = match problem.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let _ = writeln!(text, "{severity}: {}", self.places.redact(&problem.message));
        let gutter = at.line.to_string().len();
        if !problem.place.is_none() {
            let path = if at.path.is_empty() { String::new() } else { format!("  {}", at.path) };
            let _ = writeln!(text, "{:gutter$}--> {}{path}", "", position(at));
        }
        if let Some(line) = self.places.line(problem.place) {
            let (line, caret) = cut(&self.places.redact_line(line), at.column as usize);
            let _ = writeln!(text, "{:gutter$} |", "");
            let _ = writeln!(text, "{:gutter$} | {line}", at.line);
            let _ = writeln!(text, "{:gutter$} | {caret}", "");
        }
        if let Some(help) = &problem.help {
            let _ = writeln!(text, "{:gutter$} = help: {}", "", self.help(problem, help));
        }
        for (place, note) in &problem.related {
            let _ = writeln!(text, "{:gutter$} = {}: {}", "", self.places.redact(note), with_path(&self.locate(*place)));
        }
        for (what, used) in &at.uses {
            let _ = writeln!(text, "{:gutter$} = in {what}, used at {}", "", with_path(&self.locate(*used)));
        }
        if *times > 1 {
            let _ = writeln!(text, "{:gutter$} = and in {} more use{} of it", "", times - 1, if *times > 2 { "s" } else { "" });
        }
    }
}

fn position(at: &Location) -> String {
    match at.line {
        0 => at.file.to_string(),
        _ => format!("{}:{}:{}", at.file, at.line, at.column),
    }
}

fn with_path(at: &Location) -> String {
    match at.path.is_empty() {
        true => position(at),
        false => format!("{} ({})", position(at), at.path),
    }
}

/// The line, cut where it is long, and carets under the word at a column (from 1).
fn cut(line: &str, column: usize) -> (String, String) {
    let chars: Vec<char> = line.chars().map(|c| if c == '\t' { ' ' } else { c }).collect();
    let at = column.saturating_sub(1).min(chars.len());
    let start = if chars.len() > WIDTH && at > WIDTH / 2 { at - WIDTH / 2 } else { 0 };
    let shown: String = chars[start..].iter().take(WIDTH).collect();
    let quote = chars.get(at).filter(|c| matches!(c, '"' | '\''));
    let word = match quote {
        None if matches!(chars.get(at), Some('[' | '{')) => 1,
        Some(quote) => chars[at + 1..].iter().position(|c| c == quote).map_or(1, |end| end + 2),
        None => chars[at..].iter().take_while(|c| !matches!(c, ' ' | ',' | ']' | '}' | ';') && **c != ':').count(),
    };
    let width = word.clamp(1, (WIDTH - (at - start)).max(1));
    (shown, format!("{}{}", " ".repeat(at - start), "^".repeat(width)))
}
