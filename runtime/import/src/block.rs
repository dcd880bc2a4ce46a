//! The source text of a data block, with the offsets that a standard block has.
//!
//! ```text
//! DATA_BLOCK "Oven" { S7_Optimized_Access := 'FALSE' }        a number, or a symbol, whose number is asked for
//!   STRUCT a : Bool; b : Bool; t : Real := 1.0; s : String[20]; x : Array[0..2] of Int; END_STRUCT;
//! BEGIN a := TRUE; END_DATA_BLOCK
//! TYPE "Zone" STRUCT .. END_STRUCT END_TYPE                    in the same file, or in others
//!
//! offsets   BOOL takes the next bit; one-byte types the next byte; everything greater, and every structure, array, text and type of the
//!           project's own, begins at an even byte, and after a structure or array it goes on at an even byte
//! ```
//!
//! An optimised block has no offsets, and one of a 1200 or 1500 that does not say is optimised: both are refused.

use crate::tags::{Imported, Tag};
use millrace_s7::datatype::DataType;
use std::collections::BTreeMap;

/// Members of one block, at most; and structures in structures.
const MEMBERS_MOST: usize = 100_000;
const DEPTH_MOST: usize = 32;
/// No CPU has a greater block.
const BYTES_MOST: u32 = 16 << 20;

pub fn source(text: &str, types: &[String], db: Option<u16>) -> Imported {
    let mut imported = Imported::default();
    let mut known = BTreeMap::new();
    let mut blocks = Vec::new();
    for text in types.iter().map(String::as_str).chain([text]) {
        let mut parser = Parser { tokens: tokens(text), at: 0, depth: 0 };
        match parser.file(&mut known) {
            Ok(found) => blocks.extend(found),
            Err((line, why)) => imported.skip(line, "the text", why),
        }
    }
    if blocks.is_empty() && imported.skipped.is_empty() {
        imported.skip(0, "the text", "it has no DATA_BLOCK; generate the source of the block in TIA or STEP 7");
    }
    let many = blocks.len() > 1;
    for block in blocks {
        let number = block.number.or(if many { None } else { db });
        let Some(number) = number else {
            imported.skip(block.line, &block.name, "its text does not say its number; give it by --db");
            continue;
        };
        if block.is_optimized {
            imported.skip(
                block.line,
                &block.name,
                "it is optimised or does not say (S7_Optimized_Access), so its members have no offsets; switch \"Optimized block access\" off, or read it by OPC UA",
            );
            continue;
        }
        let prefix = if many { format!("{}/", block.name.replace('/', "%2F")) } else { String::new() };
        let mut layout = Layout { known: &known, imported: &mut imported, db: number, members: 0 };
        layout.members(&block.members, &prefix, Place::default(), 0);
    }
    imported
}

#[derive(Clone, PartialEq, Debug)]
enum Token {
    Word(String),
    /// `"Oven"`: a symbol.
    Symbol(String),
    Mark(char),
}

/// Words, symbols and marks, each with its line; comments and attributes in braces are left out, but for the one about optimised access.
fn tokens(text: &str) -> Vec<(usize, Token)> {
    let mut tokens = Vec::new();
    let mut line = 1;
    let bytes: Vec<char> = text.chars().collect();
    let mut at = 0;
    while at < bytes.len() {
        let character = bytes[at];
        let two: String = bytes[at..bytes.len().min(at + 2)].iter().collect();
        let until = |from: usize, end: &str| {
            let end: Vec<char> = end.chars().collect();
            (from..bytes.len()).find(|at| bytes[*at..].starts_with(&end)).map_or(bytes.len(), |at| at + end.len())
        };
        let next = match (character, two.as_str()) {
            (_, "//") => (at..bytes.len()).find(|at| bytes[*at] == '\n').unwrap_or(bytes.len()),
            (_, "(*") => until(at + 2, "*)"),
            ('{', _) => {
                let end = until(at + 1, "}");
                let inner: String = bytes[at..end].iter().filter(|c| !c.is_whitespace()).collect::<String>().to_uppercase();
                if inner.contains("S7_OPTIMIZED_ACCESS:='FALSE'") {
                    tokens.push((line, Token::Word("%STANDARD".into())));
                } else if inner.contains("S7_OPTIMIZED_ACCESS:=") {
                    tokens.push((line, Token::Word("%OPTIMIZED".into())));
                }
                end
            }
            ('"', _) => {
                let end = until(at + 1, "\"");
                tokens.push((line, Token::Symbol(bytes[at + 1..end.max(at + 2) - 1].iter().collect())));
                end
            }
            ('\'', _) => {
                let end = until(at + 1, "'");
                tokens.push((line, Token::Word("'".into())));
                end
            }
            (c, _) if c.is_whitespace() => at + 1,
            (c, _) if c.is_alphanumeric() || c == '_' || c == '#' || c == '%' => {
                let end = (at..bytes.len()).find(|at| !(bytes[*at].is_alphanumeric() || "_#%".contains(bytes[*at]))).unwrap_or(bytes.len());
                tokens.push((line, Token::Word(bytes[at..end].iter().collect())));
                end
            }
            (c, _) => {
                tokens.push((line, Token::Mark(c)));
                at + 1
            }
        };
        line += bytes[at..next].iter().filter(|c| **c == '\n').count();
        at = next;
    }
    tokens
}

