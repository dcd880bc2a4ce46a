//! Registers and bits to rows: the hot path. Nothing is allocated per value; a text goes into the batch's heap.

use crate::pdu::{Exception, Read};
use crate::planner::{Block, Piece};
use crate::point::Point;
use millrace_schemas::{Batch, Flags, Micros, Origin, Row, StatusCode, TagId, TimeSource, Value};

/// BadResourceUnavailable: the device is busy.
pub const BAD_BUSY: StatusCode = StatusCode(0x8004_0000);
/// BadNotSupported: the device doesn't know the function.
pub const BAD_FUNCTION: StatusCode = StatusCode(0x803D_0000);

/// What a refused read is to its tags.
pub const fn status_of(exception: Exception) -> StatusCode {
    match exception {
        Exception::FUNCTION => BAD_FUNCTION,
        Exception::ADDRESS => StatusCode::BAD_NODE_ID_UNKNOWN,
        Exception::VALUE => StatusCode::BAD_OUT_OF_RANGE,
        Exception::ACKNOWLEDGE | Exception::BUSY => BAD_BUSY,
        Exception::GATEWAY_PATH | Exception::GATEWAY_TARGET => StatusCode::BAD_NO_COMMUNICATION,
        _ => StatusCode::BAD_DEVICE_FAILURE,
    }
}

/// Reads one value off a request's data. Errors: the status of a value that isn't there.
pub fn value(point: &Point, piece: &Piece, read: &Read, data: &[u8], batch: &mut Batch) -> Result<Value, StatusCode> {
    let offset = usize::from(piece.start - read.start);
    if point.table.is_bits() {
        let byte = data.get(offset / 8).ok_or(StatusCode::BAD_DECODING_ERROR)?;
        return Ok(Value::Bool(byte >> (offset % 8) & 1 == 1));
    }
    let wire = data.get(offset * usize::from(read.register_bytes)..).ok_or(StatusCode::BAD_DECODING_ERROR)?;
    if !point.nulls.is_empty() && point.word.raw(wire).is_some_and(|raw| point.nulls.contains(&raw)) {
        return Err(StatusCode::BAD_NO_DATA);
    }
    let value = point.word.read(point.order, point.encoding, wire, batch)?;
    match point.bits {
        None => Ok(value),
        Some(bits) => bits.of(value).ok_or(StatusCode::BAD_DECODING_ERROR),
    }
}

/// What the counters said last. Its value is the device's own, and so is its status: that it went back is a sample of a tag beside it.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Of each tag; NaN: nothing yet.
    last: Vec<f64>,
    /// The tags that tell of it, by the index of the counter's own.
    told_by: Vec<TagId>,
}

impl Counters {
    /// `told_by`: for each tag the one that tells when it went back.
    pub fn of(told_by: Vec<TagId>) -> Self {
        Self { last: vec![f64::NAN; told_by.len()], told_by }
    }

    /// Whether a counter went back since its last value, and why: `rolled_over` or `reset`.
    pub fn see(&mut self, tag: usize, point: &Point, value: Value) -> Option<&'static str> {
        let (Some(counter), Some(last)) = (point.counter, self.last.get_mut(tag)) else { return None };
        let now = match value {
            Value::Int(n) => n as f64,
            Value::UInt(n) => n as f64,
            Value::Double(x) => x,
            _ => return None,
        };
        let before = std::mem::replace(last, now);
        // Nothing yet is NaN, and nothing is below it.
        let went_back = now < before;
        match counter.max {
            _ if !went_back => None,
            // From its last tenth into its first: it went round.
            Some(max) if before >= max * 0.9 && now <= max * 0.1 => Some("rolled_over"),
            _ => Some("reset"),
        }
    }
}

