//! The schema of what leaves: one file, with the names of the origin.
//!
//! ```text
//! a message of the file's own package    where it was; a second form of it beside it, as NAME_2
//! one of another package                 in a message called like that package, which is a scope as the package was
//! one that comes with Protobuf           imported
//! ```
//!
//! Names of types are not in the bytes, so that only who reads them by name sees the difference.

use super::plan::{Form, What, is_of_protobuf};
use millrace_config::Reason;
use millrace_registry::protobuf::print;
use prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
use prost_reflect::prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, OneofDescriptorProto};
use prost_reflect::{Cardinality, FieldDescriptor, Kind, Syntax};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// The text of the schema, and the path of the first form's message in it.
pub(super) fn write(forms: &[Form]) -> Result<(String, Vec<usize>), Reason> {
    let Some(root) = forms.first() else { return Err("it has no message".into()) };
    let file = root.message.parent_file();
    let mut writer = Writer {
        forms,
        package: file.package_name().to_owned(),
        is_proto3: file.syntax() == Syntax::Proto3,
        shells: BTreeMap::new(),
        names: Vec::new(),
        file: Scope::default(),
        imports: BTreeSet::new(),
    };
    writer.name();
    for (at, form) in forms.iter().enumerate() {
        if let Some(path) = writer.names[at].clone() {
            let message = writer.message(form);
            writer.file.at(&path).message = message;
        }
    }
    let path = writer.names[0].clone().and_then(|path| writer.file.position(&path));
    let (message_type, enum_type) = writer.file.finish();
    let text = print(&FileDescriptorProto {
        package: (!writer.package.is_empty()).then(|| writer.package.clone()),
        dependency: writer.imports.into_iter().collect(),
        syntax: Some(if writer.is_proto3 { "proto3" } else { "proto2" }.to_owned()),
        options: file.file_descriptor_proto().options.clone(),
        message_type,
        enum_type,
        ..FileDescriptorProto::default()
    });
    Ok((text, path.ok_or("its message has no name")?))
}

/// What is declared in one place.
#[derive(Default)]
struct Scope {
    messages: Vec<(String, Scope)>,
    enums: Vec<EnumDescriptorProto>,
    /// Its own fields; empty where it only holds others.
    message: DescriptorProto,
}

impl Scope {
    fn at(&mut self, path: &[String]) -> &mut Self {
        let Some((first, rest)) = path.split_first() else { return self };
        let index = self.messages.iter().position(|(name, _)| name == first).unwrap_or_else(|| {
            self.messages.push((first.clone(), Self::default()));
            self.messages.len() - 1
        });
        self.messages[index].1.at(rest)
    }

    fn position(&self, path: &[String]) -> Option<Vec<usize>> {
        let Some((first, rest)) = path.split_first() else { return Some(Vec::new()) };
        let index = self.messages.iter().position(|(name, _)| name == first)?;
        let below = self.messages[index].1.position(rest)?;
        Some([vec![index], below].concat())
    }

    fn finish(self) -> (Vec<DescriptorProto>, Vec<EnumDescriptorProto>) {
        let finish = |(name, scope): (String, Self)| {
            let mut message = scope.message.clone();
            let (nested, enums) = scope.finish();
            // The entries of maps come last.
            let entries = std::mem::take(&mut message.nested_type);
            message.name = Some(name);
            message.nested_type = nested.into_iter().chain(entries).collect();
            message.enum_type = enums;
            message
        };
        (self.messages.into_iter().map(finish).collect(), self.enums)
    }
}

struct Writer<'f> {
    forms: &'f [Form],
    package: String,
    is_proto3: bool,
    /// Messages that stand for other packages.
    shells: BTreeMap<String, String>,
    /// Where each form is declared; `None`: within the field that is a map.
    names: Vec<Option<Vec<String>>>,
    file: Scope,
    imports: BTreeSet<String>,
}

