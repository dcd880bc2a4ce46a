//! A delta link that the ERP has forgotten.

use millrace_contract::Compiled;
use millrace_erp::ErpSourcePlugin;
use millrace_erp_sim::{Erp, Order};
use millrace_testkit::{Received, TestHost, soon, yaml};
use serde_json::Value;
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

struct Running {
    compiled: Box<dyn Compiled>,
    host: TestHost,
    task: JoinHandle<()>,
}

impl Running {
    fn new(erp: &Erp) -> Self {
        let text =
            format!("{{endpoint: '{}', entity_sets: [{{name: ProductionOrders, topic: orders, every: 100ms, page: 2}}]}}", erp.endpoint());
        let compiled = yaml::compile::<ErpSourcePlugin>(&text, &yaml::context("erp", &[])).unwrap_or_else(|problems| panic!("{problems}"));
        let host = TestHost::of(&*compiled);
        let task = Self::session(&*compiled, &host);
        Self { compiled, host, task }
    }

    fn session(compiled: &dyn Compiled, host: &TestHost) -> JoinHandle<()> {
        let (mut source, io) = (compiled.source().unwrap(), host.io());
        tokio::spawn(async move { source.session(io).await.unwrap() })
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
    let erp = Erp::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    erp.with(|store| {
        store.track_changes();
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
