//! Tags of Ignition, as its JSON export has them: folders of atomic tags, with the addresses of Ignition's own drivers or of an OPC UA server.
//!
//! ```text
//! {"name":"Oven","tagType":"Folder","tags":[{"name":"Zone1","tagType":"AtomicTag","valueSource":"opc","dataType":"Float4",
//!   "opcServer":"X","opcItemPath":"ns=1;s=[plc1]HRF100"}]}
//! HR100 HRI HRUI HRF HRD HRI_64 HRUI_64 HRS    IR..  C  DI   Modbus, counted from 1 unless the device says otherwise; HR100.3 a bit
//! DB1,REAL0 IW0 ..                                           S7
//! ```

use crate::tags::{Imported, Protocol, Tag};
use millrace_config::Reason;
use serde_json::Value;
use std::collections::BTreeMap;

/// Folders in folders, at most.
const DEPTH_MOST: usize = 64;

pub fn tags(text: &str, zero_based: bool) -> Imported {
    let mut imported = Imported::default();
    match serde_json::from_str::<Value>(text) {
        Ok(value) => {
            let walk = Walk { zero_based };
            match value {
                Value::Array(items) => items.iter().for_each(|item| walk.node(item, "", &BTreeMap::new(), 0, &mut imported)),
                // The provider's root folder has no name.
                item => walk.node(&item, "", &BTreeMap::new(), 0, &mut imported),
            }
        }
        Err(error) => imported.skip(error.line(), "the file", format!("it is not JSON: {error}")),
    }
    if imported.tags.iter().any(|tag| tag.protocol == Protocol::Modbus) {
        let counted = if zero_based {
            "from zero, as --zero-based says"
        } else {
            "from one; if the device counts from zero, import with --zero-based"
        };
        imported.note(format!("Modbus addresses were taken as counted {counted}"));
        imported.note("the order of words is a setting of Ignition's device and not in the file: check it with `millrace probe modbus`");
    }
    imported
}

struct Walk {
    zero_based: bool,
}

fn text<'a>(node: &'a Value, key: &str) -> &'a str {
    node.get(key).and_then(Value::as_str).unwrap_or("")
}

