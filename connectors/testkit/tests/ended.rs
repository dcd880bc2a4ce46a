//! A session that has ended is silent, whatever it left running.

use millrace_schemas::Batch;
use millrace_testkit::TestHost;

#[tokio::test]
async fn what_a_task_of_an_ended_session_sends_never_arrives_and_the_next_session_sends() {
    let host = TestHost::new();
    let (ended, next) = (host.io(), host.io());
    ended.send(Batch::new(), &[("at", b"1")]).await;
    let left_behind = ended.clone();
    ended.end().await;
    tokio::select! {
        biased;
        _ = left_behind.send(Batch::new(), &[("at", b"2")]) => panic!("it was sent"),
        () = tokio::task::yield_now() => {}
    }
    assert_eq!(next.resume("at"), Some(b"1".to_vec()));
    next.send(Batch::new(), &[("at", b"3")]).await;
    assert_eq!(next.resume("at"), Some(b"3".to_vec()));
}

#[tokio::test]
async fn the_end_of_a_session_waits_for_what_is_being_sent() {
    let host = TestHost::new();
    let io = host.io();
    let sending = tokio::spawn({
        let io = io.clone();
        async move { io.send(Batch::new(), &[("at", b"1")]).await }
    });
    // Whether it was first or too late: afterwards nothing of it is on its way.
    io.end().await;
    let known = host.io().resume("at");
    sending.abort();
    let _ = sending.await;
    assert_eq!(host.io().resume("at"), known);
}
