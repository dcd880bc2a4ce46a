//! Server-sent events as they are written (WHATWG HTML, section 9.2).

use std::fmt::Write;

/// Appends one event. Its data may have several lines.
pub fn event(text: &mut String, kind: &str, id: Option<&str>, data: &str) {
    if let Some(id) = id {
        let _ = writeln!(text, "id: {id}");
    }
    let _ = writeln!(text, "event: {kind}");
    for line in data.split(['\n', '\r']) {
        let _ = writeln!(text, "data: {line}");
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_of_several_lines_stays_one_event() {
        let mut text = String::new();
        event(&mut text, "sample", Some("7"), "a\nb");
        assert_eq!(text, "id: 7\nevent: sample\ndata: a\ndata: b\n\n");
    }
}
