//! PLCs that nobody here wrote, into Kafka: parts handed over once, whoever is killed; S7 over a line that is cut, silent, slow; and what goes over the wire
//! while writes are forbidden.

use millrace_tests::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const PARTS: &str = "
topics: {$parts: {format: json}, $topic: {format: json}}
floor: {writes: allowed}
sources:
  press:
    type: modbus
    endpoint: tcp://127.0.0.1:$modbus
    unit_id: 1
    bus: {timeout: 500ms}
    at: press
    topic: $topic
    groups:
      - {every: 20ms, tags: {part_done: coil:20}}
      - trigger: {tag: part_done, ack: part_ack}
        record: {topic: $parts, key: '{serial}'}
        tags:
          serial: {address: 'holding:60', as: 'string[16]'}
          number: {address: 'holding:70', as: u32}
          half: {address: 'holding:72', as: f32}
          part_ack: {address: coil:21, writable: true}
  oven:
    type: s7
    endpoint: 127.0.0.1:$s7
    timeout: 500ms
    at: oven
    topic: $topic
    groups:
      - {every: 20ms, tags: {part_done: DB1.DBX4.1}}
      - trigger: {tag: part_done, ack: part_ack}
        record: {topic: $parts, key: '{serial}'}
        tags:
          serial: 'DB1.DBB12:STRING[18]'
          number: 'DB1.DBD32:DINT'
          half: 'DB1.DBD36:REAL'
          part_ack: {address: DB1.DBX60.0, writable: true}
";

/// The serials of one PLC's parts, in order; a record that a kill made come twice has one identity, and counts once.
fn serials(records: &[Record], of: &str) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let once = records.iter().filter(|record| seen.insert(record.identity()));
    once.map(Record::key_text).filter(|serial| serial.starts_with(of)).collect()
}

#[test]
fn every_part_of_two_plcs_is_one_record_though_the_runtime_and_the_plcs_are_killed() {
    const COUNT: u32 = 24;
    let dir = scratch("retained");
    let (press_memory, oven_memory) = (dir.path().join("press"), dir.path().join("oven"));
    let press_program = || Pymodbus::with_parts(COUNT, &press_memory);
    let oven_program = || Snap7::with_parts(COUNT, &oven_memory);
    let (mut press, mut oven) = (press_program(), oven_program());
    let (press_cable, oven_cable) = (Cable::to(press.port()), Cable::to(oven.port()));
    let kafka = Kafka::shared();
    let [parts, topic] = ["parts", "telemetry"].map(|name| kafka.topic(name));
    let factory = Factory::on(kafka).with("parts", &parts).with("topic", &topic);
    let mut millrace = factory.with("modbus", press_cable.port()).with("s7", oven_cable.port()).start(PARTS);
    let mut follow = kafka.follow(&parts);
    for round in 1..=4 {
        let wanted = round * COUNT as usize / 6;
        follow.until(&format!("{wanted} parts of each"), |all| ["MB", "S7"].iter().all(|of| serials(all, of).len() >= wanted));
        if round == 1 {
            // All but the last of those that are recorded had their acknowledgement.
            assert!(acknowledged(&millrace, "press") >= 2.0 && acknowledged(&millrace, "oven") >= 2.0, "{}", millrace.metrics());
        }
        match round % 2 {
            1 => millrace.restart(),
            _ => {
                // Killed, with its memory but for the retentive part of it.
                press = press_program();
                press_cable.retarget(format!("127.0.0.1:{}", press.port()));
                press_cable.reset();
                oven = oven_program();
                oven_cable.retarget(format!("127.0.0.1:{}", oven.port()));
                oven_cable.reset();
            }
        }
    }
    eventually("every part is acknowledged", || (press.taken() == u64::from(COUNT) && oven.taken() == u64::from(COUNT)).then_some(()));
    let all = |of: &str| (1..=COUNT).map(|n| format!("{of}-{n:06}")).collect::<Vec<_>>();
    let records = follow.until("all parts", |records| serials(records, "MB").len() + serials(records, "S7").len() >= 2 * COUNT as usize);
    assert_eq!(serials(records, "MB"), all("MB"));
    assert_eq!(serials(records, "S7"), all("S7"));
    for part in records.iter().map(Record::json) {
        let (serial, number, half) = (part["serial"].as_str().unwrap_or_default(), &part["number"], part["half"].as_f64());
        let is_of_one_part = number.as_u64().is_some_and(|n| serial.ends_with(&format!("-{n:06}")) && half == Some(n as f64 / 2.0));
        assert!(is_of_one_part, "{part}");
    }
    for source in ["press", "oven"] {
        millrace.ledger(source).adds_up();
    }
}

