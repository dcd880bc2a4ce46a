//! From the bytes of an answer to a message: what servers really send is read by our own rules where the library's would end the connection.
//!
//! - Read: the values stay bytes ([`Answers`]), and are decoded once, like those of notifications.
//! - Publish: a notification whose length is -1 is as long as what is in it (Siemens panels).
//! - Browse: names that are not UTF-8 are mended, a `?` for each wrong byte; the node ids are what counts.
//! - Everything else is the library's.
//!
//! Invariants: no length is believed beyond the bytes that are there; an answer that can't be read fails its own request, nothing else.

use crate::wire::{Reader, Undecodable, builtin};
use opcua::core::{Message, ResponseMessage};
use opcua::types::{
    BinaryDecodable, ByteString, ByteStringBody, Context, DataValue, DateTime, Error, ExtensionObject, NodeId, NotificationMessage,
    ObjectId, PublishResponse, ReadResponse, ResponseHeader, StatusCode, Variant,
};
use std::ops::Range;
use std::sync::Arc;

type Read<T> = Result<T, Undecodable>;

/// The values of a Read, as they lie on the wire.
#[derive(Clone, Debug)]
pub struct Raw {
    message: Arc<[u8]>,
    at: Range<usize>,
}

impl Raw {
    /// The bytes of one DataValue.
    pub fn bytes(&self) -> &[u8] {
        &self.message[self.at.clone()]
    }

    /// As the library has it. What it can't decode is a value without content, BadDecodingError.
    pub fn decoded(&self, context: &Context<'_>) -> DataValue {
        let undecodable = || DataValue { status: Some(StatusCode::BadDecodingError), ..DataValue::null() };
        DataValue::decode(&mut self.bytes(), context).unwrap_or_else(|_| undecodable())
    }
}

/// Cuts the answer to a Read into its values. Errors: it is no answer to a Read.
pub fn values(answer: &ReadResponse) -> Result<Vec<Raw>, Error> {
    let carried = answer.results.as_ref().and_then(|results| results.first()).and_then(|value| value.value.as_ref());
    let Some(Variant::ByteString(bytes)) = carried else { return Ok(Vec::new()) };
    let message: Arc<[u8]> = bytes.as_ref().into();
    let mut reader = Reader::new(&message);
    let cut = (|| {
        let count = reader.length(1)?.unwrap_or(0);
        let mut values = Vec::with_capacity(count);
        for _ in 0..count {
            let start = message.len() - reader.rest().len();
            reader.skip(builtin::DATA_VALUE)?;
            values.push(start..message.len() - reader.rest().len());
        }
        Ok(values)
    })();
    let cut: Vec<Range<usize>> = cut.map_err(undecodable)?;
    Ok(cut.into_iter().map(|at| Raw { message: message.clone(), at }).collect())
}

fn undecodable(error: Undecodable) -> Error {
    Error::new(StatusCode::BadDecodingError, format!("the answer can't be read: {error}"))
}

/// Reads the body of an answer: its type's id, then its fields.
pub fn read(mut body: Vec<u8>, context: &Context<'_>) -> Result<ResponseMessage, Error> {
    let mut rest = body.as_slice();
    let id = NodeId::decode(&mut rest, context)?;
    let id = id.as_object_id().map_err(|_| Error::new(StatusCode::BadUnknownResponse, format!("the server answered with {id}")))?;
    let start = body.len() - rest.len();
    match id {
        ObjectId::ReadResponse_Encoding_DefaultBinary => read_response(rest).map_err(undecodable),
        ObjectId::PublishResponse_Encoding_DefaultBinary => publish_response(rest).map_err(undecodable),
        ObjectId::BrowseResponse_Encoding_DefaultBinary | ObjectId::BrowseNextResponse_Encoding_DefaultBinary => {
            for at in names(rest).map_err(undecodable)? {
                mend(&mut body[start + at.start..start + at.end]);
            }
            ResponseMessage::decode_by_object_id(&mut &body[start..], id, context)
        }
        id => ResponseMessage::decode_by_object_id(&mut rest, id, context),
    }
}

