//! Fits what is to be read into the fewest jobs that the negotiated PDU allows.
//!
//! ```text
//! tags       [DBD0 REAL][DBD4 REAL] gap [DBX20.0]...          sorted by area, block, byte
//! items      one request item each: neighbours, overlaps and small gaps merged; never a tag cut, unless it is greater than an item may be
//! jobs       request  12 + 12 n <= PDU, n <= 20
//!            answer   14 + sum(4 + length, even) <= PDU
//! image      the bytes of all items, one after the other; every tag knows where its own lie
//! ```
//!
//! A block that is shorter than an item refuses the item: it is cut in the middle, at the edge of a tag, until the bad tag stands alone
//! ([`Batching::cut`]). What was learnt lasts as long as the connection: a download may change the block.

use crate::address::{Address, Area};
use crate::frame::{ITEM_HEAD, ITEMS_MAX, Item, READ_ANSWER_HEAD, read_request_size};
use std::collections::BTreeSet;

/// A gap up to this is read along: another item costs 12 bytes of the request and 4 of the answer.
pub const GAP_BYTES: u32 = 16;

/// The most bytes of one item.
pub const fn item_max(pdu: u16) -> usize {
    (pdu as usize).saturating_sub(READ_ANSWER_HEAD + ITEM_HEAD) & !1
}

/// One item of a job, and what it is good for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    pub item: Item,
    /// Where its bytes go in the image.
    pub image: usize,
    /// Its tags: a range of [`Batching::order`].
    pub first: usize,
    pub last: usize,
}

/// Jobs for a set of tags, fixed until something is learnt.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Batching {
    pub pieces: Vec<Piece>,
    /// Pieces of each job, by their index.
    pub jobs: Vec<Vec<usize>>,
    /// Tags by area, block and byte.
    pub order: Vec<usize>,
    /// Of each tag: where its bytes begin in the image.
    pub places: Vec<usize>,
    pub image_len: usize,
}

/// Where the merging of neighbours stops: area, block, byte.
pub type Cuts = BTreeSet<(Area, u16, u32)>;

impl Batching {
    /// Fits the tags with these indices; the others are left out.
    pub fn new(addresses: &[Address], wanted: impl IntoIterator<Item = usize>, pdu: u16, gap_bytes: u32, cuts: &Cuts) -> Self {
        let mut order: Vec<usize> = wanted.into_iter().collect();
        order.sort_by_key(|tag| {
            let a = &addresses[*tag];
            (a.area, a.db, a.byte, a.end())
        });
        let mut made = Self { places: vec![0; addresses.len()], ..Self::default() };
        let max = item_max(pdu) as u32;
        let mut at = 0;
        while at < order.len() {
            let first = &addresses[order[at]];
            let (start, mut end) = (first.byte, first.end());
            let mut next = at + 1;
            while let Some(tag) = order.get(next) {
                let a = &addresses[*tag];
                let joined = end.max(a.end());
                let gap = if a.area == Area::Peripherals { 0 } else { gap_bytes };
                if (a.area, a.db) != (first.area, first.db)
                    || a.byte > end.saturating_add(gap)
                    || joined - start > max
                    || (a.byte > start && cuts.contains(&(a.area, a.db, a.byte)))
                {
                    break;
                }
                end = joined;
                next += 1;
            }
            for tag in &order[at..next] {
                made.places[*tag] = made.image_len + (addresses[*tag].byte - start) as usize;
            }
            // A single tag may be greater than an item: it comes in parts.
            for part in (start..end).step_by(max.max(2) as usize) {
                let len = (end - part).min(max.max(2)) as u16;
                let item = Item { area: first.area, db: first.db, byte: part, len, bit: None };
                made.pieces.push(Piece { item, image: made.image_len, first: at, last: next });
                made.image_len += usize::from(len);
            }
            at = next;
        }
        made.order = order;
        made.pack(pdu);
        made
    }

