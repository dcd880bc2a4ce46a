//! The decoders of what comes from the network and from the disk as plain functions of bytes; for fuzzing and the replay of its corpus.

use bytes::Bytes;
use kafka_protocol::messages::RequestHeader;
use kafka_protocol::protocol::Decodable;

use crate::api;
use crate::net::{request_bounds, scram};
use crate::storage::batch::{self, Header};
use crate::storage::partition;
use crate::storage::producers::Producers;
use crate::storage::records::{Records, repack, unpack};
use crate::storage::wire::Reader;

/// Reads bytes as a request's frame, as a connection does.
pub fn fuzz_request(bytes: &[u8]) {
    let Some(head) = bytes.first_chunk::<8>() else { return };
    let (key, version) = (i16::from_be_bytes([head[0], head[1]]), i16::from_be_bytes([head[2], head[3]]));
    let Ok(key) = api::find(key, version) else { return };
    let mut frame = Bytes::copy_from_slice(bytes);
    if RequestHeader::decode(&mut frame, key.request_header_version(version)).is_ok()
        && request_bounds::elements(key, version, &frame).is_some()
    {
        api::decodes(key, version, &frame);
    }
}

/// Reads bytes as a record batch, with the checksum that it should have; what is kept of it is a batch again.
pub fn fuzz_batch(bytes: &[u8]) {
    let _ = Header::check(bytes);
    let mut batch = bytes.to_vec();
    if batch.len() >= batch::HEADER {
        batch::seal(&mut batch);
    }
    let Ok(header) = Header::check(&batch) else { return };
    let Some(records) = unpack(&header, &batch) else { return };
    let kept: Vec<_> = Records(&records).step_by(2).collect();
    if let Ok(again) = repack(&batch, &header, &kept) {
        let header = Header::read(&again).expect("a batch has a header");
        let unpacked = unpack(&header, &again).expect("what was packed here is unpacked here");
        assert_eq!(Records(&unpacked).count(), kept.len());
    }
}

/// Reads bytes as a partition's saved state, and as a client's words at a login.
pub fn fuzz_saved(bytes: &[u8]) {
    let _ = Producers::read(&mut Reader(bytes));
    partition::fuzz_state(bytes);
    let _ = scram::First::read(bytes);
}