#[derive(Clone, Debug)]
struct Member {
    line: usize,
    name: String,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Elementary(DataType),
    /// Elementary in size only: no tag is made of it.
    Opaque(&'static str, u32),
    Struct(Vec<Member>),
    Own(String),
    /// Items of each dimension.
    Array(Vec<u32>, Box<Kind>),
    Unknown(String),
}

struct Block {
    line: usize,
    name: String,
    number: Option<u16>,
    is_optimized: bool,
    members: Vec<Member>,
}

type Parsed<T> = Result<T, (usize, String)>;

struct Parser {
    tokens: Vec<(usize, Token)>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn line(&self) -> usize {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(0, |(line, _)| *line)
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(_, token)| token)
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Some(Token::Word(found)) if found.eq_ignore_ascii_case(word))
    }

    fn is_mark(&self, mark: char) -> bool {
        self.peek() == Some(&Token::Mark(mark))
    }

    fn take(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).map(|(_, token)| token.clone());
        self.at += 1;
        token
    }

    fn fail<T>(&self, why: impl Into<String>) -> Parsed<T> {
        Err((self.line(), why.into()))
    }

    fn expect(&mut self, mark: char) -> Parsed<()> {
        if self.is_mark(mark) {
            self.at += 1;
            return Ok(());
        }
        self.fail(format!("`{mark}` is missing"))
    }

    fn name(&mut self) -> Parsed<String> {
        match self.take() {
            Some(Token::Word(name) | Token::Symbol(name)) => Ok(name),
            _ => self.fail("a name is missing"),
        }
    }

    fn file(&mut self, known: &mut BTreeMap<String, Vec<Member>>) -> Parsed<Vec<Block>> {
        let mut blocks = Vec::new();
        while self.peek().is_some() {
            if self.is_word("DATA_BLOCK") {
                self.at += 1;
                blocks.push(self.block()?);
            } else if self.is_word("TYPE") {
                self.at += 1;
                let name = self.name()?.to_uppercase();
                self.skip_to(&["STRUCT"]);
                self.at += 1;
                let members = self.members()?;
                known.insert(name, members);
                self.skip_to(&["END_TYPE"]);
                self.at += 1;
            } else {
                self.at += 1;
            }
        }
        Ok(blocks)
    }

    fn skip_to(&mut self, words: &[&str]) {
        while self.peek().is_some() && !words.iter().any(|word| self.is_word(word)) {
            self.at += 1;
        }
    }

    fn block(&mut self) -> Parsed<Block> {
        let line = self.line();
        let name = self.name()?;
        // STEP 7 writes `DB 12` or `DB12`.
        let mut number = name.to_uppercase().strip_prefix("DB").and_then(|digits| digits.parse().ok());
        if let (true, Some(Token::Word(digits))) = (name.eq_ignore_ascii_case("DB"), self.peek()) {
            number = digits.parse().ok();
        }
        let head = self.at;
        self.skip_to(&["STRUCT", "VAR", "BEGIN", "END_DATA_BLOCK"]);
        let says = |word: &str| self.tokens[head..self.at].iter().any(|(_, token)| *token == Token::Word(word.into()));
        // STEP 7 knows no optimised blocks; TIA writes the attribute, or means "optimised".
        let is_classic = number.is_some() && !says("%OPTIMIZED");
        let is_optimized = !says("%STANDARD") && !is_classic;
        let members = if self.is_word("STRUCT") || self.is_word("VAR") {
            self.at += 1;
            self.members()?
        } else {
            return self.fail(format!("`{name}` has no STRUCT: an instance block, or one of a type; take the text of its type"));
        };
        self.skip_to(&["END_DATA_BLOCK"]);
        self.at += 1;
        Ok(Block { line, name, number, is_optimized, members })
    }

    /// Up to END_STRUCT or END_VAR.
    fn members(&mut self) -> Parsed<Vec<Member>> {
        self.depth += 1;
        if self.depth > DEPTH_MOST {
            return self.fail("structures are nested too deep");
        }
        let mut members = Vec::new();
        loop {
            if self.is_word("END_STRUCT") || self.is_word("END_VAR") {
                self.at += 1;
                self.depth -= 1;
                return Ok(members);
            }
            if self.peek().is_none() {
                return self.fail("END_STRUCT is missing");
            }
            if self.is_mark(';') {
                self.at += 1;
                continue;
            }
            let line = self.line();
            let mut names = vec![self.name()?];
            while self.is_mark(',') {
                self.at += 1;
                names.push(self.name()?);
            }
            while matches!(self.peek(), Some(Token::Word(word)) if word.starts_with('%')) {
                self.at += 1;
            }
            self.expect(':')?;
            let kind = self.kind()?;
            // A default, up to the end; a structure may have none.
            while self.peek().is_some() && !self.is_mark(';') && !self.is_word("END_STRUCT") && !self.is_word("END_VAR") {
                self.at += 1;
            }
            members.extend(names.into_iter().map(|name| Member { line, name, kind: kind.clone() }));
            if members.len() > MEMBERS_MOST {
                return self.fail(format!("a structure has more than {MEMBERS_MOST} members"));
            }
        }
    }

    fn kind(&mut self) -> Parsed<Kind> {
        if self.is_word("STRUCT") {
            self.at += 1;
            return self.members().map(Kind::Struct);
        }
        if self.is_word("ARRAY") {
            self.at += 1;
            return self.array();
        }
        let word = match self.take() {
            Some(Token::Symbol(name)) => return Ok(Kind::Own(name.to_uppercase())),
            Some(Token::Word(word)) => word,
            _ => return self.fail("a type is missing"),
        };
        let mut text = word.clone();
        if self.is_mark('[') {
            self.at += 1;
            let length = self.name()?;
            self.expect(']')?;
            text = format!("{word}[{length}]");
        }
        if let Some(kind) = DataType::parse(&text, false) {
            return Ok(Kind::Elementary(kind));
        }
        Ok(match word.to_uppercase().as_str() {
            "POINTER" => Kind::Opaque("POINTER", 6),
            "ANY" => Kind::Opaque("ANY", 10),
            "BLOCK_DB" | "BLOCK_FB" | "BLOCK_FC" => Kind::Opaque("a block's number", 2),
            "UDT" => {
                let number = self.name()?;
                Kind::Own(format!("UDT{number}"))
            }
            other if other.starts_with("UDT") => Kind::Own(other.to_owned()),
            _ => Kind::Unknown(text),
        })
    }

    /// `[0..2, 1..3] of Int`.
    fn array(&mut self) -> Parsed<Kind> {
        self.expect('[')?;
        let mut sizes = Vec::new();
        loop {
            let low = self.number()?;
            self.expect('.')?;
            self.expect('.')?;
            let high = self.number()?;
            let size = u32::try_from(high - low + 1).ok().filter(|size| (1..=65536).contains(size));
            let Some(size) = size else { return self.fail("an array's bounds are the wrong way round or too far apart") };
            sizes.push(size);
            if !self.is_mark(',') {
                break;
            }
            self.at += 1;
        }
        self.expect(']')?;
        if !self.is_word("OF") {
            return self.fail("`OF` is missing");
        }
        self.at += 1;
        Ok(Kind::Array(sizes, Box::new(self.kind()?)))
    }

    fn number(&mut self) -> Parsed<i64> {
        let sign = if self.is_mark('-') {
            self.at += 1;
            -1
        } else {
            1
        };
        let word = self.name()?;
        match word.parse::<i32>() {
            Ok(number) => Ok(sign * i64::from(number)),
            Err(_) => self.fail(format!("`{word}` is not a number; a constant's value is not in the text")),
        }
    }
}

