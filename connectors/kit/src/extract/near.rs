//! JSON as small devices write it, mended so that one bad part does not cost the good values beside it.
//!
//! | as it came | as it is read |
//! |---|---|
//! | `nan`, `-Infinity`, `1.#QNAN`, `None` | `null` |
//! | `True`, `+1`, `.5`, `5.` | `true`, `1`, `0.5`, `5.0` |
//! | `[1,2,]`, `{"a":1,}` | without the last comma |
//! | a NUL between or behind values | nothing |
//! | `{"a":1}{"a":2}` | two documents |
//!
//! Only what the strict reader has refused comes here; texts between quotes stay as they are, and the strict reader has the last word.

/// More documents in one payload are none: a list of numbers without its brackets.
const MOST_DOCUMENTS: usize = 10_000;

/// Mends a payload; `None` where nothing can be mended. One text for each document.
pub fn mend(payload: &str) -> Option<Vec<String>> {
    let bytes = payload.as_bytes();
    let (mut documents, mut out, mut depth, mut at) = (Vec::new(), String::with_capacity(payload.len()), 0_usize, 0);
    let mut is_changed = false;
    while at < bytes.len() {
        let start = at;
        match bytes[at] {
            b'"' => {
                at = string_end(bytes, at)?;
                out.push_str(&payload[start..at]);
            }
            b'[' | b'{' => {
                depth += 1;
                at += 1;
                out.push_str(&payload[start..at]);
            }
            b']' | b'}' => {
                depth = depth.checked_sub(1)?;
                at += 1;
                out.push_str(&payload[start..at]);
            }
            b',' => {
                at += 1;
                let next = bytes[at..].iter().find(|byte| !byte.is_ascii_whitespace() && **byte != 0);
                if matches!(next, Some(b']' | b'}') | None) {
                    is_changed = true;
                } else {
                    out.push(',');
                }
                continue;
            }
            b':' => {
                out.push(':');
                at += 1;
                continue;
            }
            0 | b' ' | b'\n' | b'\r' | b'\t' => {
                is_changed |= bytes[at] == 0;
                at += 1;
                continue;
            }
            // A control character is no part of anything.
            ..b' ' => return None,
            _ => {
                while at < bytes.len() && !matches!(bytes[at], b',' | b':' | b'[' | b']' | b'{' | b'}' | b'"' | 0..=b' ') {
                    at += 1;
                }
                let word = &payload[start..at];
                match mended(word) {
                    Some(mended) => {
                        is_changed = true;
                        out.push_str(&mended);
                    }
                    None => out.push_str(word),
                }
            }
        }
        if depth == 0 {
            // A document ends here; what follows is another one.
            if documents.len() == MOST_DOCUMENTS {
                return None;
            }
            documents.push(std::mem::take(&mut out));
        }
    }
    (depth == 0 && out.is_empty() && !documents.is_empty() && (is_changed || documents.len() > 1)).then_some(documents)
}

fn string_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// A bare word or number that JSON does not have, as one that it has.
fn mended(word: &str) -> Option<String> {
    let digits = word.strip_prefix(['+', '-']).unwrap_or(word);
    let lower = digits.to_ascii_lowercase();
    if ["nan", "inf", "infinity", "none", "undefined", "null"].contains(&lower.as_str())
        || lower.starts_with("nan(")
        || lower.contains(".#")
    {
        return (word != "null").then(|| "null".to_owned());
    }
    if word != lower && (lower == "true" || lower == "false") {
        return Some(lower);
    }
    let is_number = digits.parse::<f64>().is_ok() && digits.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte));
    if !is_number {
        return None;
    }
    let mut number = word.strip_prefix('+').unwrap_or(word).to_owned();
    if let Some(dot) = number.find('.') {
        if number[dot + 1..].starts_with(['e', 'E']) || number.ends_with('.') {
            number.insert(dot + 1, '0');
        }
        if dot == 0 || number[..dot].ends_with('-') {
            number.insert(dot, '0');
        }
    }
    (number != word).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_small_devices_write_is_mended() {
        for (payload, documents) in [
            ("{\"a\":nan,\"b\":-Infinity,\"c\":1}", &["{\"a\":null,\"b\":null,\"c\":1}"][..]),
            ("{\"a\": 1.#QNAN, \"b\": True, \"c\": None}", &["{\"a\":null,\"b\":true,\"c\":null}"]),
            ("{\"a\":[1,2, ],}", &["{\"a\":[1,2]}"]),
            ("{\"a\":+1,\"b\":.5,\"c\":-.5,\"d\":5.,\"e\":1.e3}", &["{\"a\":1,\"b\":0.5,\"c\":-0.5,\"d\":5.0,\"e\":1.0e3}"]),
            ("{\"a\":1}\0\0", &["{\"a\":1}"]),
            ("{\"a\":1}\n{\"a\":2}", &["{\"a\":1}", "{\"a\":2}"]),
            ("{\"a\":\"nan, ]\",}", &["{\"a\":\"nan, ]\"}"]),
        ] {
            assert_eq!(mend(payload).as_deref(), Some(&documents.iter().map(|d| (*d).to_owned()).collect::<Vec<_>>()[..]), "{payload}");
        }
    }

    #[test]
    fn what_is_whole_or_beyond_help_is_left_to_the_strict_reader() {
        for payload in ["{\"a\":1}", "{\"a\":", "hello", "{\"a\":\"x", "]", "{\"a\":007}", "", "\u{1}", "{\"a\":\u{1f}1,}"] {
            assert_eq!(mend(payload), None, "{payload}");
        }
        assert_eq!(mend(&"1 ".repeat(MOST_DOCUMENTS + 1)), None);
    }
}
