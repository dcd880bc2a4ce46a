//! What comes from a broker as plain functions of bytes; for fuzzing and the replay of its corpus.

use crate::partition::TopicPartition;
use crate::wire::fetch::committed;
use crate::wire::{messages, scram};
use bytes::Bytes;
use millrace_batches::{Header, header, records};

/// Reads bytes as the answer to each request; the batches of a fetch are forwarded, or packed again.
pub fn fuzz_answer(bytes: &[u8]) {
    let _ = messages::api_versions(bytes);
    let _ = messages::metadata_answer(bytes);
    let _ = messages::sasl_handshake_answer(bytes);
    let _ = messages::sasl_authenticate_answer(bytes);
    let _ = messages::produce_answer(bytes);
    let _ = messages::find_coordinator_answer(bytes);
    let _ = messages::init_producer_id_answer(bytes);
    let _ = messages::add_partitions_answer(bytes);
    let _ = messages::end_transaction_answer(bytes);
    if let Some((mut login, _)) = scram::Login::begin(scram::Hash::Sha256, "u", "p") {
        // Begins with another's number, and so is no answer to this one.
        let _ = login.answer(bytes);
    }
    let answer = Bytes::copy_from_slice(bytes);
    let Some((_, had)) = messages::fetch_answer(&answer) else { return };
    for one in had {
        let name = TopicPartition::new(one.topic, one.partition);
        let Ok((batches, next)) = committed(&answer, &one, &name, 0) else { continue };
        assert!(next >= 0, "a partition is read forwards");
        for batch in batches {
            let sender = header::Sender { producer_id: 1, producer_epoch: 0, first_sequence: 0, is_transactional: true };
            let mut batch = batch.to_vec();
            header::seal(&mut batch);
            let Some(head) = Header::read(&batch) else { continue };
            if let Ok(sent) = header::forwarded(&batch, &sender) {
                assert_eq!(Header::read(&sent).map(|sent| sent.records), Some(head.records));
            }
            if let Ok(Some(packed)) = records::dense(&head, &batch, 1) {
                Header::check(&packed).expect("what was packed here is whole");
            }
        }
    }
}
