//! A number on its way into registers, and why a value doesn't fit.

use std::fmt;

/// A number to be written.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Number {
    Whole(i128),
    Float(f64),
}

impl Number {
    /// It as a whole number, where it is one.
    pub fn whole(self) -> Option<i128> {
        match self {
            Self::Whole(n) => Some(n),
            Self::Float(x) => (x.fract() == 0.0 && x.abs() < 1e30).then_some(x as i128),
        }
    }

    /// It as a float. Errors: it is none that there is.
    pub fn float(self) -> Result<f64, Unfit> {
        match self {
            Self::Whole(n) => Ok(n as f64),
            Self::Float(x) if x.is_finite() => Ok(x),
            Self::Float(_) => Err(Unfit::Float(self)),
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(n) => n.fmt(f),
            Self::Float(x) => x.fmt(f),
        }
    }
}

/// Why a value can't be written to registers.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum Unfit {
    #[error("{0} is outside {1}..{2}")]
    Range(Number, i128, i128),
    #[error("{0} is no whole number")]
    Fraction(Number),
    #[error("{0} is no finite number of this size")]
    Float(Number),
    #[error("the number {0} is no text")]
    NotAText(Number),
    #[error("the text {0:?} is no number")]
    NotANumber(String),
    #[error("the text has {0} bytes, and the device takes {1}")]
    Long(usize, u16),
    #[error("the character {0:?} doesn't exist in the device's encoding")]
    Character(char),
}
