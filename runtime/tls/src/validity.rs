//! Until when a certificate is valid: read from its DER, because rustls checks only the peer's.
//!
//! Source: RFC 5280, section 4.1: Certificate { tbsCertificate { [0] version, serial, signature, issuer, validity, .. } .. }

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;

/// What is wrong with the certificate's dates now; `None` where they are fine or can't be read.
pub(crate) fn problem(certificate: &CertificateDer<'_>) -> Option<String> {
    let (not_before, not_after) = dates(certificate)?;
    let now = Timestamp::now();
    if now > not_after {
        Some(format!("expired on {not_after}"))
    } else if now < not_before {
        Some(format!("is valid only from {not_before}"))
    } else {
        None
    }
}

fn dates(der: &[u8]) -> Option<(Timestamp, Timestamp)> {
    let (_, certificate, _) = element(der)?;
    let (_, body, _) = element(certificate)?;
    let (tag, _, rest) = element(body)?;
    let after_version = if tag == 0xA0 { rest } else { body };
    let (_, _serial, rest) = element(after_version)?;
    let (_, _signature, rest) = element(rest)?;
    let (_, _issuer, rest) = element(rest)?;
    let (_, validity, _) = element(rest)?;
    let (tag, from, rest) = element(validity)?;
    let not_before = time(tag, from)?;
    let (tag, to, _) = element(rest)?;
    Some((not_before, time(tag, to)?))
}

/// One DER element: its tag, its content, and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = if first < 0x80 {
        (first as usize, rest)
    } else {
        let (bytes, rest) = rest.split_at_checked((first & 0x7F) as usize)?;
        if bytes.len() > 4 {
            return None;
        }
        (bytes.iter().fold(0, |len, b| len << 8 | *b as usize), rest)
    };
    let (content, rest) = rest.split_at_checked(len)?;
    Some((tag, content, rest))
}

/// UTCTime (0x17, two digits of year, 50..99 are 19xx) or GeneralizedTime (0x18).
fn time(tag: u8, text: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?;
    let full = match tag {
        0x17 if text.as_bytes().first()? >= &b'5' => format!("19{text}"),
        0x17 => format!("20{text}"),
        0x18 => text.to_owned(),
        _ => return None,
    };
    let civil = jiff::civil::DateTime::strptime("%Y%m%d%H%M%SZ", full).ok()?;
    civil.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}
