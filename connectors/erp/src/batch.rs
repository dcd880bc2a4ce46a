//! `$batch`: many operations in one request, each in a change set of its own, so that one that fails takes no other with it.
//!
//! ```text
//! --batch_N                                   --outer
//! Content-Type: multipart/mixed; boundary=c1  Content-Type: multipart/mixed; boundary=inner      or, of a change set that failed,
//!                                                                                               Content-Type: application/http
//! --c1                                        --inner
//! Content-Type: application/http              Content-Type: application/http
//! Content-Transfer-Encoding: binary
//! Content-ID: 1                               HTTP/1.1 201 Created
//!                                             Content-Type: application/json
//! POST Orders HTTP/1.1
//! Content-Type: application/json              {..}
//!                                             --inner--
//! {..}                                        --outer--
//! --c1--
//! --batch_N--
//! ```
//!
//! The outer status says nothing. Source: OData 4.01 Part 1, section 11.7; OData 2.0 Batch.

use std::fmt::Write;

/// One operation of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    pub method: String,
    /// Relative to the service's root.
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// One answer in a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Part {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Part {
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }
}

/// Why an answer to a batch cannot be read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("the answer to a batch cannot be read: {0}")]
pub struct BadBatch(pub &'static str);

/// The body of a request, and its boundary.
pub fn write(operations: &[Operation]) -> (String, Vec<u8>) {
    let mut mark = 0;
    let boundary = loop {
        let boundary = format!("batch_millrace_{mark}");
        let is_in = |operation: &Operation| operation.body.windows(boundary.len()).any(|part| part == boundary.as_bytes());
        if !operations.iter().any(is_in) {
            break boundary;
        }
        mark += 1;
    };
    let mut out = Vec::new();
    for (n, operation) in operations.iter().enumerate() {
        let set = format!("{boundary}_set_{n}");
        let mut head = format!("--{boundary}\r\nContent-Type: multipart/mixed; boundary={set}\r\n\r\n--{set}\r\n");
        head += "Content-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n";
        let _ = write!(head, "Content-ID: {}\r\n\r\n{} {} HTTP/1.1\r\n", n + 1, operation.method, operation.path);
        for (name, value) in &operation.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        let _ = write!(head, "Content-Length: {}\r\n\r\n", operation.body.len());
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(&operation.body);
        out.extend_from_slice(format!("\r\n--{set}--\r\n").as_bytes());
    }
    out.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    (boundary, out)
}

/// The answers, in order: of a change set its only one, or the error in its place. There may be fewer than operations.
pub fn read(content_type: &str, body: &[u8]) -> Result<Vec<Part>, BadBatch> {
    let mut found = Vec::new();
    parts(content_type, body, 0, &mut found)?;
    Ok(found)
}

fn parts(content_type: &str, body: &[u8], depth: u8, found: &mut Vec<Part>) -> Result<(), BadBatch> {
    let boundary = content_type
        .split(';')
        .find_map(|part| part.trim().strip_prefix("boundary="))
        .map(|value| value.trim_matches('"'))
        .filter(|boundary| !boundary.is_empty())
        .ok_or(BadBatch("it names no boundary"))?;
    let delimiter = format!("--{boundary}");
    let mut rest = body;
    let mut is_closed = false;
    let mut start = None;
    while let Some(at) = find(rest, delimiter.as_bytes()) {
        // Only at the beginning of a line.
        let is_line = at == 0 || rest[at - 1] == b'\n';
        let after = &rest[at + delimiter.len()..];
        let here = body.len() - rest.len() + at;
        if is_line && (after.starts_with(b"--") || after.starts_with(b"\r\n") || after.starts_with(b"\n")) {
            if let Some(from) = start {
                part(&body[from..here], depth, found)?;
            }
            if after.starts_with(b"--") {
                is_closed = true;
                break;
            }
            start = Some(here + delimiter.len());
        }
        rest = after;
    }
    if is_closed { Ok(()) } else { Err(BadBatch("it ends in the middle")) }
}

fn part(bytes: &[u8], depth: u8, found: &mut Vec<Part>) -> Result<(), BadBatch> {
    let bytes = line_end(bytes);
    let (head, content) = split_head(bytes);
    let headers = headers(head);
    let content_type = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-type")).map_or("", |(_, value)| value);
    let kind = content_type.to_ascii_lowercase();
    if kind.starts_with("multipart/") {
        if depth > 0 {
            return Err(BadBatch("change sets nest"));
        }
        return parts(content_type, content, depth + 1, found);
    }
    if !kind.starts_with("application/http") {
        return Err(BadBatch("a part is neither HTTP nor a change set"));
    }
    let (head, body) = split_head(content);
    let head_text = String::from_utf8_lossy(head);
    let status = head_text.lines().next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).ok_or(BadBatch("a part has no status"))?;
    let headers = self::headers(head.split_at(head.iter().position(|b| *b == b'\n').map_or(head.len(), |at| at + 1)).1);
    // The line end before the delimiter belongs to the delimiter.
    let body = body.strip_suffix(b"\r\n").or_else(|| body.strip_suffix(b"\n")).unwrap_or(body);
    let length = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length")).and_then(|(_, value)| value.parse().ok());
    let body = &body[..body.len().min(length.unwrap_or(body.len()))];
    found.push(Part { status, headers, body: body.to_vec() });
    Ok(())
}

fn line_end(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\r\n").or_else(|| bytes.strip_prefix(b"\n")).unwrap_or(bytes)
}

/// Splits at the blank line.
fn split_head(bytes: &[u8]) -> (&[u8], &[u8]) {
    for blank in [&b"\r\n\r\n"[..], b"\n\n"] {
        if let Some(at) = find(bytes, blank) {
            return (&bytes[..at], &bytes[at + blank.len()..]);
        }
    }
    (bytes, &[])
}

fn headers(head: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(head);
    text.lines().filter_map(|line| line.split_once(':')).map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect()
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