/// How many acknowledgements a source has measured.
fn acknowledged(millrace: &Millrace, source: &str) -> f64 {
    let count = format!("millrace_took_seconds_count{{source=\"{source}\",what=\"trigger_to_ack\"}}");
    let metrics = millrace.metrics();
    metrics.lines().find_map(|line| line.strip_prefix(&count)?.trim().parse().ok()).unwrap_or(0.0)
}

const VALUES: &str = "
topics: {$topic: {format: json}}
sources:
  plc:
    type: s7
    endpoint: 127.0.0.1:$s7
    timeout: 500ms
    keep_alive: 500ms
    at: plc
    topic: $topic
    groups:
      - every: 50ms
        tags:
          real: 'DB2.DBD8:REAL'
          dint: {address: 'DB2.DBD4:DINT', scale: 0.1, min: 0, max: 100}
          text: 'DB2.DBB12:STRING[10]'
          beyond: DB2.DBW255
";

fn last(records: &[Record], tag: &str) -> Option<Value> {
    records.iter().map(Record::json).rfind(|sample| below_site(sample["tag"].as_str().unwrap_or_default()) == tag)
}

#[test]
fn a_foreign_s7_cpu_is_read_into_kafka_over_a_line_that_is_cut_silent_and_slow() {
    let mut cpu = Snap7::start();
    cpu.set(8, "real", 123.5);
    cpu.set(4, "dint", 420);
    let cable = Cable::to(cpu.port());
    let kafka = Kafka::shared();
    let topic = kafka.topic("s7");
    let millrace = Factory::on(kafka).with("topic", &topic).with("s7", cable.port()).start(VALUES);
    millrace.wait_word("plc", "Degraded");
    let reason = millrace.connector("plc")["reason"].to_string();
    assert!(reason.contains("cannot read DB2.DBW255") && reason.contains("block is shorter than 257 bytes"), "{reason}");
    let mut follow = kafka.follow(&topic);
    let mut until = |tag: &str, wanted: &dyn Fn(&Value) -> bool| {
        follow.until(&format!("{tag} as wanted"), |records| last(records, tag).is_some_and(|sample| wanted(&sample)));
    };
    let is = |value: Value| move |sample: &Value| sample["value"] == value && sample["quality"] == "good";
    let is_bad = |sample: &Value| sample["value"].is_null() && sample["quality"] == "bad";
    until("plc/real", &is(json!(123.5)));
    until("plc/dint", &is(json!(42.0)));
    until("plc/beyond", &is_bad);
    cable.half_open();
    until("plc/real", &is_bad);
    cable.heal();
    cable.reset();
    cpu.set(8, "real", -1.0);
    until("plc/real", &is(json!(-1.0)));
    cable.cut();
    cpu.set(8, "real", 2.0);
    cable.heal();
    until("plc/real", &is(json!(2.0)));
    // Slower than the cycles, faster than the timeout.
    cable.slow(4_000);
    cpu.set(8, "real", 3.0);
    until("plc/real", &is(json!(3.0)));
    cable.heal();
    // What is out of range stays in its topic.
    cpu.set(4, "dint", 2_000);
    until("plc/dint", &|sample| sample["value"] == 200.0 && sample["quality"] == "uncertain" && sample["status"] == 0x4094_0000);
    assert_eq!(millrace.ledger("plc").dead_at_intake, 0);
    millrace.ledger("plc").adds_up();
}

const PURE: &str = "
topics: {$topic: {format: json}, $commands: {format: json}, $replies: {format: json}}
floor: {writes: allowed}
sources:
  plc:
    type: s7
    endpoint: 127.0.0.1:$s7
    timeout: 500ms
    keep_alive: 500ms
    at: plc
    topic: $topic
    groups:
      - every: 50ms
        tags:
          real: 'DB2.DBD8:REAL'
          dint: {address: 'DB2.DBD4:DINT', scale: 0.1}
          text: 'DB2.DBB12:STRING[10]'
          lreal: 'DB2.DBB34:LREAL'
          setpoint: {address: 'DB2.DBD60:REAL', writable: true, read_back: true}
          missing: DB77.DBW0
