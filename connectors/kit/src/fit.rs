//! A command's value as a device's type holds it: exactly, or not at all.
//!
//! Whole numbers fit exactly or are refused. A fraction is rounded to the nearest `f32` or `f64` that there is, and refused by whole types. NaN,
//! infinity and what a type cannot hold are refused. With `scale` or `raw`/`eu` the command is in engineering units and the device's number is
//! counted back first; range and exactness are judged on that raw number.

use millrace_contract::{CommandValue, TagOptions};
use std::fmt;

/// A number's type on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Machine {
    Bool,
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    I64,
    U64,
    F32,
    F64,
}

impl Machine {
    /// As the catalog names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::I8 => "i8",
            Self::U8 => "u8",
            Self::I16 => "i16",
            Self::U16 => "u16",
            Self::I32 => "i32",
            Self::U32 => "u32",
            Self::I64 => "i64",
            Self::U64 => "u64",
            Self::F32 => "f32",
            Self::F64 => "f64",
        }
    }

    /// The least and the largest whole number of an integer type; `None` of the others.
    pub const fn range(self) -> Option<(i128, i128)> {
        Some(match self {
            Self::I8 => (i8::MIN as i128, i8::MAX as i128),
            Self::U8 => (0, u8::MAX as i128),
            Self::I16 => (i16::MIN as i128, i16::MAX as i128),
            Self::U16 => (0, u16::MAX as i128),
            Self::I32 => (i32::MIN as i128, i32::MAX as i128),
            Self::U32 => (0, u32::MAX as i128),
            Self::I64 => (i64::MIN as i128, i64::MAX as i128),
            Self::U64 => (0, u64::MAX as i128),
            Self::Bool | Self::F32 | Self::F64 => return None,
        })
    }
}

/// A value that fits.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Fitted {
    Bool(bool),
    /// Within [`Machine::range`] of the type that was asked for.
    Whole(i128),
    F32(f32),
    F64(f64),
}

impl Fitted {
    /// A whole number as the type that was asked for; `None` for another.
    pub fn whole<T: TryFrom<i128>>(self) -> Option<T> {
        match self {
            Self::Whole(number) => T::try_from(number).ok(),
            _ => None,
        }
    }
}

/// Why a value does not fit.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum Unfit {
    #[error("{value} is not a number, and the device has an {into}", into = .into.name())]
    NoNumber { value: Shown, into: Machine },
    #[error("{value} does not fit the device's {into}{raw}; it holds {least} to {largest}", into = .into.name())]
    OutOfRange { value: Shown, raw: Raw, into: Machine, least: Shown, largest: Shown },
    #[error("{value} is not exact in the device's {into}{raw}", into = .into.name())]
    Inexact { value: Shown, raw: Raw, into: Machine },
}

/// A value as a person reads it.
#[derive(Clone, PartialEq, Debug)]
pub struct Shown(String);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn shown(value: &CommandValue) -> Shown {
    Shown(value.to_string())
}

/// The number before `scale`, where there is one.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Raw(Option<f64>);

impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |raw| write!(f, " (it would be {raw} before `scale`)"))
    }
}

/// A number, whole where it is one.
#[derive(Clone, Copy)]
enum Number {
    Whole(i128),
    Broken(f64),
}

/// Fits a command's value into a type, counting `scale` back. Errors: it does not fit exactly.
pub fn fit(value: &CommandValue, into: Machine, options: &TagOptions) -> Result<Fitted, Unfit> {
    let (number, raw) = match options.scaling() {
        Some((factor, offset)) => {
            let engineering = value.as_f64().ok_or_else(|| Unfit::NoNumber { value: shown(value), into })?;
            let raw = unscaled(engineering, factor, offset);
            (whole_or_broken(raw), Raw(Some(raw)))
        }
        None => (number_of(value).ok_or_else(|| Unfit::NoNumber { value: shown(value), into })?, Raw(None)),
    };
    let inexact = || Unfit::Inexact { value: shown(value), raw, into };
    match (into, number) {
        (Machine::Bool, Number::Whole(0)) => Ok(Fitted::Bool(false)),
        (Machine::Bool, Number::Whole(1)) => Ok(Fitted::Bool(true)),
        (Machine::Bool, _) => {
            let (least, largest) = (Shown("false".into()), Shown("true".into()));
            Err(Unfit::OutOfRange { value: shown(value), raw, into, least, largest })
        }
        (Machine::F64, Number::Whole(whole)) if whole as f64 as i128 == whole => Ok(Fitted::F64(whole as f64)),
        (Machine::F32, Number::Whole(whole)) if whole as f32 as i128 == whole => Ok(Fitted::F32(whole as f32)),
        (Machine::F64, Number::Broken(number)) if number.is_finite() => Ok(Fitted::F64(number)),
        (Machine::F32, Number::Broken(number)) if (number as f32).is_finite() => Ok(Fitted::F32(number as f32)),
        (_, Number::Broken(_)) | (Machine::F32 | Machine::F64, Number::Whole(_)) => Err(inexact()),
        (_, Number::Whole(whole)) => match into.range() {
            Some((least, largest)) if !(least..=largest).contains(&whole) => {
                let (least, largest) = (Shown(least.to_string()), Shown(largest.to_string()));
                Err(Unfit::OutOfRange { value: shown(value), raw, into, least, largest })
            }
            _ => Ok(Fitted::Whole(whole)),
        },
    }
}

