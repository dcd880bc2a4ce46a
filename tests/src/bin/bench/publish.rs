//! The load of the MQTT rows: `publish PORT RATE TOPICS`: QoS 1, JSON with a value and the time of its making, until killed.

use millrace_tests::Client;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub fn main(args: &[String]) {
    let [port, rate, topics] = args else { panic!("publish PORT RATE TOPICS") };
    let (port, rate, topics): (u16, f64, u64) =
        (port.parse().expect("a port"), rate.parse().expect("a rate"), topics.parse().expect("a number of topics"));
    let mut client = Client::connect(port);
    client.window(2_000);
    let began = Instant::now();
    let mut sent = 0u64;
    loop {
        let due = (began.elapsed().as_secs_f64() * rate) as u64;
        while sent < due {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_micros();
            let payload = format!("{{\"v\":{}.{:02},\"ts\":{now},\"name\":\"press\"}}", sent % 900, sent % 100);
            client.publish(&format!("plant/{}/telemetry", sent % topics), payload.as_bytes(), 1, false);
            sent += 1;
        }
        client.send().expect("the broker is there");
        client.acknowledged().expect("the broker is there");
        std::thread::sleep(Duration::from_millis(1));
    }
}
