//! Live data over WebSocket: the same events as [`live`](crate::live) sends, each a text message, taken up again where a client left off.
//!
//! ```text
//! GET /live/socket?tag=body/*&snapshot=true       GET /live/socket?topic=orders&from=0:17,1:4
//!
//! {"id":"RUN-N","event":"sample","data":{..}}     {"event":"gap","data":{"why":".."}}
//! ```
//!
//! What a client says is only read: pings are answered, a close ends it, the rest is left. One that does not take a message for [`SLOWEST`] is closed
//! with 1008 and the reason, which it finds behind what is on its way. Nothing else is kept for it: what it missed is in the ring, or in Kafka.

use crate::access::refused;
use crate::live::{Events, Hub, LiveQuery, open};
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Query, State};
use axum::response::Response;
use futures_util::{Sink, SinkExt, StreamExt};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// How long a client may take for one message, and then for the reason why it is closed.
const SLOWEST: Duration = Duration::from_secs(10);
const TOLD: Duration = Duration::from_secs(60);
/// What a client may say in one message: nothing of it is used.
const SAID_MAX: usize = 4096;

pub async fn socket(State(hub): State<Arc<Hub>>, Query(query): Query<LiveQuery>, upgrade: WebSocketUpgrade) -> Response {
    match open(&hub, query, None).await {
        Ok(events) => upgrade.max_message_size(SAID_MAX).max_frame_size(SAID_MAX).on_upgrade(move |socket| serve(hub, socket, events)),
        Err((code, why)) => refused(code, &why),
    }
}

async fn serve(hub: Arc<Hub>, socket: WebSocket, mut events: Events) {
    let (mut out, mut said) = socket.split();
    loop {
        let piece = tokio::select! {
            piece = events.pieces.next() => piece,
            heard = said.next() => match heard {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => continue,
            },
        };
        let Some(piece) = piece else {
            // The last event said why.
            close(&mut out, close_code::POLICY, "it is over: the last event says why").await;
            return;
        };
        for message in messages(&String::from_utf8_lossy(&piece)) {
            match tokio::time::timeout(SLOWEST, out.send(message)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => {
                    hub.was_slow();
                    events.is_counted.store(true, Relaxed);
                    // No more is taken for it.
                    drop(events);
                    let why = "this client does not take what it is sent; nothing is lost in Kafka, go on with `from`";
                    close(&mut out, close_code::POLICY, why).await;
                    return;
                }
            }
        }
    }
}

/// Says why it ends, for as long as a client may take to hear it.
async fn close(out: &mut (impl Sink<Message> + Unpin), code: u16, why: &'static str) {
    let frame = Message::Close(Some(CloseFrame { code, reason: why.into() }));
    let _ = tokio::time::timeout(TOLD, async {
        let _ = out.send(frame).await;
        let _ = out.close().await;
    })
    .await;
}

/// Each event of a piece as a message; a sign of life as a ping.
fn messages(piece: &str) -> Vec<Message> {
    let message = |event: &str| {
        let field = |name: &str| event.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).collect::<Vec<_>>();
        let data = field("data").join("\n");
        if data.is_empty() {
            return Message::Ping(Default::default());
        }
        let head = field("id").first().map_or(String::new(), |id| format!("\"id\":{},", json!(id)));
        let kind = json!(field("event").first());
        // The data is JSON as it stands: it is not read again.
        Message::Text(format!("{{{head}\"event\":{kind},\"data\":{data}}}").into())
    };
    piece.split("\n\n").filter(|event| !event.is_empty()).map(message).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::events::event;

    #[test]
    fn an_event_is_a_message_and_a_sign_of_life_a_ping() {
        let mut piece = ": millrace\n\n".to_owned();
        event(&mut piece, "sample", Some("7-1"), r#"{"value":1}"#);
        event(&mut piece, "gap", None, r#"{"why":"x"}"#);
        let made = messages(&piece);
        assert!(matches!(made[0], Message::Ping(_)));
        assert_eq!(made[1], Message::Text(r#"{"id":"7-1","event":"sample","data":{"value":1}}"#.into()));
        assert_eq!(made[2], Message::Text(r#"{"event":"gap","data":{"why":"x"}}"#.into()));
        assert_eq!(made.len(), 3);
    }
}
