//! Foreign Modbus servers into Kafka: pymodbus over TCP and over a serial line, libmodbus over TCP; values of every kind, and what can happen to the line.

use millrace_tests::*;
use serde_json::{Value, json};

const TCP: &str = "
topics: {$topic: {format: json}, $commands: {format: json}, $replies: {format: json}}
floor: {writes: allowed}
sources:
  line:
    type: modbus
    at: line
    endpoint: tcp://127.0.0.1:$port
    bus: {timeout: 500ms}
    topic: $topic
    devices:
      one:
        unit_id: 1
        groups:
          - every: 50ms
            tags:
              count: '40001'
              speed: {address: 'holding:10', as: f32, order: CDAB, scale: 0.5}
              name: {address: 'holding:20', as: 'string[8]'}
              door: coil:7
              total: {address: 'input:30', as: u64, order: DCBA}
              power: {address: 'input:52', as: i32, null_values: [0x80000000]}
              setpoint: {address: 'holding:40', as: f32, order: CDAB, writable: true, read_back: true}
              beyond: holding:299
              refused: holding:300
      dead: {unit_id: 9, groups: [{every: 50ms, tags: {count: holding:0}}]}
sinks:
  setpoints: {source: line, topics: [$commands], reply: $replies, allow: {one/setpoint: {min: 0, max: 10}}}
";

fn last(records: &[Record], tag: &str) -> Option<Value> {
    records.iter().map(Record::json).rfind(|sample| below_site(sample["tag"].as_str().unwrap_or_default()) == tag)
}

fn until(follow: &mut Follow, tag: &str, wanted: impl Fn(&Value) -> bool) {
    follow.until(&format!("{tag} as wanted"), |records| last(records, tag).is_some_and(|sample| wanted(&sample)));
}

#[test]
fn pymodbus_over_tcp_is_read_in_every_type_and_a_refused_tag_or_a_dead_unit_costs_nobody_else() {
    let mut server = Pymodbus::tcp();
    server.set(1, "holding", 0, &[7]);
    // 3.0 in CDAB, "PUMP 1", and 2^56 + 1 all reversed: each as its words lie in the device.
    server.set(1, "holding", 10, &[0x0000, 0x4040]);
    server.set(1, "holding", 20, &[0x5055, 0x4D50, 0x2031, 0]);
    server.set(1, "coil", 7, &[1]);
    server.set(1, "input", 30, &[0x0100, 0, 0, 0x0001]);
    server.set(1, "input", 52, &[0x8000, 0]);
    let cable = Cable::to(server.port());
    let kafka = Kafka::shared();
    let [topic, commands, replies] = ["modbus", "commands", "replies"].map(|name| kafka.topic(name));
    kafka.create_topic(&commands, 1, &[]);
    let factory = Factory::on(kafka).with("topic", &topic).with("commands", &commands).with("replies", &replies).with("port", cable.port());
    let millrace = factory.start(TCP);
    // One tag is refused and one unit is dead: the others are read all the same.
    millrace.wait_word("line", "Degraded");
    let mut follow = kafka.follow(&topic);
    let good = |value: Value| move |sample: &Value| sample["value"] == value && sample["quality"] == "good";
    until(&mut follow, "line/one/count", good(7.into()));
    until(&mut follow, "line/one/speed", good(1.5.into()));
    until(&mut follow, "line/one/name", good("PUMP 1".into()));
    until(&mut follow, "line/one/door", good(true.into()));
    until(&mut follow, "line/one/total", good(((1u64 << 56) + 1).into()));
    until(&mut follow, "line/one/beyond", good(0.into()));
    let bad = |status: u64| move |sample: &Value| sample["value"].is_null() && sample["status"] == status;
    until(&mut follow, "line/one/power", bad(0x809B_0000));
    until(&mut follow, "line/one/refused", bad(0x8034_0000));
    until(&mut follow, "line/dead/count", |sample| sample["quality"] == "bad");
    server.set(1, "input", 52, &[0xFFFF, 0xFFFE]);
    until(&mut follow, "line/one/power", good((-2).into()));

    cable.half_open();
    until(&mut follow, "line/one/count", |sample| sample["quality"] == "bad");
    cable.heal();
    server.set(1, "holding", 0, &[8]);
    until(&mut follow, "line/one/count", good(8.into()));
    cable.cut();
    server.set(1, "holding", 0, &[9]);
    cable.heal();
    until(&mut follow, "line/one/count", good(9.into()));

    // A command goes out, is read back, and a foreign server has it.
    millrace.wait_running("setpoints");
    let command = json!({"id": "1", "tag": "line/one/setpoint", "value": 2.5, "by": "a test"}).to_string();
    kafka.produce(&commands, [("line/one/setpoint", command.as_bytes())]);
    let mut replied = kafka.follow(&replies);
    let said = replied.until("its answer", |records| !records.is_empty())[0].json();
    assert_eq!(said["result"], "done", "{said}");
    assert_eq!(server.get(1, "holding", 40, 2), [0, 0x4020]);
    let ledger = millrace.ledger("line");
    assert_eq!(ledger.dead_at_intake, 0, "{ledger:?}");
    ledger.adds_up();
}

