//! Symbol tables of STEP 7.
//!
//! ```text
//! SDF   "Pump_on                 ","A       4.1","BOOL      ","main pump"
//! ASC   126,Pump_on                 A       4.1 BOOL      main pump             24 symbol, 12 address, 10 type, 80 comment
//! SEQ   <tab>Pump_on<tab>A       4.1<tab>BOOL<tab>main pump                     the first cell may be a number or empty
//! ```
//!
//! Mnemonics are German (E, A, Z) or English, as the project is set. Blocks (`DB 12`, `FB`, `VAT`) are no tags.

use crate::tags::{Imported, Tag};
use crate::text::rows;

/// What stands for a block and not for a place in memory.
const BLOCKS: [&str; 11] = ["DB", "DI", "FB", "FC", "OB", "SFB", "SFC", "UDT", "VAT", "SDB", "BLD"];

pub fn symbols(text: &str) -> Imported {
    let mut imported = Imported::default();
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("");
    if first.trim_start().starts_with('"') {
        for (line, row) in rows(text, ',') {
            let cell = |index: usize| row.get(index).map_or("", |cell| cell.trim());
            symbol(line, cell(0), cell(1), cell(2), cell(3), &mut imported);
        }
    } else if first.starts_with("126,") {
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let Some(line) = line.strip_prefix("126,") else {
                imported.skip(index + 1, line, "the line does not begin with `126,`");
                continue;
            };
            let characters: Vec<char> = line.chars().collect();
            let field =
                |from: usize, to: usize| characters[from.min(characters.len())..to.min(characters.len())].iter().collect::<String>();
            symbol(index + 1, field(0, 24).trim(), &field(24, 36), field(36, 46).trim(), field(46, 126).trim(), &mut imported);
        }
    } else {
        for (line, row) in rows(text, '\t') {
            // A number or nothing stands before the symbol.
            let skip = usize::from(row.first().is_some_and(|cell| cell.trim().is_empty() || cell.trim().parse::<u32>().is_ok()));
            let cell = |index: usize| row.get(index + skip).map_or("", |cell| cell.trim());
            if cell(1).is_empty() {
                imported.skip(line, cell(0), "no address in the second column");
                continue;
            }
            symbol(line, cell(0), cell(1), cell(2), cell(3), &mut imported);
        }
    }
    imported
}

fn symbol(line: usize, name: &str, address: &str, kind: &str, comment: &str, imported: &mut Imported) {
    let address: String = address.split_whitespace().collect();
    let letters: String = address.chars().take_while(char::is_ascii_alphabetic).collect();
    if BLOCKS.contains(&letters.to_ascii_uppercase().as_str()) {
        return imported.skip(line, name, format!("{address} is a block and no tag"));
    }
    let is_element = ["TIMER", "COUNTER", "ZÄHLER", "ZAEHLER"].contains(&kind.to_uppercase().as_str());
    let made = Tag::s7(&name.replace('/', "%2F"), &address, (!kind.is_empty() && !is_element).then_some(kind));
    imported.take(line, name, made.map(|tag| tag.describe(comment)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_formats_say_the_same() {
        let wanted = "name,address,description\nPumpe_ein,Q4.1,Hauptpumpe\nFüllstand,IW64:INT,\nZeit,T5,\n";
        let sdf = "\"Pumpe_ein               \",\"A       4.1 \",\"BOOL      \",\"Hauptpumpe    \"\n\"Füllstand               \",\"EW     64   \",\"INT       \",\"\"\n\"Ofen\",\"DB     12\",\"FB     3\",\"\"\n\"Zeit\",\"T       5\",\"TIMER\",\"\"\n";
        let asc = "126,Pumpe_ein               A       4.1 BOOL      Hauptpumpe\n126,Füllstand               EW     64   INT       \n126,Ofen                    DB     12   FB     3  \n126,Zeit                    T       5   TIMER     \n";
        let seq = "\tPumpe_ein\tA       4.1\tBOOL\tHauptpumpe\n\tFüllstand\tEW     64\tINT\t\n\tOfen\tDB     12\tFB     3\t\n\tZeit\tT       5\tTIMER\t\n";
        for text in [sdf, asc, seq] {
            let imported = symbols(text);
            assert_eq!(imported.table(), wanted);
            assert_eq!(
                imported.skipped.iter().map(ToString::to_string).collect::<Vec<_>>(),
                ["line 3: `Ofen`: DB12 is a block and no tag"]
            );
        }
        let imported = symbols("\"Speed\",\"PEW 256\",\"WORD\",\"\"\n\"Bad\",\"MQ 7\",\"WORD\",\"\"\n\"Short\"\n");
        assert_eq!(imported.table(), "name,address\nSpeed,PIW256\n");
        assert_eq!(imported.skipped.len(), 2);
    }
}
