//! A session that runs several connections on one [`SourceIo`], each in a task and a tracing span of its own.
//!
//! ```text
//! session ──┬── connection 0 ──┐
//!           ├── connection 1 ──┼── the first to end decides how the session ends; the others are told, may say their last, and are dropped
//!           └── connection 2 ──┘   when that takes too long
//! ```
//!
//! What a connection keeps between sessions (a subscription, unreleased packet ids) lies in the connection itself: it comes back from its task and
//! is used by the next session. One that had to be dropped is made anew.

use millrace_contract::{Failure, SourceIo};
use std::future::Future;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::Instrument;

/// One of a source's connections.
pub trait Connection: Send + 'static {
    /// Runs until it fails, the engine stops, or another connection ended.
    fn run(&mut self, io: &SourceIo, others: Others) -> impl Future<Output = Failure> + Send;
}

/// Says when another connection of the session has ended.
#[derive(Clone, Debug)]
pub struct Others(watch::Receiver<bool>);

impl Others {
    /// Of a connection that is alone.
    pub fn none() -> Self {
        Self(watch::channel(false).1)
    }

    /// Resolves when another connection ended: send the last acknowledgements and return. Cancel-safe.
    pub async fn ended(&mut self) {
        if self.0.wait_for(|ended| *ended).await.is_err() {
            std::future::pending().await
        }
    }
}

/// A source's connections; of those that run, the tasks have them.
#[derive(Debug)]
pub struct Connections<C>(Vec<Option<C>>);

impl<C> Default for Connections<C> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// How long the others may say their last.
const LAST_WORDS: Duration = Duration::from_secs(2);

impl<C> Connections<C> {
    /// Those that are between two sessions.
    pub fn resting(&mut self) -> impl Iterator<Item = &mut C> {
        self.0.iter_mut().flatten()
    }
}

impl<C: Connection> Connections<C> {
    /// Runs `count` connections until the first ends and the others have followed. `make` makes one by its number.
    pub async fn run(&mut self, count: usize, io: &SourceIo, make: impl Fn(usize) -> C) -> Result<(), Failure> {
        self.0.resize_with(count, || None);
        let (told, others) = watch::channel(false);
        let mut running = JoinSet::new();
        for (number, slot) in self.0.iter_mut().enumerate() {
            let mut connection = slot.take().unwrap_or_else(|| make(number));
            let (io, others) = (io.clone(), Others(others.clone()));
            let span = tracing::info_span!("connection", number);
            let task = async move {
                let ended = connection.run(&io, others).await;
                (number, connection, ended)
            };
            running.spawn(task.instrument(span));
        }
        let mut first = None;
        let deadline = tokio::time::sleep(Duration::MAX);
        tokio::pin!(deadline);
        loop {
            let joined = tokio::select! {
                biased;
                joined = running.join_next() => joined,
                () = &mut deadline => {
                    running.abort_all();
                    running.join_next().await
                }
            };
            let ended = match joined {
                None => break,
                Some(Ok((number, connection, ended))) => {
                    self.0[number] = Some(connection);
                    ended
                }
                Some(Err(error)) if error.is_cancelled() => continue,
                Some(Err(error)) => Failure::Reconnect(format!("a connection's task ended: {error}")),
            };
            if first.is_none() {
                first = Some(ended);
                let _ = told.send(true);
                deadline.as_mut().reset(tokio::time::Instant::now() + LAST_WORDS);
            }
        }
        match first {
            None | Some(Failure::Stopped) => Ok(()),
            Some(failure) => Err(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::breaker::tests::Told;
    use std::sync::Arc;

    /// Ends by itself, when another ended, or never.
    enum Kind {
        Fails,
        Follows,
        Hangs,
    }

    struct Line {
        kind: Kind,
        runs: u32,
    }

    impl Connection for Line {
        async fn run(&mut self, _: &SourceIo, mut others: Others) -> Failure {
            self.runs += 1;
            match self.kind {
                Kind::Fails => Failure::Reconnect(format!("run {}", self.runs)),
                Kind::Follows => {
                    others.ended().await;
                    Failure::Reconnect("followed".into())
                }
                Kind::Hangs => std::future::pending().await,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_connection_to_end_ends_the_session_and_each_keeps_what_it_knows_but_one_that_hangs() {
        let io = SourceIo::new(Arc::new(Told::default()));
        let mut connections = Connections::default();
        let make = |number: usize| Line { kind: [Kind::Follows, Kind::Fails, Kind::Hangs].into_iter().nth(number).unwrap(), runs: 0 };
        for run in 1..3 {
            let ended = connections.run(3, &io, make).await;
            assert_eq!(ended, Err(Failure::Reconnect(format!("run {run}"))));
        }
        let runs: Vec<_> = connections.0.iter().map(|line| line.as_ref().map(|line| line.runs)).collect();
        assert_eq!(runs, [Some(2), Some(2), None]);
    }
}
