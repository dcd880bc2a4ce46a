//! What goes wrong on purpose.

use std::fmt;
use std::str::FromStr;

/// A fault; it lasts until the next one, or until it is healed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Every connection is cut; new ones are taken.
    Cut,
    /// Requests are taken and not answered.
    Silence,
    /// The CPU is in STOP: values are frozen.
    Stop,
    /// The oven's block is shorter than its tags.
    Short,
    /// PUT/GET is not permitted.
    Refuse,
    /// Nothing is wrong.
    Heal,
}

impl Kind {
    pub const ALL: [Self; 6] = [Self::Cut, Self::Silence, Self::Stop, Self::Short, Self::Refuse, Self::Heal];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Silence => "silence",
            Self::Stop => "stop",
            Self::Short => "short",
            Self::Refuse => "refuse",
            Self::Heal => "heal",
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| format!("`{text}` is not one of {}", names()))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cut => "cut: every connection is cut",
            Self::Silence => "silence: requests are not answered",
            Self::Stop => "stop: the CPU is in STOP",
            Self::Short => "short: DB1 ends at byte 40",
            Self::Refuse => "refuse: PUT/GET is off",
            Self::Heal => "heal: all is well",
        })
    }
}
