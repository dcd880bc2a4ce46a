//! Which integer or decimal does a JSON number's text say, exactly?
//!
//! A text is never read through a double: `12.50` is the decimal 12.50 and `9007199254740993` is itself. What would have to be rounded is
//! refused. Nothing is allocated; a text of any length is read once.

/// Decimals of more digits than this are refused where a schema declares them.
pub const DIGITS_MAX: u32 = 1000;
/// 10^1000 needs 3,322 bits.
const WORDS: usize = 104;

/// Why a text is not the number that is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Inexact {
    /// It has more digits behind the point.
    Finer,
    /// It has more digits before the point, or is beyond the type.
    Larger,
    /// It is no number.
    NoNumber,
}

/// A number's absolute value, as many 32-bit words as it takes, lowest first.
struct Magnitude {
    words: [u32; WORDS],
    used: usize,
}

impl Magnitude {
    fn times_ten_plus(&mut self, digit: u8) {
        let mut carry = u64::from(digit);
        for word in &mut self.words[..self.used] {
            let sum = u64::from(*word) * 10 + carry;
            *word = sum as u32;
            carry = sum >> 32;
        }
        if carry > 0 {
            self.words[self.used] = carry as u32;
            self.used += 1;
        }
    }
}

/// A number of known scale: `unscaled * 10^-scale`.
pub struct Unscaled {
    negative: bool,
    magnitude: Magnitude,
}

