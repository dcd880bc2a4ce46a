//! Names of logs as names of directories: percent-encoding of everything but `A-Z a-z 0-9 - _ .`, and of a leading dot.

use crate::error::StoreError;

/// The directory of a log.
pub fn encode(name: &str) -> Result<String, StoreError> {
    if name.is_empty() {
        return Err(StoreError::BadName(name.to_owned(), "it is empty"));
    }
    let mut out = String::with_capacity(name.len());
    for (i, byte) in name.bytes().enumerate() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || byte == b'.' && i > 0 {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    if out.len() > 255 {
        return Err(StoreError::BadName(name.to_owned(), "it is longer than 255 bytes when encoded as a directory"));
    }
    Ok(out)
}

/// The log of a directory; `None` if no log has this directory.
pub fn decode(dir: &str) -> Option<String> {
    let mut out = Vec::with_capacity(dir.len());
    let mut bytes = dir.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let (high, low) = (char::from(bytes.next()?).to_digit(16)?, char::from(bytes.next()?).to_digit(16)?);
        out.push((high * 16 + low) as u8);
    }
    let name = String::from_utf8(out).ok()?;
    (encode(&name).ok()? == dir).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_comes_back() {
        for name in ["plain", "acme/plant 1/line.normal", "..", ".lock", "é%2F", "a%"] {
            let dir = encode(name).unwrap();
            assert!(!dir.contains('/') && !dir.starts_with('.'), "{dir}");
            assert_eq!(decode(&dir).as_deref(), Some(name));
        }
    }

    #[test]
    fn directories_of_others_are_no_logs() {
        for dir in ["lost+found", "%2", "%zz", "a%41", ".hidden", "%ff"] {
            assert_eq!(decode(dir), None, "{dir}");
        }
        assert!(encode("").is_err());
        assert!(encode(&"/".repeat(100)).is_err());
    }
}
