//! The ends of a gap, where values have one time: a device's clock may stand for many of them.
//!
//! ```text
//! time       5 5 5 6 7 8 8 8
//! live       1 2           5         before the gap: two of time 5; behind it: one of time 8
//! history    1 2 3 4 5 6 7 8         read back: 3 4 5 6 7
//! ```

use millrace_schemas::Micros;

/// One end of a gap: a source time, and how many values of that time came by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    pub time: Micros,
    pub count: u32,
}

impl Edge {
    /// Of a time that was written down, without how many had it.
    pub fn at(time: Micros) -> Self {
        Self { time, count: 1 }
    }

    /// A value of this time came.
    fn pass(&mut self, time: Micros) {
        if time > self.time {
            *self = Self::at(time);
        } else if time == self.time {
            self.count = self.count.saturating_add(1);
        }
    }
}

/// Which values of an answer lie in a gap. Of those at its end all do: how many of them came by themselves is known when all are there.
pub struct Within {
    from: Edge,
    until: Edge,
    /// So many of the time where the gap begins are still to be left out.
    known: u32,
    edge: Edge,
}

impl Within {
    /// `is_first`: the answer begins where the gap does; else it goes on behind the one before.
    pub fn new(from: Edge, until: Edge, is_first: bool) -> Self {
        Self { from, until, known: if is_first { from.count } else { 0 }, edge: from }
    }

    /// Whether the next value, of this time, is missing; if so, it counts as read.
    pub fn takes(&mut self, time: Micros) -> bool {
        if time.is_none() || time > self.until.time {
            return false;
        }
        if time < self.from.time {
            // It begins anew, whatever was asked.
            self.known = self.from.count;
            return false;
        }
        if time == self.from.time && self.known > 0 {
            self.known -= 1;
            return false;
        }
        self.edge.pass(time);
        true
    }

    /// Where the rest begins.
    pub fn edge(&self) -> Edge {
        self.edge
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(within: &mut Within, times: &[i64]) -> Vec<bool> {
        times.iter().map(|time| within.takes(Micros(*time))).collect()
    }

    #[test]
    fn of_values_with_the_time_where_it_begins_those_that_came_are_left_out() {
        let from = Edge { time: Micros(5), count: 2 };
        let mut within = Within::new(from, Edge::at(Micros(8)), true);
        assert_eq!(taken(&mut within, &[5, 5, 5, 6, 8, 8, 9]), [false, false, true, true, true, true, false]);
        assert_eq!(within.edge(), Edge { time: Micros(8), count: 2 });
        let mut within = Within::new(Edge { time: Micros(5), count: 0 }, Edge::at(Micros(8)), true);
        assert_eq!(taken(&mut within, &[4, 5]), [false, true]);
    }

    #[test]
    fn an_answer_that_goes_on_loses_nothing_and_one_that_begins_anew_repeats_nothing() {
        let until = Edge::at(Micros(9));
        let mut first = Within::new(Edge::at(Micros(5)), until, true);
        assert_eq!(taken(&mut first, &[5, 6, 7, 7]), [false, true, true, true]);
        let mut next = Within::new(first.edge(), until, false);
        assert_eq!(taken(&mut next, &[7, 8]), [true, true]);
        let mut anew = Within::new(first.edge(), until, false);
        assert_eq!(taken(&mut anew, &[5, 6, 7, 7, 8]), [false, false, false, false, true]);
    }
}
