//! The CPU's memory: data blocks and areas, each a run of bytes.

use std::collections::BTreeMap;

/// Codes of an item's answer.
pub const GOOD: u8 = 0xFF;
pub const BEYOND: u8 = 0x05;
pub const NOT_THERE: u8 = 0x0A;

pub const INPUTS: u8 = 0x81;
pub const OUTPUTS: u8 = 0x82;
pub const FLAGS: u8 = 0x83;
pub const DATA_BLOCK: u8 = 0x84;
pub const TIMERS: u8 = 0x1D;
pub const COUNTERS: u8 = 0x1C;

/// All that can be read and written.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    blocks: BTreeMap<u16, Vec<u8>>,
    areas: BTreeMap<u8, Vec<u8>>,
}

impl Memory {
    /// A CPU without blocks, with 256 bytes of each area.
    pub fn new() -> Self {
        let areas = [INPUTS, OUTPUTS, FLAGS, TIMERS, COUNTERS].into_iter().map(|area| (area, vec![0; 256])).collect();
        Self { blocks: BTreeMap::new(), areas }
    }

    /// A data block of so many bytes, in the place of an earlier one; what it had and still fits stays.
    pub fn resize(&mut self, db: u16, length: usize) {
        self.blocks.entry(db).or_default().resize(length, 0);
    }

    pub fn remove(&mut self, db: u16) {
        self.blocks.remove(&db);
    }

    pub fn blocks(&self) -> impl Iterator<Item = (u16, usize)> + '_ {
        self.blocks.iter().map(|(db, bytes)| (*db, bytes.len()))
    }

    fn area(&self, area: u8, db: u16) -> Result<&Vec<u8>, u8> {
        let found = if area == DATA_BLOCK { self.blocks.get(&db) } else { self.areas.get(&area) };
        found.ok_or(NOT_THERE)
    }

    pub fn read(&self, area: u8, db: u16, from: usize, length: usize) -> Result<&[u8], u8> {
        self.area(area, db)?.get(from..from.checked_add(length).ok_or(BEYOND)?).ok_or(BEYOND)
    }

    pub fn write(&mut self, area: u8, db: u16, from: usize, bytes: &[u8]) -> Result<(), u8> {
        let found = if area == DATA_BLOCK { self.blocks.get_mut(&db) } else { self.areas.get_mut(&area) };
        let place = found.ok_or(NOT_THERE)?.get_mut(from..from.checked_add(bytes.len()).ok_or(BEYOND)?).ok_or(BEYOND)?;
        place.copy_from_slice(bytes);
        Ok(())
    }

    pub fn bit(&self, area: u8, db: u16, byte: usize, bit: u8) -> bool {
        self.read(area, db, byte, 1).is_ok_and(|bytes| bytes[0] >> bit & 1 == 1)
    }

    pub fn set_bit(&mut self, area: u8, db: u16, byte: usize, bit: u8, on: bool) -> Result<(), u8> {
        let old = self.read(area, db, byte, 1)?[0];
        let new = if on { old | 1 << bit } else { old & !(1 << bit) };
        self.write(area, db, byte, &[new])
    }
}
