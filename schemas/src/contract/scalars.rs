//! Numbers and bytes out of a document's text, as the languages of schemas share them.

use crate::contract::misfit::Misfit;
use crate::contract::number::{self, Inexact};
use crate::contract::work::Work;
use crate::scan::{Next, Number, Scanner};

/// A text's bytes, unescaped, into the work's buffer; base64 where bytes are wanted.
pub(super) fn base64_of<'w>(scanner: &mut Scanner<'_>, work: &'w mut Work, wanted: &str) -> Result<&'w [u8], Box<Misfit>> {
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};
    if scanner.peek()? != Next::Text {
        return Err(Misfit::expected(scanner, wanted));
    }
    let before = *scanner;
    let text = scanner.text()?.cow();
    work.text.clear();
    let engine = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    engine.decode_vec(text.as_bytes(), &mut work.text).map_err(|_| Misfit::expected(&before, format!("{wanted} in base64")))?;
    Ok(&work.text)
}

pub(super) fn integer(s: &mut Scanner<'_>, wanted: &str) -> Result<i64, Box<Misfit>> {
    if s.peek()? != Next::Number {
        return Err(Misfit::expected(s, wanted));
    }
    let before = *s;
    let Number { text, .. } = s.number()?;
    number::long(text).map_err(|why| misfit_of(&before, why, wanted))
}

pub(super) fn misfit_of(before: &Scanner<'_>, why: Inexact, wanted: &str) -> Box<Misfit> {
    let why = match why {
        Inexact::Finer => "without a fraction",
        Inexact::Larger => "which holds it exactly",
        Inexact::NoNumber => "and a number",
    };
    Misfit::expected(before, format!("{wanted} {why}"))
}

/// A floating-point number; a text where JSON has no number for it.
pub(super) fn floating<T>(
    s: &mut Scanner<'_>,
    wanted: &str,
    read: impl FnOnce(&str, bool) -> Result<T, Inexact>,
    special: impl FnOnce(f64) -> T,
) -> Result<T, Box<Misfit>> {
    let before = *s;
    match s.peek()? {
        Next::Number => {
            let number = s.number()?;
            read(number.text, number.integer).map_err(|why| misfit_of(&before, why, wanted))
        }
        Next::Text => match &*s.text()?.cow() {
            "NaN" => Ok(special(f64::NAN)),
            "Infinity" => Ok(special(f64::INFINITY)),
            "-Infinity" => Ok(special(f64::NEG_INFINITY)),
            _ => Err(Misfit::expected(&before, wanted)),
        },
        _ => Err(Misfit::expected(s, wanted)),
    }
}
