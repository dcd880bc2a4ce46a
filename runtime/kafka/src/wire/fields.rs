//! Fields of Kafka's messages in their older, fixed form: big-endian integers, lengths in front.
//!
//! A length is held against what is left before anything is taken; a reader that runs out of bytes says `None`.

/// Writes fields one behind the other.
#[derive(Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    pub fn i8(&mut self, value: i8) -> &mut Self {
        self.0.push(value as u8);
        self
    }

    pub fn i16(&mut self, value: i16) -> &mut Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub fn i32(&mut self, value: i32) -> &mut Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub fn i64(&mut self, value: i64) -> &mut Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// A text; the names of Kafka's things are far shorter than its length may say.
    pub fn str(&mut self, text: &str) -> &mut Self {
        self.i16(text.len() as i16).0.extend_from_slice(text.as_bytes());
        self
    }

    pub fn nullable(&mut self, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.str(text),
            None => self.i16(-1),
        }
    }

    pub fn bytes(&mut self, pieces: &[&[u8]]) -> &mut Self {
        self.i32(pieces.iter().map(|piece| piece.len() as i32).sum());
        pieces.iter().for_each(|piece| self.0.extend_from_slice(piece));
        self
    }
}

/// Takes fields from the front.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub fn i8(&mut self) -> Option<i8> {
        self.array::<1>().map(|[byte]| byte as i8)
    }

    pub fn i16(&mut self) -> Option<i16> {
        self.array().map(i16::from_be_bytes)
    }

    pub fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    pub fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }

    /// A text that may be null.
    pub fn nullable(&mut self) -> Option<Option<&'a str>> {
        let len = self.i16()?;
        if len < 0 {
            return Some(None);
        }
        std::str::from_utf8(self.take(len as usize)?).ok().map(Some)
    }

    pub fn str(&mut self) -> Option<&'a str> {
        self.nullable()?
    }

    /// Bytes that may be null, which is none of them.
    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.i32()?;
        self.take(usize::try_from(len.max(0)).ok()?)
    }

    /// A list, its entries taken one by one: nothing is allocated on the word of its length.
    pub fn list<T>(&mut self, mut one: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let mut out = Vec::new();
        for _ in 0..self.i32()?.max(0) {
            out.push(one(self)?);
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_that_is_a_lie_is_nothing() {
        let mut lie = Writer::default();
        lie.i32(i32::MAX).i32(7);
        assert_eq!(Reader(&lie.0).bytes(), None);
        assert_eq!(Reader(&lie.0).list(Reader::i32), None);
        assert_eq!(Reader(&[0x7f, 0xff, b'a']).str(), None);
        assert_eq!(Reader(&[0xff, 0xff]).nullable(), Some(None));
    }
}
