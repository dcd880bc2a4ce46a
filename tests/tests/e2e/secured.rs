//! The runtime against a Kafka that wants TLS and a password.

use crate::load::*;
use millrace_tests::*;

const SECURED: &str = "
kafka:
  brokers: \"$brokers\"
  delivery: exactly_once
  properties: {security.protocol: SASL_SSL, ssl.ca.location: $ca, sasl.mechanism: $mechanism, sasl.username: millrace, sasl.password: \"${env:KAFKA_PASSWORD}\"}
";

#[test]
fn records_go_over_tls_with_scram_and_a_wrong_password_is_blocked_with_the_reason() {
    let authority = tls::Authority::new("plant");
    let kafka = Kafka::options().tls(&authority, &authority.leaf("kafka")).user("millrace", "s3cret").start();
    let count = 5_000;
    let factory = |mechanism: &str, password: &str| {
        let factory = Factory::at(&kafka.secured_brokers()).env("KAFKA_PASSWORD", password);
        let (factory, topic) = counters(factory, &kafka, count, "5000/s");
        (factory.with("brokers", kafka.secured_brokers()).with("ca", authority.ca().display()).with("mechanism", mechanism), topic)
    };
    let text = format!("{}{COUNTERS}", SECURED.trim_start());
    for mechanism in ["SCRAM-SHA-512", "PLAIN"] {
        let (factory, topic) = factory(mechanism, "s3cret");
        let millrace = factory.start(&text);
        finished(&millrace, count);
        every_value_once(&kafka.read(&topic), count);
    }
    let (factory, _) = factory("SCRAM-SHA-512", "n0t-that");
    let millrace = factory.start(&text);
    let reason = eventually("Kafka refuses it", || {
        let status = millrace.status();
        (status["kafka"]["status"] == "Blocked").then(|| status["kafka"]["reason"].as_str().unwrap_or_default().to_owned())
    });
    assert!(reason.to_lowercase().contains("authentication"), "{reason}");
    assert!(!millrace.log().contains("n0t-that"), "the password is in the log");
}

#[test]
fn check_says_that_oauthbearer_has_no_token() {
    let text = "kafka: {brokers: 'b:1', properties: {security.protocol: SASL_SSL, sasl.mechanism: OAUTHBEARER}}\n";
    let output = Factory::at("127.0.0.1:1").prepare(text).run(&["check", "-c", "factory.yaml"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("OAUTHBEARER") && said.contains("SCRAM-SHA-512"), "{said}");
}

const EMBEDDED: &str = "
kafka:
  brokers: embedded
  delivery: exactly_once
  embedded:
    listen: \"127.0.0.1:$listen\"
    tls: {certificate: $dir/broker.pem, key: $key}
    users: {plant: \"${env:BROKER_PASSWORD}\"}
";

/// Alone, and with the authority behind it: no client of this process knows the authority, and all know the certificate.
#[test]
fn the_embedded_broker_is_known_by_its_own_certificate_and_no_other_is_believed() {
    let authority = tls::Authority::new("plant");
    let (own, other) = (authority.leaf("broker"), authority.leaf("stranger"));
    let read = |path| std::fs::read_to_string(path).expect("a file can be read");
    for behind in [String::new(), read(authority.ca())] {
        let (port, count) = (free_port(), 2_000);
        let factory = Factory::at("unused").env("BROKER_PASSWORD", "s3cret").with("listen", port).with("key", own.key.display());
        let factory = factory.with("topic", "counters").with("count", count).with("rate", "2000/s");
        let factory = factory.file("broker.pem", &(read(own.cert.clone()) + &behind));
        let mut millrace = factory.start(&format!("{}{COUNTERS}", EMBEDDED.trim_start()));
        finished(&millrace, count);
        assert_eq!(millrace.status()["kafka"]["status"], "Running");
        let dead = |millrace: &Millrace| {
            let output = millrace.run(&["dead", "list", "-c", "factory.yaml"]);
            (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
        };
        let (is_done, said) = dead(&millrace);
        assert!(is_done, "{said}");
        // Somebody else answers where the broker was.
        std::fs::write(millrace.dir().join("broker.pem"), read(other.cert.clone())).expect("a file can be written");
        let (is_done, said) = dead(&millrace);
        assert!(!is_done && said.contains("is not the certificate in"), "{said}");
        millrace.stop();
    }
}
