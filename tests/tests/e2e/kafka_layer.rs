//! The Kafka layer against a real broker: topics, errors and their outcomes, TLS, SASL.

use millrace_kafka::*;
use millrace_tests::*;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const ASK: Duration = Duration::from_secs(20);

/// Keeps what the producer reports.
#[derive(Default)]
struct Heard {
    reports: Mutex<BTreeMap<u64, Option<KafkaError>>>,
    states: Mutex<Vec<Connection>>,
}

impl Deliveries for Heard {
    fn reports(&self, reports: &[Report]) {
        let mut all = self.reports.lock();
        for report in reports {
            let again = all.insert(report.opaque, report.error.as_deref().cloned());
            assert!(again.is_none(), "message {} is reported twice", report.opaque);
        }
    }

    fn connection(&self, state: Connection) {
        self.states.lock().push(state);
    }
}

impl Heard {
    fn outcome(&self, opaque: u64) -> Option<KafkaError> {
        eventually("the message is reported", || self.reports.lock().get(&opaque).cloned())
    }

    fn class(&self, opaque: u64) -> Option<Class> {
        self.outcome(opaque).map(|error| error.class)
    }
}

fn producer(settings: &Settings) -> (Producer, Arc<Heard>) {
    let heard = Arc::new(Heard::default());
    (Producer::new(settings, heard.clone()).expect("a producer can be made"), heard)
}

fn message(value: &[u8], opaque: u64) -> Outgoing<'_> {
    Outgoing { partition: None, key: Some(b"k"), value: Some(value), timestamp_ms: 0, opaque }
}

fn send(producer: &Producer, topic: &str, value: &[u8], opaque: u64) -> Result<(), SendError> {
    producer.send(&producer.topic(topic).expect("a topic handle can be made"), &message(value, opaque), std::iter::empty())
}

#[test]
fn a_message_goes_with_key_headers_timestamp_and_null_value() {
    let kafka = Kafka::shared();
    let name = kafka.topic("layer");
    kafka.create_topic(&name, 1, &[]);
    let (producer, heard) = producer(&Settings::new(kafka.brokers()));
    let topic = producer.topic(&name).unwrap();
    let time = 1_800_000_000_000;
    let headers = [("a", Some(&b"1"[..])), ("a", None), ("", Some(&b""[..]))];
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    let time = time.min(now);
    producer.send(&topic, &Outgoing { timestamp_ms: time, ..message(b"v", 1) }, headers.into_iter()).unwrap();
    producer.send(&topic, &Outgoing { key: None, value: None, ..message(b"", 2) }, std::iter::empty()).unwrap();
    producer.send(&topic, &Outgoing { key: Some(b""), value: Some(b""), ..message(b"", 3) }, std::iter::empty()).unwrap();
    producer.flush(ASK).unwrap();
    assert_eq!((heard.outcome(1), heard.outcome(2), heard.outcome(3)), (None, None, None));
    let records = kafka.read(&name);
    assert_eq!((records[0].key_text().as_str(), records[0].text().as_str(), records[0].timestamp_ms), ("k", "v", time));
    let headers = [("a", Some(b"1".to_vec())), ("a", None), ("", Some(Vec::new()))].map(|(n, v)| (n.to_owned(), v));
    assert_eq!(records[0].headers, headers);
    assert_eq!((&records[1].key, &records[1].value), (&None, &None));
    assert_eq!((&records[2].key, &records[2].value), (&Some(Vec::new()), &Some(Vec::new())));
}

