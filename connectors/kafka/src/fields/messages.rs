//! Messages of a schema in Protobuf: which of them a value is, and what fields they have.

use millrace_config::Reason;
use millrace_registry::protobuf::Protobuf;
use millrace_schemas::varint;
use prost_reflect::{FileDescriptor, Kind, MessageDescriptor};

/// Steps of a path to a message that is declared within others.
const STEPS: u64 = 100;

/// A message of a file, by what stands in front of its values, with the files that it names.
pub fn parse(text: &str, references: &[(&str, &str)], indexes: &[u8]) -> Result<MessageDescriptor, Reason> {
    let file = Protobuf::parse(text, references)?.descriptor();
    let path = split(indexes).map(|(path, _)| path);
    file.zip(path).and_then(|(file, path)| message_at(&file, &path)).ok_or_else(|| "there is no such message".into())
}

/// Which message of its file a value is, and the rest of it; `None`: it does not say so.
pub fn split(value: &[u8]) -> Option<(Vec<usize>, &[u8])> {
    let mut rest = value;
    let mut number = || -> Option<u64> {
        let (read, len) = varint::read(rest).ok()?;
        rest = &rest[len..];
        u64::try_from(varint::unzigzag(read)).ok()
    };
    let count = number()?;
    if count == 0 {
        return Some((vec![0], rest));
    }
    if count > STEPS {
        return None;
    }
    let path = (0..count).map(|_| number().and_then(|step| usize::try_from(step).ok())).collect::<Option<Vec<_>>>()?;
    Some((path, rest))
}

/// The message of a file by its path.
pub fn message_at(file: &FileDescriptor, path: &[usize]) -> Option<MessageDescriptor> {
    let (first, rest) = path.split_first()?;
    let first = file.messages().nth(*first)?;
    rest.iter().try_fold(first, |message, step| message.child_messages().nth(*step))
}

/// Whether a message has a field of this path.
pub fn has(message: &MessageDescriptor, path: &[String]) -> bool {
    let Some((first, rest)) = path.split_first() else { return true };
    let field = message.get_field_by_name(first).or_else(|| message.get_field_by_json_name(first));
    field.is_some_and(|field| match field.kind() {
        _ if rest.is_empty() => true,
        // The keys of a map are data.
        Kind::Message(_) if field.is_map() => true,
        Kind::Message(below) => has(&below, rest),
        _ => false,
    })
}
