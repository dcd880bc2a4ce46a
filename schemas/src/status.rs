//! Status codes of OPC UA, used for every protocol, and the quality they imply.
//!
//! Source: OPC 10000-4, 7.39 (StatusCode) and OPC 10000-6, Annex A (the numeric values).

use std::fmt;

/// An OPC UA status code; its two top bits are the severity.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct StatusCode(pub u32);

/// The severity of a status code, as the data team reads it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Quality {
    Good = 0,
    Uncertain = 1,
    Bad = 2,
}

impl StatusCode {
    pub const GOOD: Self = Self(0);
    pub const UNCERTAIN: Self = Self(0x4000_0000);
    /// Outside the engineering limits of its tag (UncertainEngineeringUnitsExceeded).
    pub const UNCERTAIN_ENGINEERING_UNITS_EXCEEDED: Self = Self(0x4094_0000);
    pub const UNCERTAIN_LAST_USABLE_VALUE: Self = Self(0x4090_0000);
    pub const BAD: Self = Self(0x8000_0000);
    /// A tag went stale, its link is down (BadNoCommunication).
    pub const BAD_NO_COMMUNICATION: Self = Self(0x8031_0000);
    pub const BAD_WAITING_FOR_INITIAL_DATA: Self = Self(0x8032_0000);
    pub const BAD_NODE_ID_UNKNOWN: Self = Self(0x8034_0000);
    pub const BAD_NOT_FOUND: Self = Self(0x803E_0000);
    pub const BAD_OUT_OF_RANGE: Self = Self(0x803C_0000);
    pub const BAD_NO_DATA: Self = Self(0x809B_0000);
    pub const BAD_TYPE_MISMATCH: Self = Self(0x8074_0000);
    pub const BAD_DECODING_ERROR: Self = Self(0x8007_0000);
    pub const BAD_TIMEOUT: Self = Self(0x800A_0000);
    pub const BAD_CONFIGURATION_ERROR: Self = Self(0x8089_0000);
    pub const BAD_NOT_CONNECTED: Self = Self(0x808A_0000);
    pub const BAD_DEVICE_FAILURE: Self = Self(0x808B_0000);
    pub const BAD_SENSOR_FAILURE: Self = Self(0x808C_0000);
    pub const BAD_OUT_OF_SERVICE: Self = Self(0x808D_0000);

    pub const fn quality(self) -> Quality {
        match self.0 >> 30 {
            0 => Quality::Good,
            1 => Quality::Uncertain,
            _ => Quality::Bad,
        }
    }

    pub const fn is_good(self) -> bool {
        matches!(self.quality(), Quality::Good)
    }

    pub const fn is_bad(self) -> bool {
        matches!(self.quality(), Quality::Bad)
    }
}

impl Quality {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Uncertain => "uncertain",
            Self::Bad => "bad",
        }
    }
}

impl fmt::Debug for StatusCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} 0x{:08X}", self.quality().as_str(), self.0)
    }
}
