//! What a server says of the lines that it did not take. No I/O.
//!
//! ```text
//! InfluxDB 1    {"error":"partial write: field type conflict: .. dropped=1"}                      the others were written
//! InfluxDB 2    {"code":"unprocessable entity","message":"failure writing points to database: partial write: .. dropped=1"}
//! InfluxDB 3    {"error":"partial write of line protocol occurred","data":[{"line_number":2,"error_message":".."}]}
//! QuestDB       {"code":"invalid","message":"failed to parse line protocol: ..","line":2}         none was written
//! ```
//!
//! A number is a hint, not a verdict: a line break inside a text may count. Whoever acts on it sends that line alone before it is refused.

use serde_json::Value;

/// The answer to lines of which at least one was not taken.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Answer {
    /// The lines that it names, from 0; each once, in order.
    pub named: Vec<usize>,
    /// How many it says it dropped.
    pub dropped: Option<usize>,
    /// What it says.
    pub text: String,
}

impl Answer {
    /// Reads any body; of one that is not JSON, the text is the message.
    pub fn read(body: &[u8]) -> Self {
        let Ok(Value::Object(said)) = serde_json::from_slice::<Value>(body) else {
            return Self { text: String::from_utf8_lossy(body).into_owned(), ..Self::default() };
        };
        let text_of = |name: &str| said.get(name).and_then(Value::as_str).unwrap_or_default();
        let mut text = match (text_of("message"), text_of("error")) {
            ("", error) => error.to_owned(),
            (message, _) => message.to_owned(),
        };
        let lines = said.get("data").and_then(Value::as_array).into_iter().flatten();
        let lines: Vec<&Value> = lines.filter(|line| line.get("line_number").is_some()).collect();
        if let Some(first) = lines.first().and_then(|line| line.get("error_message")?.as_str()) {
            text = format!("{text}: {first}");
        }
        let numbers = lines.iter().filter_map(|line| line.get("line_number")).chain(said.get("line"));
        // From 1.
        let mut named: Vec<usize> =
            numbers.filter_map(Value::as_u64).filter_map(|number| usize::try_from(number).ok()?.checked_sub(1)).collect();
        named.sort_unstable();
        named.dedup();
        Self { named, dropped: dropped(&text), text }
    }

    /// Whether it says of each of `count` lines that it was dropped.
    pub fn drops_all(&self, count: usize) -> bool {
        self.dropped == Some(count)
    }

    /// How `count` lines are sent again, in order: those that it names alone, so that each has a verdict of its own; else in halves.
    pub fn pieces(&self, count: usize) -> Vec<std::ops::Range<usize>> {
        let named = self.named.iter().copied().filter(|line| *line < count);
        let (mut pieces, mut from) = (Vec::new(), 0);
        for line in named {
            pieces.extend([from..line, line..line + 1]);
            from = line + 1;
        }
        // QuestDB stops at the first: behind it there may be as many.
        let middle = from + (count - from) / 2;
        pieces.extend([from..middle, middle..count]);
        pieces.retain(|piece| !piece.is_empty());
        pieces
    }
}

/// `.. dropped=12`
fn dropped(text: &str) -> Option<usize> {
    let (_, number) = text.rsplit_once("dropped=")?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_server_s_answer_is_understood() {
        let of_1 = Answer::read(br#"{"error":"partial write: points beyond retention policy dropped=2"}"#);
        assert_eq!((of_1.named.len(), of_1.drops_all(2), of_1.drops_all(3)), (0, true, false));
        let of_3 = Answer::read(
            br#"{"error":"partial write of line protocol occurred","data":[{"original_line":"a","line_number":3,"error_message":"bad x"},{"line_number":1}]}"#,
        );
        assert_eq!((of_3.named, of_3.text.as_str()), (vec![0, 2], "partial write of line protocol occurred: bad x"));
        let quest = Answer::read(br#"{"code":"invalid","message":"error in line 2: cast error","line":2,"errorId":"e-4"}"#);
        assert_eq!((quest.named, quest.text.as_str()), (vec![1], "error in line 2: cast error"));
        assert_eq!(Answer::read(b"<html>"), Answer { text: "<html>".into(), ..Answer::default() });
    }

    #[test]
    fn lines_are_sent_again_in_order_and_those_named_alone() {
        let named = |lines: &[usize]| Answer { named: lines.to_vec(), ..Answer::default() };
        assert_eq!(named(&[]).pieces(4), [0..2, 2..4]);
        assert_eq!(named(&[1]).pieces(6), [0..1, 1..2, 2..4, 4..6]);
        assert_eq!(named(&[0, 1]).pieces(2), [0..1, 1..2]);
        // A number that can't be is none.
        assert_eq!(named(&[9]).pieces(3), [0..1, 1..3]);
    }

    proptest! {
        #[test]
        fn pieces_are_smaller_and_hold_each_line_once(lines in prop::collection::btree_set(0_usize..40, 0..10), count in 2_usize..40) {
            let answer = Answer { named: lines.into_iter().collect(), ..Answer::default() };
            let pieces = answer.pieces(count);
            prop_assert!(pieces.iter().all(|piece| piece.len() < count));
            prop_assert_eq!(pieces.into_iter().flatten().collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
        }

        #[test]
        fn any_body_is_read(body in prop::collection::vec(any::<u8>(), 0..200), line in any::<i64>()) {
            let _ = Answer::read(&body);
            let numbered = format!(r#"{{"line":{line},"data":[{{"line_number":{line}}},7],"message":"dropped={line}"}}"#);
            prop_assert!(Answer::read(numbered.as_bytes()).named.len() <= 1);
        }
    }
}
