//! The tags of a KEPServerEX device, as its CSV export has them.
//!
//! ```text
//! Tag Name,Address,Data Type,Respect Data Type,Client Access,Scan Rate,Scaling,Raw Low,Raw High,Scaled Low,Scaled High,..,Eng Units,Description,..
//! "Oven.Zone1",400101,Float,1,RO,100,Linear,0,27648,0,400,Double,1,1,degC,"zone 1",0
//! ```
//!
//! Groups are dots. Addresses of digits are Modbus registers counted from 1; all else is S7. The order of words is a property of the device and is
//! not in the file. `R/W` makes nothing writable: that is for the factory's file to say.

use crate::tags::{Imported, Protocol, Tag};
use crate::text::{Header, first, rows, separator};
use millrace_config::Reason;

const NAME: &[&str] = &["tag name"];

pub fn table(text: &str) -> Imported {
    let mut imported = Imported::default();
    let head = text.lines().find(|line| line.to_lowercase().contains("tag name")).unwrap_or("");
    let rows = rows(text, separator(head));
    let Some(at) = rows.iter().position(|(_, row)| !Header::new(row).find(NAME).is_empty()) else {
        imported.skip(0, "the file", "no row has the columns `Tag Name` and `Address`; export the tags as CSV from KEPServerEX");
        return imported;
    };
    let header = Header::new(&rows[at].1);
    let column = |names: &[&str]| header.find(names);
    let columns = Columns {
        name: column(NAME),
        address: column(&["address"]),
        kind: column(&["data type"]),
        scaling: column(&["scaling"]),
        ranges: [["raw low"], ["raw high"], ["scaled low"], ["scaled high"]].map(|names| column(&names)),
        unit: column(&["eng units"]),
        description: column(&["description"]),
        negate: column(&["negate value"]),
    };
    for (line, row) in &rows[at + 1..] {
        // Further sections have a header of their own.
        if row[0].trim_start().starts_with(';') || !Header::new(row).find(NAME).is_empty() {
            break;
        }
        let name = first(row, &columns.name);
        let made = columns.tag(row, name, &mut imported);
        imported.take(*line, name, made);
    }
    if imported.tags.iter().any(|tag| tag.protocol == Protocol::Modbus && tag.kind.contains(['3', '6'])) {
        imported.note("the order of words is not in the file: check it with `millrace probe modbus`, and set `order` where it is not ABCD");
    }
    imported
}

struct Columns {
    name: Vec<usize>,
    address: Vec<usize>,
    kind: Vec<usize>,
    scaling: Vec<usize>,
    ranges: [Vec<usize>; 4],
    unit: Vec<usize>,
    description: Vec<usize>,
    negate: Vec<usize>,
}

impl Columns {
    fn tag(&self, row: &[String], name: &str, imported: &mut Imported) -> Result<Tag, Reason> {
        let (address, kind) = (first(row, &self.address), first(row, &self.kind));
        let path = name.replace('/', "%2F").replace('.', "/");
        let mut tag =
            if address.starts_with(|c: char| c.is_ascii_digit()) { modbus(&path, address, kind)? } else { s7(&path, address, kind)? };
        tag.unit = first(row, &self.unit).to_owned();
        if first(row, &self.negate) == "1" {
            return Err("its value is negated, which a tag here can't say; use `scale: -1`".into());
        }
        match first(row, &self.scaling).to_lowercase().as_str() {
            "" | "none" => {}
            "linear" => {
                let [raw_low, raw_high, low, high] = self.ranges.each_ref().map(|column| number(first(row, column)));
                match (raw_low, raw_high, low, high) {
                    (Some(raw_low), Some(raw_high), Some(low), Some(high)) if raw_low < raw_high => {
                        (tag.raw, tag.eu) = (Some([raw_low, raw_high]), Some([low, high]));
                    }
                    _ => return Err("its scaling is linear, but its ranges are not four numbers".into()),
                }
            }
            other => {
                imported.note(format!("`{name}` has {other} scaling, which is not taken over: its values are raw"));
            }
        }
        Ok(tag.describe(first(row, &self.description)))
    }
}

/// With a decimal comma, too.
fn number(text: &str) -> Option<f64> {
    text.replace(',', ".").parse().ok().filter(|number: &f64| number.is_finite())
}