impl Unscaled {
    /// Reads `-12.5e3` and the like: what is left of it when the point is moved `scale` places to the right.
    pub fn read(text: &str, scale: u32, precision: u32) -> Result<Self, Inexact> {
        let (negative, rest) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (mantissa, exponent) = rest.split_once(['e', 'E']).unwrap_or((rest, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = || whole.bytes().chain(fraction.bytes());
        let power = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        let are_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || power.is_empty() || !are_digits(whole) || !are_digits(fraction) || !are_digits(power) {
            return Err(Inexact::NoNumber);
        }
        let mut number = Self { negative, magnitude: Magnitude { words: [0; WORDS], used: 0 } };
        let leading = digits().take_while(|d| *d == b'0').count();
        let count = whole.len() + fraction.len();
        if leading == count {
            number.negative = false;
            return Ok(number);
        }
        // An exponent that is no i32 belongs to a number that nothing holds.
        let beyond = if exponent.starts_with('-') { Inexact::Finer } else { Inexact::Larger };
        let exponent: i32 = exponent.parse().map_err(|_| beyond)?;
        let shift = i64::from(exponent) - fraction.len() as i64 + i64::from(scale);
        let significant = (count - leading) as i64;
        if significant + shift > i64::from(precision.min(DIGITS_MAX)) {
            return Err(Inexact::Larger);
        }
        let kept = count as i64 + shift.min(0);
        if digits().skip(kept.max(0) as usize).any(|d| d != b'0') {
            return Err(Inexact::Finer);
        }
        for digit in digits().take(kept.max(0) as usize).skip(leading) {
            number.magnitude.times_ten_plus(digit - b'0');
        }
        for _ in 0..shift.max(0) {
            number.magnitude.times_ten_plus(0);
        }
        Ok(number)
    }

    /// The number itself, where 64 bits hold it.
    pub fn long(&self) -> Option<i64> {
        if self.magnitude.used > 2 {
            return None;
        }
        let wide = i128::from(self.magnitude.words[0]) | i128::from(self.magnitude.words[1]) << 32;
        i64::try_from(if self.negative { -wide } else { wide }).ok()
    }

    /// As [`Unscaled::long`], for unsigned ones.
    pub fn unsigned(&self) -> Option<u64> {
        let fits = self.magnitude.used <= 2 && !self.negative;
        fits.then_some(u64::from(self.magnitude.words[0]) | u64::from(self.magnitude.words[1]) << 32)
    }

    /// How many bytes its two's complement takes.
    pub fn bytes(&self) -> usize {
        let magnitude = &self.magnitude;
        let Some(top) = magnitude.used.checked_sub(1) else { return 1 };
        let bits = 32 * magnitude.used - magnitude.words[top].leading_zeros() as usize;
        // -128 fits one byte, 128 does not: a negative power of two needs no bit for its sign.
        let is_power = magnitude.words[top].is_power_of_two() && magnitude.words[..top].iter().all(|w| *w == 0);
        if self.negative && is_power { bits.div_ceil(8) } else { bits / 8 + 1 }
    }

    /// Appends its two's complement, big-endian, in `size` bytes, which must be enough.
    pub fn push_to(&self, size: usize, out: &mut Vec<u8>) {
        let start = out.len();
        let byte = |n: usize| self.magnitude.words.get(n / 4).map_or(0, |word| (word >> (8 * (n % 4))) as u8);
        out.extend((0..size).rev().map(byte));
        if self.negative {
            let mut carry = true;
            for byte in out[start..].iter_mut().rev() {
                let (sum, over) = (!*byte).overflowing_add(u8::from(carry));
                (*byte, carry) = (sum, over);
            }
        }
    }
}

/// The integer a number's text says, be it written `5`, `5.0` or `5e0`.
pub fn long(text: &str) -> Result<i64, Inexact> {
    match text.parse() {
        Ok(long) => Ok(long),
        Err(_) => Unscaled::read(text, 0, 19)?.long().ok_or(Inexact::Larger),
    }
}

/// As [`long`], for unsigned ones.
pub fn unsigned(text: &str) -> Result<u64, Inexact> {
    match text.parse() {
        Ok(unsigned) => Ok(unsigned),
        Err(_) => Unscaled::read(text, 0, 20)?.unsigned().ok_or(Inexact::Larger),
    }
}

/// The double a number's text says. An integer that no double holds is refused; a fraction is the nearest double, as everywhere.
pub fn double(text: &str, integer: bool) -> Result<f64, Inexact> {
    let double: f64 = text.parse().map_err(|_| Inexact::NoNumber)?;
    if !double.is_finite() {
        return Err(Inexact::Larger);
    }
    if integer && double.abs() >= 9_007_199_254_740_992.0 && text.parse::<i128>().ok() != Some(double as i128) {
        return Err(Inexact::Larger);
    }
    Ok(double)
}

/// As [`double`], for a float of 32 bits.
pub fn float(text: &str, integer: bool) -> Result<f32, Inexact> {
    let double = double(text, integer)?;
    let float = double as f32;
    if !float.is_finite() || integer && f64::from(float) != double {
        return Err(Inexact::Larger);
    }
    Ok(float)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(text: &str, scale: u32, precision: u32) -> Result<Vec<u8>, Inexact> {
        let number = Unscaled::read(text, scale, precision)?;
        let mut out = Vec::new();
        number.push_to(number.bytes(), &mut out);
        Ok(out)
    }

    #[test]
    fn a_decimal_is_what_its_text_says() {
        assert_eq!(bytes("12.50", 2, 4), Ok(vec![0x04, 0xE2]));
        assert_eq!(bytes("12.5", 2, 4), Ok(vec![0x04, 0xE2]));
        assert_eq!(bytes("1.25e1", 2, 4), Ok(vec![0x04, 0xE2]));
        assert_eq!(bytes("12.500", 2, 4), Ok(vec![0x04, 0xE2]));
        assert_eq!(bytes("12.505", 2, 4), Err(Inexact::Finer));
        assert_eq!(bytes("123.50", 2, 4), Err(Inexact::Larger));
        assert_eq!(bytes("0", 2, 4), Ok(vec![0]));
        assert_eq!(bytes("-0.00", 2, 4), Ok(vec![0]));
        assert_eq!(bytes("-1.28", 2, 4), Ok(vec![0x80]));
        assert_eq!(bytes("1.28", 2, 4), Ok(vec![0x00, 0x80]));
        assert_eq!(bytes("1e99999999999", 2, 4), Err(Inexact::Larger));
        assert_eq!(bytes("1e-99999999999", 2, 4), Err(Inexact::Finer));
        assert_eq!(bytes("0e99999999999", 2, 4), Ok(vec![0]));
        assert_eq!(bytes("1e2147483647", 2, 4), Err(Inexact::Larger));
        assert_eq!(bytes(&"9".repeat(400), 0, 1000).unwrap().len(), 167);
        assert_eq!(bytes(&"9".repeat(1000), 0, 1000).unwrap().len(), 416);
        assert_eq!(bytes(&"9".repeat(100_000), 0, u32::MAX), Err(Inexact::Larger));
        assert_eq!(bytes("abc", 0, 4), Err(Inexact::NoNumber));
    }

    #[test]
    fn an_integer_is_never_rounded() {
        assert_eq!(long("5"), Ok(5));
        assert_eq!(long("5.0"), Ok(5));
        assert_eq!(long("5e3"), Ok(5000));
        assert_eq!(long("-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(long("-9223372036854775808.0"), Ok(i64::MIN));
        assert_eq!(long("9223372036854775808"), Err(Inexact::Larger));
        assert_eq!(long("5.5"), Err(Inexact::Finer));
        assert_eq!(unsigned("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(unsigned("-1"), Err(Inexact::Larger));
        assert_eq!(double("9007199254740993", true), Err(Inexact::Larger));
        assert_eq!(double("9007199254740994", true), Ok(9_007_199_254_740_994.0));
        assert_eq!(double(&"9".repeat(400), true), Err(Inexact::Larger));
        assert_eq!(double("0.1", false), Ok(0.1));
        assert_eq!(float("16777217", true), Err(Inexact::Larger));
        assert_eq!(float("0.1", false), Ok(0.1));
        assert_eq!(float("1e39", false), Err(Inexact::Larger));
    }

    proptest! {
        #[test]
        fn two_s_complement_is_as_a_machine_word_has_it(value in any::<i64>()) {
            let got = bytes(&value.to_string(), 0, 19).unwrap();
            let fill = if value < 0 { 0xFF } else { 0 };
            let mut wide = vec![fill; 8 - got.len()];
            wide.extend_from_slice(&got);
            prop_assert_eq!(i64::from_be_bytes(wide.try_into().unwrap()), value);
            prop_assert!(got.len() == 1 || got[0] != fill || (got[1] ^ fill) & 0x80 != 0, "no byte too many");
        }

        #[test]
        fn the_point_may_stand_anywhere(value in any::<i64>(), places in 0_u32..25) {
            let number = Unscaled::read(&format!("{value}e-{places}"), places, 19).unwrap();
            prop_assert_eq!(number.long(), Some(value));
        }
    }
}