const SERIAL: &str = "
topics: {$topic: {format: json}}
sources:
  line:
    type: modbus
    at: line
    endpoint: rtu://$path?baud=19200&parity=none
    bus: {timeout: 300ms}
    topic: $topic
    devices:
      one: {unit_id: 1, groups: [{every: 100ms, tags: {count: holding:0, speed: {address: 'holding:10', as: f32}}}]}
      two: {unit_id: 2, groups: [{every: 100ms, tags: {count: holding:0}}]}
";

#[test]
fn pymodbus_over_a_serial_line_is_read_and_comes_back_after_silence() {
    let mut server = Pymodbus::serial();
    server.set(1, "holding", 0, &[1]);
    server.set(1, "holding", 10, &[0x4040, 0]);
    server.set(2, "holding", 0, &[2]);
    let topic = Kafka::shared().topic("modbus-rtu");
    let millrace = Factory::on(Kafka::shared()).with("topic", &topic).with("path", server.path()).start(SERIAL);
    millrace.wait_running("line");
    let mut follow = Kafka::shared().follow(&topic);
    until(&mut follow, "line/one/count", |sample| sample["value"] == 1);
    until(&mut follow, "line/one/speed", |sample| sample["value"] == 3.0);
    until(&mut follow, "line/two/count", |sample| sample["value"] == 2);
    server.deaf(true);
    until(&mut follow, "line/one/count", |sample| sample["quality"] == "bad");
    server.set(1, "holding", 0, &[3]);
    server.deaf(false);
    until(&mut follow, "line/one/count", |sample| sample["value"] == 3 && sample["quality"] == "good");
    millrace.ledger("line").adds_up();
}

const LIBMODBUS: &str = "
topics: {$topic: {format: json}, $commands: {format: json}, $replies: {format: json}}
floor: {writes: allowed}
sources:
  line:
    type: modbus
    at: line
    endpoint: tcp://127.0.0.1:$port
    unit_id: 1
    bit_write: mask
    bus: {timeout: 500ms}
    topic: $topic
    groups:
      - every: 50ms
        tags:
          count: '40001'
          abcd: {address: 'input:10', as: f32}
          badc: {address: 'input:12', as: f32, order: BADC}
          cdab: {address: 'input:14', as: f32, order: CDAB}
          dcba: {address: 'input:16', as: f32, order: DCBA}
          door: discrete:7
          last: holding:299
          beyond: holding:300
          valve: {address: coil:9, writable: true, read_back: true}
          level: {address: 'holding:40', writable: true, read_back: true}
          setpoint: {address: 'holding:41', as: f32, order: BADC, writable: true, read_back: true}
          enable: {address: 'holding:50.3', writable: true, read_back: true}
sinks:
  setpoints: {source: line, topics: [$commands], reply: $replies, allow: {valve: {}, level: {min: 0, max: 10}, setpoint: {}, enable: {}}}
";

