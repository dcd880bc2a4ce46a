//! TIA Portal: tag tables as XLSX, SDF, pasted text and Openness XML; standard blocks as Openness XML, with their offsets.
//!
//! ```text
//! XLSX      sheet "PLC Tags": Name | Path | Data Type | Logical Address | Comment | Hmi Visible | ..       in any order, German too
//! SDF       "Pump_on","%Q4.1","Bool","True","True","False","main pump","","True"                            no header
//! pasted    Name, data type, address .. with tabs                                                           no header
//! Openness  <SW.Tags.PlcTag> .. <Name>, <DataTypeName>, <LogicalAddress>, <MultilingualText>
//!           <SW.Blocks.GlobalDB> .. <Member Name= Datatype=> .. <IntegerAttribute Name="Offset"> in bits
//! ```

use crate::sheet::{Sheet, attribute, referenced};
use crate::tags::{Imported, Tag};
use crate::text::{Header, first, rows, separator};
use millrace_config::Reason;
use quick_xml::Reader;
use quick_xml::events::Event;

/// A workbook with a tag table.
pub fn workbook(sheets: &[Sheet]) -> Imported {
    let mut imported = Imported::default();
    let mut is_found = false;
    for sheet in sheets {
        let is_header = |row: &[String]| !Header::new(row).find(ADDRESS).is_empty() && !Header::new(row).find(NAME).is_empty();
        let Some(at) = sheet.rows.iter().position(|(_, row)| is_header(row)) else { continue };
        is_found = true;
        named(&Header::new(&sheet.rows[at].1), &sheet.rows[at + 1..], &mut imported);
    }
    if !is_found {
        let names: Vec<&str> = sheets.iter().map(|sheet| sheet.name.as_str()).collect();
        imported.skip(0, &names.join(", "), "no sheet has the columns `Name` and `Logical Address`; export the tag table from TIA");
    }
    imported
}

const NAME: &[&str] = &["name"];
const ADDRESS: &[&str] = &["logical address", "logische adresse", "address", "adresse"];
const KIND: &[&str] = &["data type", "datentyp"];
const COMMENT: &[&str] = &["comment*", "kommentar*"];

/// Rows under a header.
fn named(header: &Header, rows: &[(usize, Vec<String>)], imported: &mut Imported) {
    let (name, address, kind, comment) = (header.find(NAME), header.find(ADDRESS), header.find(KIND), header.find(COMMENT));
    for (line, row) in rows {
        tag(*line, first(row, &name), first(row, &address), first(row, &kind), first(row, &comment), imported);
    }
}

fn tag(line: usize, name: &str, address: &str, kind: &str, comment: &str, imported: &mut Imported) {
    imported.take(line, name, made(name, address, kind).map(|tag| tag.describe(comment)));
}

fn made(name: &str, address: &str, kind: &str) -> Result<Tag, Reason> {
    if address.is_empty() {
        return Err("it has no address: a constant, or a tag of a block".into());
    }
    if kind.starts_with('"') {
        return Err(format!("its type {kind} is one of the project's own; import the tags in it from the block's source text").into());
    }
    let is_element = kind.eq_ignore_ascii_case("timer") || kind.eq_ignore_ascii_case("counter");
    Tag::s7(&name.replace('/', "%2F"), address, (!kind.is_empty() && !is_element).then_some(kind))
}

/// Text: SDF, pasted from the grid, a table with a header, or XML.
pub fn text(text: &str, db: Option<u16>) -> Imported {
    let text = text.trim_start_matches('\u{FEFF}');
    if text.trim_start().starts_with('<') {
        return openness(text, db);
    }
    let mut imported = Imported::default();
    let rows = rows(text, separator(text.lines().find(|line| !line.trim().is_empty()).unwrap_or("")));
    if let Some((_, head)) = rows.first() {
        let header = Header::new(head);
        if !header.find(ADDRESS).is_empty() && !header.find(NAME).is_empty() {
            named(&header, &rows[1..], &mut imported);
            return imported;
        }
    }
    for (line, row) in &rows {
        let cell = |index: usize| row.get(index).map_or("", |cell| cell.trim());
        // SDF has the address second; the grid of TIA has the type there.
        match (cell(1).starts_with('%'), cell(2).starts_with('%')) {
            (true, _) => tag(*line, cell(0), cell(1), cell(2), cell(6), &mut imported),
            (_, true) => tag(
                *line,
                cell(0),
                cell(2),
                cell(1),
                row.iter().skip(3).map(|cell| cell.trim()).find(|cell| !is_flag(cell)).unwrap_or(""),
                &mut imported,
            ),
            _ => imported.skip(*line, cell(0), "no address such as %Q4.1 in the second or third column"),
        }
    }
    imported
}

