//! What is deleted in the ERP becomes a tombstone, and nothing else does: after a delta link that it has forgotten, and by comparing keys.

use millrace_contract::{Compiled, Status};
use millrace_erp::ErpSourcePlugin;
use millrace_erp_sim::{Erp, Order};
use millrace_testkit::{Received, TestHost, soon, yaml};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::task::JoinHandle;

const NOW: i64 = 1_780_000_000_000;

/// The ids of documents; with a `-` of tombstones, with a `!` of dead letters.
fn ids(host: &TestHost) -> Vec<String> {
    let id = |payload: &[u8]| serde_json::from_slice::<Value>(payload).unwrap()["ID"].as_str().unwrap().to_owned();
    let id = |record: Received| match record {
        Received::Document(document) => match &document.payload {
            Some(payload) => id(payload),
            None => format!("-{}", String::from_utf8_lossy(&document.key)),
        },
        Received::Rejected(reject) => format!("!{}", id(&reject.payload)),
        other => panic!("{other:?}"),
    };
    host.received().into_iter().map(id).collect()
}

fn compiled(erp: &Erp, keys: &str) -> Box<dyn Compiled> {
    let text =
        format!("{{endpoint: '{}', entity_sets: [{{name: ProductionOrders, topic: orders, every: 100ms, {keys}}}]}}", erp.endpoint());
    yaml::compile::<ErpSourcePlugin>(&text, &yaml::context("erp", &[])).unwrap_or_else(|problems| panic!("{problems}"))
}

struct Running {
    compiled: Box<dyn Compiled>,
    host: TestHost,
    task: JoinHandle<()>,
}

impl Running {
    fn new(erp: &Erp) -> Self {
        Self::with(erp, "page: 2")
    }

    fn with(erp: &Erp, keys: &str) -> Self {
        let compiled = compiled(erp, keys);
        let host = TestHost::of(&*compiled);
        let task = Self::session(&*compiled, &host);
        Self { compiled, host, task }
    }

    fn session(compiled: &dyn Compiled, host: &TestHost) -> JoinHandle<()> {
        let (mut source, io) = (compiled.source().unwrap(), host.io());
        tokio::spawn(async move { source.session(io).await.unwrap() })
    }

    /// As a kill does, and a start after it.
    async fn crash(&mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
        self.start();
    }

    /// Waits until so many more polls have ended.
    async fn polls(&self, count: u64) {
        let before = self.host.alive("ProductionOrders");
        self.host.until("polls go on", |host| host.alive("ProductionOrders") >= before + count).await;
    }

    async fn stop(&mut self) {
        self.host.stop();
        soon("the session ends", &mut self.task).await.unwrap();
    }

    fn start(&mut self) {
        self.host.restart();
        self.task = Self::session(&*self.compiled, &self.host);
    }

    /// What came behind the first `from` records, in order of their ids, once there are `count` in all.
    async fn behind(&self, from: usize, count: u64, what: &str) -> Vec<String> {
        self.host.until(what, |host| host.count() >= count).await;
        let mut ids = ids(&self.host).split_off(from);
        ids.sort();
        ids
    }
}

async fn erp(ids: &[&str]) -> Erp {
    let erp = erp_without_delta_links(&[]).await;
    erp.with(|store| {
        store.track_changes();
        ids.iter().for_each(|id| store.put(Order::new(*id, NOW)));
    });
    erp
}