#[test]
fn libmodbus_is_read_in_every_order_it_writes_itself_and_written_by_every_function_it_knows() {
    let mut server = Libmodbus::start();
    server.set("holding", 0, &[7]);
    for (start, order) in [(10, "abcd"), (12, "badc"), (14, "cdab"), (16, "dcba")] {
        server.set_float(start, order, -1234.5625);
    }
    server.set("discrete", 7, &[1]);
    server.set("holding", 50, &[0xF0F0]);
    let cable = Cable::to(server.port());
    let kafka = Kafka::shared();
    let [topic, commands, replies] = ["libmodbus", "commands", "replies"].map(|name| kafka.topic(name));
    kafka.create_topic(&commands, 1, &[]);
    let factory = Factory::on(kafka).with("topic", &topic).with("commands", &commands).with("replies", &replies);
    let millrace = factory.with("port", cable.port()).start(LIBMODBUS);
    millrace.wait_word("line", "Degraded");
    let mut follow = kafka.follow(&topic);
    let good = |value: Value| move |sample: &Value| sample["value"] == value && sample["quality"] == "good";
    for order in ["abcd", "badc", "cdab", "dcba"] {
        until(&mut follow, &format!("line/{order}"), good((-1234.5625).into()));
    }
    until(&mut follow, "line/count", good(7.into()));
    until(&mut follow, "line/door", good(true.into()));
    until(&mut follow, "line/last", good(0.into()));
    until(&mut follow, "line/beyond", |sample| sample["value"].is_null() && sample["status"] == 0x8034_0000u64);

    cable.cut();
    until(&mut follow, "line/count", |sample| sample["quality"] == "bad");
    server.set("holding", 0, &[8]);
    cable.heal();
    until(&mut follow, "line/count", good(8.into()));

    // Function codes 5, 6, 16 and 22; libmodbus looks at its own memory.
    millrace.wait_running("setpoints");
    let mut replied = kafka.follow(&replies);
    let orders = [("valve", json!(true)), ("level", json!(9)), ("setpoint", json!(1.5)), ("enable", json!(true)), ("level", json!(11))];
    for (tag, value) in &orders {
        let command = json!({"id": format!("{tag}{value}"), "tag": format!("line/{tag}"), "value": value, "by": "a test"}).to_string();
        kafka.produce(&commands, [(format!("line/{tag}").as_str(), command.as_bytes())]);
    }
    let said = replied.until("an answer each", |records| records.len() >= orders.len());
    let result = |id: &str| said.iter().map(Record::json).find(|answer| answer["id"] == id).unwrap_or_default()["result"].clone();
    assert_eq!([result("valvetrue"), result("level9"), result("setpoint1.5"), result("enabletrue")], ["done"; 4], "{said:?}");
    assert_eq!(result("level11"), "refused");
    assert_eq!(server.get("coil", 9, 1), [1]);
    // 1.5 is 3FC00000; its bytes are swapped in each register.
    assert_eq!(server.get("holding", 40, 3), [9, 0xC03F, 0]);
    assert_eq!(server.get("holding", 50, 1), [0xF0F8]);
    millrace.ledger("line").adds_up();
}

/// libmodbus is mbpoll's library: another reader and writer of our simulator, and of the orders that we wrote.
#[test]
fn the_simulated_gateway_is_read_by_libmodbus_and_the_yaml_it_prints_reads_all_of_it() {
    let (port, dir) = (free_port(), scratch("simulate"));
    let mut command = std::process::Command::new(millrace::binary());
    command.args(["simulate", "modbus", "--meters", "2", "--load", "10", "--listen", &format!("127.0.0.1:{port}")]);
    let mut process = Process::start("millrace simulate", command, &dir.path().join("simulate.log"));
    eventually("the simulator is there", || {
        assert!(process.is_running(), "it ended at its start\n{}", process.output());
        process.output().contains("to paste").then_some(())
    });
    let mbpoll = |args: &[&str]| {
        let mut command = peers::debian("mbpoll", "mbpoll");
        command.args(["-m", "tcp", "-p", &port.to_string(), "-1", "-0"]).args(args).arg("127.0.0.1");
        let output = command.output().expect("mbpoll runs");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
    };
    // 1.5 is 3FC00000; its words are reversed in the device.
    let (ok, said) = mbpoll(&["-a", "3", "-t", "4:hex", "-r", "110", "-c", "2"]);
    assert!(ok && said.contains("0x0000") && said.contains("0x3FC0"), "{said}");
    // The load: ten floats from input register 1000 on, and not one more.
    let (ok, said) = mbpoll(&["-a", "1", "-t", "3:hex", "-r", "1000", "-c", "20"]);
    assert!(ok && said.contains("[1019]"), "{said}");
    let (ok, said) = mbpoll(&["-a", "1", "-t", "3:hex", "-r", "1000", "-c", "21"]);
    assert!(!ok && said.contains("Illegal data address"), "{said}");
    let (ok, said) = mbpoll(&["-a", "3", "-t", "4", "-r", "9000"]);
    assert!(!ok && said.contains("Illegal data address"), "{said}");

    let kafka = Kafka::shared();
    let telemetry = kafka.topic("hall");
    let printed = process.output();
    let (_, yaml) = printed.split_once("to paste:\n\n").expect("YAML is printed");
    let yaml = yaml.replace("telemetry: {", &format!("{telemetry}: {{")).replace("topic: telemetry", &format!("topic: {telemetry}"));
    let yaml = yaml.replace("format: avro, schema: telemetry", "format: json");
    let millrace = Factory::on(kafka).start(&format!("{yaml}\n"));
    millrace.wait_running("hall");
    let mut follow = kafka.follow(&telemetry);
    until(&mut follow, "body/drive/setpoint", |sample| sample["value"] == 1.5 && sample["quality"] == "good");
    until(&mut follow, "body/drive/word/ready", |sample| sample["value"] == true);
    until(&mut follow, "utilities/m02/u1", |sample| sample["value"].as_f64().is_some_and(|volts| (220.0..240.0).contains(&volts)));
    until(&mut follow, "utilities/m01/energy", |sample| sample["quality"] == "good");
}
