//! What is said of transactions that can't be ended: once, now and then, and when it is over.

use std::time::{Duration, Instant};

/// How often the same trouble is said.
pub(super) const SAY_EVERY: Duration = Duration::from_secs(300);

/// Transactions that can't be ended at the moment: since when, and when that was last said.
#[derive(Default)]
pub(crate) struct Stuck(Option<(Instant, Instant)>);

/// What there is to be said of them.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Say {
    /// They wait, for so long.
    Waits(Duration),
    /// None waits any more, after so long.
    Over(Duration),
}

impl Stuck {
    /// `None`: nothing, or it was said a moment ago.
    pub fn now(&mut self, any: bool, now: Instant) -> Option<Say> {
        match self.0 {
            None if !any => None,
            Some((since, _)) if !any => {
                self.0 = None;
                Some(Say::Over(now - since))
            }
            Some((_, said)) if now - said < SAY_EVERY => None,
            before => {
                let since = before.map_or(now, |(since, _)| since);
                self.0 = Some((since, now));
                Some(Say::Waits(now - since))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_said_once_then_now_and_then_and_when_it_is_over() {
        let (mut stuck, start) = (Stuck::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(stuck.now(false, at(0)), None);
        assert_eq!(stuck.now(true, at(1)), Some(Say::Waits(Duration::ZERO)));
        let said: Vec<Say> = (2..602).filter_map(|second| stuck.now(true, at(second))).collect();
        assert_eq!(said, [Say::Waits(SAY_EVERY), Say::Waits(2 * SAY_EVERY)]);
        assert_eq!(stuck.now(false, at(700)), Some(Say::Over(Duration::from_secs(699))));
        assert_eq!((stuck.now(false, at(701)), stuck.now(true, at(702))), (None, Some(Say::Waits(Duration::ZERO))));
    }
}