async fn erp_without_delta_links(ids: &[&str]) -> Erp {
    let erp = Erp::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    erp.with(|store| {
        ids.iter().for_each(|id| store.put(Order::new(*id, NOW)));
    });
    erp
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_while_a_delta_link_was_forgotten_gets_its_tombstone() {
    let erp = erp(&["1", "2", "3"]).await;
    let mut running = Running::new(&erp);
    running.host.until("the first load", |host| host.count() >= 3).await;
    erp.with(|store| store.delete("3"));
    running.host.until("a deletion by the link", |host| host.count() >= 4).await;
    assert_eq!(ids(&running.host)[3], "-3");
    erp.with(|store| store.put(Order::new("4", NOW + 1)));
    running.host.until("a change by the link", |host| host.count() >= 5).await;
    // While nobody asks: the link is forgotten, and there are changes that only it would have told, of rows of the load and of one that came later.
    running.stop().await;
    erp.with(|store| {
        store.put(Order::new("5", NOW + 2));
        store.delete("2");
        store.delete("4");
        store.forget_changes();
    });
    running.start();
    assert_eq!(running.behind(5, 9, "all is read again").await, ["-2", "-4", "1", "5"]);
    assert_eq!(running.host.lost("delta_expired"), 0);
    // By the new link from here on; and what had its tombstone gets no other one.
    erp.with(|store| store.put(Order::new("6", NOW + 3)));
    running.host.until("a change by the new link", |host| host.count() >= 10).await;
    erp.with(|store| {
        store.delete("1");
        store.forget_changes();
    });
    assert_eq!(running.behind(10, 13, "all is read once more").await, ["-1", "5", "6"]);
    assert_eq!(running.host.lost("delta_expired"), 0);
    running.stop().await;
    assert!(running.host.positions().len() <= 4, "what is not needed any more is gone: {:?}", running.host.positions().keys());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_a_dead_letter_is_not_taken_for_deleted() {
    let erp = erp(&["1", "2"]).await;
    let mut running = Running::new(&erp);
    running.host.until("the first load", |host| host.count() >= 2).await;
    erp.with(|store| {
        store.put(Order { quantity: "12,5".into(), ..Order::new("2", NOW + 1) });
        store.forget_changes();
    });
    assert_eq!(running.behind(2, 4, "all is read again").await, ["!2", "1"]);
    erp.with(|store| store.put(Order::new("3", NOW + 2)));
    assert_eq!(running.behind(2, 5, "a change by the new link").await, ["!2", "1", "3"], "and no tombstone");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_forgotten_delta_link_what_was_seen_by_the_watermark_is_not_taken_for_deleted() {
    let erp = erp(&["1", "2", "3"]).await;
    let mut running = Running::with(&erp, "page: 2, watermark: modifiedAt");
    running.host.until("the first load", |host| host.count() >= 3).await;
    erp.with(|store| {
        store.delete("2");
        store.put(Order::new("4", NOW + 1));
        store.forget_changes();
    });
    // The rows that did not change were seen within the overlap, and are not sent again.
    assert_eq!(running.behind(3, 5, "the change and the deletion").await, ["-2", "4"]);
    running.polls(3).await;
    assert_eq!(running.host.count(), 5);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_forgotten_delta_link_what_left_the_filter_is_told_from_what_was_deleted() {
    for (left_filter, wanted) in [("count", vec!["-2", "1"]), ("tombstone", vec!["-2", "-3", "1"])] {
        let erp = erp(&["1", "2", "3"]).await;
        let mut running = Running::with(&erp, &format!("page: 2, filter: \"status eq 'released'\", left_filter: {left_filter}"));
        running.host.until("the first load", |host| host.count() >= 3).await;
        running.stop().await;
        erp.with(|store| {
            store.delete("2");
            store.put(Order { status: "closed".into(), ..Order::new("3", NOW + 1) });
            store.forget_changes();
        });
        running.start();
        assert_eq!(running.behind(3, 3 + wanted.len() as u64, "all is read again").await, wanted);
        assert_eq!(running.host.lost("left_filter"), u64::from(left_filter == "count"));
        assert_eq!(running.host.lost("delta_expired"), 0);
        running.stop().await;
    }
}

const BY_WATERMARK: &str = "page: 2, watermark: modifiedAt, overlap: 1s, reconcile_every: 100ms";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_where_no_delta_link_tells_it_gets_its_tombstone_once_the_keys_are_compared() {
    let erp = erp_without_delta_links(&["1", "2", "3", "4", "5", "6", "it's/7"]).await;
    let mut running = Running::with(&erp, BY_WATERMARK);
    running.host.until("the first load", |host| host.count() >= 7).await;
    erp.with(|store| {
        store.delete("3");
        store.delete("it's/7");
        store.put(Order::new("1", NOW + 1));
    });
    assert_eq!(running.behind(7, 10, "two deletions and a change").await, ["-3", "-it's/7", "1"]);
    // While nobody looks; and through a kill.
    running.stop().await;
    erp.with(|store| store.delete("5"));
    running.start();
    assert_eq!(running.behind(10, 11, "a deletion while nobody looked").await, ["-5"]);
    erp.with(|store| store.delete("6"));
    running.crash().await;
    assert_eq!(running.behind(11, 12, "a deletion around a kill").await, ["-6"]);
    // One that comes back is a row, and a deletion of it is a tombstone again.
    erp.with(|store| store.put(Order::new("3", NOW + 2)));
    assert_eq!(running.behind(12, 13, "one comes back").await, ["3"]);
    erp.with(|store| store.delete("3"));
    assert_eq!(running.behind(13, 14, "and goes").await, ["-3"]);
    running.polls(10).await;
    running.stop().await;
    assert_eq!(running.host.count(), 14, "nothing is told twice");
    assert_eq!(running.host.status("ProductionOrders"), Some(Status::Running));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_list_leaves_out_is_asked_for_and_no_tombstone_while_it_is_there() {
    let erp = erp_without_delta_links(&["1", "2", "3", "4"]).await;
    let mut running = Running::with(&erp, &format!("{BY_WATERMARK}, filter: \"status eq 'released'\""));
    running.host.until("the first load", |host| host.count() >= 4).await;
    erp.with(|store| {
        // A row that others shifted out of sight, one that left the filter, and one that is gone.
        store.hidden.insert("2".into());
        store.put(Order { status: "closed".into(), ..Order::new("3", NOW + 1) });
        store.delete("4");
    });
    assert_eq!(running.behind(4, 5, "the deletion").await, ["-4"]);
    running.polls(10).await;
    assert_eq!(running.host.count(), 5);
    assert_eq!(running.host.lost("left_filter"), 1, "it is told once, not at each comparison");
    erp.with(|store| store.delete("2"));
    assert_eq!(running.behind(5, 6, "a deletion of what no list had").await, ["-2"]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_come_and_go_while_keys_are_compared_end_as_the_erp_has_them_through_kills() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("SEED={seed}");
    // Knuth, The Art of Computer Programming, 3.3.4: MMIX.
    let mut state = seed;
    let mut below = move |end: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % end
    };
    let erp = erp_without_delta_links(&[]).await;
    let stays = |n: u32| n.is_multiple_of(3);
    let mut at = NOW;
    let mut put = |n: u32| {
        at += 1;
        erp.with(|store| store.put(Order::new(format!("{n:03}"), at)));
    };
    (0..90).for_each(&mut put);
    let mut running = Running::with(&erp, "page: 7, watermark: modifiedAt, overlap: 1s, reconcile_every: 100ms");
    running.host.until("the first load", |host| host.count() >= 90).await;
    for step in 0..400 {
        let n = below(120) as u32;
        if below(2) == 0 || stays(n) {
            put(n);
        } else {
            erp.with(|store| store.delete(&format!("{n:03}")));
        }
        if step % 80 == 79 {
            running.crash().await;
        }
        tokio::time::sleep(Duration::from_millis(below(8))).await;
    }
    let there: BTreeSet<String> = erp.with(|store| store.orders().map(|order| order.id.clone()).collect());
    let as_told = |host: &TestHost| {
        let mut last = BTreeMap::new();
        for id in ids(host) {
            let (id, is_there) = id.strip_prefix('-').map_or((id.as_str(), true), |id| (id, false));
            last.insert(id.to_owned(), is_there);
        }
        last.into_iter().filter(|(_, is_there)| *is_there).map(|(id, _)| id).collect::<BTreeSet<_>>()
    };
    running.host.until("the topic is as the ERP is", |host| as_told(host) == there).await;
    running.polls(5).await;
    running.stop().await;
    assert_eq!(as_told(&running.host), there);
    let never = |id: &String| id.strip_prefix('-').is_some_and(|id| stays(id.parse().unwrap()));
    assert_eq!(ids(&running.host).into_iter().find(never), None, "a tombstone of what was never deleted");
    assert!(ids(&running.host).iter().filter(|id| id.starts_with('-')).count() > 10, "many were deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_that_is_read_whole_each_time_tells_what_is_gone() {
    let erp = erp_without_delta_links(&["1", "2", "3"]).await;
    let mut running = Running::with(&erp, "page: 2, delta: off, reconcile_every: 100ms");
    running.host.until("some loads", |host| host.count() >= 9).await;
    erp.with(|store| {
        store.hidden.insert("1".into());
        store.delete("2");
    });
    running.host.until("the deletion", |host| ids(host).contains(&"-2".to_owned())).await;
    running.crash().await;
    running.polls(10).await;
    erp.with(|store| store.delete("1"));
    running.host.until("a deletion of what no list had", |host| ids(host).contains(&"-1".to_owned())).await;
    running.polls(3).await;
    running.stop().await;
    let told: Vec<String> = ids(&running.host).into_iter().filter(|id| id.starts_with('-')).collect();
    assert_eq!(told, ["-2", "-1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erp_that_cannot_be_asked_by_key_is_read_on_and_what_is_not_seen_is_said() {
    let erp = erp_without_delta_links(&["1", "2"]).await;
    let mut running = Running::with(&erp, BY_WATERMARK);
    running.host.until("the first load", |host| host.count() >= 2).await;
    erp.with(|store| {
        store.refuses_ids = true;
        store.delete("2");
    });
    let is_said = |host: &TestHost| {
        let said = |status: Option<Status>| matches!(status, Some(Status::Degraded(why)) if why.contains("what is deleted is not seen") && why.contains("501"));
        said(host.status("ProductionOrders"))
    };
    running.host.until("it is said", is_said).await;
    erp.with(|store| store.put(Order::new("3", NOW + 1)));
    assert_eq!(running.behind(2, 3, "changes go on").await, ["3"]);
    erp.with(|store| store.refuses_ids = false);
    assert_eq!(running.behind(3, 4, "the deletion").await, ["-2"]);
    running.host.until("all is well", |host| host.status("ProductionOrders") == Some(Status::Running)).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_rows_that_were_read_before_are_learned_by_the_first_comparison() {
    let erp = erp_without_delta_links(&["1", "2", "3"]).await;
    let mut running = Running::with(&erp, "page: 2, watermark: modifiedAt, overlap: 1s");
    running.host.until("the first load", |host| host.count() >= 3).await;
    erp.with(|store| store.delete("1"));
    running.polls(3).await;
    running.stop().await;
    running.compiled = compiled(&erp, BY_WATERMARK);
    running.start();
    running.host.until("the keys are learned", |host| host.positions().keys().any(|key| key.starts_with("known:"))).await;
    running.polls(3).await;
    erp.with(|store| store.delete("3"));
    // Of the one before nobody knew.
    assert_eq!(running.behind(3, 4, "a deletion from then on").await, ["-3"]);
    running.stop().await;
}
