//! Children that print garbage, never answer, die, fork, never read: each ends its session with a reason, and nothing of it is left.

use millrace_contract::Failure;
use millrace_exec::ExecSource;
use millrace_testkit::{TestHost, yaml};
use std::time::Duration;

fn text(config: &str, rest: &str) -> String {
    format!("{{command: [python3, '{}/tests/child.py'], config: {{{config}}}, {rest}}}", env!("CARGO_MANIFEST_DIR"))
}

/// How a session with such a child ends.
async fn end_of(text: &str) -> Failure {
    let compiled = yaml::compile::<ExecSource>(text, &yaml::context("exec", &[])).unwrap();
    let host = TestHost::of(compiled.as_ref());
    let mut source = compiled.source().expect("a source");
    let ended = tokio::time::timeout(Duration::from_secs(60), source.session(host.io())).await;
    ended.expect("it ends").expect_err("with a reason")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_misbehaves_is_ended_with_the_reason() {
    for (how, rest, says) in [
        ("garbage", "answer_within: 30s", "printed what is no message of the protocol"),
        ("mute", "answer_within: 300ms", "did not say {\"type\":\"ready\"} within 300ms"),
        ("long", "max_line: 64KiB", "printed a line of more than 65536 bytes"),
        ("dies", "answer_within: 30s", "ended with exit code 3; it said last: the scale is unplugged"),
    ] {
        let failure = end_of(&text(&format!("how: {how}"), rest)).await;
        let why = failure.to_string();
        assert!(matches!(failure, Failure::Reconnect(_)) && why.contains(says) && !why.contains('\u{1b}'), "{how}: {why}");
    }
    let blocked = end_of(&text("how: blocked", "answer_within: 30s")).await;
    assert!(matches!(&blocked, Failure::Blocked(why) if why == "no licence"), "{blocked}");
    let missing = end_of("{command: [/no/such/program]}").await;
    assert!(matches!(&missing, Failure::Blocked(why) if why.contains("cannot start `/no/such/program`")), "{missing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_child_forked_ends_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let compiled =
        yaml::compile::<ExecSource>(&text(&format!("how: forks, pid: '{}'", pid.display()), ""), &yaml::context("exec", &[])).unwrap();
    let host = TestHost::of(compiled.as_ref());
    let mut source = compiled.source().expect("a source");
    let io = host.io();
    let session = tokio::spawn(async move { source.session(io).await });
    let forked = loop {
        match std::fs::read_to_string(&pid).ok().and_then(|text| text.trim().parse::<u32>().ok()) {
            Some(pid) => break pid,
            None => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    host.stop();
    tokio::time::timeout(Duration::from_secs(30), session).await.expect("it ends").expect("no panic").expect("in order");
    // Nobody waits for it here, so it may stay a zombie of whoever adopted it.
    let state =
        || std::fs::read_to_string(format!("/proc/{forked}/stat")).ok().and_then(|stat| Some(stat.rsplit(") ").next()?.chars().next()));
    for _ in 0..1000 {
        if matches!(state(), None | Some(Some('Z' | 'X'))) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("process {forked} is still there: {:?}", state());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_never_reads_is_noticed_while_it_floods_and_memory_stays_bounded() {
    let failure = end_of(&text("how: deaf", "answer_within: 5s")).await;
    assert!(failure.to_string().contains("does not read what it is sent"), "{failure}");
}
