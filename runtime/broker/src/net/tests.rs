//! Strangers: who has not logged in, where a login is asked for.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use millrace_log::KeepFree;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::broker::Broker;
use crate::call::Session;
use crate::limits::{FRAMES, SMALL_FRAME};
use crate::net::connection::{self, Ended};
use crate::net::security::Security;
use crate::start::Options;

async fn guarded(dir: &Path) -> Arc<Broker> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (dir.join("certificate.pem"), dir.join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let options = Options {
        dir: dir.join("broker"),
        listen: "127.0.0.1:0".parse().unwrap(),
        sync: Duration::from_millis(200),
        keep_free: KeepFree::Bytes(0),
        security: Some(Security { certificate, key, users: [("u".to_owned(), "p".to_owned())].into() }),
    };
    Broker::start(options).await.unwrap()
}

/// A connection as it is behind TLS.
fn connect(broker: &Arc<Broker>) -> (DuplexStream, tokio::task::JoinHandle<Result<(), Ended>>) {
    let (client, server) = tokio::io::duplex(64 << 10);
    let here = broker.listening();
    let session =
        Session { peer: here, local: here, login: Default::default(), sends_bare_tokens: Default::default(), produces: Default::default() };
    (client, tokio::spawn(connection::serve(broker.clone(), server, session, None)))
}

#[tokio::test]
async fn strangers_take_no_room_from_those_who_have_logged_in() {
    let dir = tempfile::tempdir().unwrap();
    let broker = guarded(dir.path()).await;
    let mut waiting = Vec::new();
    for size in [SMALL_FRAME + 1, 20 << 20, 32 << 20] {
        let (mut client, served) = connect(&broker);
        client.write_all(&(size as i32).to_be_bytes()).await.unwrap();
        assert!(matches!(served.await.unwrap(), Err(Ended::LargeBeforeLogin(_))), "{size}");
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
        // Half a small frame: it waits, and takes nothing.
        let (mut client, served) = connect(&broker);
        client.write_all(&(SMALL_FRAME as i32).to_be_bytes()).await.unwrap();
        client.write_all(&[0; 100]).await.unwrap();
        waiting.push((client, served));
    }
    let all = tokio::time::timeout(Duration::from_secs(30), broker.limits.frames.take(FRAMES)).await;
    assert!(all.is_ok(), "all the room for frames is there for clients that have logged in");
    drop(waiting);
    broker.stop().await.unwrap();
}