    /// First fit, the greatest first.
    fn pack(&mut self, pdu: u16) {
        let answer = |len: u16| ITEM_HEAD + usize::from(len.next_multiple_of(2));
        let mut by_size: Vec<usize> = (0..self.pieces.len()).collect();
        by_size.sort_by_key(|piece| std::cmp::Reverse(self.pieces[*piece].item.len));
        let mut sizes: Vec<usize> = Vec::new();
        let mut open = 0;
        for piece in by_size {
            let size = answer(self.pieces[piece].item.len);
            let fits = |job: usize, jobs: &[Vec<usize>], sizes: &[usize]| {
                let n = jobs[job].len() + 1;
                n <= ITEMS_MAX && read_request_size(n) <= usize::from(pdu) && sizes[job] + size <= usize::from(pdu)
            };
            let job = match (open..self.jobs.len()).find(|job| fits(*job, &self.jobs, &sizes)) {
                Some(job) => job,
                None => {
                    self.jobs.push(Vec::new());
                    sizes.push(READ_ANSWER_HEAD);
                    self.jobs.len() - 1
                }
            };
            self.jobs[job].push(piece);
            sizes[job] += size;
            // Full jobs at the front are not looked at again.
            while open < self.jobs.len() && sizes[open] + ITEM_HEAD + 2 > usize::from(pdu) {
                open += 1;
            }
        }
        for job in &mut self.jobs {
            job.sort_unstable();
        }
    }

