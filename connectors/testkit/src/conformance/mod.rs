//! What every connector must do, whatever its protocol. A connector gives a fixture: its device, and how to make it speak.
//!
//! [`source_conforms!`](crate::source_conforms) and [`sink_conforms!`](crate::sink_conforms) make one test of each check, so that the first failure
//! hides nothing. A failing check names itself: `conformance: cut_cable: ...`.

pub mod sink;
pub mod source;

pub use sink::SinkFixture;
pub use source::{Device, SourceFixture};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Memory is counted for the whole process: the check that measures it runs alone.
static TURNS: RwLock<()> = RwLock::const_new(());

/// Lets a check run beside others.
pub async fn beside_others() -> RwLockReadGuard<'static, ()> {
    TURNS.read().await
}

/// Lets a check run alone.
pub async fn alone() -> RwLockWriteGuard<'static, ()> {
    TURNS.write().await
}