/// The device's number of one in engineering units: `(value - offset) / factor`, whole where it is so but for the error of the division.
fn unscaled(value: f64, factor: f64, offset: f64) -> f64 {
    let raw = (value - offset) / factor;
    let whole = raw.round();
    if (raw - whole).abs() <= 1e-9 * whole.abs().max(1.0) { whole } else { raw }
}

fn whole_or_broken(number: f64) -> Number {
    // 2^126 is far beyond every type, and within i128.
    if number.fract() == 0.0 && number.abs() < 8.5e37 { Number::Whole(number as i128) } else { Number::Broken(number) }
}

fn number_of(value: &CommandValue) -> Option<Number> {
    Some(match value {
        CommandValue::Bool(value) => Number::Whole(i128::from(*value)),
        CommandValue::Int(value) => Number::Whole(i128::from(*value)),
        CommandValue::UInt(value) => Number::Whole(i128::from(*value)),
        CommandValue::Double(value) => whole_or_broken(*value),
        CommandValue::Text(_) | CommandValue::List(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fitted(value: CommandValue, into: Machine) -> Result<Fitted, String> {
        fit(&value, into, &TagOptions::default()).map_err(|unfit| unfit.to_string())
    }

    #[test]
    fn a_value_fits_its_type_exactly_or_not_at_all() {
        use CommandValue::{Bool, Double, Int, Text, UInt};
        assert_eq!(fitted(Int(200), Machine::U8), Ok(Fitted::Whole(200)));
        assert_eq!(fitted(Int(300), Machine::U8).unwrap_err(), "300 does not fit the device's u8; it holds 0 to 255");
        assert_eq!(fitted(Double(2.0), Machine::I32), Ok(Fitted::Whole(2)));
        assert_eq!(fitted(Double(2.5), Machine::I32).unwrap_err(), "2.5 is not exact in the device's i32");
        assert_eq!(fitted(UInt(u64::MAX), Machine::U64), Ok(Fitted::Whole(i128::from(u64::MAX))));
        assert!(fitted(UInt(u64::MAX), Machine::I64).is_err());
        assert_eq!(fitted(Int(1), Machine::Bool), Ok(Fitted::Bool(true)));
        assert!(fitted(Int(2), Machine::Bool).is_err());
        assert_eq!(fitted(Bool(true), Machine::I16), Ok(Fitted::Whole(1)));
        assert!(fitted(Text("x".into()), Machine::F64).unwrap_err().contains("is not a number"));
        assert_eq!(fitted(Double(0.1), Machine::F32), Ok(Fitted::F32(0.1)));
        assert!(fitted(Int(16_777_217), Machine::F32).is_err() && fitted(Int((1 << 53) + 1), Machine::F64).is_err());
        for lost in [f64::NAN, f64::INFINITY, 1e300] {
            assert!(fitted(Double(lost), Machine::F32).is_err(), "{lost}");
        }
        assert!(fitted(Double(f64::NAN), Machine::F64).is_err());
    }

    #[test]
    fn a_scaled_value_is_judged_by_the_devices_own_number() {
        let options = TagOptions { scale: Some(0.1), offset: Some(-40.0), ..TagOptions::default() };
        let fitted = |value| fit(&CommandValue::Double(value), Machine::I16, &options).map_err(|unfit| unfit.to_string());
        assert_eq!(fitted(12.3), Ok(Fitted::Whole(523)));
        assert!(fitted(12.34).unwrap_err().contains("(it would be 523.4 before `scale`)"), "{:?}", fitted(12.34));
        assert!(fitted(4000.0).unwrap_err().contains("it holds -32768 to 32767"));
        let eu = TagOptions { raw: Some([0.0, 27648.0]), eu: Some([0.0, 400.0]), ..TagOptions::default() };
        assert_eq!(fit(&CommandValue::Int(400), Machine::I16, &eu), Ok(Fitted::Whole(27648)));
    }
}