fn is_flag(cell: &str) -> bool {
    cell.is_empty() || ["true", "false", "wahr", "falsch", "retain", "non-retain"].contains(&cell.to_lowercase().as_str())
}

/// Openness XML: tag tables, and standard blocks.
fn openness(xml: &str, db: Option<u16>) -> Imported {
    let mut imported = Imported::default();
    if let Err(error) = walk(xml, db, &mut imported) {
        imported.skip(0, "the file", format!("it is not well-formed XML: {error}"));
    }
    if imported.tags.is_empty() && imported.skipped.is_empty() {
        imported.skip(0, "the file", "it has no PLC tags and no data block; export a tag table or a standard block by Openness");
    }
    imported
}

/// What is known of a tag while its element is open.
#[derive(Default)]
struct Open {
    name: String,
    kind: String,
    address: String,
    comment: String,
}

/// A member of a block.
struct Member {
    name: String,
    kind: String,
    is_written: bool,
}

fn walk(xml: &str, given: Option<u16>, imported: &mut Imported) -> Result<(), Reason> {
    let mut reader = Reader::from_str(xml);
    let mut path: Vec<String> = Vec::new();
    let (mut tag_open, mut text): (Option<Open>, String) = (None, String::new());
    let (mut members, mut is_offset, mut block): (Vec<Member>, bool, Option<u16>) = (Vec::new(), false, given);
    // The number of a block stands before its members or behind them.
    let mut waiting: Vec<(String, u32, String)> = Vec::new();
    let mut is_optimized = false;
    loop {
        let event = reader.read_event().map_err(|error| error.to_string())?;
        match event {
            Event::Start(start) => {
                let name = String::from_utf8_lossy(start.local_name().as_ref()).into_owned();
                match name.as_str() {
                    "SW.Tags.PlcTag" => tag_open = Some(Open::default()),
                    "Member" => {
                        members.push(Member { name: attribute(&start, "Name"), kind: attribute(&start, "Datatype"), is_written: false })
                    }
                    "IntegerAttribute" => is_offset = attribute(&start, "Name") == "Offset",
                    _ => {}
                }
                path.push(name);
                text.clear();
            }
            Event::Text(part) => text += &part.decode().map_err(|error| error.to_string())?,
            Event::GeneralRef(reference) => text += &referenced(&reference),
            Event::Empty(empty) if empty.local_name().as_ref() == b"Member" && !members.is_empty() => {
                imported.skip(0, &attribute(&empty, "Name"), "the file has no offset for it");
            }
            Event::End(end) => {
                let name = String::from_utf8_lossy(end.local_name().as_ref()).into_owned();
                path.pop();
                let parent = path.last().map_or("", String::as_str);
                match (name.as_str(), &mut tag_open) {
                    ("SW.Tags.PlcTag", Some(_)) => {
                        let open = tag_open.take().unwrap_or_default();
                        tag(0, &open.name, &open.address, &open.kind, &open.comment, imported);
                    }
                    ("Name", Some(open)) if parent == "AttributeList" && open.name.is_empty() => open.name = text.trim().into(),
                    ("DataTypeName", Some(open)) => open.kind = text.trim().into(),
                    ("LogicalAddress", Some(open)) => open.address = text.trim().into(),
                    ("Text", Some(open)) if open.comment.is_empty() => open.comment = text.trim().into(),
                    ("Number", None) if parent == "AttributeList" => block = given.or(text.trim().parse().ok()),
                    ("MemoryLayout", None) => is_optimized = text.trim() == "Optimized",
                    ("IntegerAttribute", None) if is_offset => {
                        is_offset = false;
                        if let (Ok(bits), Some(member)) = (text.trim().parse(), members.last_mut()) {
                            member.is_written = true;
                            let kind = member.kind.clone();
                            let full = members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>().join("/");
                            waiting.push((full, bits, kind));
                        }
                    }
                    ("Member", None) => {
                        let member = members.pop();
                        if let Some(member) = member.filter(|member| !member.is_written) {
                            imported.skip(0, &member.name, "the file has no offset for it");
                        }
                    }
                    _ => {}
                }
                text.clear();
            }
            Event::Eof => break,
            _ => {}
        }
    }
    if is_optimized {
        imported.skipped.clear();
        imported.skip(
            0,
            "the block",
            "it is optimised, so its members have no offsets; switch \"Optimized block access\" off, or read it by OPC UA",
        );
        return Ok(());
    }
    if !waiting.is_empty() && block.is_none() {
        imported.skip(0, "the block", "the file does not say its number; give it by --db");
        return Ok(());
    }
    for (name, bits, kind) in waiting {
        member(&name, bits, &kind, block.unwrap_or(0), imported);
    }
    Ok(())
}

