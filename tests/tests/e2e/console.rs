//! The console in a real browser: what is shown is what is so, what is clicked is done, and everybody can use it.

use millrace_tests::*;
use serde_json::Value;

const PLANT: &str = "
topics: {$topic: {format: json}, $orders: {schema: order.schema.json}}
sources:
  press: {type: generator, at: body/press-1, topic: $topic, tags: 12, rate: 200/s, shapes: [sine, counter, random, square], period: 20s, count: $count, report: all}
  live: {type: generator, at: paint/oven, topic: $topic, tags: 4, rate: 40/s, shapes: [sine, random], period: 10s}
  orders: {type: mqtt, endpoint: $broker, subscribe: [{filter: 'orders/+', payload: json, topic: $orders, key: '{1}', qos: 1}]}
  gone: {type: modbus, endpoint: 'tcp://127.0.0.1:$nobody', at: utilities/meter, topic: $topic, groups: [{every: 1s, tags: {power: {address: 'input:52', as: i32, unit: W}}}]}
sinks:
  archive: {type: file, topics: [$topic], path: '$dir/archive.ndjson'}
";

const ORDER: &str = r#"{"$schema": "http://json-schema.org/draft-07/schema#", "title": "order", "type": "object", "required": ["id", "quantity"],
"properties": {"id": {"type": "string"}, "quantity": {"type": "integer"}}}"#;

/// Of a row in a table of the page.
fn cell(table: &str, name: &str, key: &str) -> String {
    format!("#{table} tr[data-name=\"{name}\"] td[data-key=\"{key}\"]")
}

fn accessible(browser: &Browser, view: &str) {
    let found = browser.inaccessible();
    assert!(found.is_empty(), "{view} is not accessible: {found:#?}");
}

