//! Writes a descriptor as a `.proto` text, for the schemas that come as descriptors.
//!
//! What a reader of the wire needs: messages, fields, oneofs, maps, enumerations, reserved numbers, services. Custom options are left out.

use prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
use prost_reflect::prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, ServiceDescriptorProto};
use std::fmt::Write;

/// The `.proto` text of a file.
pub fn print(file: &FileDescriptorProto) -> String {
    let is_proto3 = file.syntax() == "proto3";
    let mut out = format!("syntax = \"{}\";\n", if is_proto3 { "proto3" } else { "proto2" });
    if file.package.is_some() {
        let _ = writeln!(out, "package {};", file.package());
    }
    for (index, import) in file.dependency.iter().enumerate() {
        let public = if file.public_dependency.iter().any(|one| usize::try_from(*one) == Ok(index)) { "public " } else { "" };
        let _ = writeln!(out, "import {public}{};", quoted(import));
    }
    if let Some(options) = &file.options {
        for (name, value) in [
            ("java_package", &options.java_package),
            ("java_outer_classname", &options.java_outer_classname),
            ("go_package", &options.go_package),
        ] {
            if let Some(value) = value {
                let _ = writeln!(out, "option {name} = {};", quoted(value));
            }
        }
        if options.java_multiple_files() {
            out.push_str("option java_multiple_files = true;\n");
        }
    }
    let mut printer = Printer { out, is_proto3 };
    for message in &file.message_type {
        printer.out.push('\n');
        printer.message(message, 0);
    }
    for one in &file.enum_type {
        printer.out.push('\n');
        printer.enumeration(one, 0);
    }
    printer.extensions(&file.extension, 0);
    for service in &file.service {
        printer.out.push('\n');
        printer.service(service);
    }
    printer.out
}

struct Printer {
    out: String,
    is_proto3: bool,
}

impl Printer {
    fn line(&mut self, depth: usize, text: &str) {
        let _ = writeln!(self.out, "{:1$}{text}", "", depth * 2);
    }

    fn message(&mut self, message: &DescriptorProto, depth: usize) {
        self.line(depth, &format!("message {} {{", message.name()));
        for range in &message.reserved_range {
            // A message's ranges end before their end.
            self.line(depth + 1, &format!("reserved {};", range_of(range.start(), range.end() - 1)));
        }
        for name in &message.reserved_name {
            self.line(depth + 1, &format!("reserved {};", quoted(name)));
        }
        for range in &message.extension_range {
            self.line(depth + 1, &format!("extensions {};", range_of(range.start(), range.end() - 1)));
        }
        let of_oneof = |field: &FieldDescriptorProto| field.oneof_index.filter(|_| !field.proto3_optional());
        for field in message.field.iter().filter(|field| of_oneof(field).is_none()) {
            let text = self.field(field, message, false);
            self.line(depth + 1, &text);
        }
        for (index, oneof) in message.oneof_decl.iter().enumerate() {
            let fields: Vec<_> =
                message.field.iter().filter(|field| of_oneof(field).is_some_and(|of| usize::try_from(of) == Ok(index))).collect();
            if fields.is_empty() {
                continue;
            }
            self.line(depth + 1, &format!("oneof {} {{", oneof.name()));
            for field in fields {
                let text = self.field(field, message, true);
                self.line(depth + 2, &text);
            }
            self.line(depth + 1, "}");
        }
        for nested in message.nested_type.iter().filter(|nested| !nested.options.as_ref().is_some_and(|options| options.map_entry())) {
            self.message(nested, depth + 1);
        }
        for one in &message.enum_type {
            self.enumeration(one, depth + 1);
        }
        self.extensions(&message.extension, depth + 1);
        self.line(depth, "}");
    }