/// Where the next member may begin.
#[derive(Clone, Copy, Default)]
struct Place {
    byte: u32,
    bit: u32,
}

impl Place {
    /// The next whole byte.
    fn byte(self) -> u32 {
        self.byte + u32::from(self.bit > 0)
    }

    fn even(self) -> u32 {
        self.byte().next_multiple_of(2)
    }
}

struct Layout<'a> {
    known: &'a BTreeMap<String, Vec<Member>>,
    imported: &'a mut Imported,
    db: u16,
    members: usize,
}

impl Layout<'_> {
    /// Lays members out from a place. Returns where it goes on, or `None` where an offset is unknown: nothing behind it can be placed.
    fn members(&mut self, members: &[Member], prefix: &str, mut place: Place, depth: usize) -> Option<Place> {
        for (index, member) in members.iter().enumerate() {
            let name = format!("{prefix}{}", member.name.replace('/', "%2F"));
            match self.member(member, &name, &member.kind, place, depth) {
                Some(next) => place = next,
                None => {
                    for behind in &members[index + 1..] {
                        self.imported.skip(behind.line, &format!("{prefix}{}", behind.name), "its offset is unknown: a type before it is");
                    }
                    return None;
                }
            }
        }
        Some(place)
    }

    fn member(&mut self, member: &Member, name: &str, kind: &Kind, place: Place, depth: usize) -> Option<Place> {
        self.members += 1;
        if depth > DEPTH_MOST || self.members > MEMBERS_MOST || place.byte > BYTES_MOST {
            self.imported.skip(member.line, name, "the block is too great or nested too deep");
            return None;
        }
        match kind {
            Kind::Elementary(DataType::Bool) => {
                let at = Place { byte: place.byte + place.bit / 8, bit: place.bit % 8 };
                self.take(member.line, name, &format!("DB{}.DBX{}.{}", self.db, at.byte, at.bit), "BOOL");
                Some(Place { byte: at.byte + u32::from(at.bit == 7), bit: (at.bit + 1) % 8 })
            }
            Kind::Elementary(elementary) => {
                let byte = if elementary.size() == 1 { place.byte() } else { place.even() };
                self.take(member.line, name, &format!("DB{}.DBB{byte}", self.db), &elementary.to_string());
                Some(Place { byte: byte + elementary.size() as u32, bit: 0 })
            }
            Kind::Opaque(what, size) => {
                self.imported.skip(member.line, name, format!("{what} is no value to read"));
                Some(Place { byte: place.even() + size, bit: 0 })
            }
            Kind::Struct(members) => self.structure(members, name, place, depth),
            Kind::Own(own) => match self.known.get(own) {
                Some(members) => {
                    let members = members.clone();
                    self.structure(&members, name, place, depth)
                }
                None => {
                    self.imported.skip(member.line, name, format!("its type `{own}` is not in the text; give its file by --types"));
                    None
                }
            },
            Kind::Array(sizes, item) => self.array(member, name, sizes, item, place, depth),
            Kind::Unknown(kind) => {
                self.imported.skip(member.line, name, format!("its type `{kind}` is not known"));
                None
            }
        }
    }

    fn structure(&mut self, members: &[Member], name: &str, place: Place, depth: usize) -> Option<Place> {
        let start = Place { byte: place.even(), bit: 0 };
        let end = self.members(members, &format!("{name}/"), start, depth + 1)?;
        Some(Place { byte: end.even(), bit: 0 })
    }

    fn array(&mut self, member: &Member, name: &str, sizes: &[u32], item: &Kind, place: Place, depth: usize) -> Option<Place> {
        let start = place.even();
        let count: u32 = sizes.iter().try_fold(1_u32, |count, size| count.checked_mul(*size)).filter(|count| *count <= 65535).unwrap_or(0);
        if count == 0 {
            self.imported.skip(member.line, name, "an array has more than 65535 items");
            return None;
        }
        let end = match item {
            Kind::Elementary(DataType::Bool) if sizes.len() > 1 => {
                self.imported.skip(
                    member.line,
                    name,
                    "how an array of bits of several dimensions lies in memory is not certain; give its bits one by one",
                );
                return None;
            }
            Kind::Elementary(DataType::Bool) => {
                self.take(member.line, name, &format!("DB{}.DBX{start}.0", self.db), &format!("BOOL[{count}]"));
                start + count.div_ceil(8)
            }
            Kind::Elementary(elementary) => {
                let size = if elementary.size() > 1 { elementary.size().next_multiple_of(2) } else { 1 };
                self.take(member.line, name, &format!("DB{}.DBB{start}", self.db), &format!("{elementary}[{count}]"));
                start + count * size as u32
            }
            item => {
                let mut at = Place { byte: start, bit: 0 };
                for index in 0..count {
                    at = self.member(member, &format!("{name}/{index}"), item, Place { byte: at.even(), bit: 0 }, depth + 1)?;
                }
                at.even()
            }
        };
        Some(Place { byte: end.next_multiple_of(2), bit: 0 })
    }

    fn take(&mut self, line: usize, name: &str, address: &str, kind: &str) {
        self.imported.take(line, name, Tag::s7(name, address, Some(kind)));
    }
}

