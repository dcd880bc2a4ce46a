//! The codec against the standard's own bytes, against a foreign codec in both directions, and against anything at all.

use bytes::{Bytes, BytesMut};
use millrace_mqtt::fuzz_mqtt_packet;
use millrace_mqtt::packet::*;
use proptest::prelude::*;
use rumqttc_v4::mqttbytes as foreign_4;
use rumqttc_v5::mqttbytes as foreign_5;

fn read(bytes: &[u8], version: Version) -> Result<Packet<'_>, Malformed> {
    let frame = Frame::read(bytes)?.expect("a whole fixed header");
    assert_eq!(frame.len(), bytes.len(), "a whole packet");
    Packet::read(frame, &bytes[frame.header..], version)
}

#[test]
fn remaining_lengths_are_read_as_in_table_2_4() {
    // MQTT 3.1.1, table 2.4: the smallest and the largest of one to four bytes.
    for (bytes, value) in [
        (&[0x00][..], 0),
        (&[0x7F], 127),
        (&[0x80, 0x01], 128),
        (&[0xFF, 0x7F], 16_383),
        (&[0x80, 0x80, 0x01], 16_384),
        (&[0xFF, 0xFF, 0x7F], 2_097_151),
        (&[0x80, 0x80, 0x80, 0x01], 2_097_152),
        (&[0xFF, 0xFF, 0xFF, 0x7F], 268_435_455),
    ] {
        let packet = [&[0x30], bytes].concat();
        let frame = Frame::read(&packet).unwrap().unwrap();
        assert_eq!((frame.remaining, frame.header), (value, packet.len()));
        assert_eq!(Frame::read(&packet[..packet.len() - 1]), Ok(None), "it is not whole yet");
    }
    assert!(Frame::read(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF]).is_err());
    assert_eq!(Frame::read(&[]), Ok(None));
}

#[test]
fn a_connect_is_written_as_in_figure_3_6() {
    // MQTT 3.1.1, figure 3.6: protocol name MQTT, level 4, flags, keep alive 10; the payload as in 3.1.3.
    let mut out = Vec::new();
    let will = Will { topic: "w".into(), payload: b"x".to_vec(), qos: Qos::AtLeastOnce, retain: false };
    Connect {
        client_id: "c",
        clean_start: true,
        keep_alive_s: 10,
        login: Some(("u", "p")),
        will: Some(&will),
        session_expiry_s: 0,
        receive_maximum: 10,
    }
    .write(&mut out, Version::V4);
    let expected =
        [&[0x10, 25, 0, 4][..], b"MQTT", &[4, 0b1100_1110, 0, 10, 0, 1], b"c", &[0, 1], b"w", &[0, 1], b"x", &[0, 1], b"u", &[0, 1], b"p"];
    assert_eq!(out, expected.concat());
}

#[test]
fn a_subscribe_is_written_as_in_section_3_8() {
    // MQTT 3.1.1, 3.8: flags 2, packet identifier 10, filter "a/b" with QoS 1.
    let mut out = Vec::new();
    write_subscribe(&mut out, Version::V4, 10, "a/b", Qos::AtLeastOnce, 7);
    assert_eq!(out, [0x82, 8, 0, 10, 0, 3, b'a', b'/', b'b', 1]);
    // MQTT 5.0, 3.8: subscription identifier 7 as a property, retain handling 1 in the options.
    out.clear();
    write_subscribe(&mut out, Version::V5, 10, "a/b", Qos::AtLeastOnce, 7);
    assert_eq!(out, [0x82, 11, 0, 10, 2, 11, 7, 0, 3, b'a', b'/', b'b', 0x11]);
}

#[test]
fn a_publish_is_read_as_in_figure_3_11() {
    // MQTT 3.1.1, figure 3.11: topic a/b, packet identifier 10.
    let bytes = [0x3D, 8, 0, 3, b'a', b'/', b'b', 0, 10, b'!'];
    let Packet::Publish(publish) = read(&bytes, Version::V4).unwrap() else { panic!("a publish") };
    assert_eq!((publish.topic, publish.id, publish.payload), ("a/b", 10, &b"!"[..]));
    assert_eq!((publish.qos, publish.dup, publish.retain), (Qos::ExactlyOnce, true, true));
}

