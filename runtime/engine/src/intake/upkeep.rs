//! What the engine itself has to say, and a clean stop.

use crate::catalog::Catalog;
use crate::intake::Intake;
use crate::intake::pipe::Pipe;
use millrace_contract::AckId;
use millrace_schemas::{Batch, Micros};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// How often the cache of catalog entries is saved, at most.
const SAVE_CATALOG_EVERY: Duration = Duration::from_secs(10);

impl Intake {
    /// Says what the engine itself has to say: stale tags, heartbeats, catalog entries. Call it every so often and when [`Intake::work`] resolves.
    pub async fn tick(&self) {
        let mut batch = self.spare.lock().pop().unwrap_or_default();
        batch.read_time = Micros::now();
        let mut pipe = self.pipe.lock().await;
        if self.source_logs.must_repeat.swap(false, Relaxed) {
            self.repeat(&mut pipe);
        }
        let has_catalog = {
            let mut core = self.core.lock();
            let core = &mut *core;
            let step = core.clock.step(Instant::now(), batch.read_time);
            if step != 0 {
                tracing::info!(source = %self.source, "the clock was set by {} s; no tag is stale by that", step / 1_000_000);
                core.tags.shift(step, batch.read_time);
            }
            core.tags.tick(batch.read_time, &mut batch);
            !core.pending.is_empty() || core.catalog.has_pending() || core.rows.has_due(batch.read_time)
        };
        if !batch.is_empty() || has_catalog || !pipe.owed.is_empty() {
            self.append(&mut pipe, &batch, &[]).await;
        }
        drop(pipe);
        batch.clear();
        self.spare.lock().push(batch);
        if self.catalog_saved.lock().elapsed() > SAVE_CATALOG_EVERY {
            self.save_catalog().await;
        }
        if self.positions.is_due() {
            let positions = self.positions.clone();
            let saved = tokio::task::spawn_blocking(move || positions.save()).await;
            if let Ok(Err(e)) = saved {
                tracing::warn!(source = %self.source, "cannot save positions: {e}; they are in the log, a start takes longer");
            }
        }
    }

    /// Kafka lost what it knew of this source: every definition and position goes once more.
    fn repeat(&self, pipe: &mut Pipe) {
        self.core.lock().repeat_catalog(Micros::now());
        pipe.owed.splice(0..0, self.positions.written());
    }

    async fn save_catalog(&self) {
        *self.catalog_saved.lock() = Instant::now();
        let Some(changed) = self.core.lock().catalog.take_changed() else { return };
        if let Ok(Err(e)) = tokio::task::spawn_blocking(move || Catalog::write(&changed)).await {
            tracing::warn!(source = %self.source, "cannot save the list of catalog entries: {e}; they are sent again at the next start");
        }
    }

    /// Resolves when [`Intake::tick`] has something to do at once.
    pub async fn work(&self) {
        self.events.work.notified().await;
    }

    /// Makes everything durable that was sent: for a clean stop.
    pub async fn close(&self) {
        {
            // Windows end with the source.
            let mut pipe = self.pipe.lock().await;
            let batch = Batch { read_time: Micros::now(), ..Batch::new() };
            self.append_until(&mut pipe, &batch, &[], Micros(i64::MAX)).await;
        }
        let sent = self.acks.lock().sent;
        if sent > 0 {
            let _ = tokio::time::timeout(Duration::from_secs(10), self.durable(AckId(sent - 1))).await;
        }
        self.save_catalog().await;
        let positions = self.positions.clone();
        let _ = tokio::task::spawn_blocking(move || positions.save()).await;
    }
}