/// `Array[0..2] of Int`: the type of its items, and how many there are.
pub fn array(kind: &str) -> Option<(String, u32)> {
    let mut parser = Parser { tokens: tokens(kind), at: 0, depth: 0 };
    if !parser.is_word("ARRAY") {
        return None;
    }
    match parser.kind().ok()? {
        Kind::Array(sizes, item) => match *item {
            Kind::Elementary(elementary) => {
                Some((elementary.to_string(), sizes.iter().try_fold(1_u32, |count, size| count.checked_mul(*size))?))
            }
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, db: Option<u16>) -> (String, Vec<String>) {
        let imported = source(text, &[], db);
        (imported.table(), imported.skipped.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn offsets_are_those_of_a_standard_block() {
        let text = "DATA_BLOCK \"Oven\"\n{ S7_Optimized_Access := 'FALSE' }\nVERSION : 0.1\nNON_RETAIN\n   STRUCT\n      a : Bool;   // first\n      b : Bool := TRUE;\n      t : Real := 1.5;\n      s : String[20];\n      x : Array[0..2] of Int;\n   END_STRUCT;\nBEGIN\n   a := TRUE;\n   s := 'a;b';\nEND_DATA_BLOCK\n";
        let (table, skipped) = shown(text, Some(1));
        assert_eq!(table, "name,address\na,DB1.DBX0.0\nb,DB1.DBX0.1\nt,DB1.DBD2:REAL\ns,DB1.DBB6:STRING[20]\nx,DB1.DBB28:INT[3]\n");
        assert_eq!(skipped, Vec::<String>::new());
        assert_eq!(shown(text, None).1, ["line 1: `Oven`: its text does not say its number; give it by --db"]);
        assert!(shown(&text.replace("FALSE", "TRUE"), Some(1)).1[0].contains("by OPC UA"));
        assert!(shown(&text.replace("{ S7_Optimized_Access := 'FALSE' }", ""), Some(1)).1[0].contains("optimised or does not say"));
    }

    #[test]
    fn structures_arrays_types_and_awl_are_laid_out() {
        let text = "TYPE \"Zone\"\nSTRUCT\n on : BOOL;\n temp : REAL;\n ok : BOOL;\nEND_STRUCT;\nEND_TYPE\n\
            DATA_BLOCK DB 12\nTITLE =\n STRUCT\n  x , y : BYTE ;\n  z : BYTE (* odd *) ;\n  inner : STRUCT\n   q : BOOL ;\n  END_STRUCT ;\n  n : CHAR;\n  zones : ARRAY [1 .. 2 ] OF \"Zone\";\n  bits : ARRAY[0..9] OF BOOL;\n  p : POINTER;\n  w : ARRAY[-1..0, 0..1] OF WORD;\n  at : DATE_AND_TIME;\n  u : UDT 7;\n  lost : INT;\n END_STRUCT ;\nBEGIN\nEND_DATA_BLOCK";
        let (table, skipped) = shown(text, None);
        assert_eq!(
            table,
            "name,address\nx,DB12.DBB0\ny,DB12.DBB1\nz,DB12.DBB2\ninner/q,DB12.DBX4.0\nn,DB12.DBB6:CHAR\n\
             zones/0/on,DB12.DBX8.0\nzones/0/temp,DB12.DBD10:REAL\nzones/0/ok,DB12.DBX14.0\nzones/1/on,DB12.DBX16.0\nzones/1/temp,DB12.DBD18:REAL\nzones/1/ok,DB12.DBX22.0\n\
             bits,DB12.DBX24.0:BOOL[10]\nw,DB12.DBB32:WORD[4]\nat,DB12.DBB40:DATE_AND_TIME\n"
        );
        assert_eq!(
            skipped,
            [
                "line 19: `p`: POINTER is no value to read",
                "line 22: `u`: its type `UDT7` is not in the text; give its file by --types",
                "line 23: `lost`: its offset is unknown: a type before it is",
            ]
        );
    }

    #[test]
    fn a_text_that_is_cut_names_its_line_and_no_text_panics() {
        assert_eq!(shown("DATA_BLOCK DB1\nSTRUCT\n a : INT;\n", None).1, ["line 3: `the text`: END_STRUCT is missing"]);
        assert!(shown("FUNCTION FC1", None).1[0].contains("no DATA_BLOCK"));
        let text = "DATA_BLOCK DB1 STRUCT a : ARRAY[0..1] OF STRUCT b : STRING[3]; END_STRUCT; END_STRUCT BEGIN END_DATA_BLOCK";
        for end in 0..text.len() {
            let _ = shown(&text[..end], None);
        }
        assert!(shown(&("DATA_BLOCK DB1 STRUCT ".to_owned() + &"a : STRUCT ".repeat(1000)), None).1[0].contains("too deep"));
    }
}