#[test]
fn malformed_packets_say_what_is_wrong() {
    for (bytes, version, part) in [
        (&[0x36, 2, 0, 0][..], Version::V4, "QoS 3"),
        (&[0x30, 3, 0, 5, b'a'], Version::V4, "shorter than its own lengths say"),
        (&[0x30, 2, 0, 0], Version::V4, "an empty topic"),
        (&[0x30, 3, 0, 1, b'#'], Version::V4, "a wildcard"),
        (&[0x30, 3, 0, 1, 0], Version::V4, "NUL"),
        (&[0x30, 3, 0, 1, 0xFF], Version::V4, "not UTF-8"),
        (&[0x32, 5, 0, 1, b'a', 0, 0], Version::V4, "packet identifier 0"),
        (&[0x30, 4, 0, 1, b'a', 9], Version::V5, "shorter than its own lengths say"),
        (&[0x41, 2, 0, 1], Version::V4, "wrong flags"),
        (&[0x60, 2, 0, 1], Version::V4, "wrong flags"),
        (&[0x10, 0], Version::V4, "only clients send"),
        (&[0x00, 0], Version::V4, "none at all"),
        (&[0x40, 1, 0], Version::V4, "shorter"),
        (&[0x20, 1, 0], Version::V4, "shorter"),
    ] {
        let error = read(bytes, version).unwrap_err().to_string();
        assert!(error.contains(part), "{bytes:?}: {error}");
    }
}

#[test]
fn the_largest_message_has_a_length_that_fits() {
    let message = Message { topic: "a", payload: &[], qos: Qos::AtMostOnce, retain: false, properties: &[] };
    assert_eq!(publish_len(Version::V5, &message), 4);
}

fn qos_5(qos: Qos) -> foreign_5::QoS {
    [foreign_5::QoS::AtMostOnce, foreign_5::QoS::AtLeastOnce, foreign_5::QoS::ExactlyOnce][qos as usize]
}

fn qos_4(qos: Qos) -> foreign_4::QoS {
    [foreign_4::QoS::AtMostOnce, foreign_4::QoS::AtLeastOnce, foreign_4::QoS::ExactlyOnce][qos as usize]
}

fn any_qos() -> impl Strategy<Value = Qos> {
    prop_oneof![Just(Qos::AtMostOnce), Just(Qos::AtLeastOnce), Just(Qos::ExactlyOnce)]
}