#[test]
fn each_refusal_says_whether_the_record_or_the_topic_is_at_fault() {
    let kafka = Kafka::shared();
    let name = kafka.topic("layer");
    kafka.create_topic(&name, 1, &[("max.message.bytes", "2000"), ("cleanup.policy", "compact")]);
    let (producer, heard) = producer(&Settings::new(kafka.brokers()).with("topic.metadata.propagation.max.ms", "1000"));
    let topic = producer.topic(&name).unwrap();
    let large: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(5_000).collect();
    let send = |message: Outgoing<'_>| {
        producer.send(&topic, &message, std::iter::empty()).unwrap();
        producer.flush(ASK).unwrap();
        heard.class(message.opaque)
    };
    assert_eq!(send(message(&large, 1)), Some(Class::Record(RecordFault::TooLarge)));
    assert_eq!(send(Outgoing { key: None, ..message(b"v", 2) }), Some(Class::Record(RecordFault::Invalid)));
    let next_day = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64 + 86_400_000;
    assert_eq!(send(Outgoing { timestamp_ms: next_day, ..message(b"v", 3) }), Some(Class::Record(RecordFault::Timestamp)));
    assert_eq!(send(message(b"v", 4)), None);
    let huge = vec![0; 2_000_000];
    match producer.send(&topic, &message(&huge, 5), std::iter::empty()) {
        Err(SendError::Refused(error)) => assert_eq!(error.class, Class::Record(RecordFault::TooLarge)),
        other => panic!("{other:?}"),
    }
    let missing = producer.topic(&kafka.topic("missing")).unwrap();
    match producer.send(&missing, &message(b"v", 6), std::iter::empty()) {
        Ok(()) => assert_eq!(heard.class(6), Some(Class::Topic)),
        Err(SendError::Refused(error)) => assert_eq!(error.class, Class::Topic),
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn a_broker_that_dies_is_waited_for_and_nothing_is_lost_or_reported_twice() {
    let mut kafka = Kafka::start();
    let name = kafka.topic("layer");
    kafka.create_topic(&name, 1, &[]);
    let (producer, heard) = producer(&Settings::new(kafka.brokers()).with("reconnect.backoff.max.ms", "500"));
    send(&producer, &name, b"0", 0).unwrap();
    assert_eq!(heard.outcome(0), None);
    kafka.kill9();
    for i in 1..=1_000u64 {
        send(&producer, &name, i.to_string().as_bytes(), i).unwrap();
    }
    eventually("the outage is seen", || heard.states.lock().iter().any(|s| matches!(s, Connection::Down(_))).then_some(()));
    assert!(heard.reports.lock().len() < 1_000);
    kafka.restart();
    for i in 1..=1_000 {
        assert_eq!(heard.outcome(i), None);
    }
    eventually("the connection is back", || (heard.states.lock().last() == Some(&Connection::Up)).then_some(()));
    let values: Vec<u64> = kafka.read(&name).iter().map(|r| r.text().parse().unwrap()).collect();
    assert!(values.into_iter().eq(0..=1_000), "in order, each once");
}

#[test]
fn a_full_queue_says_so_and_dropping_the_producer_reports_what_it_held() {
    let settings = Settings::new(format!("127.0.0.1:{}", free_port())).with("queue.buffering.max.messages", "100");
    let (producer, heard) = producer(&settings);
    let full = (0..1_000).find(|i| matches!(send(&producer, "t", b"v", *i), Err(SendError::QueueFull)));
    assert_eq!(full, Some(100));
    drop(producer);
    let reports = heard.reports.lock();
    assert_eq!(reports.len(), 100);
    assert!(reports.values().all(|r| r.as_ref().is_some_and(|e| e.class == Class::Retry)));
}

#[test]
fn tls_and_both_kinds_of_passwords_connect_and_a_wrong_one_is_denied() {
    let authority = Authority::new("plant");
    let kafka = Kafka::options().tls(&authority, &authority.leaf("kafka")).user("millrace", "s3cret").start();
    let name = kafka.topic("layer");
    kafka.create_topic(&name, 1, &[]);
    let settings = |mechanism: &str, password: &str, ca: &Authority| {
        Settings::new(kafka.secured_brokers())
            .with("security.protocol", "SASL_SSL")
            .with("sasl.mechanism", mechanism)
            .with("sasl.username", "millrace")
            .with("sasl.password", password)
            .with("ssl.ca.location", ca.ca().to_str().unwrap())
    };
    for mechanism in ["SCRAM-SHA-512", "PLAIN"] {
        let settings = settings(mechanism, "s3cret", &authority);
        assert_eq!(check_properties(&settings.properties), []);
        let (producer, heard) = producer(&settings);
        send(&producer, &name, mechanism.as_bytes(), 1).unwrap();
        assert_eq!(heard.outcome(1), None);
        assert!(Admin::new(&settings, ASK).unwrap().topics().unwrap().contains_key(&name));
    }
    let denied = |settings: &Settings| {
        let (producer, heard) = producer(settings);
        send(&producer, &name, b"never", 1).unwrap();
        eventually("the refusal is said", || {
            heard.states.lock().iter().find_map(|s| if let Connection::Denied(why) = s { Some(why.clone()) } else { None })
        })
    };
    assert!(denied(&settings("SCRAM-SHA-512", "wrong", &authority)).to_lowercase().contains("authentication"));
    assert!(denied(&settings("PLAIN", "s3cret", &Authority::new("somebody else"))).contains("certificate"));
    assert_eq!(kafka.read(&name).len(), 2);
}

#[test]
fn a_topic_that_is_not_allowed_is_refused_and_another_goes() {
    let kafka = Kafka::options().authorizer().user("millrace", "s3cret").start();
    let (mine, other) = (kafka.topic("mine"), kafka.topic("other"));
    kafka.create_topic(&mine, 1, &[]);
    kafka.create_topic(&other, 1, &[]);
    kafka.allow("millrace", &["--operation", "Write", "--operation", "Describe", "--topic", &mine]);
    kafka.allow("millrace", &["--operation", "IdempotentWrite", "--cluster"]);
    let settings = Settings::new(kafka.secured_brokers())
        .with("security.protocol", "SASL_PLAINTEXT")
        .with("sasl.mechanism", "SCRAM-SHA-512")
        .with("sasl.username", "millrace")
        .with("sasl.password", "s3cret");
    let (producer, heard) = producer(&settings);
    send(&producer, &mine, b"v", 1).unwrap();
    assert_eq!(heard.outcome(1), None);
    let class = match send(&producer, &other, b"v", 2) {
        Ok(()) => heard.class(2),
        Err(SendError::Refused(error)) => Some(error.class),
        Err(other) => panic!("{other:?}"),
    };
    assert_eq!(class, Some(Class::Topic));
    send(&producer, &mine, b"w", 3).unwrap();
    assert_eq!(heard.outcome(3), None);
    let spec = TopicSpec { name: kafka.topic("new"), ..TopicSpec::default() };
    match Admin::new(&settings, ASK).unwrap().ensure(&[spec]).unwrap().as_slice() {
        [TopicOutcome::Refused(error)] => assert_eq!(error.class, Class::Topic),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_topic_made_anew_has_another_id_in_the_same_cluster() {
    for kafka in [Kafka::shared(), &Kafka::millrace(0)] {
        let (name, other) = (kafka.topic("identified"), kafka.topic("other"));
        kafka.create_topic(&name, 1, &[]);
        kafka.create_topic(&other, 1, &[]);
        let admin = Admin::new(&Settings::new(kafka.brokers()), ASK).unwrap();
        let ids = || admin.identities(&[&name, &other]).unwrap();
        let (cluster, before) = ids();
        assert!(!cluster.is_empty() && before.len() == 2 && before[0].len() == 22 && before[0] != before[1], "{cluster} {before:?}");
        kafka.delete_topic(&name);
        kafka.create_topic(&name, 1, &[]);
        let (again, after) =
            eventually("the topic is known anew", || admin.identities(&[&name, &other]).ok().filter(|(_, ids)| ids[0] != before[0]));
        assert_eq!((again, &after[1]), (cluster, &before[1]));
        assert!(admin.identities(&["nobody-made-it"]).is_err(), "a topic that is not there has no id");
    }
}

#[test]
fn a_topic_is_made_as_declared_and_a_second_look_contradicts_nothing() {
    let kafka = Kafka::shared();
    let spec = TopicSpec {
        name: kafka.topic("layer"),
        partitions: Some(4),
        replication: Some(1),
        configs: [("retention.ms", "5000000"), ("cleanup.policy", "compact,delete"), ("max.message.bytes", "4000")]
            .map(|(n, v)| (n.to_owned(), v.to_owned()))
            .into(),
    };
    let admin = Admin::new(&Settings::new(kafka.brokers()), ASK).unwrap();
    assert_eq!(admin.ensure(std::slice::from_ref(&spec)).unwrap(), [TopicOutcome::Created]);
    // The cluster tells every broker a moment later.
    eventually("the topic is described as declared", || {
        (admin.ensure(std::slice::from_ref(&spec)).unwrap() == [TopicOutcome::Exists(Vec::new())]).then_some(())
    });
    let limits = admin.limits(&[&spec.name]).unwrap()[0];
    assert_eq!((limits.max_message_bytes, limits.retention_ms, limits.after_max_ms), (4_000, Some(5_000_000), 3_600_000));
    let other = TopicSpec { partitions: Some(8), ..spec };
    match admin.ensure(&[other]).unwrap().as_slice() {
        [TopicOutcome::Exists(contradictions)] => assert_eq!(contradictions[0].to_string(), "partitions is 4, declared 8"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_transaction_commits_or_leaves_no_trace_and_a_second_producer_fences_the_first() {
    let kafka = Kafka::shared();
    let name = kafka.topic("layer");
    kafka.create_topic(&name, 1, &[]);
    let id = kafka.topic("transactions");
    let open = || {
        let producer =
            Producer::transactional(&Settings::new(kafka.brokers()), &id, Duration::from_secs(15), Arc::new(Heard::default())).unwrap();
        producer.init_transactions(ASK).unwrap();
        producer
    };
    let first = open();
    for (opaque, (value, commits)) in [("a", true), ("b", false), ("c", true)].into_iter().enumerate() {
        first.begin().unwrap();
        send(&first, &name, value.as_bytes(), opaque as u64).unwrap();
        if commits { first.commit(ASK).unwrap() } else { first.abort(ASK).unwrap() }
    }
    let second = open();
    first.begin().unwrap();
    send(&first, &name, b"d", 9).unwrap();
    match first.commit(ASK) {
        Err(TransactionError::Fenced(_) | TransactionError::Fatal(_)) => {}
        other => panic!("{other:?}"),
    }
    drop(second);
    let values: Vec<String> = kafka.read(&name).iter().map(Record::text).collect();
    assert_eq!(values, ["a", "c"]);
}

#[test]
fn a_rebalance_waits_until_the_first_member_has_given_its_partitions_back() {
    let kafka = Kafka::shared();
    let (name, group) = (kafka.topic("layer"), kafka.topic("group"));
    kafka.create_topic(&name, 4, &[]);
    let settings = Settings::new(kafka.brokers());
    let join = || {
        let consumer = Consumer::group(&settings, &group, Start::Earliest).unwrap();
        consumer.subscribe([name.as_str()]).unwrap();
        consumer
    };
    let first = join();
    let all = eventually("the first member has all partitions", || match first.poll(Duration::from_millis(100), |_| true) {
        Polled::Assigned(parts) if !parts.is_empty() => Some(parts),
        _ => None,
    });
    assert_eq!(all.len(), 4);
    first.take(&all.iter().map(|p| (p.clone(), None)).collect::<Vec<_>>()).unwrap();
    let second = join();
    let revoked = eventually("the first is asked for some", || {
        // An assignment is answered, an empty one too: the group waits for it.
        if let Polled::Assigned(parts) = second.poll(Duration::from_millis(1), |_| true) {
            assert!(parts.is_empty(), "nothing moves before it is given back");
            second.take(&[]).unwrap();
        }
        match first.poll(Duration::from_millis(100), |_| true) {
            Polled::Revoked { parts, lost } => {
                assert!(!lost);
                Some(parts)
            }
            _ => None,
        }
    });
    first.commit(&revoked.iter().map(|p| (p.clone(), 0)).collect::<Vec<_>>()).unwrap();
    first.give(&revoked).unwrap();
    let taken = eventually("the second has them", || {
        if let Polled::Assigned(parts) = first.poll(Duration::from_millis(1), |_| true) {
            first.take(&parts.into_iter().map(|p| (p, None)).collect::<Vec<_>>()).unwrap();
        }
        match second.poll(Duration::from_millis(100), |_| true) {
            Polled::Assigned(parts) if parts.is_empty() => {
                second.take(&[]).unwrap();
                None
            }
            Polled::Assigned(parts) => Some(parts),
            _ => None,
        }
    });
    assert_eq!(taken.len(), revoked.len());
}

#[test]
fn messages_in_front_of_a_rebalance_are_told_before_it() {
    let kafka = Kafka::shared();
    let (name, group) = (kafka.topic("layer"), kafka.topic("group"));
    kafka.create_topic(&name, 2, &[]);
    let texts: Vec<String> = (0..20_000).map(|n| n.to_string()).collect();
    kafka.produce(&name, texts.iter().map(|text| (text.as_str(), text.as_bytes())));
    let settings = Settings::new(kafka.brokers());
    let join = || {
        let consumer = Consumer::group(&settings, &group, Start::Earliest).unwrap();
        consumer.subscribe([name.as_str()]).unwrap();
        consumer
    };
    let first = join();
    let all = eventually("the first member has all partitions", || match first.poll(Duration::from_millis(100), |_| true) {
        Polled::Assigned(parts) if !parts.is_empty() => Some(parts),
        _ => None,
    });
    first.take(&all.iter().map(|p| (p.clone(), None)).collect::<Vec<_>>()).unwrap();
    let second = join();
    // Each poll goes on for as long as there is something to read, so that the rebalance comes in the middle of one.
    let mut handed = 0;
    eventually("the first is asked for some", || {
        if let Polled::Assigned(_) = second.poll(Duration::from_millis(1), |_| true) {
            second.take(&[]).unwrap();
        }
        let mut called = 0;
        let polled = first.poll(Duration::from_millis(100), |_| {
            called += 1;
            std::thread::sleep(Duration::from_micros(200));
            true
        });
        handed += called;
        match polled {
            Polled::Messages(count) => {
                assert_eq!(count, called);
                None
            }
            other => {
                assert_eq!(called, 0, "{called} messages were handed over, and {other:?} was told");
                matches!(other, Polled::Revoked { .. }).then_some(())
            }
        }
    });
    assert!(handed > 0);
}