impl Writer<'_> {
    fn path(&self, package: &str, full_name: &str) -> Vec<String> {
        let own = full_name.strip_prefix(package).unwrap_or(full_name).trim_start_matches('.');
        let steps = own.split('.').map(str::to_owned);
        self.shells.get(package).cloned().into_iter().chain(steps).collect()
    }

    /// Gives each form a place of its own.
    fn name(&mut self) {
        let pool = self.forms[0].message.parent_pool();
        let all: Vec<(String, String)> = pool
            .all_messages()
            .map(|one| (one.package_name().to_owned(), one.full_name().to_owned()))
            .chain(pool.all_enums().map(|one| (one.package_name().to_owned(), one.full_name().to_owned())))
            .collect();
        let mut taken: HashSet<Vec<String>> =
            all.iter().filter(|(package, _)| *package == self.package).map(|(package, name)| self.path(package, name)).collect();
        let others: BTreeSet<&String> = all.iter().map(|(package, _)| package).filter(|package| **package != self.package).collect();
        for package in others {
            let mut shell = if package.is_empty() { "other".to_owned() } else { package.replace('.', "_") };
            while taken.iter().any(|path| path[0] == shell) {
                shell.push('_');
            }
            taken.insert(vec![shell.clone()]);
            self.shells.insert(package.clone(), shell);
        }
        taken.extend(all.iter().map(|(package, name)| self.path(package, name)));
        let mut used = HashSet::new();
        for form in self.forms {
            if form.message.is_map_entry() {
                self.names.push(None);
                continue;
            }
            let path = self.path(form.message.package_name(), form.message.full_name());
            let mut free = path.clone();
            let mut number = 2;
            if !used.insert(path.clone()) {
                while !taken.insert(free.clone()) {
                    free = path.clone();
                    if let Some(last) = free.last_mut() {
                        *last = format!("{last}_{number}");
                    }
                    number += 1;
                }
            }
            self.names.push(Some(free));
        }
    }

    fn full(&self, path: &[String]) -> String {
        let package = if self.package.is_empty() { String::new() } else { format!(".{}", self.package) };
        format!("{package}.{}", path.join("."))
    }

    fn message(&mut self, form: &Form) -> DescriptorProto {
        let mut out = DescriptorProto::default();
        for (field, what) in form.fields.values() {
            let mut written = self.field(field, what);
            if let (Some(oneof), true) = (field.containing_oneof().filter(|oneof| !oneof.is_synthetic()), !field.is_list()) {
                let index = out.oneof_decl.iter().position(|one| one.name() == oneof.name()).unwrap_or_else(|| {
                    out.oneof_decl.push(OneofDescriptorProto { name: Some(oneof.name().to_owned()), ..OneofDescriptorProto::default() });
                    out.oneof_decl.len() - 1
                });
                written.oneof_index = i32::try_from(index).ok();
                written.proto3_optional = None;
            }
            if let What::Message(below) | What::Entries(below, _) = what
                && field.is_map()
            {
                let entry = self.entry(*below);
                // Found by the printer by its name.
                written.type_name = Some(format!(".{}", entry.name()));
                out.nested_type.push(entry);
            }
            out.field.push(written);
        }
        out
    }

    fn entry(&mut self, form: usize) -> DescriptorProto {
        let form = &self.forms[form];
        let options = form.message.descriptor_proto().options.clone();
        let field = form.fields.values().map(|(field, what)| self.field(field, what)).collect();
        DescriptorProto { name: Some(form.message.name().to_owned()), field, options, ..DescriptorProto::default() }
    }

    fn field(&mut self, field: &FieldDescriptor, what: &What) -> FieldDescriptorProto {
        let own = field.field_descriptor_proto();
        let is_text = matches!(what, What::Text(..) | What::List(..));
        let is_message = !is_text && matches!(field.kind(), Kind::Message(_));
        let label = match field.cardinality() {
            _ if matches!(what, What::List(..)) => Label::Optional,
            Cardinality::Repeated => Label::Repeated,
            Cardinality::Required if !self.is_proto3 => Label::Required,
            _ => Label::Optional,
        };
        let has_presence = field.supports_presence() || matches!(what, What::List(..));
        FieldDescriptorProto {
            name: own.name.clone(),
            number: own.number,
            label: Some(label.into()),
            r#type: if is_text { Some(Type::String.into()) } else { own.r#type },
            type_name: self.type_name(field, what),
            default_value: own.default_value.clone().filter(|_| !is_text && !self.is_proto3 && own.r#type() != Type::Bytes),
            options: own.options.clone().filter(|_| !is_text),
            proto3_optional: (self.is_proto3 && has_presence && !is_message && label == Label::Optional).then_some(true),
            ..FieldDescriptorProto::default()
        }
    }

    fn type_name(&mut self, field: &FieldDescriptor, what: &What) -> Option<String> {
        match (what, field.kind()) {
            (What::Text(..) | What::List(..), _) => None,
            (What::Message(form) | What::Entries(form, _), _) => self.names[*form].clone().map(|path| self.full(&path)),
            (What::Keep, Kind::Enum(of)) => {
                let path = self.path(of.package_name(), of.full_name());
                if let Some((name, scope)) = path.split_last() {
                    let scope = self.file.at(scope);
                    if !scope.enums.iter().any(|one| one.name() == name) {
                        scope.enums.push(of.enum_descriptor_proto().clone());
                    }
                }
                Some(self.full(&path))
            }
            (What::Keep, Kind::Message(message)) => {
                if is_of_protobuf(&message) {
                    self.imports.insert(message.parent_file().name().to_owned());
                }
                Some(format!(".{}", message.full_name()))
            }
            (What::Keep, _) => None,
        }
    }
}
