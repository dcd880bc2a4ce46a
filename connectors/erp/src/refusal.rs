//! What an ERP says when it refuses: its own words out of JSON or XML, and the code that programs tell errors apart by.

use quick_xml::Reader;
use quick_xml::events::Event;
use serde_json::Value;

/// The ERP's words and code.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Refusal {
    pub code: String,
    pub text: String,
}

/// Reads an error of OData; `None`: the answer is none.
pub fn of(body: &[u8]) -> Option<Refusal> {
    json(body).or_else(|| xml(body))
}

/// The words of the object under `error`.
pub fn of_json(error: &[u8]) -> Option<String> {
    Some(words(&serde_json::from_slice(error).ok()?).text)
}

fn json(body: &[u8]) -> Option<Refusal> {
    let value: Value = serde_json::from_slice(body).ok()?;
    value.get("error").or_else(|| value.get("odata.error")).map(words)
}

/// V4: `message`, `target`, `details[]`; V2: `message.value`, `innererror.errordetails[]`.
fn words(error: &Value) -> Refusal {
    let text_of = |value: &Value| -> String {
        let message = value.get("message").unwrap_or(&Value::Null);
        let text = message.as_str().or_else(|| message.get("value").and_then(Value::as_str)).unwrap_or_default();
        match value.get("target").and_then(Value::as_str).filter(|target| !target.is_empty()) {
            Some(target) => format!("{text} ({target})"),
            None => text.to_owned(),
        }
    };
    let mut text = text_of(error);
    let details = error.get("details").or_else(|| error.get("innererror").and_then(|inner| inner.get("errordetails")));
    for detail in details.and_then(Value::as_array).into_iter().flatten().take(10) {
        let more = text_of(detail);
        if !more.is_empty() && !text.contains(&more) {
            text = format!("{text}; {more}");
        }
    }
    let code = match error.get("code") {
        Some(Value::String(code)) => code.clone(),
        Some(Value::Number(code)) => code.to_string(),
        _ => String::new(),
    };
    if let Some(transaction) = error.get("innererror").and_then(|inner| inner.get("transactionid")).and_then(Value::as_str) {
        text = format!("{text} (transaction {transaction})");
    }
    Refusal { code, text }
}

/// `<error><code>..</code><message>..</message>`: SAP writes XML where JSON was asked for.
fn xml(body: &[u8]) -> Option<Refusal> {
    let text = std::str::from_utf8(body).ok()?;
    let mut reader = Reader::from_str(text);
    let mut path: Vec<String> = Vec::new();
    let mut found = Refusal::default();
    loop {
        match reader.read_event().ok()? {
            Event::Start(element) => {
                let name = String::from_utf8_lossy(element.local_name().as_ref()).into_owned();
                if path.is_empty() && name != "error" || path.len() > 16 {
                    return None;
                }
                path.push(name);
            }
            Event::End(_) => _ = path.pop(),
            Event::Text(words) if path.len() == 2 => {
                let words = words.decode().ok()?;
                match path[1].as_str() {
                    "code" => found.code.push_str(&words),
                    "message" => found.text.push_str(&words),
                    _ => {}
                }
            }
            Event::Eof => break,
            _ => {}
        }
    }
    (!found.text.is_empty() || !found.code.is_empty()).then_some(found)
}

/// A code and words in one line.
impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.code.as_str(), self.text.as_str()) {
            ("", text) => f.write_str(text),
            (code, "") => f.write_str(code),
            (code, text) => write!(f, "{text} [{code}]"),
        }
    }
}