/// Replaces every byte that is not UTF-8; the length stays.
fn mend(text: &mut [u8]) {
    let mut at = 0;
    let mut wrong = Vec::new();
    for chunk in text.utf8_chunks() {
        at += chunk.valid().len();
        wrong.extend(at..at + chunk.invalid().len());
        at += chunk.invalid().len();
    }
    for index in wrong {
        text[index] = b'?';
    }
}

/// Texts in the header are for people; they are passed over.
fn header(reader: &mut Reader<'_>) -> Read<ResponseHeader> {
    let (ticks, request_handle, status) = (reader.i64()?, reader.u32()?, reader.u32()?);
    reader.skip(builtin::DIAGNOSTIC_INFO)?;
    for _ in 0..reader.length(4)?.unwrap_or(0) {
        reader.bytes()?;
    }
    reader.object()?;
    Ok(ResponseHeader {
        timestamp: DateTime::from(ticks),
        request_handle,
        service_result: StatusCode::from(status),
        ..ResponseHeader::null()
    })
}

/// The values stay bytes: one of them stands for all.
fn read_response(body: &[u8]) -> Read<ResponseMessage> {
    let mut reader = Reader::new(body);
    let response_header = header(&mut reader)?;
    let value = Variant::ByteString(ByteString::from(reader.rest().to_vec()));
    let results = Some(vec![DataValue { value: Some(value), ..DataValue::null() }]);
    Ok(ResponseMessage::Read(Box::new(ReadResponse { response_header, results, diagnostic_infos: None })))
}

fn publish_response(body: &[u8]) -> Read<ResponseMessage> {
    let mut reader = Reader::new(body);
    let response_header = header(&mut reader)?;
    let subscription_id = reader.u32()?;
    let numbers = |reader: &mut Reader<'_>| -> Read<Option<Vec<u32>>> {
        let Some(count) = reader.length(4)? else { return Ok(None) };
        (0..count).map(|_| reader.u32()).collect::<Read<Vec<u32>>>().map(Some)
    };
    let available_sequence_numbers = numbers(&mut reader)?;
    let more_notifications = reader.u8()? != 0;
    let (sequence_number, publish_time) = (reader.u32()?, DateTime::from(reader.i64()?));
    let notification_data = match reader.length(3)? {
        None => None,
        Some(count) => Some((0..count).map(|_| notification(&mut reader)).collect::<Read<Vec<_>>>()?),
    };
    let results = numbers(&mut reader)?.map(|results| results.into_iter().map(StatusCode::from).collect());
    Ok(ResponseMessage::Publish(Box::new(PublishResponse {
        response_header,
        subscription_id,
        available_sequence_numbers,
        more_notifications,
        notification_message: NotificationMessage { sequence_number, publish_time, notification_data },
        results,
        diagnostic_infos: None,
    })))
}

const DATA_CHANGE: ObjectId = ObjectId::DataChangeNotification_Encoding_DefaultBinary;
const EVENTS: ObjectId = ObjectId::EventNotificationList_Encoding_DefaultBinary;
const STATUS_CHANGE: ObjectId = ObjectId::StatusChangeNotification_Encoding_DefaultBinary;

fn notification(reader: &mut Reader<'_>) -> Read<ExtensionObject> {
    let mut id = reader.node_id()?;
    let encoding = reader.u8()?;
    if encoding == 0 {
        return Ok(ExtensionObject::null());
    }
    let id = NodeId::decode(&mut id, &opcua::types::ContextOwned::default().context())
        .map_err(|_| Undecodable("a notification has no readable type"))?;
    let body = match reader.bytes()? {
        Some(body) => body,
        None => {
            let before = reader.rest();
            match id.as_object_id() {
                Ok(DATA_CHANGE) => {
                    for _ in 0..reader.length(5)?.unwrap_or(0) {
                        reader.u32()?;
                        reader.skip(builtin::DATA_VALUE)?;
                    }
                    skip_diagnostics(reader)?;
                }
                Ok(EVENTS) => {
                    for _ in 0..reader.length(8)?.unwrap_or(0) {
                        reader.u32()?;
                        for _ in 0..reader.length(1)?.unwrap_or(0) {
                            reader.skip(builtin::VARIANT)?;
                        }
                    }
                }
                Ok(STATUS_CHANGE) => {
                    reader.u32()?;
                    reader.skip(builtin::DIAGNOSTIC_INFO)?;
                }
                _ => return Ok(ExtensionObject::null()),
            }
            &before[..before.len() - reader.rest().len()]
        }
    };
    Ok(ExtensionObject::new(ByteStringBody::new(ByteString::from(body.to_vec()), id)))
}

