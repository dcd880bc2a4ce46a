//! Which requests read a set of values: the fewest that the device takes.
//!
//! ```text
//! tags, sorted        [a a][b]   [c c]            [d]        [e e e e]
//! gap <= max_gap           ....       too far ...     learnt cut |
//! requests            [--------------]            [---------]|[-------]
//! ```
//!
//! Walking from the lowest address on, a request takes every following value that still fits; no other way needs fewer, since the value that ends a
//! request would have ended it in any.
//!
//! Invariants: a value is never cut: a request begins and ends at values' edges; it stays within the limits of the standard and of the device, and
//! within the table; it never crosses a cut that was learnt, so never an address that the device refuses.

use crate::address::Table;
use crate::pdu::Read;

/// One value's place: a tag's registers or coil.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Piece {
    pub table: Table,
    pub start: u16,
    pub count: u16,
    /// Whose it is: an index of the caller's.
    pub tag: u32,
}

impl Piece {
    pub const fn end(&self) -> u32 {
        self.start as u32 + self.count as u32
    }
}

/// What a device takes in one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    pub registers: u16,
    pub bits: u16,
    /// Values nobody asked for that may lie between two that are read together: registers, or 16 bits.
    pub max_gap: u16,
    pub register_bytes: u8,
}

impl Limits {
    /// The most values of one request to a table, never above the standard's.
    pub fn most(&self, table: Table) -> u32 {
        if table.is_bits() {
            return u32::from(self.bits.clamp(1, table.most()));
        }
        // An answer holds 250 bytes of registers at most, whatever their size.
        let fit = table.most() * 2 / u16::from(self.register_bytes.max(1));
        u32::from(self.registers.clamp(1, fit))
    }

    fn gap(&self, table: Table) -> u32 {
        u32::from(self.max_gap) * if table.is_bits() { 16 } else { 1 }
    }
}

/// What was learnt about a device: where its requests must end.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cuts(Vec<(Table, u16)>);

/// A device with more cuts than this refuses at random; then nothing is learnt.
const MOST_CUTS: usize = 2_000;

impl Cuts {
    /// No request may reach from below `at` to `at` or beyond. `false`: known already, or too many.
    pub fn add(&mut self, table: Table, at: u16) -> bool {
        match self.0.binary_search(&(table, at)) {
            Err(place) if self.0.len() < MOST_CUTS => {
                self.0.insert(place, (table, at));
                true
            }
            _ => false,
        }
    }

    /// Sets a value apart: it is read alone. `false`: it was already.
    pub fn set_apart(&mut self, piece: &Piece) -> bool {
        let before = self.add(piece.table, piece.start);
        let after = u16::try_from(piece.end()).is_ok_and(|end| self.add(piece.table, end));
        before || after
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first cut above `start`, or the table's end.
    fn next(&self, table: Table, start: u16) -> u32 {
        let place = self.0.partition_point(|cut| *cut <= (table, start));
        self.0.get(place).filter(|cut| cut.0 == table).map_or(0x1_0000, |cut| u32::from(cut.1))
    }

    /// As it is kept over restarts: `holding:100 holding:104`.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for (table, at) in &self.0 {
            if !text.is_empty() {
                text.push(' ');
            }
            text += &format!("{}:{at}", table.as_str());
        }
        text
    }

    /// What was kept; words of another version are left out.
    pub fn from_text(text: &str) -> Self {
        let mut cuts = Self::default();
        for word in text.split_ascii_whitespace() {
            if let Some((table, at)) = word.split_once(':')
                && let Some(table) = Table::ALL.into_iter().find(|known| known.as_str() == table)
                && let Ok(at) = at.parse()
            {
                cuts.add(table, at);
            }
        }
        cuts
    }
}

/// A request, and the values in it: a range of the sorted pieces.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Block {
    pub read: Read,
    pub pieces: Vec<Piece>,
}

impl Block {
    /// The request that reads these pieces, which are sorted.
    pub fn of(pieces: Vec<Piece>, register_bytes: u8) -> Self {
        let first = pieces[0];
        let end = pieces.iter().map(Piece::end).max().unwrap_or_else(|| first.end());
        let count = (end - u32::from(first.start)) as u16;
        Self { read: Read { table: first.table, start: first.start, count, register_bytes }, pieces }
    }

    /// Two requests in its place: apart at its widest gap, without one in the middle. `None`: a single place can't be parted.
    pub fn split(&self) -> Option<(Self, Self)> {
        // A cut must not go through a value: only where all before it have ended.
        let mut end = self.pieces[0].end();
        let mut best: Option<(u32, usize, usize)> = None;
        for (index, piece) in self.pieces.iter().enumerate().skip(1) {
            if u32::from(piece.start) >= end {
                let gap = u32::from(piece.start) - end;
                let off_middle = index.abs_diff(self.pieces.len() / 2);
                if best.is_none_or(|(widest, middle, _)| gap > widest || gap == widest && off_middle < middle) {
                    best = Some((gap, off_middle, index));
                }
            }
            end = end.max(piece.end());
        }
        let (left, right) = self.pieces.split_at(best?.2);
        let bytes = self.read.register_bytes;
        Some((Self::of(left.to_vec(), bytes), Self::of(right.to_vec(), bytes)))
    }
}