#[test]
fn the_console_shows_what_is_so_and_does_what_is_clicked() {
    let (kafka, broker) = (Kafka::shared(), Mosquitto::start());
    let (topic, orders, count) = (kafka.topic("console"), kafka.topic("orders"), 2400);
    let factory = Factory::on(kafka)
        .with("topic", &topic)
        .with("orders", &orders)
        .with("broker", broker.url())
        .with("count", count)
        .with("nobody", free_port())
        .file("order.schema.json", ORDER);
    let mut millrace = factory.start(PLANT);
    millrace.wait_running("orders");
    for n in 0..7 {
        broker.publish("orders/7", format!("{{\"id\": \"A{n}\", \"quantity\": \"many\"}}").as_bytes(), 1, false);
    }
    broker.publish("orders/8", br#"{"id": "B", "quantity": 5}"#, 1, false);
    millrace.drained_when("press", |ledger| ledger.received >= count);
    millrace.drained_when("orders", |ledger| ledger.received >= 8);
    let page = |view: &str| format!("http://127.0.0.1:{}/{view}", millrace.http_port());

    let browser = Browser::start(false);
    browser.open(&page(""));
    browser.text_until("#overall", |text| text == "Degraded");
    browser.text_until("#troubles", |text| text.contains("source gone") && text.contains("127.0.0.1"));
    browser.text_until("#tiles [data-key=dead] b", |text| text == "7");
    // Enough for the curves to show something.
    browser.text_until("#tiles [data-key=received_rate] b", |text| text != "0/s");
    std::thread::sleep(std::time::Duration::from_secs(8));
    browser.screenshot("overview-light");
    accessible(&browser, "the overview");

    // Numbers, read as a person reads them, of sources that stand still.
    browser.click("nav a[href='#connectors']");
    browser.text_until(&cell("sources", "press", "status"), |text| !text.is_empty());
    let status = millrace.status();
    for name in ["press", "orders"] {
        let source = &status["sources"][name];
        for key in ["received", "produced", "waiting"] {
            assert_eq!(browser.number(&cell("sources", name, key)), source["ledger"][key].as_u64().unwrap(), "{name} {key}");
        }
        assert_eq!(browser.number(&cell("sources", name, "tags")), source["tags"].as_u64().unwrap());
    }
    assert_eq!(browser.number(&cell("sources", "orders", "dead")), 7);
    assert_eq!(browser.number(&cell("sources", "press", "received")), 2400);
    browser.click(&format!("{} button", cell("sources", "gone", "name")));
    browser.text_until("#connector dl", |text| text.contains("127.0.0.1"));
    browser.screenshot("connectors-light");
    accessible(&browser, "connectors");

    // A tag: its value, why, and its trend as it comes.
    browser.click("nav a[href='#tags']");
    browser.type_into("#pattern", "paint/oven/*");
    browser.text_until("#count", |text| text == "4 of 4");
    let tag = format!("{}/paint/oven/sine-0", millrace.site());
    browser.click(&format!("{} button", cell("tag-list", &tag, "tag")));
    browser.text_until("#why-title", |text| text == "Every hop works");
    // Behind the log, too: the record in Kafka, and the sink that reads its topic and no other.
    browser.text_until("#why", |text| text.contains(&format!("topic {topic}, partition ")) && text.contains("archive: Running"));
    browser.text_until("#trend-note", |text| text.contains(&format!("Out of topic {topic}")));
    let drawn = || {
        let points = "return document.querySelectorAll('#trend path')[0]?.getAttribute('d').split('H').length ?? 0";
        browser.run(points, &[]).as_u64().unwrap_or(0)
    };
    let before = eventually("the past is drawn", || Some(drawn()).filter(|points| *points > 20));
    eventually("the trend grows by itself", || (drawn() > before + 5).then_some(()));
    let (_, body) = http::get(millrace.http_port(), "/tags?name=body/press-1/counter-1").unwrap();
    let counter: Value = serde_json::from_str(&body).unwrap();
    browser.screenshot("tag-light");
    accessible(&browser, "tags");
    browser.run("document.getElementById('pattern').value = ''", &[]);
    browser.type_into("#pattern", "body/press-1/counter-1");
    let row = format!("{}/body/press-1/counter-1", millrace.site());
    browser.text_until(&cell("tag-list", &row, "value"), |text| !text.is_empty());
    assert_eq!(browser.number(&cell("tag-list", &row, "value")), counter["tags"][0]["sample"]["value"].as_u64().unwrap());

    // Topics: who writes, who reads, what they are written with, and what is in them.
    browser.click("nav a[href='#topics']");
    browser.text_until(&cell("topic-list", &topic, "readers"), |text| text == "archive");
    assert_eq!(browser.text(&cell("topic-list", &topic, "writers")), "gone, live, press");
    assert_eq!(browser.number(&cell("topic-list", &orders, "records")), 1);
    browser.click(&format!("{} button", cell("topic-list", &orders, "name")));
    browser.text_until("#records", |text| text.contains("\"quantity\": 5"));
    assert!(browser.text("#topic-schema pre").contains("\"title\": \"order\""));
    browser.screenshot("topics-light");
    accessible(&browser, "topics");

    // The ledger adds up on the page, too.
    browser.click("nav a[href='#ledger']");
    browser.text_until(&cell("books", "orders", "adds_up"), |text| text == "yes");
    let of = |name: &str, key: &str| browser.number(&cell("books", name, key));
    for name in ["press", "orders"] {
        let left: u64 = ["filtered", "dropped_at_intake", "dead_at_intake", "appended"].iter().map(|key| of(name, key)).sum();
        let right: u64 = ["produced", "dead_at_send", "dropped_from_log", "waiting"].iter().map(|key| of(name, key)).sum();
        assert_eq!((of(name, "received"), of(name, "appended")), (left, right), "{name}");
    }
    browser.text_until("#lost", |text| text.contains("dead letter"));
    browser.screenshot("ledger-light");
    accessible(&browser, "the ledger");

    // Dead letters: looked at, refused as long as the contract is what it is.
    browser.click("nav a[href='#dead']");
    browser.text_until("#kinds", |text| text.contains(&orders));
    assert_eq!(browser.number("#kinds td[data-key=count]"), 7);
    browser.text_until("#letters", |text| text.contains("many") && text.contains("quantity"));
    browser.screenshot("dead-light");
    accessible(&browser, "dead letters");
    browser.click("#kinds td[data-key=replay] button");
    browser.text_until("#replay-says", |text| text.contains("0 would be sent") && text.contains("7 would be refused"));
    browser.screenshot("replay-light");
    browser.click("#replay button[value=no]");

    // The contract is mended; what would change is shown, and taken by a click. Then the letters go.
    std::fs::write(millrace.dir().join("order.schema.json"), ORDER.replace("\"integer\"", "[\"integer\", \"string\"]")).unwrap();
    browser.click("nav a[href='#configuration']");
    browser.click("#look");
    browser.text_until("#config-note", |text| text.contains("starts anew") && text.contains("another schema"));
    browser.screenshot("configuration-light");
    accessible(&browser, "configuration");
    // Up to here nothing was broken off.
    let errors = browser.errors();
    assert!(errors.is_empty(), "{errors:#?}");
    let started = millrace.status()["started"].clone();
    browser.click("#take");
    eventually("it runs again", || {
        let (_, body) = http::get(millrace.http_port(), "/status").ok()?;
        let status: Value = serde_json::from_str(&body).ok()?;
        (status["started"] != started && status["kafka"]["status"] == "Running").then_some(())
    });
    browser.click("nav a[href='#dead']");
    // The list of before is still shown while the new one is read.
    browser.text_until("#dead-note", str::is_empty);
    browser.text_until("#kinds", |text| text.contains(&orders));
    browser.click("#kinds td[data-key=replay] button");
    browser.text_until("#replay-says", |text| text.contains("7 would be sent"));
    browser.click("#replay-yes");
    browser.text_until("#dead-note", |text| text.contains("7 sent, 0 refused"));
    kafka.follow(&orders).until("the letters are where they belong", |records| records.len() == 8);

    // By keyboard: `g m` goes to the messages, `/` to the filter of tags.
    browser.run("document.activeElement.blur()", &[]);
    eventually("`g m` goes to the messages", || {
        browser.keys("gm");
        (browser.run("return location.hash", &[]) == "#messages").then_some(())
    });
    browser.text_until("#said", |text| text.contains("gone") && text.contains("trying again"));
    accessible(&browser, "messages");
    browser.keys("/");
    eventually("the filter has the focus", || (browser.run("return document.activeElement.id", &[]) == "pattern").then_some(()));
    // The restart broke connections off, and what starts may not answer yet: that the page shows itself. No script failed.
    let is_of_the_net = |error: &String| error.contains("ERR_") || error.contains("Failed to load resource");
    let errors: Vec<String> = browser.errors().into_iter().filter(|error| !is_of_the_net(error)).collect();
    assert!(errors.is_empty(), "{errors:#?}");

    // On a tablet, in the dark.
    let dark = Browser::start(true);
    dark.size(820, 1180);
    dark.open(&page("#overview"));
    dark.text_until("#overall", |text| text == "Degraded");
    let back = dark.run("return getComputedStyle(document.body).backgroundColor", &[]);
    assert_eq!(back, "rgb(14, 20, 26)", "a reader who prefers the dark gets it");
    dark.text_until("#troubles", |text| text.contains("source gone"));
    dark.screenshot("overview-dark");
    accessible(&dark, "the overview in the dark");
    dark.click("nav a[href='#connectors']");
    dark.text_until(&cell("sources", "press", "status"), |text| !text.is_empty());
    dark.screenshot("connectors-dark");
    accessible(&dark, "connectors in the dark");
    dark.click("nav a[href='#topics']");
    dark.text_until(&cell("topic-list", &orders, "writers"), |text| text == "orders");
    dark.screenshot("topics-dark");
    accessible(&dark, "topics in the dark");
    let wide = dark.run("return document.documentElement.scrollWidth <= innerWidth", &[]);
    assert_eq!(wide, true, "the page itself never scrolls sideways");
    millrace.stop();
}