fn skip_diagnostics(reader: &mut Reader<'_>) -> Read<()> {
    for _ in 0..reader.length(1)?.unwrap_or(0) {
        reader.skip(builtin::DIAGNOSTIC_INFO)?;
    }
    Ok(())
}

/// Where the names and texts of a Browse's answer stand.
fn names(body: &[u8]) -> Read<Vec<Range<usize>>> {
    let mut reader = Reader::new(body);
    let mut names = Vec::new();
    let mut text = |reader: &mut Reader<'_>| -> Read<()> {
        if let Some(text) = reader.bytes()? {
            let end = body.len() - reader.rest().len();
            names.push(end - text.len()..end);
        }
        Ok(())
    };
    reader.i64()?;
    reader.u64()?;
    reader.skip(builtin::DIAGNOSTIC_INFO)?;
    for _ in 0..reader.length(4)?.unwrap_or(0) {
        text(&mut reader)?;
    }
    reader.object()?;
    for _ in 0..reader.length(12)?.unwrap_or(0) {
        reader.u32()?;
        reader.bytes()?;
        for _ in 0..reader.length(10)?.unwrap_or(0) {
            reader.node_id()?;
            reader.u8()?;
            reader.skip(builtin::EXPANDED_NODE_ID)?;
            reader.u16()?;
            text(&mut reader)?;
            let form = reader.u8()?;
            for bit in [1, 2] {
                if form & bit != 0 {
                    text(&mut reader)?;
                }
            }
            reader.u32()?;
            reader.skip(builtin::EXPANDED_NODE_ID)?;
        }
    }
    Ok(names)
}