/// Plans the requests for all pieces.
pub fn plan(mut pieces: Vec<Piece>, limits: &Limits, cuts: &Cuts) -> Vec<Block> {
    // At one start the longest first: then what follows never reaches further by itself.
    pieces.sort_by_key(|piece| (piece.table, piece.start, std::cmp::Reverse(piece.count), piece.tag));
    let mut blocks = Vec::new();
    let mut open: Vec<Piece> = Vec::new();
    let mut end = 0;
    let mut cut = 0;
    for piece in pieces {
        if let Some(first) = open.first() {
            let fits = first.table == piece.table
                && piece.end().max(end) - u32::from(first.start) <= limits.most(piece.table)
                && u32::from(piece.start) <= end + limits.gap(piece.table)
                // A value over a cut was declared over what is refused; it stands alone.
                && (piece.end() <= cut || piece.end() <= end);
            if !fits {
                blocks.push(Block::of(std::mem::take(&mut open), limits.register_bytes));
            }
        }
        if open.is_empty() {
            end = piece.end();
            cut = cuts.next(piece.table, piece.start).max(end);
        }
        end = end.max(piece.end());
        open.push(piece);
    }
    if !open.is_empty() {
        blocks.push(Block::of(open, limits.register_bytes));
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { registers: 125, bits: 2000, max_gap: 4, register_bytes: 2 };

    fn piece(start: u16, count: u16) -> Piece {
        Piece { table: Table::Holding, start, count, tag: u32::from(start) }
    }

    fn planned(pieces: &[(u16, u16)], limits: &Limits, cuts: &Cuts) -> Vec<(u16, u16)> {
        let pieces = pieces.iter().map(|(start, count)| piece(*start, *count)).collect();
        plan(pieces, limits, cuts).iter().map(|block| (block.read.start, block.read.count)).collect()
    }

    #[test]
    fn neighbours_are_read_together_over_a_small_gap_and_not_over_a_wide_one() {
        let none = Cuts::default();
        assert_eq!(planned(&[(0, 2), (2, 2), (8, 1), (20, 2)], &LIMITS, &none), [(0, 9), (20, 2)]);
        assert_eq!(planned(&[(0, 2), (3, 2)], &Limits { max_gap: 0, ..LIMITS }, &none), [(0, 2), (3, 2)]);
        assert_eq!(planned(&[(0, 1), (0, 4), (2, 1)], &LIMITS, &none), [(0, 4)]);
    }

    #[test]
    fn limits_of_the_standard_hold_whatever_the_device_says() {
        let all: Vec<_> = (0..200).map(|n| (n * 2, 2)).collect();
        let huge = Limits { registers: 1000, ..LIMITS };
        assert_eq!(planned(&all, &huge, &Cuts::default()), [(0, 124), (124, 124), (248, 124), (372, 28)]);
        assert_eq!(planned(&all[..3], &Limits { registers: 1, ..LIMITS }, &Cuts::default()), [(0, 2), (2, 2), (4, 2)]);
        let wide = Limits { register_bytes: 4, ..LIMITS };
        let ones: Vec<_> = (0..100).map(|n| (n, 1)).collect();
        assert_eq!(planned(&ones, &wide, &Cuts::default()), [(0, 62), (62, 38)]);
        assert_eq!(planned(&[(65_534, 2), (65_530, 2)], &LIMITS, &Cuts::default()), [(65_530, 6)]);
    }

    #[test]
    fn nothing_is_read_across_a_cut() {
        let mut cuts = Cuts::default();
        assert!(cuts.set_apart(&piece(4, 2)));
        assert!(!cuts.set_apart(&piece(4, 2)));
        assert_eq!(planned(&[(0, 2), (2, 2), (4, 2), (6, 2), (8, 2)], &LIMITS, &cuts), [(0, 4), (4, 2), (6, 4)]);
        // The refused tag is gone from the file; its address is still refused.
        assert_eq!(planned(&[(2, 2), (6, 2)], &LIMITS, &cuts), [(2, 2), (6, 2)]);
        assert_eq!(Cuts::from_text(&cuts.to_text()), cuts);
        assert_eq!(Cuts::from_text("rubbish holding:x coil:7").to_text(), "coil:7");
    }

    #[test]
    fn a_refused_request_is_parted_at_its_widest_gap_and_else_in_the_middle() {
        let parts = |pieces: &[(u16, u16)]| {
            let block = Block::of(pieces.iter().map(|(start, count)| piece(*start, *count)).collect(), 2);
            block.split().map(|(left, right)| (left.read.to_string(), right.read.to_string()))
        };
        let text = |left: &str, right: &str| Some((left.to_owned(), right.to_owned()));
        assert_eq!(parts(&[(0, 2), (2, 2), (4, 2), (9, 1)]), text("holding:0..5", "holding:9"));
        assert_eq!(parts(&[(0, 2), (2, 2), (4, 2), (6, 2)]), text("holding:0..3", "holding:4..7"));
        assert_eq!(parts(&[(0, 4), (1, 1), (2, 2)]), None);
        assert_eq!(parts(&[(0, 4), (0, 1)]), None);
    }

    /// What a plant has on one device: coils, discrete inputs, a meter's floats in input registers, a drive's words, a recipe, counters, status
    /// words here and there. 500 tags, from a seed.
    fn a_plants_map() -> Vec<Piece> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut seed = 13u32;
        let mut random = move |most: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 16) % most
        };
        let mut take = |table: Table, from: u32, words: u16, tags: u32, gap_every: u32, gap_most: u32| {
            let mut at = from;
            for n in 0..tags {
                if n % gap_every == gap_every - 1 {
                    at += 1 + random(gap_most);
                }
                pieces.push(Piece { table, start: at as u16, count: words, tag: pieces.len() as u32 });
                at += u32::from(words);
            }
        };
        take(Table::Coil, 0, 1, 60, 8, 40);
        take(Table::Discrete, 100, 1, 80, 8, 300);
        take(Table::Input, 0, 2, 120, 10, 30);
        take(Table::Input, 5_000, 1, 40, 5, 20);
        take(Table::Holding, 100, 1, 70, 6, 12);
        take(Table::Holding, 1_000, 2, 60, 4, 25);
        take(Table::Holding, 4_000, 4, 20, 3, 60);
        take(Table::Holding, 9_000, 10, 10, 2, 40);
        take(Table::Holding, 20_000, 1, 40, 1, 200);
        pieces
    }

    #[test]
    fn a_map_of_500_tags_takes_the_fewest_requests_there_are() {
        let pieces = a_plants_map();
        assert_eq!(pieces.len(), 500);
        let mut told = Vec::new();
        for limits in
            [Limits { max_gap: 16, ..LIMITS }, LIMITS, Limits { max_gap: 0, ..LIMITS }, Limits { registers: 60, max_gap: 16, ..LIMITS }]
        {
            let planned = plan(pieces.clone(), &limits, &Cuts::default()).len();
            let best: usize = Table::ALL
                .iter()
                .map(|table| {
                    let mut of: Vec<Piece> = pieces.iter().copied().filter(|piece| piece.table == *table).collect();
                    of.sort_by_key(|piece| (piece.start, std::cmp::Reverse(piece.count)));
                    fewest(&of, &limits)
                })
                .sum();
            assert!(planned as f64 <= 1.1 * best as f64, "{planned} requests where {best} would do, with {limits:?}");
            told.push((planned, best));
        }
        // Beside the 500 requests of one for each tag.
        println!("requests a cycle, and the fewest: {told:?}; one for each tag: {}", pieces.len());
        assert!(told[0].0 * 5 <= pieces.len(), "{told:?}");
    }

    /// The fewest requests there are, by trying all ends of each.
    fn fewest(pieces: &[Piece], limits: &Limits) -> usize {
        let mut least = vec![usize::MAX; pieces.len() + 1];
        least[0] = 0;
        for from in 0..pieces.len() {
            let mut end = pieces[from].end();
            for to in from..pieces.len() {
                if u32::from(pieces[to].start) > end + limits.gap(pieces[to].table) {
                    break;
                }
                end = end.max(pieces[to].end());
                if to > from && end - u32::from(pieces[from].start) > limits.most(pieces[to].table) {
                    break;
                }
                least[to + 1] = least[to + 1].min(least[from] + 1);
            }
        }
        least[pieces.len()]
    }

    proptest! {
        #[test]
        fn every_value_is_in_one_request_within_the_limits_and_the_requests_are_the_fewest(
            places in prop::collection::vec((0..600u16, 1..5u16), 1..80), registers in 4..126u16, max_gap in 0..20u16,
        ) {
            let limits = Limits { registers, max_gap, ..LIMITS };
            let mut pieces: Vec<_> = places.iter().enumerate().map(|(tag, (start, count))| Piece { tag: tag as u32, ..piece(*start, *count) }).collect();
            let blocks = plan(pieces.clone(), &limits, &Cuts::default());
            let mut tags: Vec<_> = blocks.iter().flat_map(|block| block.pieces.iter().map(|piece| piece.tag)).collect();
            tags.sort_unstable();
            prop_assert_eq!(tags, (0..pieces.len() as u32).collect::<Vec<_>>());
            for block in &blocks {
                prop_assert!(block.read.count <= registers);
                for piece in &block.pieces {
                    prop_assert!(piece.start >= block.read.start && piece.end() <= block.read.end());
                }
            }
            pieces.sort_by_key(|piece| (piece.start, std::cmp::Reverse(piece.count)));
            prop_assert_eq!(blocks.len(), fewest(&pieces, &limits));
        }
    }
}
