//! A delta link that the ERP has forgotten.

use millrace_erp::ErpSourcePlugin;
use millrace_erp_sim::{Erp, Order};
use millrace_testkit::{Received, TestHost, soon, yaml};
use serde_json::Value;

const NOW: i64 = 1_780_000_000_000;

/// The ids of documents and, with a `-`, of tombstones.
fn ids(host: &TestHost) -> Vec<String> {
    let id = |record: Received| match record {
        Received::Document(document) => match &document.payload {
            Some(payload) => serde_json::from_slice::<Value>(payload).unwrap()["ID"].as_str().unwrap().to_owned(),
            None => format!("-{}", String::from_utf8_lossy(&document.key)),
        },
        other => panic!("{other:?}"),
    };
    host.received().into_iter().map(id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_link_that_is_forgotten_starts_over_and_no_change_is_lost() {
    let erp = Erp::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    erp.with(|store| {
        store.track_changes();
        ["1", "2", "3"].into_iter().for_each(|id| store.put(Order::new(id, NOW)));
    });
    let text = format!("{{endpoint: '{}', entity_sets: [{{name: ProductionOrders, topic: orders, every: 100ms}}]}}", erp.endpoint());
    let compiled = yaml::compile::<ErpSourcePlugin>(&text, &yaml::context("erp", &[])).unwrap_or_else(|problems| panic!("{problems}"));
    let host = TestHost::of(&*compiled);
    let (mut source, io) = (compiled.source().unwrap(), host.io());
    let session = tokio::spawn(async move { source.session(io).await });
    host.until("the first load", |host| host.count() >= 3).await;
    erp.with(|store| store.delete("3"));
    host.until("a deletion by the link", |host| host.count() >= 4).await;
    assert_eq!(ids(&host)[3], "-3");
    assert_eq!(host.lost("delta_expired"), 0);
    // In one moment: the link is forgotten, and there are changes that only it would have told.
    erp.with(|store| {
        store.put(Order::new("4", NOW + 1));
        store.delete("2");
        store.forget_changes();
    });
    host.until("all is read again", |host| host.count() >= 6).await;
    let mut again = ids(&host).split_off(4);
    again.sort();
    assert_eq!(again, ["1", "4"]);
    assert_eq!(host.lost("delta_expired"), 1, "what was deleted meanwhile is not seen: that is said");
    // By the new link from here on.
    erp.with(|store| store.put(Order::new("5", NOW + 2)));
    host.until("a change by the new link", |host| host.count() >= 7).await;
    assert_eq!(ids(&host)[6], "5");
    assert_eq!(host.lost("delta_expired"), 1);
    host.stop();
    soon("the session ends", session).await.unwrap().unwrap();
}
