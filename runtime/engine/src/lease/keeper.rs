//! Takes sources over and gives them back, one change after the other, as the group says.
//!
//! ```text
//!            Own: a lease is there              taken: this runtime is their owner
//!   others' ────────────────────────▶ missing ────────────────────────────────────▶ held
//!      ▲                                 ▲                                            │
//!      │ Own without them: stopped,      │ Own with them                              │ Lost
//!      │ synced, sent, given back        │                    on_isolation: keep      ▼
//!      └──────────────────────────────── kept ◀───────────────────────────────────────┘
//!                                        (read on, into the log)        release: stopped at once
//! ```
//!
//! A change waits for the one before, except that nothing waits for a take-over: the next word of the group ends it.

use crate::lease::plan::Names;
use async_trait::async_trait;
use parking_lot::Mutex;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How soon it is tried again to take over what could not be.
const AGAIN: Duration = Duration::from_millis(500);

/// The sources, as the keeper needs them.
#[async_trait]
pub trait Sources: Send + Sync {
    /// Makes this runtime the owner of these, and runs them; of `patient` ones their owner is given time to let go. Returned are those that run.
    /// Given up half-way it is called again, or what it took is released.
    async fn take(&self, names: &Names, patient: &Names) -> Names;
    /// Stops these. `gives`: their leases are held, so what they read is sent, and they are given back in order.
    async fn release(&self, names: &Names, gives: bool);
    /// The leases of these are gone; they go on.
    async fn lose(&self, names: &Names);
}

/// What the group says.
pub enum Order {
    /// The leases of these are held, and no others. `fresh`: of those that came with a slot, so that their owner has let go, or is dead.
    Own { wanted: Names, fresh: Names, done: Option<oneshot::Sender<()>> },
    /// No lease is held, and who holds them is not known.
    Lost,
}

/// What this runtime reads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Holding {
    /// As their owner.
    pub held: Names,
    /// Cut off from Kafka: somebody else may read them, too.
    pub kept: Names,
}

pub struct Keeper {
    pub orders: mpsc::UnboundedReceiver<Order>,
    pub sources: Weak<dyn Sources>,
    pub holding: Arc<Mutex<Holding>>,
    /// `on_isolation: keep`.
    pub keeps: bool,
}

