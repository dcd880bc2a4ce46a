//! Faults of a hall: what can go wrong, and one after the other in turn.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Something that goes wrong, said as people say it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    Cut { client_id: String, lasts: Duration },
    Silence { client_id: String, lasts: Duration },
    Death { client_id: String, lasts: Duration },
    Burst { client_id: String, readings: usize },
    Hostile { client_id: String },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut { client_id, lasts } => write!(f, "the cable to {client_id} is cut for {} s", lasts.as_secs()),
            Self::Silence { client_id, lasts } => {
                write!(f, "the line to {client_id} is half open for {} s: nothing passes", lasts.as_secs())
            }
            Self::Death { client_id, lasts } => write!(f, "{client_id} has no power for {} s", lasts.as_secs()),
            Self::Burst { client_id, readings } => write!(f, "{client_id} sends {readings} readings at once"),
            Self::Hostile { client_id } => write!(f, "{client_id} sends a payload that breaks its contract"),
        }
    }
}

impl Fault {
    /// How long it lasts; zero where it is over at once.
    pub fn lasts(&self) -> Duration {
        match self {
            Self::Cut { lasts, .. } | Self::Silence { lasts, .. } | Self::Death { lasts, .. } => *lasts,
            Self::Burst { .. } | Self::Hostile { .. } => Duration::ZERO,
        }
    }

    pub fn client_id(&self) -> &str {
        match self {
            Self::Cut { client_id, .. }
            | Self::Silence { client_id, .. }
            | Self::Death { client_id, .. }
            | Self::Burst { client_id, .. }
            | Self::Hostile { client_id } => client_id,
        }
    }
}

/// A kind of fault, by its name on the command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Cut,
    Silence,
    Death,
    Burst,
    Hostile,
}

impl Kind {
    pub const ALL: [Self; 5] = [Self::Cut, Self::Silence, Self::Death, Self::Burst, Self::Hostile];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Silence => "silence",
            Self::Death => "death",
            Self::Burst => "burst",
            Self::Hostile => "hostile",
        }
    }

    /// A fault of this kind, of a moderate size.
    pub fn of(self, client_id: &str) -> Fault {
        let client_id = client_id.to_owned();
        match self {
            Self::Cut => Fault::Cut { client_id, lasts: Duration::from_secs(5) },
            Self::Silence => Fault::Silence { client_id, lasts: Duration::from_secs(8) },
            Self::Death => Fault::Death { client_id, lasts: Duration::from_secs(5) },
            Self::Burst => Fault::Burst { client_id, readings: 500 },
            Self::Hostile => Fault::Hostile { client_id },
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|kind| kind.as_str()).collect();
            format!("there is no fault `{name}`; there are {}", known.join(", "))
        })
    }
}

/// One fault after the other: the kinds in turn, each on the next client.
#[derive(Clone, Debug)]
pub struct Turns {
    kinds: Vec<Kind>,
    clients: Vec<String>,
    next: usize,
}

impl Turns {
    /// `None` where there is nothing to choose from.
    pub fn new(kinds: Vec<Kind>, clients: Vec<String>) -> Option<Self> {
        (!kinds.is_empty() && !clients.is_empty()).then_some(Self { kinds, clients, next: 0 })
    }

    /// The next one.
    pub fn take(&mut self) -> Fault {
        let kind = self.kinds[self.next % self.kinds.len()];
        let client = &self.clients[self.next % self.clients.len()];
        self.next += 1;
        kind.of(client)
    }
}
