//! Protobuf schemas: compiled without protoc, compared by what the wire makes of a change.
//!
//! A schema is a `.proto` text, or a file descriptor in base64, as some clients register it; it is given out as text, or as a descriptor
//! (`format=serialized`). Two texts are one schema where their descriptors are the same: comments and white space don't count.

mod compare;
mod print;

pub use print::print;

pub(crate) use compare::incompatibilities;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millrace_config::Reason;
use prost::Message;
use prost_reflect::prost_types::FileDescriptorProto;
use prost_reflect::{DescriptorPool, FileDescriptor};
use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};
use std::collections::HashMap;

/// What the schema's own file is called; no import can be.
const OWN: &str = "default";

/// A schema in Protobuf, compiled.
pub struct Protobuf {
    file: FileDescriptorProto,
    /// With everything it imports.
    pool: DescriptorPool,
    text: String,
}

impl Protobuf {
    /// Compiles a schema and what it imports.
    ///
    /// Errors: one line that says what is wrong, with line and column.
    pub fn parse(text: &str, references: &[(&str, &str)]) -> Result<Self, Reason> {
        let mut files = HashMap::new();
        for (name, text) in references {
            let file = file(name, text).map_err(|why| format!("in the reference {name}: {why}"))?;
            files.insert((*name).to_owned(), file);
        }
        let own = file(OWN, text)?;
        files.insert(OWN.to_owned(), own);
        let mut resolver = ChainFileResolver::new();
        resolver.add(Imports(files));
        resolver.add(GoogleFileResolver::new());
        let mut compiler = Compiler::with_file_resolver(resolver);
        compiler.include_imports(true).include_source_info(false);
        compiler.open_file(OWN).map_err(|error| describe(&error))?;
        let pool = compiler.descriptor_pool();
        let mut file = pool.get_file_by_name(OWN).map(|file| file.file_descriptor_proto().clone()).unwrap_or_default();
        file.source_code_info = None;
        let text = if descriptor(text).is_some() { print::print(&file) } else { text.to_owned() };
        Ok(Self { file, pool, text })
    }

    /// The schema's own file; with it comes what it imports. `None`: there is none, which cannot be after it was compiled.
    pub fn descriptor(&self) -> Option<FileDescriptor> {
        self.pool.get_file_by_name(OWN)
    }

    /// The schema as text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What makes two schemas one: the descriptor's bytes.
    pub fn identity(&self) -> Vec<u8> {
        self.file.encode_to_vec()
    }

    /// The descriptor in base64, as clients without a parser ask for it.
    pub fn serialized(&self) -> String {
        STANDARD.encode(self.identity())
    }
}

struct Imports(HashMap<String, File>);

impl FileResolver for Imports {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        match self.0.get(name) {
            Some(file) => Ok(file.file_descriptor_proto().clone().into()),
            None => Err(protox::Error::file_not_found(name)),
        }
    }
}

fn file(name: &str, text: &str) -> Result<File, Reason> {
    match descriptor(text) {
        Some(mut descriptor) => {
            descriptor.name = Some(name.to_owned());
            Ok(File::from_file_descriptor_proto(descriptor))
        }
        None => File::from_source(name, text).map_err(|error| describe(&error).into()),
    }
}

/// A descriptor in base64; `None`: it is a text.
fn descriptor(text: &str) -> Option<FileDescriptorProto> {
    let bytes = STANDARD.decode(text.trim()).ok()?;
    FileDescriptorProto::decode(bytes.as_slice()).ok().filter(|file| !file.message_type.is_empty() || !file.enum_type.is_empty())
}

/// One line, with the place where there is one.
fn describe(error: &protox::Error) -> String {
    let text = if error.is_parse() || error.is_file_not_found() { format!("{error:?}") } else { error.to_string() };
    let line: String = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(": ");
    line.replace(&format!("{OWN}:"), "line ").chars().take(500).collect()
}
