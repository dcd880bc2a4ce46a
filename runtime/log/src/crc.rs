//! Arithmetic on CRC-32C checksums: what a checksum becomes behind more bytes, without looking at them.
//!
//! With the checksums of a file's prefixes that of any piece takes two look-ups and one product of polynomials, however long the piece is;
//! so a place that claims a length costs no more than one that does not.

const POLYNOMIAL: u32 = 0x82F6_3B78;
/// The polynomials 1, x and 1/x; the highest bit is the constant.
const ONE: u32 = 1 << 31;
const X: u32 = 1 << 30;
const X_INVERSE: u32 = 0x05EC_76F1;

const FORWARD: [u32; 64] = squares(X);
const BACKWARD: [u32; 64] = squares(X_INVERSE);

/// `a * b` modulo the polynomial.
const fn times(a: u32, mut b: u32) -> u32 {
    let (mut bit, mut product) = (ONE, 0);
    while bit != 0 {
        if a & bit != 0 {
            product ^= b;
        }
        b = (b >> 1) ^ if b & 1 == 1 { POLYNOMIAL } else { 0 };
        bit >>= 1;
    }
    product
}

/// `x`, `x^2`, `x^4`, ...
const fn squares(x: u32) -> [u32; 64] {
    let (mut out, mut i) = ([x; 64], 1);
    while i < 64 {
        out[i] = times(out[i - 1], out[i - 1]);
        i += 1;
    }
    out
}

/// `value` times the 8th power of a base for each of `bytes`.
fn shift(squares: &[u32; 64], mut value: u32, bytes: u64) -> u32 {
    let mut bits = bytes << 3;
    while bits != 0 {
        value = times(squares[bits.trailing_zeros() as usize], value);
        bits &= bits - 1;
    }
    value
}

/// The checksum, begun with `salt`, of a piece of `len` bytes: `before` and `behind` are those of a prefix that ends before it and behind it.
pub fn of_piece(salt: u32, before: u32, behind: u32, len: u64) -> u32 {
    behind ^ shift(&FORWARD, before ^ salt, len)
}

/// The salt with which a piece has the checksum `crc`: the inverse of [`of_piece`].
pub fn salt_of_piece(crc: u32, before: u32, behind: u32, len: u64) -> u32 {
    before ^ shift(&BACKWARD, behind ^ crc, len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_has_the_checksum_that_its_bytes_have_and_gives_its_salt_back() {
        assert_eq!(times(X, X_INVERSE), ONE);
        let bytes: Vec<u8> = (0..5000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for (from, to, salt) in [(0, 0, 7), (0, 1, 0), (1, 45, u32::MAX), (700, 4999, 0xDEAD_BEEF)] {
            let (before, behind) = (crc32c::crc32c(&bytes[..from]), crc32c::crc32c(&bytes[..to]));
            let crc = crc32c::crc32c_append(salt, &bytes[from..to]);
            let len = (to - from) as u64;
            assert_eq!(of_piece(salt, before, behind, len), crc, "{from}..{to}");
            assert_eq!(salt_of_piece(crc, before, behind, len), salt, "{from}..{to}");
        }
    }
}