impl Keeper {
    pub async fn run(mut self) {
        let (mut wanted, mut patient) = (Names::new(), Names::new());
        // Their take-over was given up half-way.
        let mut begun = Names::new();
        let mut next = None;
        loop {
            let missing: Names = wanted.difference(&self.holding.lock().held).cloned().collect();
            let order = match next.take() {
                Some(order) => Some(order),
                None => tokio::select! {
                    order = self.orders.recv() => match order {
                        Some(order) => Some(order),
                        None => return,
                    },
                    () = tokio::time::sleep(AGAIN), if !missing.is_empty() => None,
                },
            };
            let Some(sources) = self.sources.upgrade() else { return };
            match order {
                Some(Order::Lost) => {
                    let held = std::mem::take(&mut self.holding.lock().held);
                    (wanted, patient) = (Names::new(), Names::new());
                    let lost: Names = held.union(&std::mem::take(&mut begun)).cloned().collect();
                    if self.keeps {
                        sources.lose(&lost).await;
                        self.holding.lock().kept.extend(held);
                    } else {
                        sources.release(&lost, false).await;
                    }
                    continue;
                }
                Some(Order::Own { wanted: now, fresh, done }) => {
                    let Holding { held, kept } = self.holding.lock().clone();
                    let goes: Names = held.union(&begun).filter(|name| !now.contains(*name)).cloned().collect();
                    let unkept: Names = kept.difference(&now).cloned().collect();
                    tokio::join!(sources.release(&goes, true), sources.release(&unkept, false));
                    {
                        let mut holding = self.holding.lock();
                        holding.held.retain(|name| now.contains(name));
                        holding.kept.retain(|name| now.contains(name));
                    }
                    begun.retain(|name| now.contains(name));
                    patient.retain(|name| now.contains(name));
                    patient.extend(now.difference(&wanted).filter(|name| !fresh.contains(*name)).cloned());
                    patient.retain(|name| !fresh.contains(name));
                    wanted = now;
                    if let Some(done) = done {
                        let _ = done.send(());
                    }
                }
                None => {}
            }
            let missing: Names = wanted.difference(&self.holding.lock().held).cloned().collect();
            if missing.is_empty() {
                continue;
            }
            begun.extend(missing.iter().cloned());
            tokio::select! {
                taken = sources.take(&missing, &patient) => {
                    let mut holding = self.holding.lock();
                    holding.kept.retain(|name| !taken.contains(name));
                    holding.held.extend(taken);
                    begun.clear();
                }
                order = self.orders.recv() => match order {
                    Some(order) => next = Some(order),
                    None => return,
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn names(list: &[&str]) -> Names {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    /// Notes what it is told. One whose name is in `stuck` can't be taken over yet.
    #[derive(Default)]
    struct Noted {
        said: Mutex<Vec<String>>,
        stuck: Mutex<BTreeSet<String>>,
    }

    impl Noted {
        fn note(&self, what: &str, names: &Names) {
            if !names.is_empty() {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                self.said.lock().push(format!("{what} {}", names.join(" ")));
            }
        }
    }

    #[async_trait]
    impl Sources for Noted {
        async fn take(&self, names: &Names, patient: &Names) -> Names {
            while names.iter().any(|name| self.stuck.lock().contains(name)) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            self.note("take", names);
            self.note("  patiently", &names.intersection(patient).cloned().collect());
            names.clone()
        }

        async fn release(&self, names: &Names, gives: bool) {
            self.note(if gives { "give" } else { "stop" }, names);
        }

        async fn lose(&self, names: &Names) {
            self.note("lose", names);
        }
    }

    struct Bench {
        noted: Arc<Noted>,
        orders: mpsc::UnboundedSender<Order>,
        holding: Arc<Mutex<Holding>>,
    }

    impl Bench {
        fn new(keeps: bool) -> Self {
            let noted = Arc::new(Noted::default());
            let (orders, from) = mpsc::unbounded_channel();
            let holding = Arc::<Mutex<Holding>>::default();
            let weak = Arc::downgrade(&noted);
            tokio::spawn(Keeper { orders: from, sources: weak, holding: holding.clone(), keeps }.run());
            Self { noted, orders, holding }
        }

        async fn own(&self, wanted: &[&str], fresh: &[&str]) {
            let (done, is_done) = oneshot::channel();
            let _ = self.orders.send(Order::Own { wanted: names(wanted), fresh: names(fresh), done: Some(done) });
            is_done.await.unwrap();
        }

        async fn until(&self, said: &[&str]) {
            let all = async {
                while *self.noted.said.lock() != said {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            let in_time = tokio::time::timeout(Duration::from_secs(20), all).await;
            assert!(in_time.is_ok(), "said {:?}, expected {said:?}", self.noted.said.lock());
        }
    }

    #[tokio::test]
    async fn what_is_given_away_is_stopped_before_the_group_hears_of_it() {
        let bench = Bench::new(true);
        bench.own(&["s", "t"], &["s"]).await;
        bench.until(&["take s t", "  patiently t"]).await;
        bench.own(&["t"], &[]).await;
        assert_eq!(bench.noted.said.lock()[2..], ["give s"]);
        assert_eq!(bench.holding.lock().held, names(&["t"]));
    }

    #[tokio::test]
    async fn cut_off_it_reads_on_or_stops_as_the_file_says() {
        for (keeps, lost) in [(true, "lose s t"), (false, "stop s t")] {
            let bench = Bench::new(keeps);
            bench.own(&["s", "t"], &["s", "t"]).await;
            bench.until(&["take s t"]).await;
            let _ = bench.orders.send(Order::Lost);
            bench.until(&["take s t", lost]).await;
            bench.own(&["s"], &[]).await;
            let after: &[&str] = if keeps {
                &["take s t", lost, "stop t", "take s", "  patiently s"]
            } else {
                &["take s t", lost, "take s", "  patiently s"]
            };
            bench.until(after).await;
        }
    }

    #[tokio::test]
    async fn a_take_over_that_waits_holds_nothing_up_and_is_given_back_if_it_was_under_way() {
        let bench = Bench::new(true);
        bench.noted.stuck.lock().insert("s".into());
        bench.own(&["s"], &[]).await;
        bench.own(&["t"], &["t"]).await;
        bench.until(&["give s", "take t"]).await;
    }
}