    pub fn items(&self, job: usize) -> impl Iterator<Item = Item> + '_ {
        self.jobs[job].iter().map(|piece| self.pieces[*piece].item)
    }

    /// The tags of a piece.
    pub fn tags(&self, piece: &Piece) -> &[usize] {
        &self.order[piece.first..piece.last]
    }

    /// Bytes of a job on the wire, both ways, with TPKT and COTP.
    pub fn bytes(&self, job: usize) -> usize {
        let data: usize = self.items(job).map(|item| ITEM_HEAD + usize::from(item.len.next_multiple_of(2))).sum();
        7 + read_request_size(self.jobs[job].len()) + 7 + READ_ANSWER_HEAD + data
    }

    /// Where to cut a piece of several tags that was refused: in the middle, at the edge of a tag. `None`: there is none, the tags lie over each other.
    pub fn cut(&self, piece: &Piece, addresses: &[Address]) -> Option<(Area, u16, u32)> {
        let tags = self.tags(piece);
        let start = addresses[*tags.first()?].byte;
        let middle = tags.len() / 2;
        let edge = |tag: &usize| addresses[*tag].byte;
        let byte = tags[middle..]
            .iter()
            .map(edge)
            .find(|byte| *byte > start)
            .or_else(|| tags[..middle].iter().map(edge).rfind(|byte| *byte > start))?;
        Some((piece.item.area, piece.item.db, byte))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datatype::DataType;
    use proptest::prelude::*;

    fn addresses(texts: &[&str]) -> Vec<Address> {
        texts.iter().map(|text| Address::parse(text, None).unwrap()).collect()
    }

    fn fit(addresses: &[Address], pdu: u16) -> Batching {
        Batching::new(addresses, 0..addresses.len(), pdu, GAP_BYTES, &Cuts::new())
    }

    fn shown(batching: &Batching) -> Vec<Vec<(u32, u16)>> {
        (0..batching.jobs.len()).map(|job| batching.items(job).map(|item| (item.byte, item.len)).collect()).collect()
    }

    #[test]
    fn neighbours_overlaps_and_small_gaps_are_one_item() {
        let tags = addresses(&["DB1.DBD4:REAL", "DB1.DBD0:REAL", "DB1.DBX0.3", "DB1.DBW6", "DB1.DBW24", "DB1.DBW60", "DB2.DBW0", "MW0"]);
        let fitted = fit(&tags, 240);
        assert_eq!(fitted.jobs.len(), 1);
        assert_eq!(
            fitted.items(0).map(|i| (i.area, i.db, i.byte, i.len)).collect::<Vec<_>>(),
            [(Area::Flags, 0, 0, 2), (Area::DataBlock, 1, 0, 26), (Area::DataBlock, 1, 60, 2), (Area::DataBlock, 2, 0, 2),]
        );
        assert_eq!(fitted.places[..5], [6, 2, 2, 8, 26]);
    }

    #[test]
    fn a_thousand_reals_take_as_few_jobs_as_their_bytes_need() {
        let tags: Vec<Address> = (0..1000).map(|n| Address::parse(&format!("DB1.DBD{}:REAL", n * 4), None).unwrap()).collect();
        assert_eq!(fit(&tags, 960).jobs.len(), 5);
        assert_eq!(fit(&tags, 480).jobs.len(), 9);
        // An item holds 55 REALs (222 bytes would cut one).
        assert_eq!(fit(&tags, 240).jobs.len(), 19);
    }

    #[test]
    fn many_small_items_are_bounded_by_the_request() {
        let tags: Vec<Address> = (0..40).map(|n| Address::parse(&format!("DB{}.DBX0.0", n + 1), None).unwrap()).collect();
        assert_eq!(fit(&tags, 240).jobs.iter().map(Vec::len).collect::<Vec<_>>(), [19, 19, 2]);
        assert_eq!(fit(&tags, 960).jobs.iter().map(Vec::len).collect::<Vec<_>>(), [20, 20]);
        assert_eq!(fit(&tags, 112).jobs[0].len(), 8);
    }

    #[test]
    fn a_tag_greater_than_an_item_comes_in_parts_that_lie_side_by_side() {
        let tags = addresses(&["DB1.DBB0:BYTE[500]", "DB1.DBW500"]);
        let fitted = fit(&tags, 240);
        assert_eq!(shown(&fitted), [vec![(0, 222)], vec![(222, 222)], vec![(444, 56), (500, 2)]]);
        assert_eq!(fitted.places, [0, 500]);
        assert_eq!(fitted.image_len, 502);
    }

    #[test]
    fn a_refused_item_is_cut_until_the_bad_tag_stands_alone() {
        let tags: Vec<Address> = (0..100).map(|n| Address::parse(&format!("DB1.DBW{}", n * 2), None).unwrap()).collect();
        // The block has 150 bytes.
        let mut cuts = Cuts::new();
        let (mut bad, mut rounds) = (BTreeSet::new(), 0);
        loop {
            rounds += 1;
            let fitted = Batching::new(&tags, (0..tags.len()).filter(|tag| !bad.contains(tag)), 960, GAP_BYTES, &cuts);
            let refused: Vec<_> = fitted.pieces.iter().filter(|piece| piece.item.byte + u32::from(piece.item.len) > 150).collect();
            if refused.is_empty() {
                assert_eq!(fitted.pieces.len(), 1 + cuts.iter().filter(|cut| cut.2 < 150).count());
                break;
            }
            for piece in refused {
                match fitted.cut(piece, &tags) {
                    Some(cut) => assert!(cuts.insert(cut)),
                    None => bad.extend(fitted.tags(piece)),
                }
            }
        }
        assert_eq!(bad, (75..100).collect());
        assert!(rounds <= 9, "{rounds}");
    }

    fn tag() -> impl Strategy<Value = Address> {
        let kinds = proptest::sample::select(vec![
            DataType::Bool,
            DataType::Byte,
            DataType::Int,
            DataType::Real,
            DataType::LReal,
            DataType::String(254),
        ]);
        (1_u16..4, 0_u32..3000, kinds, proptest::option::weighted(0.1, 1_u16..300)).prop_map(|(db, byte, kind, count)| Address {
            area: if db == 3 { Area::Timers } else { Area::DataBlock },
            db: if db == 3 { 0 } else { db },
            byte: if db == 3 { byte / 2 * 2 } else { byte },
            bit: 0,
            kind: if db == 3 { DataType::S5Time } else { kind },
            count: if db == 3 { None } else { count },
        })
    }

    proptest! {
        #[test]
        fn every_job_fits_the_pdu_both_ways_and_every_tag_is_read_whole(tags in proptest::collection::vec(tag(), 1..120), pdu in proptest::sample::select(vec![112_u16, 240, 480, 960])) {
            let fitted = fit(&tags, pdu);
            for job in 0..fitted.jobs.len() {
                let items: Vec<Item> = fitted.items(job).collect();
                prop_assert!(!items.is_empty() && items.len() <= 20);
                prop_assert!(crate::frame::read(&items).len() <= usize::from(pdu));
                let answer: usize = 14 + items.iter().map(|i| 4 + usize::from(i.len.next_multiple_of(2))).sum::<usize>();
                prop_assert!(answer <= usize::from(pdu));
            }
            prop_assert_eq!(fitted.jobs.iter().map(Vec::len).sum::<usize>(), fitted.pieces.len());
            // Every byte of every tag lies where the tag looks for it.
            for (n, tag) in tags.iter().enumerate() {
                for byte in [0, tag.size() / 2, tag.size() - 1] {
                    let place = fitted.places[n] + byte;
                    let piece = fitted.pieces.iter().find(|p| place >= p.image && place < p.image + usize::from(p.item.len)).expect("a piece");
                    prop_assert_eq!((piece.item.area, piece.item.db), (tag.area, tag.db));
                    prop_assert_eq!(piece.item.byte as usize + place - piece.image, tag.byte as usize + byte);
                    prop_assert!(fitted.tags(piece).contains(&n));
                }
            }
        }
    }
}
