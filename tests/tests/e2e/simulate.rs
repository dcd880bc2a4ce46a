//! `millrace simulate`: foreign clients talk to the simulators, and the YAML they print reads them.

use millrace_tests::*;
use std::io::Write;
use std::process::{Command, Stdio};

/// A simulated hall on a port of its own.
fn hall(args: &[&str]) -> (Process, u16, tempfile::TempDir) {
    let (port, dir) = (free_port(), scratch("simulate"));
    let mut command = Command::new(millrace::binary());
    command.args(["simulate", "mqtt", "--listen", &format!("127.0.0.1:{port}")]).args(args);
    let mut process = Process::start("millrace simulate", command, &dir.path().join("simulate.log"));
    eventually("the simulator is there", || {
        assert!(process.is_running(), "it ended at its start\n{}", process.output());
        process.output().contains("to paste").then_some(())
    });
    (process, port, dir)
}

fn mosquitto(program: &str, port: u16, args: &[&str]) -> Command {
    let mut command = peers::debian(program, "mosquitto-clients");
    command.args(["-h", "127.0.0.1", "-p", &port.to_string()]).args(args);
    command
}

fn said(mut command: Command) -> String {
    let output = command.output().expect("the client runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn mosquittos_clients_keep_their_sessions_in_both_versions_and_at_every_quality_of_service() {
    let (_hall, port, _dir) = hall(&["--cells", "0", "--packers", "0"]);
    let lines: String = (0..200).map(|n| format!("message {n}\n")).collect();
    for version in ["mqttv311", "mqttv5"] {
        for qos in ["1", "2"] {
            let (id, topic) = (format!("sub-{version}-{qos}"), format!("kept/{version}/{qos}"));
            let mut kept = vec!["-V", version, "-c", "-i", &id, "-q", qos, "-t", &topic];
            if version == "mqttv5" {
                kept.extend(["-x", "600"]);
            }
            // Subscribes and leaves; what comes meanwhile waits for it.
            said(mosquitto("mosquitto_sub", port, &[&kept[..], &["-E"]].concat()));
            let mut publisher = mosquitto("mosquitto_pub", port, &["-V", version, "-q", qos, "-t", &topic, "-l"]);
            let mut publisher = publisher.stdin(Stdio::piped()).spawn().expect("mosquitto_pub starts");
            publisher.stdin.take().expect("its input is a pipe").write_all(lines.as_bytes()).expect("it reads");
            assert!(publisher.wait().expect("it ends").success());
            assert_eq!(said(mosquitto("mosquitto_sub", port, &[&kept[..], &["-C", "200"]].concat())), lines, "{version}, QoS {qos}");
        }
        said(mosquitto("mosquitto_pub", port, &["-V", version, "-r", "-t", "retained/x", "-m", "still there"]));
        let heard = said(mosquitto("mosquitto_sub", port, &["-V", version, "-C", "1", "-t", "retained/#", "-F", "%t %p %r"]));
        assert_eq!(heard.trim(), "retained/x still there 1");
    }
}

#[test]
fn a_client_that_vanishes_leaves_its_will() {
    let (_hall, port, dir) = hall(&["--cells", "0", "--packers", "0"]);
    let mut witness = Client::connect(port);
    witness.subscribe("will/#", 1);
    said(mosquitto("mosquitto_pub", port, &["-r", "-t", "hello", "-m", "you are connected"]));
    let doomed =
        mosquitto("mosquitto_sub", port, &["-t", "hello", "--will-topic", "will/doomed", "--will-payload", "gone", "--will-qos", "1"]);
    let mut doomed = Process::start("mosquitto_sub", doomed, &dir.path().join("doomed.log"));
    eventually("it is connected", || doomed.output().contains("you are connected").then_some(()));
    doomed.kill9();
    let will = witness.take(1).remove(0);
    assert_eq!((will.topic.as_str(), will.text().as_str()), ("will/doomed", "gone"));
}

/// Nothing is lost on the way from the cells through their broken cables, ours, and the log, into Kafka.
#[test]
fn the_printed_yaml_reads_the_hall_and_no_number_is_missing_whatever_is_cut() {
    let kafka = Kafka::shared();
    let (hall, port, _dir) = hall(&[
        "--cells",
        "2",
        "--packers",
        "1",
        "--rate",
        "40",
        "--faults",
        "cut,hostile",
        "--every",
        "2s",
        "--on",
        "cell-1,millrace-hall,edge-line-1",
    ]);
    let printed = hall.output();
    let (_, yaml) = printed.split_once("to paste:\n\n").expect("YAML is printed");
    let yaml = yaml.split("\n\n").take(2).collect::<Vec<_>>().join("\n\n");
    let (telemetry, states) = (kafka.topic("hall"), kafka.topic("states"));
    let yaml = yaml.replace("telemetry: {", &format!("{telemetry}: {{")).replace("topic: telemetry", &format!("topic: {telemetry}"));
    let yaml = yaml.replace("machine-state", &states).replace("format: avro, schema: telemetry", "format: json");
    assert!(yaml.contains(&format!("mqtt://127.0.0.1:{port}")), "{yaml}");
    let mut millrace = Factory::on(kafka).start(&format!("{yaml}\n"));
    millrace.wait_ledger("hall", "faults on every cable", |ledger| ledger.dead_at_intake >= 2 && ledger.produced > 2000);
    millrace.stop();
    for tag in ["assembly/cell-1/seq", "assembly/cell-2/seq"] {
        let mut numbers: Vec<u64> = kafka
            .read(&telemetry)
            .iter()
            .map(Record::json)
            .filter(|sample| sample["tag"].as_str().is_some_and(|path| path.ends_with(tag)) && sample["origin"] != "heartbeat")
            .filter_map(|sample| sample["value"].as_u64())
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        let (first, last) = (numbers[0], numbers[numbers.len() - 1]);
        assert_eq!(last - first + 1, numbers.len() as u64, "{tag}: from {first} to {last}");
    }
}

#[test]
fn a_port_in_use_and_an_unknown_fault_are_said_so() {
    let (_hall, port, _dir) = hall(&["--cells", "0", "--packers", "0"]);
    let listen = format!("127.0.0.1:{port}");
    for (args, part) in [
        (&["simulate", "mqtt", "--listen", &listen][..], "choose another address"),
        (&["simulate", "mqtt", "--listen", "127.0.0.1:0", "--faults", "fire"], "there are cut, silence, death, burst, hostile"),
        (&["simulate", "mqtt", "--listen", "127.0.0.1:0", "--rate", "0"], "--rate is from"),
    ] {
        let output = Command::new(millrace::binary()).args(args).output().expect("the binary starts");
        assert!(!output.status.success());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(part), "{args:?}: {said}");
    }
}
