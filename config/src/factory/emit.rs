//! The expanded factory as YAML: what the templates and tables made, secrets as references.

use crate::factory::Factory;
use crate::tree::node::{Kind, Node, Text};
use crate::tree::scalar::is_null;
use crate::tree::yaml;
use std::fmt::Write;

/// YAML that loads to the same factory, without templates, tables and includes.
pub fn expanded(factory: &Factory) -> String {
    let mut text = String::new();
    for entry in factory.head.entries() {
        emit_entry(&entry.key, &entry.value, 0, &mut text);
    }
    for (what, connectors) in [("sources", &factory.sources), ("sinks", &factory.sinks)] {
        if connectors.is_empty() {
            continue;
        }
        let _ = write!(text, "\n{what}:");
        for connector in connectors {
            text.push('\n');
            emit_entry(&connector.name, &connector.node, 1, &mut text);
        }
    }
    text
}

fn emit_entry(key: &str, value: &Node, depth: usize, out: &mut String) {
    indent(depth, out);
    scalar(key, true, out);
    out.push(':');
    emit_value(value, depth, out);
}

/// The value after `key:` or `-`, to the line's end and below.
fn emit_value(value: &Node, depth: usize, out: &mut String) {
    match &value.kind {
        Kind::Map(entries) if !entries.is_empty() => {
            out.push('\n');
            for entry in entries {
                emit_entry(&entry.key, &entry.value, depth + 1, out);
            }
        }
        Kind::Seq(items) if !items.is_empty() => {
            if items.iter().all(|item| !matches!(item.kind, Kind::Map(_) | Kind::Seq(_))) && items.len() <= 8 {
                out.push_str(" [");
                for (index, item) in items.iter().enumerate() {
                    out.push_str(if index > 0 { ", " } else { "" });
                    emit_scalar(item, out);
                }
                out.push_str("]\n");
                return;
            }
            out.push('\n');
            for item in items {
                indent(depth + 1, out);
                match &item.kind {
                    // The first key beside the dash, as people write it.
                    Kind::Map(entries) if !entries.is_empty() => {
                        let mut below = String::new();
                        for entry in entries {
                            emit_entry(&entry.key, &entry.value, depth + 2, &mut below);
                        }
                        out.push_str("- ");
                        out.push_str(below.trim_start());
                    }
                    _ => {
                        out.push('-');
                        emit_value(item, depth + 1, out);
                    }
                }
            }
        }
        _ => {
            out.push(' ');
            emit_scalar(value, out);
            out.push('\n');
        }
    }
}

fn indent(depth: usize, out: &mut String) {
    out.extend(std::iter::repeat_n("  ", depth));
}

fn emit_scalar(node: &Node, out: &mut String) {
    match &node.kind {
        Kind::Null => out.push('~'),
        Kind::Seq(_) => out.push_str("[]"),
        Kind::Map(_) => out.push_str("{}"),
        Kind::String(text) => match text.reference() {
            Some(reference) => quote(reference, out),
            None => scalar(text.as_str(), false, out),
        },
        Kind::Bool(text) | Kind::Int(text) | Kind::Float(text) => match text.reference() {
            Some(reference) => quote(reference, out),
            None => out.push_str(Text::as_str(text)),
        },
    }
}

/// A text, plain where YAML reads it back as that text, else in double quotes; `${` as it stands.
fn scalar(text: &str, key: bool, out: &mut String) {
    let text = text.replace("${", "$${");
    let plain =
        |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '/' | '.' | '+' | '(' | ')' | '=' | ';' | '%') || (c == ':' && !key);
    let begins = text.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '/'));
    let is_text = matches!(yaml::resolve(text.as_str().into()), Kind::String(_)) && !is_null(&text);
    // A key is text whatever it spells.
    if begins && text.chars().all(plain) && !text.ends_with(':') && (is_text || key && !is_null(&text)) {
        out.push_str(&text);
    } else {
        quote(&text, out);
    }
}

fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{FEFF}') => {
                let _ = write!(out, "\\u{:04X}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}
