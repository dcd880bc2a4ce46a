//! What the fuzz targets of `tests/fuzz` feed: a file of each format.

use crate::tags::Imported;
use crate::{block, ignition, kepware, sheet, step7, text, tia};

/// The table, as it is written, and all that is said of it.
fn write(imported: &Imported) {
    let _ = (imported.table(), imported.json());
    for skipped in &imported.skipped {
        let _ = skipped.to_string();
    }
}

/// A file of TIA Portal: a workbook, a text, or XML.
pub fn fuzz_import_tia(bytes: &[u8]) {
    if bytes.starts_with(b"PK") {
        if let Ok(sheets) = sheet::read(bytes) {
            write(&tia::workbook(&sheets));
        }
    } else if let Ok(text) = text::decode(bytes, None) {
        write(&tia::text(&text, Some(1)));
    }
}

/// A symbol table of STEP 7.
pub fn fuzz_import_step7(bytes: &[u8]) {
    if let Ok(text) = text::decode(bytes, None) {
        write(&step7::symbols(&text));
    }
}

/// The source text of a block.
pub fn fuzz_import_db(bytes: &[u8]) {
    if let Ok(text) = text::decode(bytes, None) {
        write(&block::source(&text, &[], Some(1)));
    }
}

/// A CSV of KEPServerEX.
pub fn fuzz_import_kepware(bytes: &[u8]) {
    if let Ok(text) = text::decode(bytes, None) {
        write(&kepware::table(&text));
    }
}

/// The JSON of Ignition; the first byte is the device's way to count.
pub fn fuzz_import_ignition(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    if let Ok(text) = text::decode(bytes, None) {
        write(&ignition::tags(&text, choice & 1 == 1));
    }
}