    fn field(&self, field: &FieldDescriptorProto, message: &DescriptorProto, in_oneof: bool) -> String {
        let entry = message.nested_type.iter().find(|nested| {
            nested.options.as_ref().is_some_and(|options| options.map_entry())
                && field.type_name().ends_with(&format!(".{}", nested.name()))
        });
        let kind = match entry {
            Some(entry) if entry.field.len() == 2 => format!("map<{}, {}>", type_name(&entry.field[0]), type_name(&entry.field[1])),
            _ => format!("{}{}", self.label(field, in_oneof), type_name(field)),
        };
        let mut options = Vec::new();
        if let Some(default) = &field.default_value {
            let text = matches!(field.r#type(), Type::String | Type::Bytes);
            options.push(format!("default = {}", if text { quoted(default) } else { default.clone() }));
        }
        if let Some(packed) = field.options.as_ref().and_then(|options| options.packed) {
            options.push(format!("packed = {packed}"));
        }
        if field.options.as_ref().is_some_and(|options| options.deprecated()) {
            options.push("deprecated = true".into());
        }
        let options = if options.is_empty() { String::new() } else { format!(" [{}]", options.join(", ")) };
        format!("{kind} {} = {}{options};", field.name(), field.number())
    }

    fn label(&self, field: &FieldDescriptorProto, in_oneof: bool) -> &'static str {
        match field.label() {
            _ if in_oneof => "",
            Label::Repeated => "repeated ",
            Label::Required => "required ",
            Label::Optional if !self.is_proto3 || field.proto3_optional() => "optional ",
            Label::Optional => "",
        }
    }

    fn enumeration(&mut self, one: &EnumDescriptorProto, depth: usize) {
        self.line(depth, &format!("enum {} {{", one.name()));
        if one.options.as_ref().is_some_and(|options| options.allow_alias()) {
            self.line(depth + 1, "option allow_alias = true;");
        }
        for range in &one.reserved_range {
            self.line(depth + 1, &format!("reserved {};", range_of(range.start(), range.end())));
        }
        for name in &one.reserved_name {
            self.line(depth + 1, &format!("reserved {};", quoted(name)));
        }
        for value in &one.value {
            self.line(depth + 1, &format!("{} = {};", value.name(), value.number()));
        }
        self.line(depth, "}");
    }

    fn extensions(&mut self, fields: &[FieldDescriptorProto], depth: usize) {
        for field in fields {
            self.line(depth, &format!("extend {} {{", field.extendee()));
            let text = format!("{}{} {} = {};", self.label(field, false), type_name(field), field.name(), field.number());
            self.line(depth + 1, &text);
            self.line(depth, "}");
        }
    }

    fn service(&mut self, service: &ServiceDescriptorProto) {
        self.line(0, &format!("service {} {{", service.name()));
        for method in &service.method {
            let stream = |streams: bool| if streams { "stream " } else { "" };
            let text = format!(
                "rpc {} ({}{}) returns ({}{});",
                method.name(),
                stream(method.client_streaming()),
                method.input_type(),
                stream(method.server_streaming()),
                method.output_type()
            );
            self.line(1, &text);
        }
        self.line(0, "}");
    }
}

fn range_of(start: i32, end: i32) -> String {
    if start == end { start.to_string() } else { format!("{start} to {end}") }
}

fn type_name(field: &FieldDescriptorProto) -> &str {
    match field.r#type() {
        Type::Double => "double",
        Type::Float => "float",
        Type::Int64 => "int64",
        Type::Uint64 => "uint64",
        Type::Int32 => "int32",
        Type::Fixed64 => "fixed64",
        Type::Fixed32 => "fixed32",
        Type::Bool => "bool",
        Type::String => "string",
        Type::Bytes => "bytes",
        Type::Uint32 => "uint32",
        Type::Sfixed32 => "sfixed32",
        Type::Sfixed64 => "sfixed64",
        Type::Sint32 => "sint32",
        Type::Sint64 => "sint64",
        Type::Group | Type::Message | Type::Enum => field.type_name(),
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.escape_default())
}