sinks:
  setpoints: {source: plc, topics: [$commands], reply: $replies, allow: {setpoint: {min: 0, max: 10}}}
";

/// Python's own server shares no code with snap7: another opinion of the protocol.
#[test]
fn a_second_foreign_s7_cpu_that_is_nothing_but_python_is_read_into_kafka_and_written() {
    let mut cpu = Snap7::pure();
    cpu.set(8, "real", 123.5);
    cpu.set(4, "dint", -420);
    cpu.set(34, "lreal", -1.5e300);
    let cable = Cable::to(cpu.port());
    let kafka = Kafka::shared();
    let [topic, commands, replies] = ["s7-pure", "commands", "replies"].map(|name| kafka.topic(name));
    kafka.create_topic(&commands, 1, &[]);
    let factory = Factory::on(kafka).with("topic", &topic).with("commands", &commands).with("replies", &replies);
    let millrace = factory.with("s7", cable.port()).start(PURE);
    millrace.wait_word("plc", "Degraded");
    let reason = millrace.connector("plc")["reason"].to_string();
    assert!(reason.contains("DB77"), "{reason}");
    let mut follow = kafka.follow(&topic);
    let mut until = |tag: &str, wanted: &dyn Fn(&Value) -> bool| {
        follow.until(&format!("{tag} as wanted"), |records| last(records, tag).is_some_and(|sample| wanted(&sample)));
    };
    let is = |value: Value| move |sample: &Value| sample["value"] == value && sample["quality"] == "good";
    until("plc/real", &is(123.5.into()));
    until("plc/dint", &is((-42.0).into()));
    until("plc/lreal", &is((-1.5e300).into()));
    until("plc/missing", &|sample| sample["value"].is_null() && sample["quality"] == "bad");
    cpu.set(8, "real", -0.25);
    until("plc/real", &is((-0.25).into()));
    cable.cut();
    until("plc/real", &|sample| sample["value"].is_null() && sample["quality"] == "bad");
    cpu.set(8, "real", 7.5);
    cable.heal();
    until("plc/real", &is(7.5.into()));

    millrace.wait_running("setpoints");
    let command = json!({"id": "1", "tag": "plc/setpoint", "value": 2.5, "by": "a test"}).to_string();
    kafka.produce(&commands, [("plc/setpoint", command.as_bytes())]);
    let mut replied = kafka.follow(&replies);
    let said = replied.until("its answer", |records| !records.is_empty())[0].json();
    assert_eq!(said["result"], "done", "{said}");
    assert_eq!(cpu.get(60, 4), "40200000");
    assert_eq!(millrace.ledger("plc").dead_at_intake, 0);
    millrace.ledger("plc").adds_up();
}

const FORBIDDEN: &str = "
topics: {$topic: {format: json}, $parts: {format: json}}
sources:
  line:
    type: modbus
    endpoint: tcp://127.0.0.1:$modbus
    unit_id: 1
    bit_write: read_modify_write
    topic: $topic
    groups:
      - {every: 20ms, tags: {done: coil:20, level: {address: 'holding:10', writable: true}, bit: {address: 'holding:11.2', writable: true}, beyond: holding:300}}
      - {trigger: {tag: done, edge: change}, record: {topic: $parts, key: line}, tags: {input: 'input:1'}}
  oven:
    type: s7
    endpoint: 127.0.0.1:$s7
    topic: $topic
    cpu_tags: true
    keep_alive: 100ms
    groups:
      - {every: 20ms, tags: {oven_done: DB2.DBX4.1, setpoint: {address: 'DB2.DBD8:REAL', writable: true}, beyond_it: DB2.DBW255}}
      - {trigger: {tag: oven_done, edge: change}, record: {topic: $parts, key: oven}, tags: {number: 'DB2.DBD32:DINT'}}
";

/// The function codes of the requests in a stream of Modbus TCP.
fn modbus_functions(mut bytes: &[u8]) -> BTreeSet<u8> {
    let mut functions = BTreeSet::new();
    // Transaction, protocol 0, length, unit; then the function.
    while let [_, _, 0, 0, high, low, _, function, ..] = *bytes {
        functions.insert(function);
        let length = 6 + usize::from(u16::from_be_bytes([high, low]));
        let Some(rest) = bytes.get(length..) else { break };
        bytes = rest;
    }
    functions
}

