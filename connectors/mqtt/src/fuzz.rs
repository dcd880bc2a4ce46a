//! Entry point of the fuzzer.

use crate::packet::*;

/// Reads whatever is in `bytes`, as both versions, to the end or the first malformed packet; from memory and through an inbox. For fuzzing.
#[doc(hidden)]
pub fn fuzz_mqtt_packet(bytes: &[u8]) {
    for version in [Version::V4, Version::V5] {
        let mut inbox = crate::session::Inbox::new(0);
        inbox.feed(bytes);
        while let Ok(Some(taken)) = inbox.next(version) {
            let taken = format!("{taken:?}");
            inbox.put_back();
            assert_eq!(inbox.next(version).map(|again| format!("{:?}", again.expect("it was just put back"))), Ok(taken));
        }
        let mut rest = bytes;
        while let Ok(Some(frame)) = Frame::read(rest) {
            if rest.len() < frame.len() {
                break;
            }
            let (packet, tail) = rest.split_at(frame.len());
            rest = tail;
            match Packet::read(frame, &packet[frame.header..], version) {
                Ok(Packet::Publish(publish)) => {
                    assert!(!publish.topic.is_empty());
                    assert!(publish.topic.len() + publish.payload.len() <= frame.remaining);
                    publish.properties().for_each(drop);
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
    }
}
