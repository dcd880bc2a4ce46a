//! BCD numbers, and the dates and times that are made of them or of fields: the bytes of [`crate::codec`]'s S5TIME, COUNTER, DT, DTL and LDT.

use crate::datatype::DataType;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// Two BCD digits.
fn bcd(byte: u8) -> Option<i8> {
    let (tens, ones) = (byte >> 4, byte & 15);
    (tens <= 9 && ones <= 9).then_some((tens * 10 + ones) as i8)
}

/// Three BCD digits.
pub fn bcd3(word: u16) -> Option<i64> {
    let digits = [word >> 8 & 15, word >> 4 & 15, word & 15];
    digits.iter().all(|digit| *digit <= 9).then(|| digits.iter().fold(0, |number, digit| number * 10 + i64::from(*digit)))
}

/// The word of a number of three digits.
pub fn bcd3_of(number: i128) -> Option<u16> {
    (0..=999).contains(&number).then_some(number as u16).map(|n| ((n / 100) << 8) | ((n / 10 % 10) << 4) | (n % 10))
}

/// The milliseconds of an S5TIME.
pub fn s5time(word: u16) -> Option<i64> {
    const BASES_MS: [i64; 4] = [10, 100, 1000, 10_000];
    Some(bcd3(word & 0x0FFF)? * BASES_MS[usize::from(word >> 12 & 3)])
}

/// The S5TIME of so many milliseconds, of the finest base that holds it exactly.
pub fn s5time_of(ms: i128) -> Option<u16> {
    [10, 100, 1000, 10_000].into_iter().zip(0_u16..).find_map(|(base, code)| {
        let exact = ms >= 0 && ms % base == 0;
        exact.then(|| bcd3_of(ms / base)).flatten().map(|digits| code << 12 | digits)
    })
}

/// A DT.
pub fn date_and_time(bytes: &[u8; 8]) -> Option<DateTime> {
    let mut fields = [0_i8; 7];
    for (field, byte) in fields.iter_mut().zip(bytes) {
        *field = bcd(*byte)?;
    }
    let [year, month, day, hour, minute, second, hundredths] = fields;
    let ms = bytes[7] >> 4;
    if ms > 9 {
        return None;
    }
    let year = i16::from(year) + if year >= 90 { 1900 } else { 2000 };
    let ns = (i32::from(hundredths) * 10 + i32::from(ms)) * 1_000_000;
    DateTime::new(year, month, day, hour, minute, second, ns).ok()
}

/// A DTL.
pub fn dtl(bytes: &[u8; 12]) -> Option<DateTime> {
    let year = i16::from_be_bytes([bytes[0], bytes[1]]);
    let ns = i32::from_be_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
    let field = |at: usize| i8::try_from(bytes[at]).ok();
    (1970..=2554).contains(&year).then(|| DateTime::new(year, field(2)?, field(3)?, field(5)?, field(6)?, field(7)?, ns).ok()).flatten()
}

/// The bytes of a DT, DTL or LDT; `None`: the type has no such moment.
pub fn moment_of(kind: DataType, civil: DateTime) -> Option<Vec<u8>> {
    let two = |n: i8| ((n / 10) << 4 | (n % 10)) as u8;
    let weekday = civil.weekday().to_sunday_one_offset() as u8;
    match kind {
        DataType::DateTime => {
            let year = i8::try_from(civil.year() - if civil.year() < 2000 { 1900 } else { 2000 }).ok()?;
            let (first, last) = if civil.year() < 2000 { (90, 99) } else { (0, 89) };
            if !(first..=last).contains(&year) || civil.subsec_nanosecond() % 1_000_000 != 0 {
                return None;
            }
            let ms = civil.subsec_nanosecond() / 1_000_000;
            let mut bytes: Vec<u8> =
                [year, civil.month(), civil.day(), civil.hour(), civil.minute(), civil.second(), (ms / 10) as i8].map(two).to_vec();
            bytes.push((ms % 10) as u8 * 16 + weekday);
            Some(bytes)
        }
        DataType::Dtl => {
            if !(1970..=2261).contains(&civil.year()) {
                return None;
            }
            let mut bytes = civil.year().to_be_bytes().to_vec();
            bytes.extend([civil.month() as u8, civil.day() as u8, weekday]);
            bytes.extend([civil.hour() as u8, civil.minute() as u8, civil.second() as u8]);
            bytes.extend(civil.subsec_nanosecond().to_be_bytes());
            Some(bytes)
        }
        _ => {
            let ns = TimeZone::UTC.to_timestamp(civil).ok()?.as_nanosecond();
            Some(i64::try_from(ns).ok().filter(|ns| *ns >= 0)?.to_be_bytes().to_vec())
        }
    }
}