/// What the requests in a stream of S7 do: (message type, function), or of user data (7, the function's group).
fn s7_functions(mut bytes: &[u8]) -> BTreeSet<(u8, u8)> {
    let mut functions = BTreeSet::new();
    // TPKT: version 3, reserved, length; COTP: length, type; S7: protocol 0x32, type, .., function behind the header of 10 bytes.
    while let [3, _, high, low, ..] = *bytes {
        let length = usize::from(u16::from_be_bytes([high, low]));
        let Some((frame, rest)) = bytes.split_at_checked(length) else { break };
        let cotp = 5 + usize::from(frame[4]);
        if let Some([0x32, kind, header @ ..]) = frame.get(cotp..) {
            // Of user data the parameter is 00 01 12, its length, the method, then type and group.
            let function = if *kind == 7 { header[8 + 5] & 0x0F } else { header[8] };
            functions.insert((*kind, function));
        }
        bytes = rest;
    }
    functions
}

/// Everything a source, `probe` and `browse` may do: read, negotiate, ask for the system's state.
#[test]
fn with_writes_forbidden_a_capture_of_the_wire_shows_nothing_but_reads() {
    let (mut press, mut cpu) = (Pymodbus::tcp(), Snap7::start());
    let (press_cable, cpu_cable) = (Cable::to(press.port()), Cable::to(cpu.port()));
    press_cable.capture();
    cpu_cable.capture();
    let kafka = Kafka::shared();
    let [parts, topic] = ["parts", "telemetry"].map(|name| kafka.topic(name));
    let factory = Factory::on(kafka).with("parts", &parts).with("topic", &topic);
    let mut millrace = factory.with("modbus", press_cable.port()).with("s7", cpu_cable.port()).start(FORBIDDEN);
    // What changes before the first reading is no change.
    let mut telemetry = kafka.follow(&topic);
    telemetry.until("the first readings", |records| {
        ["done", "oven_done"].iter().all(|tag| last(records, tag).is_some_and(|sample| sample["value"] == false))
    });
    let mut follow = kafka.follow(&parts);
    for on in [1, 0, 1] {
        press.set(1, "coil", 20, &[on]);
        cpu.set(4, "byte", on * 2);
        let before = follow.records().len();
        follow.until("an event of each", |records| records.len() >= before + 2);
    }
    for url in [format!("tcp://127.0.0.1:{}?unit=1&at=40011", press_cable.port()), format!("127.0.0.1:{}", cpu_cable.port())] {
        let kind = if url.starts_with("tcp") { "modbus" } else { "s7" };
        let output = millrace.run(&["probe", kind, &url]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    // The native snap7 lists its blocks.
    let output = millrace.run(&["browse", "s7", &format!("127.0.0.1:{}", cpu_cable.port())]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("DB2"), "{said}{}", String::from_utf8_lossy(&output.stderr));
    millrace.stop();

    let functions: BTreeSet<u8> = press_cable.captured().iter().flat_map(|bytes| modbus_functions(bytes)).collect();
    assert!(functions.contains(&1) && functions.contains(&3) && functions.contains(&4), "{functions:?}");
    // 1 to 4 read; 43 asks who it is.
    assert!(functions.iter().all(|function| matches!(function, 1..=4 | 43)), "{functions:?}");
    let functions: BTreeSet<(u8, u8)> = cpu_cable.captured().iter().flat_map(|bytes| s7_functions(bytes)).collect();
    // Jobs: F0 negotiates, 04 reads. User data: 3 block information, 4 the CPU's own lists.
    assert!(functions.contains(&(1, 0x04)) && functions.contains(&(1, 0xF0)) && functions.contains(&(7, 4)), "{functions:?}");
    assert!(functions.iter().all(|function| matches!(function, (1, 0x04 | 0xF0) | (7, 3 | 4))), "{functions:?}");
    // The capture would show a write: here is one.
    let mut written = std::net::TcpStream::connect(("127.0.0.1", press_cable.port())).expect("the cable is there");
    std::io::Write::write_all(&mut written, &[0, 1, 0, 0, 0, 6, 1, 6, 0, 10, 0, 7]).expect("it is taken");
    eventually("the register is written", || (press.get(1, "holding", 10, 1) == [7]).then_some(()));
    assert!(press_cable.captured().last().is_some_and(|bytes| modbus_functions(bytes).contains(&6)));
}
