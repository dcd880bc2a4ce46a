//! Integers of one to ten bytes: seven bits a byte, lowest first, the highest bit says that more follow. Protobuf, Avro and the log's frames have them.

/// Why bytes are not one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoVarint {
    /// The bytes end in it.
    Short,
    /// It has more than 64 bits.
    Long,
}

/// Appends an integer.
#[inline]
pub fn push(out: &mut Vec<u8>, mut rest: u64) {
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// How many bytes an integer takes.
#[inline]
pub const fn len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// The integer that the bytes begin with, and how many of them it takes.
#[inline(always)]
pub fn read(bytes: &[u8]) -> Result<(u64, usize), NoVarint> {
    let mut value = 0_u64;
    for (n, byte) in bytes.iter().take(10).enumerate() {
        if n == 9 && *byte > 1 {
            return Err(NoVarint::Long);
        }
        value |= u64::from(byte & 0x7F) << (7 * n);
        if *byte < 0x80 {
            return Ok((value, n + 1));
        }
    }
    Err(NoVarint::Short)
}

/// Signed as unsigned, small where its distance from zero is: 0, -1, 1, -2 as 0, 1, 2, 3.
#[inline]
pub const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

#[inline]
pub const fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_integer_comes_back_from_as_many_bytes_as_said(value: u64, rest: u8) {
            let mut bytes = Vec::new();
            push(&mut bytes, value);
            prop_assert_eq!(bytes.len(), len(value));
            bytes.push(rest);
            prop_assert_eq!(read(&bytes), Ok((value, len(value))));
            prop_assert_eq!(read(&bytes[..len(value) - 1]), Err(NoVarint::Short));
            prop_assert_eq!(unzigzag(zigzag(value as i64)), value as i64);
        }
    }

    #[test]
    fn what_is_no_integer_of_64_bits_is_refused() {
        assert_eq!(read(&[]), Err(NoVarint::Short));
        assert_eq!(read(&[0xFF; 9]), Err(NoVarint::Short));
        assert_eq!(read(&[0xFF; 10]), Err(NoVarint::Long));
        assert_eq!(read(&[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1]), Ok((u64::MAX, 10)));
    }
}
