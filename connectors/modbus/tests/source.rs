//! The source against a gateway of its own kind: faults of lines and devices, one by one.

use millrace_contract::{CommandValue, Context, Must, Outcome, Status};
use millrace_modbus::ModbusSource;
use millrace_modbus_sim::{Faults, Gateway, Options, Plant, Written};
use millrace_schemas::StatusCode;
use millrace_testkit::yaml::{compile, context};
use millrace_testkit::{FaultProxy, Owned, TestHost, soon};
use std::time::Duration;
use tokio::task::JoinHandle;

/// A source that runs, as the engine does it.
struct Running {
    host: TestHost,
    task: JoinHandle<()>,
}

fn run(yaml: &str) -> Running {
    run_as(yaml, &context("line", &[]), &|host| host)
}

fn run_as(yaml: &str, context: &Context, prepare: &dyn Fn(TestHost) -> TestHost) -> Running {
    let compiled = compile::<ModbusSource>(yaml, context).unwrap_or_else(|problems| panic!("{problems}"));
    let host = prepare(TestHost::of(&*compiled));
    let mut source = compiled.source().expect("is a source");
    let io_host = host.clone();
    let task = tokio::spawn(async move {
        while !io_host.io().is_stopping() {
            if source.session(io_host.io()).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    Running { host, task }
}

impl Running {
    async fn until_value(&self, tag: &str, value: Owned) {
        let what = format!("{tag} is {value:?}");
        self.host.until(&what, |host| host.samples().iter().any(|sample| sample.tag == tag && sample.value == value)).await;
    }

    async fn until_status(&self, tag: &str, status: StatusCode) {
        let what = format!("{tag} has the status {status:?}");
        self.host.until(&what, |host| host.samples().iter().any(|sample| sample.tag == tag && sample.status == status)).await;
    }

    fn good(&self, tag: &str) -> usize {
        self.host.samples().iter().filter(|sample| sample.tag == tag && sample.status.is_good()).count()
    }

    /// Waits for so many more good values of a tag.
    async fn until_more(&self, tag: &str, more: usize) {
        let before = self.good(tag);
        self.host.until(&format!("{more} more values of {tag}"), |_| self.good(tag) >= before + more).await;
    }

    async fn stop(self) -> TestHost {
        self.host.stop();
        soon("the session ends", self.task).await.expect("it does not panic");
        self.host
    }
}

async fn gateway(options: Options) -> Gateway {
    let gateway = Gateway::start(options).await.expect("listens");
    for unit in 1..=3 {
        gateway.unit(unit, |memory| {
            memory.set_holding(0, &(0..40).map(|n| u16::from(unit) * 100 + n).collect::<Vec<_>>());
            memory.coils.insert(7, true);
        });
    }
    gateway
}

const A_AND_B: &str = "groups: [{every: 20ms, tags: {a: 'holding:0', b: 'holding:1'}}]";

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_value_is_read_by_its_address_type_and_order() {
    let plant = Plant::start(Options::default(), 2).await.expect("listens");
    let running = run(&format!(
        "{{endpoint: '{}', devices: {{m: {{unit_id: 1, groups: [{{every: 20ms, tags: {{u1: {{address: '30001', as: f32}}, \
         energy: {{address: 'holding:800', as: f64, order: CDAB}}, power: {{address: 'input:52', as: i32, order: CDAB, null_values: [0x80000000]}}}}}}]}}, \
         drive: {{unit_id: 3, groups: [{{every: 20ms, tags: {{setpoint: {{address: '40111', as: f32, order: CDAB}}, door: 'coil:7', \
         ready: 'holding:120.0', name: {{address: 'holding:130', as: 'string[20]'}}}}}}]}}}}}}",
        plant.gateway.endpoint()
    ));
    running.until_value("at/line/drive/setpoint", Owned::Double(1.5)).await;
    running.until_value("at/line/drive/name", Owned::Text("SIM DRIVE 7".into())).await;
    running.until_value("at/line/drive/ready", Owned::Bool(true)).await;
    running.until_value("at/line/drive/door", Owned::Bool(false)).await;
    let is_between = |tag: &'static str, low: f64, high: f64| {
        move |host: &TestHost| {
            host.samples().iter().any(|s| s.tag == tag && matches!(s.value, Owned::Double(x) if (low..high).contains(&x)))
        }
    };
    running.host.until("a voltage", is_between("at/line/m/u1", 220.0, 240.0)).await;
    running.host.until("an energy", is_between("at/line/m/energy", 1_000.0, 1_100.0)).await;
    running
        .host
        .until("a power", |host| host.samples().iter().any(|s| s.tag == "at/line/m/power" && s.value.number().is_some_and(|n| n > 5_000)))
        .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_unit_costs_only_itself_and_comes_back() {
    let gateway = gateway(Options::default()).await;
    gateway.kill(2);
    let running = run(&format!(
        "{{endpoint: '{}', bus: {{timeout: 100ms}}, devices: {{one: {{unit_id: 1, {A_AND_B}}}, two: {{unit_id: 2, {A_AND_B}}}, three: {{unit_id: 3, {A_AND_B}}}}}}}",
        gateway.endpoint()
    ));
    running.until_status("at/line/two/a", StatusCode::BAD_TIMEOUT).await;
    running
        .host
        .until("its breaker opens", |host| matches!(host.status("two"), Some(Status::Degraded(why)) if why.contains("no answer")))
        .await;
    // While it is open the others are read without waiting.
    let before = gateway.requests();
    running.until_more("at/line/one/a", 20).await;
    assert!(gateway.requests() - before >= 20 && running.good("at/line/two/a") == 0);
    assert_eq!(gateway.accepted(), 1, "one connection for all");
    gateway.revive(2);
    running.until_value("at/line/two/a", Owned::Int(200)).await;
    running.host.until("its status", |host| host.status("two") == Some(Status::Running)).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_unit_delays_only_itself_where_the_gateway_allows_it() {
    let gateway = gateway(Options { is_parallel: true, ..Options::default() }).await;
    gateway.slow(2, Duration::from_millis(700));
    let running = run(&format!(
        "{{endpoint: '{}', bus: {{timeout: 2s, in_flight: 4}}, devices: {{one: {{unit_id: 1, {A_AND_B}}}, two: {{unit_id: 2, {A_AND_B}}}}}}}",
        gateway.endpoint()
    ));
    running.until_value("at/line/two/a", Owned::Int(200)).await;
    let slow = running.good("at/line/two/a");
    running.until_more("at/line/one/a", 60).await;
    assert!(running.good("at/line/two/a") - slow <= 4, "the slow one is read in its own time");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_tag_turns_bad_alone_and_what_was_learnt_is_kept_over_a_restart() {
    let gateway = gateway(Options::default()).await;
    gateway.unit(1, |memory| memory.refused.push(10..11));
    let tags: String = (0..20).map(|n| format!("n{n}: 'holding:{n}', ")).collect();
    let yaml = format!("{{endpoint: '{}', unit_id: 1, groups: [{{every: 20ms, tags: {{{tags}}}}}]}}", gateway.endpoint());
    let running = run(&yaml);
    running.until_status("at/line/n10", StatusCode::BAD_NODE_ID_UNKNOWN).await;
    running.until_value("at/line/n9", Owned::Int(109)).await;
    running.until_value("at/line/n11", Owned::Int(111)).await;
    running
        .host
        .until(
            "the status says which",
            |host| matches!(host.status("line"), Some(Status::Degraded(why)) if why.contains("holding:10 is refused with exception 2")),
        )
        .await;
    running.host.until("it is kept", |host| host.positions().contains_key("learnt/line")).await;
    let host = running.stop().await;
    assert_eq!(host.positions()["learnt/line"], b"holding:10 holding:11");
    // The next process asks in three requests from the start on.
    let before = gateway.requests();
    host.restart();
    let running = run_as(&yaml, &context("line", &[]), &|_| host.clone());
    running.until_more("at/line/n19", 1).await;
    assert!(gateway.requests() - before <= 5, "{} requests", gateway.requests() - before);
    running.stop().await;
}

/// Some devices say 3 or 4 where the standard has 2.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_parted_whichever_exception_refuses_it() {
    for (code, status) in [(3, StatusCode::BAD_OUT_OF_RANGE), (4, StatusCode::BAD_DEVICE_FAILURE)] {
        let gateway = gateway(Options::default()).await;
        gateway.unit(1, |memory| {
            memory.refused.push(10..11);
            memory.refused_with = Some(code);
        });
        let tags: String = (0..20).map(|n| format!("n{n}: 'holding:{n}', ")).collect();
        let running = run(&format!("{{endpoint: '{}', unit_id: 1, groups: [{{every: 20ms, tags: {{{tags}}}}}]}}", gateway.endpoint()));
        running.until_status("at/line/n10", status).await;
        running.until_value("at/line/n9", Owned::Int(109)).await;
        running.until_value("at/line/n11", Owned::Int(111)).await;
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gateway_says_of_a_unit_concerns_that_unit_alone() {
    for code in [10, 11] {
        let gateway = gateway(Options::default()).await;
        gateway.unit(2, |memory| memory.exception = Some(code));
        let running = run(&format!(
            "{{endpoint: '{}', devices: {{one: {{unit_id: 1, {A_AND_B}}}, two: {{unit_id: 2, {A_AND_B}}}}}}}",
            gateway.endpoint()
        ));
        running
            .host
            .until("its breaker opens", |host| matches!(host.status("two"), Some(Status::Degraded(why)) if why.contains("gateway")))
            .await;
        running.until_more("at/line/one/a", 10).await;
        assert_eq!(running.host.status("one").unwrap_or(Status::Running), Status::Running);
        assert_eq!(gateway.accepted(), 1, "the link is not made anew");
        let host = running.stop().await;
        assert!(host.samples().iter().filter(|sample| sample.tag.starts_with("at/line/one/")).all(|sample| sample.status.is_good()));
    }
}

/// Cut in the middle, of another length, for another function, of a register size that is not ours: no value, and the next good answer is one.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_cut_or_to_something_else_is_no_value_and_says_why() {
    let gateway = gateway(Options::default()).await;
    let pdu = |pdu: &[u8]| Faults { pdu: Some(pdu.to_vec()), ..Faults::default() };
    for (faults, said) in [
        (Faults { cut_at: Some(9), ..Faults::default() }, "cut after 9 bytes"),
        (Faults { cut_at: Some(3), ..Faults::default() }, "cut after 3 bytes"),
        (pdu(&[3, 2, 0, 7]), "holds 2 bytes where 4 were asked for"),
        (pdu(&[3, 8, 0, 0, 0, 0, 0, 0, 0, 0]), "set `register_bits: 32`"),
        (pdu(&[3, 4, 0, 7]), "4 bytes long where 6 were expected"),
        (pdu(&[4, 4, 0, 0, 0, 0]), "to function 4, and function 3 was asked"),
        (pdu(&[0x84, 2]), "to function 132, and function 3 was asked"),
        (pdu(&[0x83, 2, 0]), "3 bytes long where 2 were expected"),
    ] {
        gateway.inflict(faults);
        let running = run(&format!("{{endpoint: '{}', unit_id: 1, bus: {{timeout: 100ms}}, {A_AND_B}}}", gateway.endpoint()));
        running.until_status("at/line/a", StatusCode::BAD_DECODING_ERROR).await;
        let says = |status: Option<Status>| matches!(status, Some(Status::Degraded(why)) if why.contains(said));
        let what = format!("the status says {said:?}");
        running.host.until(&what, |host| says(host.status("line")) || says(host.status(""))).await;
        assert_eq!(running.good("at/line/a") + running.good("at/line/b"), 0, "{said}");
        gateway.inflict(Faults::default());
        running.until_value("at/line/a", Owned::Int(100)).await;
        running.until_value("at/line/b", Owned::Int(101)).await;
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_does_not_listen_to_255_is_told_with_what_to_write() {
    let gateway = gateway(Options::default()).await;
    let running = run(&format!("{{endpoint: '{}', bus: {{timeout: 50ms}}, {A_AND_B}}}", gateway.endpoint()));
    let says = |host: &TestHost| matches!(host.status("line"), Some(Status::Degraded(why)) if why.contains("unit 255 was asked, as no `unit_id` is given"));
    running.host.until("the status says which unit was asked", says).await;
    running.stop().await;
    gateway.unit(0, |memory| memory.set_holding(0, &[7, 8]));
    let running = run(&format!("{{endpoint: '{}', unit_id: 0, {A_AND_B}}}", gateway.endpoint()));
    running.until_value("at/line/a", Owned::Int(7)).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_does_not_wait_for_the_rest_of_a_long_cycle() {
    let gateway = gateway(Options::default()).await;
    gateway.slow(1, Duration::from_millis(20));
    let tags: String = (0..40).map(|n| format!("n{n}: {{address: 'holding:{n}', writable: true}}, ")).collect();
    let running =
        run(&format!("{{endpoint: '{}', unit_id: 1, max_registers: 1, groups: [{{every: 100ms, tags: {{{tags}}}}}]}}", gateway.endpoint()));
    for _ in 0..3 {
        running.until_more("at/line/n0", 1).await;
        let before = gateway.requests();
        let outcome = running.host.command("at/line/n5", CommandValue::Int(9));
        assert_eq!(soon("the command", outcome).await.expect("is answered"), Outcome::Done);
        // What was under way, and the write: not the forty of a cycle.
        assert!(gateway.requests() - before <= 6, "{} requests came before it", gateway.requests() - before);
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_exception_is_named_and_a_busy_device_is_asked_once_more() {
    for (code, status) in [
        (1, 0x803D_0000),
        (2, StatusCode::BAD_NODE_ID_UNKNOWN.0),
        (3, StatusCode::BAD_OUT_OF_RANGE.0),
        (4, StatusCode::BAD_DEVICE_FAILURE.0),
        (5, 0x8004_0000),
        (6, 0x8004_0000),
        (8, StatusCode::BAD_DEVICE_FAILURE.0),
        (10, StatusCode::BAD_NO_COMMUNICATION.0),
        (11, StatusCode::BAD_NO_COMMUNICATION.0),
        (244, StatusCode::BAD_DEVICE_FAILURE.0),
    ] {
        let gateway = gateway(Options::default()).await;
        gateway.unit(1, |memory| memory.exception = Some(code));
        let running = run(&format!("{{endpoint: '{}', unit_id: 1, {A_AND_B}}}", gateway.endpoint()));
        running.until_status("at/line/a", StatusCode(status)).await;
        running.stop().await;
        assert_eq!(gateway.accepted(), 1, "exception {code} is an answer: the connection stays");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_that_echo_no_id_close_after_each_answer_or_answer_as_unit_0_are_read_where_the_file_says_so() {
    let gateway = gateway(Options::default()).await;
    for (faults, keys) in [
        (Faults { transaction_id: Some(2), ..Faults::default() }, "bus: {transaction_id: ignored}"),
        (Faults { closes: true, ..Faults::default() }, "bus: {timeout: 1s}"),
        (Faults { answers_as: Some(0), ..Faults::default() }, "unit_check: zero"),
        (Faults::default(), "bus: {close_after: cycle, connect_delay: 5ms, pause: 1ms}"),
    ] {
        gateway.inflict(faults);
        let running = run(&format!("{{endpoint: '{}', unit_id: 1, {keys}, {A_AND_B}}}", gateway.endpoint()));
        running.until_more("at/line/a", 5).await;
        assert_eq!(running.host.statuses(""), [Status::Running], "{keys}");
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_at_which_the_device_hangs_up_costs_only_its_own_tags() {
    let gateway = gateway(Options::default()).await;
    gateway.unit(1, |memory| memory.hangs_up_at.push(10..11));
    let running = run(&format!(
        "{{endpoint: '{}', unit_id: 1, max_gap: 0, groups: [{{every: 20ms, tags: {{a: 'holding:0', b: 'holding:10', c: 'holding:20'}}}}]}}",
        gateway.endpoint()
    ));
    running.until_status("at/line/b", StatusCode::BAD_TIMEOUT).await;
    running.until_more("at/line/a", 5).await;
    running.until_more("at/line/c", 5).await;
    assert_eq!(running.good("at/line/b"), 0);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_with_an_unknown_id_or_another_unit_is_not_taken() {
    let gateway = gateway(Options::default()).await;
    for faults in [Faults { transaction_id: Some(2), ..Faults::default() }, Faults { answers_as: Some(0), ..Faults::default() }] {
        gateway.inflict(faults.clone());
        let before = gateway.requests();
        let running = run(&format!("{{endpoint: '{}', unit_id: 1, bus: {{timeout: 100ms}}, {A_AND_B}}}", gateway.endpoint()));
        running.host.until("it is asked", |_| gateway.requests() > before + 1).await;
        running.host.until("bad values", |host| host.samples().iter().any(|sample| sample.status.is_bad())).await;
        assert_eq!(running.good("at/line/a"), 0, "{faults:?}");
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_answer_is_dropped_and_never_lands_under_another_tag() {
    let gateway = gateway(Options { is_parallel: true, ..Options::default() }).await;
    gateway.slow(1, Duration::from_millis(150));
    let running = run(&format!(
        "{{endpoint: '{}', unit_id: 1, bus: {{timeout: 100ms}}, max_gap: 0, groups: [{{every: 20ms, tags: {{a: 'holding:0', b: 'holding:10', c: 'holding:20'}}}}]}}",
        gateway.endpoint()
    ));
    running.host.until("late answers are counted", |host| host.lost("late_answer") > 0).await;
    gateway.slow(1, Duration::ZERO);
    running.until_more("at/line/c", 5).await;
    let host = running.stop().await;
    for sample in host.samples().iter().filter(|sample| sample.status.is_good()) {
        let expected = match sample.tag.as_str() {
            "at/line/a" => 100,
            "at/line/b" => 110,
            _ => 120,
        };
        assert_eq!(sample.value, Owned::Int(expected), "{}", sample.tag);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rtu_frames_are_found_behind_noise_and_echoes_and_a_wrong_checksum_is_no_value() {
    let gateway = gateway(Options { is_rtu: true, ..Options::default() }).await;
    for (faults, keys) in [
        (Faults { noise: vec![0x00, 0xFF, 0x00], ..Faults::default() }, "bus: {timeout: 200ms}"),
        (Faults { echoes: true, ..Faults::default() }, "bus: {timeout: 200ms, echo: true}"),
    ] {
        gateway.inflict(faults);
        let running = run(&format!("{{endpoint: '{}', unit_id: 1, {keys}, {A_AND_B}}}", gateway.endpoint()));
        running.until_more("at/line/a", 3).await;
        running.stop().await;
    }
    gateway.inflict(Faults { corrupts: true, ..Faults::default() });
    let running = run(&format!("{{endpoint: '{}', unit_id: 1, bus: {{timeout: 100ms}}, {A_AND_B}}}", gateway.endpoint()));
    running.until_status("at/line/a", StatusCode::BAD_DECODING_ERROR).await;
    running.until_more("at/line/a", 3).await;
    running.stop().await;
    gateway.inflict(Faults { cut_at: Some(4), ..Faults::default() });
    let running = run(&format!("{{endpoint: '{}', unit_id: 1, bus: {{timeout: 100ms}}, {A_AND_B}}}", gateway.endpoint()));
    running.until_status("at/line/a", StatusCode::BAD_DECODING_ERROR).await;
    assert_eq!(running.good("at/line/a"), 0);
    running.stop().await;
}

const WRITABLE: &str = "groups: [{every: 20ms, tags: {a: {address: 'holding:0', writable: true, scale: 0.1}, \
     f: {address: 'holding:2', as: f32, order: CDAB, writable: true, read_back: true}, door: {address: 'coil:7', writable: true}, \
     bit: {address: 'holding:5.3', writable: true}, ro: 'input:1'}}]";

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_written_exactly_read_back_and_answered() {
    let gateway = gateway(Options::default()).await;
    let running = run(&format!("{{endpoint: '{}', unit_id: 1, bit_write: mask, {WRITABLE}}}", gateway.endpoint()));
    running.until_more("at/line/a", 1).await;
    let command = |tag: &str, value: CommandValue| running.host.command(&format!("at/line/{tag}"), value);
    let outcome = async |tag: &str, value: CommandValue| soon(tag, command(tag, value)).await.expect("is answered");
    assert_eq!(outcome("a", CommandValue::Double(12.3)).await, Outcome::Done);
    assert_eq!(outcome("f", CommandValue::Double(1.25)).await, Outcome::Done);
    assert_eq!(outcome("door", CommandValue::Bool(false)).await, Outcome::Done);
    assert_eq!(outcome("bit", CommandValue::Bool(true)).await, Outcome::Done);
    assert!(matches!(outcome("a", CommandValue::Double(70_000.0)).await, Outcome::Refused(why) if why.contains("65535")));
    assert!(matches!(outcome("ro", CommandValue::Int(1)).await, Outcome::Refused(why) if why.contains("`input`")));
    let written = |function, start, words: &[u16]| Written { unit: 1, function, start, words: words.to_vec() };
    assert_eq!(gateway.written(), [written(6, 0, &[123]), written(16, 2, &[0, 0x3FA0]), written(5, 7, &[0]), written(22, 5, &[105 | 8])]);
    // The key switch says local: the device confirms and does nothing.
    gateway.unit(1, |memory| memory.is_locked = true);
    assert!(matches!(outcome("f", CommandValue::Double(2.5)).await, Outcome::Failed(why) if why.contains("confirmed, but reads")));
    gateway.unit(1, |memory| memory.exception = Some(4));
    assert!(matches!(outcome("door", CommandValue::Bool(true)).await, Outcome::Failed(why) if why.contains("exception 4")));
    gateway.unit(1, |memory| memory.exception = None);
    // No answer: nobody knows, and it isn't sent again.
    gateway.kill(1);
    let before = gateway.requests_of(6);
    assert_eq!(outcome("a", CommandValue::Double(1.0)).await, Outcome::Unknown);
    gateway.revive(1);
    running.until_more("at/line/a", 2).await;
    assert_eq!(gateway.requests_of(6), before + 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_hold_is_read_from_the_device_right_before_the_write() {
    let gateway = gateway(Options::default()).await;
    // So seldom that no poll tells of a change.
    let yaml = WRITABLE.replace("every: 20ms", "every: 1h");
    let running = run(&format!("{{endpoint: '{}', unit_id: 1, bit_write: mask, {yaml}}}", gateway.endpoint()));
    running.until_more("at/line/a", 1).await;
    let is_open = ("at/line/door", Must::Be(CommandValue::Bool(true)));
    let near = ("at/line/a", Must::BeWithin { step: 2.0, from: 21.0 });
    let outcome = async |value: f64| {
        let answer = running.host.command_if("at/line/a", CommandValue::Double(value), &[is_open.clone(), near.clone()]);
        soon("its answer", answer).await.expect("is answered")
    };
    gateway.unit(1, |memory| memory.set_holding(0, &[200]));
    gateway.unit(1, |memory| _ = memory.coils.insert(7, false));
    assert!(matches!(outcome(21.0).await, Outcome::Refused(why) if why.contains("door must be true, and is false")));
    gateway.unit(1, |memory| _ = memory.coils.insert(7, true));
    gateway.unit(1, |memory| memory.set_holding(0, &[180]));
    assert!(matches!(outcome(21.0).await, Outcome::Refused(why) if why.contains("a step from 18 to 21 is larger than 2")));
    gateway.unit(1, |memory| memory.set_holding(0, &[200]));
    assert_eq!(gateway.written(), []);
    assert_eq!(outcome(21.0).await, Outcome::Done);
    assert_eq!(gateway.written().len(), 1);
    gateway.kill(1);
    assert!(matches!(outcome(21.0).await, Outcome::Failed(why) if why.contains("nothing was written")));
    assert_eq!(gateway.written().len(), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_writes_leaves_while_writes_are_forbidden() {
    let gateway = gateway(Options::default()).await;
    let context = Context { writes_allowed: false, ..context("line", &[]) };
    let yaml = format!("{{endpoint: '{}', unit_id: 1, bit_write: mask, {WRITABLE}}}", gateway.endpoint());
    let running = run_as(&yaml, &context, &|host| host);
    running.until_more("at/line/a", 1).await;
    // Even if the engine let commands through.
    let outcome = running.host.command("at/line/a", CommandValue::Double(1.0));
    running.until_more("at/line/a", 20).await;
    running.stop().await;
    drop(outcome);
    assert_eq!(gateway.written(), []);
    for function in [5, 6, 15, 16, 22, 23] {
        assert_eq!(gateway.requests_of(function), 0, "function {function}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_is_recorded_once_and_acknowledged_after_the_log_is_synced() {
    let gateway = gateway(Options::default()).await;
    gateway.unit(1, |memory| memory.set_holding(20, &[0, 0, 77]));
    let yaml = format!(
        "{{endpoint: '{}', unit_id: 1, groups: [{{every: 10ms, tags: {{count: 'holding:20'}}}}, \
         {{trigger: {{tag: count, edge: counter, ack: done}}, record: {{topic: parts}}, tags: {{weight: {{address: 'holding:22', scale: 0.1}}, \
         done: {{address: 'holding:21', writable: true}}}}}}]}}",
        gateway.endpoint()
    );
    let running = run(&yaml);
    running.until_more("at/line/count", 2).await;
    for part in 1..=5_u16 {
        running.host.withhold();
        gateway.unit(1, |memory| memory.set_holding(20, &[part, part - 1, 70 + part]));
        running.host.until("its document", |host| host.documents().len() == usize::from(part)).await;
        running.until_more("at/line/count", 3).await;
        assert_eq!(gateway.unit(1, |memory| memory.holding[&21]), part - 1, "not acknowledged before it is synced");
        running.host.sync();
        soon("the acknowledgement", async {
            while gateway.unit(1, |memory| memory.holding[&21]) != part {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        if part == 3 {
            // The runtime is away for a moment: the same count is no new part.
            running.host.until("the position", |host| host.positions().keys().any(|key| key.starts_with("trigger/"))).await;
        }
    }
    let host = running.stop().await;
    let weights: Vec<_> = host.documents().iter().map(|document| document.text().to_owned()).collect();
    assert_eq!(weights.len(), 5, "{weights:?}");
    assert!(weights[4].contains("\"weight\":7.5"), "{weights:?}");
    host.restart();
    let again = run_as(&yaml, &context("line", &[]), &|_| host.clone());
    again.until_more("at/line/count", 5).await;
    assert_eq!(again.host.documents().len(), 5, "a restart records nothing twice");
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_connection_is_noticed_and_a_slow_line_loses_nothing() {
    let gateway = gateway(Options::default()).await;
    let cable = FaultProxy::to(gateway.addr()).await;
    let running = run(&format!("{{endpoint: 'tcp://{}', unit_id: 1, bus: {{timeout: 100ms}}, {A_AND_B}}}", cable.addr()));
    running.until_more("at/line/a", 2).await;
    let before = cable.accepted();
    cable.half_open();
    cable.until_more_than(before).await;
    cable.heal();
    running.until_more("at/line/a", 2).await;
    cable.slow(2_000);
    running.until_more("at/line/a", 2).await;
    cable.cut();
    running.until_status("at/line/a", StatusCode::BAD_NOT_CONNECTED).await;
    cable.heal();
    running.until_more("at/line/a", 2).await;
    running.stop().await;
}

#[test]
fn mistakes_in_the_file_are_all_told_with_what_to_do() {
    for (keys, said) in [
        ("endpoint: 'udp://h', groups: [{tags: {a: 'holding:1'}}]", "`udp://h` is no endpoint"),
        ("endpoint: 'tcp://h', groups: [{tags: {a: '100'}}]", "write `holding:100` or `40100`"),
        ("endpoint: 'tcp://h', groups: [{tags: {a: {address: 'holding:65535', as: f32}}}]", "ends beyond 65535"),
        ("endpoint: 'tcp://h', groups: [{tags: {a: {address: 'coil:1', as: u32}}}]", "a coil is a single bit"),
        ("endpoint: 'tcp://h', groups: [{tags: {a: {address: 'holding:1', as: i32, order: CDABGHEF}}}]", "has no meaning for `i32`"),
        ("endpoint: 'tcp://h', groups: [{tags: {a: 'holding:1.16'}}]", "has no bit 16"),
        ("endpoint: 'tcp://h', groups: [{tags: {a: {address: 'input:1', writable: true}}}]", "can't be written"),
        ("endpoint: 'tcp://h', groups: [{tags: {a: {address: 'holding:1.3', writable: true}}}]", "without `bit_write`"),
        ("endpoint: 'tcp://h', groups: [{tags: {a: {address: 'holding:1', null_values: [0x10000]}}}]", "doesn't fit into the 16 bits"),
        ("endpoint: 'rtu:///dev/ttyS0', groups: [{tags: {a: 'holding:1'}}]", "has no `unit_id`"),
        ("endpoint: 'rtu:///dev/ttyS0', unit_id: 0, groups: [{tags: {a: 'holding:1'}}]", "0 is a broadcast"),
        ("endpoint: 'rtu+tcp://h:1', unit_id: 1, bus: {in_flight: 4}, groups: [{tags: {a: 'holding:1'}}]", "need transaction ids"),
        ("endpoint: 'tcp://h', max_registers: 126, groups: [{tags: {a: 'holding:1'}}]", "`max_registers` is from 1 to 125"),
        (
            "endpoint: 'tcp://h', register_bits: 32, groups: [{tags: {a: {address: 'holding:1', as: u16}}}]",
            "doesn't fill a register of 32 bits",
        ),
        ("endpoint: 'tcp://h'", "nothing would be read"),
        (
            "endpoint: 'rtu:///dev/ttyS0?baud=1200', unit_id: 1, groups: [{every: 100ms, tags: {a: 'holding:0', b: 'holding:90'}}]",
            "can't be read as often as asked",
        ),
    ] {
        let Err(problems) = compile::<ModbusSource>(&format!("{{{keys}}}"), &context("line", &[])) else { panic!("{keys} compiles") };
        assert!(problems.contains(said), "{keys}: {problems}");
    }
}

#[test]
fn the_plan_names_every_request_with_its_tags_and_bytes() {
    let yaml = "{endpoint: 'rtu:///dev/ttyS0?baud=9600', devices: {m: {unit_id: 1, max_gap: 0, groups: [{every: 1s, tags: {a: {address: 'input:0', as: f32}, \
                b: {address: 'input:2', as: f32}}}, {every: 1s, tags: {c: 'holding:5'}}, {every: 10s, tags: {d: 'coil:1'}}]}}}";
    let plan = compile::<ModbusSource>(yaml, &context("line", &[])).unwrap_or_else(|problems| panic!("{problems}")).plan();
    assert_eq!(plan.endpoint, "rtu:///dev/ttyS0 at 9600 baud");
    assert_eq!(plan.rate, Some(3.1));
    assert_eq!(
        plan.lines,
        [
            "m (unit 1) every 1s: 3 values in 2 requests, about 77ms",
            "  FC4 input:0..3 (4 registers, 8 + 13 bytes): a, b",
            "  FC3 holding:5 (1 register, 8 + 7 bytes): c",
            "m (unit 1) every 10s: 1 value in 1 request, about 34ms",
            "  FC1 coil:1 (1 bit, 8 + 6 bytes): d",
            "the line is busy 8 % of the time, if devices answer within 10ms",
        ]
    );
}

/// A client that is not ours reads the simulator as ours does, so that no mistake is in both.
#[tokio::test(flavor = "multi_thread")]
async fn the_simulator_is_read_by_tokio_modbus() {
    use tokio_modbus::prelude::{Reader, Slave, Writer, tcp};
    let plant = Plant::start(Options::default(), 1).await.expect("listens");
    let mut client = tcp::connect_slave(plant.gateway.addr(), Slave(plant.drive())).await.expect("connects");
    let words = client.read_holding_registers(110, 2).await.expect("answers").expect("is not refused");
    assert_eq!(f32::from_bits(u32::from(words[1]) << 16 | u32::from(words[0])), 1.5);
    client.write_single_coil(7, true).await.expect("answers").expect("is not refused");
    client.masked_write_register(200, 0, 5).await.expect("answers").expect("is not refused");
    client.write_multiple_registers(110, &[1, 2]).await.expect("answers").expect("is not refused");
    assert_eq!(client.read_holding_registers(200, 1).await.expect("answers").expect("is not refused"), [5]);
    assert!(client.read_holding_registers(9_000, 1).await.expect("answers").is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_finds_units_limits_and_orders_over_one_connection_and_writes_nothing() {
    use millrace_contract::Browse;
    let plant = Plant::start(Options::default(), 1).await.expect("listens");
    plant.gateway.unit(1, |memory| {
        memory.most_registers = Some(60);
        memory.set_holding(0, &[7; 200]);
    });
    let request = Browse { url: format!("{}?unit=1&at=input:0", plant.gateway.endpoint()), ..Browse::default() };
    let found = millrace_modbus::probe::probe(request).await.expect("it answers");
    let said = format!("{:?}", found.facts);
    assert!(said.contains("60 in one request from 0 on") && said.contains("max_registers: 60"), "{said}");
    // A voltage: ABCD is the likeliest, so nothing has to be said.
    assert!(!said.contains("order:") && said.contains("input:0 as ABCD"), "{said}");
    assert_eq!((plant.gateway.accepted(), plant.gateway.written()), (1, vec![]));
    let request = Browse { url: plant.gateway.endpoint(), ..Browse::default() };
    let found = millrace_modbus::probe::probe(request).await.expect("it answers");
    assert!(format!("{:?}", found.facts[0]).contains("[Number(1), Number(2)]"), "{:?}", found.facts[0]);
    let dead = Browse { url: "tcp://127.0.0.1:1".into(), ..Browse::default() };
    assert!(millrace_modbus::probe::probe(dead).await.unwrap_err().contains("cannot connect to tcp://127.0.0.1:1"));
}

/// A device of SunSpec: what a walk finds is a profile that a configuration can name, and reads.
#[tokio::test(flavor = "multi_thread")]
async fn a_probe_walks_the_models_of_a_sunspec_device_and_its_profile_reads_them() {
    use millrace_contract::Browse;
    let gateway = gateway(Options::default()).await;
    gateway.unit(3, |memory| {
        memory.set_holding(40_000, &[0x5375, 0x6E53, 1, 66]);
        memory.set_holding(40_004, &[0; 66]);
        memory.set_holding(40_004, &[0x4143, 0x4D45]);
        memory.set_holding(40_070, &[103, 50]);
        memory.set_holding(40_072, &[0x8000; 50]);
        // W = 1234 with W_SF = -1: 123.4 W.
        memory.set_holding(40_084, &[1234, 0xFFFF]);
        memory.set_holding(40_122, &[64_999, 3, 1, 2, 3, 0xFFFF, 0]);
        memory.most_registers = Some(50);
        memory.wrong_over = Some(40_086);
    });
    let request = Browse { url: format!("{}?unit=3&at=holding:40084", gateway.endpoint()), ..Browse::default() };
    let found = millrace_modbus::probe::probe(request).await.expect("it answers");
    let said = format!("{:?}", found.facts);
    assert!(said.contains("1 common at 40002, 103 inverter at 40070, 64999 at 40122 (its points are not known here)"), "{said}");
    assert!(said.contains("4 of 4: `bus: {in_flight: 4}` is possible") && said.contains("differ from the same read one by one"), "{said}");
    assert_eq!(gateway.written(), []);
    let [(name, profile)] = &found.profiles[..] else { panic!("{:?}", found.profiles) };
    assert_eq!(name, "unit-3");
    for line in
        ["unit_id: 3", "max_registers: 50", "max_gap: 0", "inverter/power: {address: 'holding:40084', as: i16, scale: 0.1, unit: \"W\""]
    {
        assert!(profile.contains(line), "{line} in {profile}");
    }
    assert!(!profile.contains("order:"), "SunSpec has one order: {profile}");
    assert!(!profile.contains("inverter/energy"), "its factor says that it is not implemented: {profile}");
    let keys = profile.replace('\n', "\n    ").replace("every: 5s", "every: 20ms");
    let running = run(&format!("endpoint: {}\ndevices:\n  pv:\n    {keys}\n", gateway.endpoint()));
    running.until_value("at/line/pv/common/manufacturer", Owned::Text("ACME".into())).await;
    running.until_value("at/line/pv/inverter/power", Owned::Int(1234)).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_counter_that_goes_back_is_told_beside_it_and_its_own_status_stays_good() {
    let gateway = gateway(Options::default()).await;
    gateway.unit(1, |memory| memory.set_holding(30, &[990]));
    let tag = "energy: {address: 'holding:30', kind: counter, max: 1000}";
    let running = run(&format!("{{endpoint: '{}', unit_id: 1, groups: [{{every: 20ms, tags: {{{tag}}}}}]}}", gateway.endpoint()));
    running.until_value("at/line/energy", Owned::Int(990)).await;
    gateway.unit(1, |memory| memory.set_holding(30, &[7]));
    running.until_value("at/line/energy/went_back", Owned::Text("rolled_over".into())).await;
    gateway.unit(1, |memory| memory.set_holding(30, &[3]));
    running.until_value("at/line/energy/went_back", Owned::Text("reset".into())).await;
    let host = running.stop().await;
    let samples = host.samples();
    assert!(samples.iter().filter(|sample| sample.tag == "at/line/energy").all(|sample| sample.status == StatusCode::GOOD));
    assert_eq!(samples.iter().filter(|sample| sample.tag == "at/line/energy/went_back").count(), 2);
}