/// A member with its offset in bits; a structure is its members.
fn member(name: &str, bits: u32, kind: &str, db: u16, imported: &mut Imported) {
    if kind.eq_ignore_ascii_case("struct") {
        return;
    }
    if kind.starts_with('"') {
        return imported.skip(0, name, format!("its type {kind} is one of the project's own, whose offsets are in its own export"));
    }
    let (kind, count) = match crate::block::array(kind) {
        Some((kind, count)) => (kind, format!("[{count}]")),
        None => (kind.to_owned(), String::new()),
    };
    let is_bit = kind.eq_ignore_ascii_case("bool");
    let address = if is_bit { format!("DB{db}.DBX{}.{}", bits / 8, bits % 8) } else { format!("DB{db}.DBB{}", bits / 8) };
    imported.take(0, name, Tag::s7(name, &address, Some(&format!("{kind}{count}"))));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(imported: &Imported) -> (String, Vec<String>) {
        (imported.table(), imported.skipped.iter().map(ToString::to_string).collect())
    }

    fn sheet(rows: &[&[&str]]) -> Vec<Sheet> {
        let rows = rows.iter().enumerate().map(|(index, row)| (index + 1, row.iter().map(ToString::to_string).collect())).collect();
        vec![Sheet { name: "PLC Tags".into(), rows }]
    }

    #[test]
    fn a_tag_table_is_read_in_english_and_german() {
        let (table, skipped) = shown(&workbook(&sheet(&[
            &["Name", "Path", "Data Type", "Logical Address", "Comment", "Hmi Visible"],
            &["Pump_on", "Tags\\Line2", "Bool", "%Q4.1", "main pump", "True"],
            &["Level", "Tags\\Line2", "Real", "%ID64", "", "True"],
            &["Recipe", "Tags", "\"Recipe_t\"", "%M100.0", "", "True"],
            &["Wrong", "Tags", "Real", "%MW10", "", "True"],
            &["Pump_on", "Tags", "Bool", "%Q4.2", "", "True"],
            &["Delay", "Tags", "Timer", "%T5", "a, b", "True"],
        ])));
        assert_eq!(table, "name,address,description\nPump_on,Q4.1,main pump\nLevel,ID64:REAL,\nDelay,T5,\"a, b\"\n");
        assert_eq!(
            skipped,
            [
                "line 4: `Recipe`: its type \"Recipe_t\" is one of the project's own; import the tags in it from the block's source text",
                "line 5: `Wrong`: `%MW10` addresses 2 bytes, and Real takes 4; write `MD10:REAL`".replace("Real", "REAL").as_str(),
                "line 6: `Pump_on`: the name was there before, in line 2",
            ]
        );
        let (table, _) = shown(&workbook(&sheet(&[
            &["Logische Adresse", "Name", "Datentyp", "Kommentar [de-DE]"],
            &["%E0.0", "Taster", "Bool", "grün"],
        ])));
        assert_eq!(table, "name,address,description\nTaster,I0.0,grün\n");
        let (_, skipped) = shown(&workbook(&sheet(&[&["Name", "Value"]])));
        assert!(skipped[0].contains("no sheet has the columns"), "{skipped:?}");
    }

    #[test]
    fn sdf_and_what_is_pasted_from_the_grid_are_read() {
        let (table, skipped) = shown(&text(
            "\"Pump_on\",\"%Q4.1\",\"Bool\",\"True\",\"True\",\"False\",\"main pump\",\"\",\"True\"\n\"x\",\"y\",\"z\"\n",
            None,
        ));
        assert_eq!(table, "name,address,description\nPump_on,Q4.1,main pump\n");
        assert_eq!(skipped, ["line 2: `x`: no address such as %Q4.1 in the second or third column"]);
        let (table, _) = shown(&text("Level\tReal\t%MD10\tTrue\tTrue\tfill level\n", None));
        assert_eq!(table, "name,address,description\nLevel,MD10:REAL,fill level\n");
    }

    #[test]
    fn openness_gives_tags_and_the_offsets_of_standard_blocks() {
        let tags = "<Document><SW.Tags.PlcTagTable><AttributeList><Name>T</Name></AttributeList><ObjectList><SW.Tags.PlcTag ID=\"1\"><AttributeList>\
            <DataTypeName>Int</DataTypeName><LogicalAddress>%MW10</LogicalAddress><Name>Speed</Name></AttributeList><ObjectList><MultilingualText><ObjectList>\
            <MultilingualTextItem><AttributeList><Culture>en-US</Culture><Text>r &amp; d</Text></AttributeList></MultilingualTextItem></ObjectList></MultilingualText>\
            </ObjectList></SW.Tags.PlcTag></ObjectList></SW.Tags.PlcTagTable></Document>";
        assert_eq!(shown(&text(tags, None)).0, "name,address,description\nSpeed,MW10:INT,r & d\n");
        let block = |layout: &str| {
            format!(
                "<Document><SW.Blocks.GlobalDB ID=\"0\"><AttributeList><Interface><Sections><Section Name=\"Static\">\
                 <Member Name=\"zone\" Datatype=\"Struct\"><AttributeList><IntegerAttribute Name=\"Offset\">0</IntegerAttribute></AttributeList>\
                   <Member Name=\"t\" Datatype=\"Real\"><AttributeList><IntegerAttribute Name=\"Offset\">0</IntegerAttribute></AttributeList></Member>\
                   <Member Name=\"on\" Datatype=\"Bool\"><AttributeList><IntegerAttribute Name=\"Offset\">33</IntegerAttribute></AttributeList></Member></Member>\
                 <Member Name=\"s\" Datatype=\"String[20]\"><AttributeList><IntegerAttribute Name=\"Offset\">48</IntegerAttribute></AttributeList></Member>\
                 <Member Name=\"x\" Datatype=\"Array[0..2] of Int\"><AttributeList><IntegerAttribute Name=\"Offset\">224</IntegerAttribute></AttributeList></Member>\
                 </Section></Sections></Interface><MemoryLayout>{layout}</MemoryLayout><Name>Oven</Name><Number>7</Number></AttributeList></SW.Blocks.GlobalDB></Document>"
            )
        };
        assert_eq!(
            shown(&text(&block("Standard"), None)),
            ("name,address\nzone/t,DB7.DBD0:REAL\nzone/on,DB7.DBX4.1\ns,DB7.DBB6:STRING[20]\nx,DB7.DBB28:INT[3]\n".into(), vec![])
        );
        let (_, skipped) = shown(&text(&block("Optimized"), None));
        assert!(skipped[0].contains("by OPC UA"), "{skipped:?}");
        assert!(shown(&text("<Document><a></Document>", None)).1[0].contains("not well-formed"));
    }
}