const TOPIC: &str = "[a-zA-Z0-9/ äöü€]{1,40}";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_the_foreign_codec_writes_is_read(
        topic in TOPIC, payload: Vec<u8>, qos in any_qos(), dup: bool, retain: bool, id in 1_u16..,
        user in prop::collection::vec(("[a-z]{0,9}", "[a-z ]{0,9}"), 0..4), subscription in prop::option::of(1_usize..200_000),
        expiry: Option<u32>, correlation in prop::option::of(prop::collection::vec(any::<u8>(), 0..20)),
    ) {
        let dup = dup && qos != Qos::AtMostOnce;
        let properties = foreign_5::v5::PublishProperties {
            payload_format_indicator: Some(1),
            message_expiry_interval: expiry,
            topic_alias: None,
            response_topic: Some("r".into()),
            correlation_data: correlation.clone().map(Bytes::from),
            user_properties: user.clone(),
            subscription_identifiers: subscription.into_iter().collect(),
            content_type: Some("text/plain".into()),
        };
        let publish = foreign_5::v5::Publish {
            dup, retain, qos: qos_5(qos), topic: Bytes::from(topic.clone()), pkid: id, payload: Bytes::from(payload.clone()), properties: Some(properties),
        };
        let mut bytes = BytesMut::new();
        publish.write(&mut bytes).unwrap();
        let Packet::Publish(got) = read(&bytes, Version::V5).unwrap() else { panic!("a publish") };
        prop_assert_eq!((got.topic, got.payload, got.qos, got.dup, got.retain), (&*topic, &*payload, qos, dup, retain));
        prop_assert_eq!(got.id, if qos == Qos::AtMostOnce { 0 } else { id });
        let properties: Vec<_> = got.properties().collect();
        prop_assert!(properties.contains(&Property::Text(RESPONSE_TOPIC, "r")));
        prop_assert!(properties.contains(&Property::Text(CONTENT_TYPE, "text/plain")));
        if let Some(expiry) = expiry { prop_assert!(properties.contains(&Property::Four(MESSAGE_EXPIRY, expiry))); }
        if let Some(id) = subscription { prop_assert!(properties.contains(&Property::Var(SUBSCRIPTION_ID, id as u32))); }
        if let Some(data) = &correlation { prop_assert!(properties.contains(&Property::Bytes(CORRELATION_DATA, data))); }
        let got_user: Vec<_> = properties.iter().filter_map(|p| match p { Property::User(k, v) => Some((k.to_string(), v.to_string())), _ => None }).collect();
        prop_assert_eq!(got_user, user);

        let publish = foreign_4::v4::Publish { dup, retain, qos: qos_4(qos), topic: Bytes::from(topic.clone()), pkid: id, payload: Bytes::from(payload.clone()) };
        let mut bytes = BytesMut::new();
        publish.write(&mut bytes).unwrap();
        let Packet::Publish(got) = read(&bytes, Version::V4).unwrap() else { panic!("a publish") };
        prop_assert_eq!((got.topic, got.payload, got.qos, got.dup, got.retain), (&*topic, &*payload, qos, dup, retain));
    }

    #[test]
    fn what_is_written_the_foreign_codec_reads(topic in TOPIC, payload: Vec<u8>, qos in any_qos(), retain: bool, id in 1_u16.., key in "[a-z]{0,9}") {
        let mut properties = Vec::new();
        push_user_property(&mut properties, &key, "v");
        push_message_expiry(&mut properties, 60);
        let message = Message { topic: &topic, payload: &payload, qos, retain, properties: &properties };
        let mut out = Vec::new();
        write_publish(&mut out, Version::V5, &message, id);
        let foreign_5::v5::Packet::Publish(got) = foreign_5::v5::Packet::read(&mut BytesMut::from(&out[..]), None).unwrap() else { panic!("a publish") };
        prop_assert_eq!((&got.topic[..], &got.payload[..], got.retain, got.qos), (topic.as_bytes(), &payload[..], retain, qos_5(qos)));
        let properties = got.properties.unwrap();
        prop_assert_eq!(properties.user_properties, [(key, "v".to_owned())]);
        prop_assert_eq!(properties.message_expiry_interval, Some(60));

        let mut out = Vec::new();
        write_publish(&mut out, Version::V4, &message, id);
        let foreign_4::v4::Packet::Publish(got) = foreign_4::v4::Packet::read(&mut BytesMut::from(&out[..]), 1 << 20).unwrap() else { panic!("a publish") };
        prop_assert_eq!((&got.topic[..], &got.payload[..], got.retain, got.qos), (topic.as_bytes(), &payload[..], retain, qos_4(qos)));

        let mut out = Vec::new();
        write_ack(&mut out, AckKind::Puback, id);
        let foreign_5::v5::Packet::PubAck(ack) = foreign_5::v5::Packet::read(&mut BytesMut::from(&out[..]), None).unwrap() else { panic!("a puback") };
        prop_assert_eq!(ack.pkid, id);
        out.clear();
        write_subscribe(&mut out, Version::V5, id, &topic, qos, 9);
        let foreign_5::v5::Packet::Subscribe(got) = foreign_5::v5::Packet::read(&mut BytesMut::from(&out[..]), None).unwrap() else { panic!("a subscribe") };
        prop_assert_eq!((got.pkid, &got.filters[0].path[..], got.filters[0].qos), (id, &topic[..], qos_5(qos)));
        prop_assert_eq!(got.properties.unwrap().id, Some(9));
    }

    #[test]
    fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        fuzz_mqtt_packet(&bytes);
    }

    #[test]
    fn bytes_that_almost_are_packets_are_read_without_harm(first in 0x20_u8.., body in prop::collection::vec(prop_oneof![0_u8..4, any::<u8>()], 0..60)) {
        let mut bytes = vec![first, body.len() as u8];
        bytes.extend(&body);
        bytes.extend(bytes.clone());
        fuzz_mqtt_packet(&bytes);
    }
}