impl Walk {
    fn node(&self, node: &Value, at: &str, outer: &BTreeMap<String, String>, depth: usize, imported: &mut Imported) {
        let own = text(node, "name");
        let name = match (at, own) {
            ("", own) => own.replace('/', "%2F"),
            (at, own) => format!("{at}/{}", own.replace('/', "%2F")),
        };
        if depth > DEPTH_MOST {
            return imported.skip(0, &name, "folders are nested too deep");
        }
        match text(node, "tagType") {
            "AtomicTag" => {
                let made = self.atomic(node, &name, outer);
                imported.take(0, &name, made);
            }
            "UdtType" => imported.skip(0, &name, "it is a type and no tag; its instances have the addresses"),
            // Folders, providers and instances of types.
            _ => {
                let mut parameters = outer.clone();
                if let Some(given) = node.get("parameters").and_then(Value::as_object) {
                    for (key, value) in given {
                        let value = value.get("value").unwrap_or(value);
                        parameters.insert(key.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned));
                    }
                }
                let items = node.get("tags").and_then(Value::as_array);
                if items.is_none() {
                    imported.skip(0, &name, "it is no tag and has none");
                }
                for item in items.into_iter().flatten() {
                    self.node(item, &name, &parameters, depth + 1, imported);
                }
            }
        }
    }

    fn atomic(&self, node: &Value, name: &str, parameters: &BTreeMap<String, String>) -> Result<Tag, Reason> {
        match text(node, "valueSource") {
            "opc" => {}
            "" => return Err("it does not say where its value comes from".into()),
            other => return Err(format!("its value comes from {other} and not from a device").into()),
        }
        let path = match node.get("opcItemPath") {
            Some(Value::String(path)) => path.clone(),
            // A binding: {"bindType": "parameter", "binding": "ns=1;s=[{plc}]HR{n}"}.
            Some(binding) => text(binding, "binding").to_owned(),
            None => String::new(),
        };
        let path = parameters.iter().fold(path, |path, (key, value)| path.replace(&format!("{{{key}}}"), value));
        if path.is_empty() {
            return Err("it has no `opcItemPath`".into());
        }
        if path.contains('{') {
            return Err(format!("`{path}` has a parameter that nothing gives").into());
        }
        let item = path.rsplit_once(";s=").map_or(path.as_str(), |(_, item)| item);
        let mut tag = match item.strip_prefix('[').and_then(|item| item.split_once(']')) {
            Some((_, address)) => self.driver(name, address)?,
            None => Tag::new(name, Protocol::OpcUa, path.clone()),
        };
        tag.unit = text(node, "engUnit").into();
        if text(node, "scaleMode") == "Linear" {
            let number = |key: &str| node.get(key).and_then(Value::as_f64);
            match (number("rawLow"), number("rawHigh"), number("scaledLow"), number("scaledHigh")) {
                (Some(raw_low), Some(raw_high), Some(low), Some(high)) if raw_low < raw_high => {
                    (tag.raw, tag.eu) = (Some([raw_low, raw_high]), Some([low, high]));
                }
                _ => return Err("its scaling is linear, but its ranges are not four numbers".into()),
            }
        }
        Ok(tag.describe(text(node, "documentation")))
    }

    /// An address of one of Ignition's own drivers.
    fn driver(&self, name: &str, address: &str) -> Result<Tag, Reason> {
        // A unit may stand before it: `3.HR100`.
        let (unit, register) = match address.split_once('.') {
            Some((unit, rest)) if unit.parse::<u8>().is_ok() => (Some(unit), rest),
            _ => (None, address),
        };
        const KINDS: [(&str, &str); 9] = [
            ("I_64", "i64"),
            ("UI_64", "u64"),
            ("BCD_32", "bcd32"),
            ("BCD", "bcd16"),
            ("US", "u16"),
            ("UI", "u32"),
            ("I", "i32"),
            ("F", "f32"),
            ("D", "f64"),
        ];
        let tables = [("HR", "holding", '4'), ("IR", "input", '3'), ("DI", "discrete", '1'), ("C", "coil", '0')];
        for (prefix, table, digit) in tables {
            let Some(rest) = register.strip_prefix(prefix) else { continue };
            let found = KINDS
                .iter()
                .find_map(|(letters, kind)| Some((*kind, rest.strip_prefix(letters)?)))
                .filter(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()));
            let (kind, rest) = found.unwrap_or((if matches!(digit, '3' | '4') { "i16" } else { "" }, rest));
            let (number, bit) = rest.split_once('.').unwrap_or((rest, ""));
            let Ok(number) = number.parse::<u32>() else { continue };
            if let Some(unit) = unit {
                return Err(format!("it is of unit {unit}: import each unit's tags into a device of its own").into());
            }
            let address = if self.zero_based { format!("{table}:{number}") } else { format!("{digit}{number:05}") };
            let mut tag = Tag::new(name, Protocol::Modbus, if bit.is_empty() { address } else { format!("{address}.{bit}") });
            tag.kind = if bit.is_empty() { kind.into() } else { String::new() };
            return Ok(tag);
        }
        Tag::s7(name, address, None)
            .map_err(|_| Reason::new(format!("`{address}` is neither a Modbus nor an S7 address of Ignition's drivers")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, zero_based: bool) -> (String, Vec<String>) {
        let imported = tags(text, zero_based);
        (imported.table(), imported.skipped.iter().map(ToString::to_string).collect())
    }

    fn tag(name: &str, path: &str) -> String {
        format!(
            r#"{{"name":"{name}","tagType":"AtomicTag","valueSource":"opc","dataType":"Float4","opcServer":"X","opcItemPath":"{path}"}}"#
        )
    }

    #[test]
    fn folders_become_levels_and_what_has_no_address_is_named() {
        let text = format!(
            r#"{{"name":"Oven","tagType":"Folder","tags":[{},{},{},{{"name":"calc","tagType":"AtomicTag","valueSource":"expr"}},{{"name":"T","tagType":"UdtType","tags":[]}}]}}"#,
            tag("Zone1", "ns=1;s=[plc1]HRF100"),
            tag("Bit", "ns=1;s=[plc1]HR100.3"),
            tag("Run", "ns=1;s=[plc1]C7"),
        );
        let (table, skipped) = shown(&text, false);
        assert_eq!(table, "name,address,as\nOven/Zone1,400100,f32\nOven/Bit,400100.3,\nOven/Run,000007,\n");
        assert_eq!(
            skipped,
            [
                "`Oven/calc`: its value comes from expr and not from a device",
                "`Oven/T`: it is a type and no tag; its instances have the addresses"
            ]
        );
        assert!(shown(&text, true).0.contains("Oven/Zone1,holding:100,f32"));
    }

    #[test]
    fn instances_fill_in_their_parameters_and_other_servers_are_read_by_opc_ua() {
        let instance = format!(
            r#"{{"name":"p1","tagType":"UdtInstance","parameters":{{"plc":{{"dataType":"String","value":"x"}},"n":7}},"tags":[{}, {}]}}"#,
            tag("a", "ns=1;s=[{plc}]DB{n},REAL4"),
            tag("b", "ns=1;s=[{plc}]DB{m},REAL4"),
        );
        let (table, skipped) = shown(&instance, false);
        assert_eq!(table, "name,address\np1/a,DB7.DBD4:REAL\n");
        assert!(skipped[0].contains("a parameter that nothing gives"), "{skipped:?}");
        assert_eq!(shown(&format!("[{}]", tag("t", "ns=2;s=Line.Temp")), false).0, "name,node\nt,\"ns=2;s=Line.Temp\"\n");
        assert!(shown("{", false).1[0].starts_with("line 1: `the file`: it is not JSON"));
    }
}