/// Appends a row for each value of an answered request.
pub fn rows(points: &[Point], ids: &[TagId], block: &Block, data: &[u8], now: Micros, counters: &mut Counters, batch: &mut Batch) {
    let read = &block.read;
    let flags = Flags::new(Origin::Poll, TimeSource::Gateway);
    for piece in &block.pieces {
        let index = piece.tag as usize;
        let (Some(point), Some(&tag)) = (points.get(index), ids.get(index)) else { continue };
        if tag == TagId::NONE {
            continue;
        }
        let (value, status) = match value(point, piece, read, data, batch) {
            Ok(value) => (value, StatusCode::GOOD),
            Err(status) => (Value::Null, status),
        };
        if let Some(why) = counters.see(index, point, value)
            && let Some(&tag) = counters.told_by.get(index).filter(|tag| **tag != TagId::NONE)
        {
            let flags = Flags::new(Origin::Event, TimeSource::Gateway);
            let value = batch.text(why);
            batch.rows.push(Row { time: now, server_time: Micros::NONE, value, tag, status: StatusCode::GOOD, flags });
        }
        batch.rows.push(Row { time: now, server_time: Micros::NONE, value, tag, status, flags });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Table;
    use crate::point::Counter;
    use millrace_kit::registers::{Bits, Encoding, Order, WordType};

    fn point(word: WordType) -> Point {
        Point {
            table: Table::Holding,
            start: 0,
            count: word.registers(),
            word,
            order: Order::Abcd,
            encoding: Encoding::Utf8,
            bits: None,
            nulls: Box::default(),
            counter: None,
            read_back: false,
        }
    }

    fn read(table: Table, start: u16, count: u16) -> Read {
        Read { table, start, count, register_bytes: 2 }
    }

    fn decoded(point: &Point, data: &[u8]) -> Result<Value, StatusCode> {
        let piece = Piece { table: point.table, start: point.start, count: point.count, tag: 0 };
        value(point, &piece, &read(point.table, 0, 1), data, &mut Batch::new())
    }

    #[test]
    fn values_are_found_at_their_place_in_the_answer() {
        let third = Point { start: 2, ..point(WordType::U16) };
        assert_eq!(decoded(&third, &[0, 1, 0, 2, 0, 3]), Ok(Value::Int(3)));
        assert_eq!(decoded(&third, &[0, 1, 0, 2, 0]), Err(StatusCode::BAD_DECODING_ERROR));
        let coil = Point { table: Table::Coil, start: 10, count: 1, ..point(WordType::U16) };
        assert_eq!(decoded(&coil, &[0, 0b100]), Ok(Value::Bool(true)));
        assert_eq!(decoded(&coil, &[0xFF]), Err(StatusCode::BAD_DECODING_ERROR));
        let bit = Point { bits: Some(Bits { low: 3, high: 3 }), ..point(WordType::U16) };
        assert_eq!(decoded(&bit, &[0, 8]), Ok(Value::Bool(true)));
    }

    #[test]
    fn not_available_is_seen_in_the_registers_as_they_came() {
        let power = Point { order: Order::Cdab, nulls: Box::new([0x8000_0000]), ..point(WordType::I32) };
        assert_eq!(decoded(&power, &[0x80, 0, 0, 0]), Err(StatusCode::BAD_NO_DATA));
        assert_eq!(decoded(&power, &[0, 0, 0x80, 0]), Ok(Value::Int(i32::MIN.into())));
        let float = Point { nulls: Box::new([0x7FC0_0000]), ..point(WordType::F32) };
        assert_eq!(decoded(&float, &[0x7F, 0xC0, 0, 0]), Err(StatusCode::BAD_NO_DATA));
        assert_eq!(decoded(&float, &[0x7F, 0xBF, 0xFF, 0x80]), Err(StatusCode::BAD_SENSOR_FAILURE));
    }

    #[test]
    fn a_counter_that_goes_back_was_reset_or_rolled_over() {
        let energy = Point { counter: Some(Counter { max: Some(1_000_000.0) }), ..point(WordType::U32) };
        let mut counters = Counters::of(vec![TagId(7)]);
        let mut see = |n| counters.see(0, &energy, Value::Int(n));
        assert_eq!([see(5), see(999_990), see(3), see(500), see(0)], [None, None, Some("rolled_over"), None, Some("reset")]);
        assert_eq!(counters.see(0, &point(WordType::U16), Value::Int(1)), None);
    }
}