/// For fuzzing: whatever the bytes are, nothing panics.
pub fn fuzz_opcua_answer(bytes: &[u8]) {
    let context = opcua::types::ContextOwned::default();
    if let Ok(ResponseMessage::Read(answer)) = read(bytes.to_vec(), &context.context())
        && let Ok(values) = values(&answer)
    {
        values.iter().for_each(|value| drop(value.decoded(&context.context())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opcua::types::{BinaryEncodable, BrowseResponse, BrowseResult, ContextOwned, LocalizedText, QualifiedName, ReferenceDescription};

    fn body(id: ObjectId, message: &impl BinaryEncodable) -> Vec<u8> {
        let context = ContextOwned::default();
        let mut body = NodeId::from(id).encode_to_vec(&context.context());
        body.extend(message.encode_to_vec(&context.context()));
        body
    }

    fn answer(body: Vec<u8>) -> ResponseMessage {
        read(body, &ContextOwned::default().context()).expect("is an answer")
    }

    fn spoilt(mut body: Vec<u8>, text: &[u8]) -> Vec<u8> {
        let at = body.windows(text.len()).position(|part| part == text).expect("the text is there");
        body[at] = 0xFF;
        body
    }

    #[test]
    fn a_text_that_is_not_utf_8_spoils_its_own_value_alone() {
        let results = vec![DataValue::value_only(7i32), DataValue::value_only("Kuechler"), DataValue::value_only(8i32)];
        let sent = ReadResponse { response_header: ResponseHeader::null(), results: Some(results), diagnostic_infos: None };
        let body = spoilt(body(ObjectId::ReadResponse_Encoding_DefaultBinary, &sent), b"Kuechler");
        let ResponseMessage::Read(got) = answer(body) else { panic!("is a Read") };
        let values = values(&got).expect("has values");
        let context = ContextOwned::default();
        let decoded: Vec<_> = values.iter().map(|value| value.decoded(&context.context())).collect();
        assert_eq!((decoded[0].value.clone(), decoded[2].value.clone()), (Some(Variant::Int32(7)), Some(Variant::Int32(8))));
        assert_eq!(decoded[1].status, Some(StatusCode::BadDecodingError));
        let mut batch = millrace_schemas::Batch::new();
        let stamped = Reader::new(values[1].bytes()).data_value(&mut batch, values[1].bytes()).expect("is a value");
        assert!(matches!(stamped.value, millrace_schemas::Value::Text(span) if batch.text_of(span) == "\u{FFFD}uechler"));
    }

    #[test]
    fn a_name_that_is_not_utf_8_is_mended_and_its_node_is_found() {
        let reference = |name: &str, id: u32| ReferenceDescription {
            node_id: NodeId::new(2, id).into(),
            browse_name: QualifiedName::new(2, name),
            display_name: LocalizedText::new("de", name),
            ..Default::default()
        };
        let result = BrowseResult { references: Some(vec![reference("Ofen", 1), reference("Tuer", 2)]), ..Default::default() };
        let sent = BrowseResponse { response_header: ResponseHeader::null(), results: Some(vec![result]), diagnostic_infos: None };
        let body = spoilt(body(ObjectId::BrowseResponse_Encoding_DefaultBinary, &sent), b"Tuer");
        let ResponseMessage::Browse(got) = answer(body) else { panic!("is a Browse") };
        let references = got.results.as_ref().and_then(|results| results[0].references.clone()).expect("has references");
        let names: Vec<_> = references.iter().map(|reference| reference.browse_name.name.to_string()).collect();
        assert_eq!((names, references[1].node_id.node_id.clone()), (vec!["Ofen".to_owned(), "?uer".to_owned()], NodeId::new(2, 2)));
    }

    #[test]
    fn a_notification_without_a_length_is_as_long_as_what_is_in_it() {
        let context = ContextOwned::default();
        let change = [&1u32.to_le_bytes()[..], &7u32.to_le_bytes(), &[1, 6], &42u32.to_le_bytes(), &(-1i32).to_le_bytes()].concat();
        let mut sent = NodeId::from(ObjectId::PublishResponse_Encoding_DefaultBinary).encode_to_vec(&context.context());
        sent.extend(ResponseHeader::null().encode_to_vec(&context.context()));
        sent.extend([&9u32.to_le_bytes()[..], &(-1i32).to_le_bytes(), &[0], &3u32.to_le_bytes(), &0i64.to_le_bytes()].concat());
        sent.extend(1u32.to_le_bytes());
        sent.extend(NodeId::from(DATA_CHANGE).encode_to_vec(&context.context()));
        sent.push(1);
        sent.extend((-1i32).to_le_bytes());
        sent.extend(&change);
        sent.extend([1u32.to_le_bytes(), 0u32.to_le_bytes(), (-1i32).to_le_bytes()].concat());
        let ResponseMessage::Publish(got) = answer(sent) else { panic!("is a Publish") };
        assert_eq!((got.subscription_id, got.notification_message.sequence_number), (9, 3));
        assert_eq!(got.results.as_ref().map(Vec::len), Some(1));
        let data = got.notification_message.notification_data.expect("has data").remove(0);
        let body = data.into_inner_as::<ByteStringBody>().expect("stays bytes");
        assert_eq!(body.raw_body().as_ref(), change);
    }

    proptest::proptest! {
        #[test]
        fn no_answer_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            fuzz_opcua_answer(&bytes);
            for id in [ObjectId::ReadResponse_Encoding_DefaultBinary, ObjectId::PublishResponse_Encoding_DefaultBinary] {
                let mut body = NodeId::from(id).encode_to_vec(&ContextOwned::default().context());
                body.extend(&bytes);
                fuzz_opcua_answer(&body);
            }
        }
    }
}