/// `400101`, `400005.3`, `400005[10]`, `40101`.
fn modbus(name: &str, address: &str, kind: &str) -> Result<Tag, Reason> {
    let digits = address.find(|c: char| !c.is_ascii_digit()).unwrap_or(address.len());
    let (number, rest) = address.split_at(digits);
    if !matches!(number.len(), 5 | 6) || !number.starts_with(['0', '1', '3', '4']) {
        return Err(format!("`{address}` is not a Modbus address such as 400101").into());
    }
    let is_bits = number.starts_with(['0', '1']);
    let mut tag = Tag::new(name, Protocol::Modbus, address);
    if let Some(bit) = rest.strip_prefix('.') {
        return match bit.parse::<u8>() {
            Ok(0..16) if !is_bits => Ok(tag),
            _ => Err(format!("`{address}` names no bit of a register").into()),
        };
    }
    if !rest.is_empty() {
        return Err(format!("`{address}` is an array; give its registers one by one").into());
    }
    tag.kind = match kind.to_lowercase().as_str() {
        _ if is_bits => "",
        "boolean" => return Err("a whole register is no boolean; name its bit, as in 400101.3".into()),
        "short" => "i16",
        "word" | "" | "default" => "u16",
        "long" => "i32",
        "dword" => "u32",
        "llong" => "i64",
        "qword" => "u64",
        "float" => "f32",
        "double" => "f64",
        "bcd" => "bcd16",
        "lbcd" => "bcd32",
        other => return Err(format!("its data type {other} has no counterpart here").into()),
    }
    .into();
    Ok(tag)
}

fn s7(name: &str, address: &str, kind: &str) -> Result<Tag, Reason> {
    // `DB1,REAL0` says its type itself.
    if address.contains(',') {
        return Tag::s7(name, address, None);
    }
    let kind = match kind.to_lowercase().as_str() {
        "" | "default" => None,
        "boolean" => Some("BOOL"),
        "char" => Some("SINT"),
        "byte" => Some("BYTE"),
        "short" => Some("INT"),
        "word" => Some("WORD"),
        "long" => Some("DINT"),
        "dword" => Some("DWORD"),
        "llong" => Some("LINT"),
        "qword" => Some("LWORD"),
        "float" => Some("REAL"),
        "double" => Some("LREAL"),
        other => return Err(format!("its data type {other} has no counterpart here").into()),
    };
    Tag::s7(name, address, kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Tag Name,Address,Data Type,Respect Data Type,Client Access,Scan Rate,Scaling,Raw Low,Raw High,Scaled Low,Scaled High,Scaled Data Type,Clamp Low,Clamp High,Eng Units,Description,Negate Value\n";

    #[test]
    fn modbus_tags_keep_their_scaling_and_unit_and_say_what_is_not_in_the_file() {
        let imported = table(&format!(
            "{HEAD}\"Oven.Zone1\",400101,Float,1,RO,100,Linear,0,27648,0,400,Double,1,1,degC,\"zone 1\",0\n\"Oven.Run\",400005.3,Boolean,1,RO,100,,,,,,,,,,,\n\"Oven.List\",400005[10],Word,1,RO,100,,,,,,,,,,,\n\"Plc\",DB1.DBD0,Float,1,RO,100,,,,,,,,,,,\n\"Flow\",400200,Word,1,RO,100,Square Root,0,1,0,1,,,,,,\n"
        ));
        assert_eq!(
            imported.table(),
            "name,address,as,raw,eu,unit,description\nOven/Zone1,400101,f32,\"[0, 27648]\",\"[0, 400]\",degC,zone 1\nOven/Run,400005.3,,,,,\nFlow,400200,u16,,,,\n"
        );
        let skipped: Vec<_> = imported.skipped.iter().map(ToString::to_string).collect();
        assert_eq!(
            skipped,
            [
                "line 4: `Oven.List`: `400005[10]` is an array; give its registers one by one",
                "line 5: `Plc`: it is read by s7, and this table is for modbus",
            ]
        );
        assert_eq!(imported.notes.len(), 2);
    }

    #[test]
    fn one_bad_row_among_thousands_is_named_by_its_line_and_costs_no_other() {
        // Line 1 is the head.
        let row = |line: u32| match line {
            4_711 => "Bad,nowhere,Float\n".to_owned(),
            _ => format!("T{line},{},Word\n", 400_000 + line),
        };
        let imported = table(&(HEAD.to_owned() + &(2..=5_000).map(row).collect::<String>()));
        assert_eq!(imported.tags.len(), 4_998);
        let skipped: Vec<_> = imported.skipped.iter().map(ToString::to_string).collect();
        assert!(matches!(&skipped[..], [one] if one.starts_with("line 4711: `Bad`:") && one.contains("nowhere")), "{skipped:?}");
    }

    #[test]
    fn s7_tags_come_with_commas_semicolons_and_further_sections() {
        let text = HEAD.replace(',', ";")
            + "Oven.T;DB1.DBD0;Float;1;RO;100;Linear;0;1,5;0;400;;;;°C;;0\nOven.P;\"DB1,REAL4\";Float;;;;;;;;;;;;;;\nOven.X;DB1.DBW0;Float;;;;;;;;;;;;;;\n;\nTag Name;Event\nx;y\n";
        let imported = table(&text);
        assert_eq!(
            imported.table(),
            "name,address,raw,eu,unit\nOven/T,DB1.DBD0:REAL,\"[0, 1.5]\",\"[0, 400]\",°C\nOven/P,DB1.DBD4:REAL,,,\n"
        );
        assert_eq!(imported.skipped.len(), 1);
        assert!(table("a,b\n1,2\n").skipped[0].why.contains("KEPServerEX"));
    }
}
