//! The shop as a client of the library sees it.

use millrace_opcua_sim::{Options, Shop};
use opcua::client::{ClientBuilder, HistoryReadAction, IdentityToken, OnSubscriptionNotification, Session};
use opcua::types::{
    AttributeId, ByteStringBody, ContentFilter, DataValue, EventFilter, ExtensionObject, HistoryData, HistoryReadValueId,
    MonitoredItemCreateRequest, MonitoringMode, MonitoringParameters, NodeId, ObjectId, ReadRawModifiedDetails, ReadValueId,
    SimpleAttributeOperand, StatusCode, TimestampsToReturn, UserTokenPolicy, VariableId, Variant, WriteValue,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

const PATIENCE: Duration = Duration::from_secs(60);

struct Client {
    session: Arc<Session>,
    task: tokio::task::JoinHandle<StatusCode>,
    _dir: tempfile::TempDir,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn client(shop: &Shop) -> Client {
    let dir = tempfile::tempdir().unwrap();
    let builder = ClientBuilder::new().application_name("test").application_uri("urn:test").pki_dir(dir.path()).session_retry_limit(0);
    let mut client = builder.trust_server_certs(true).client().unwrap();
    let endpoint = (shop.endpoint().as_str(), "None", opcua::types::MessageSecurityMode::None, UserTokenPolicy::anonymous()).into();
    let endpoint: opcua::types::EndpointDescription = endpoint;
    let (session, events) = client.connect_to_matching_endpoint(endpoint, IdentityToken::Anonymous).await.unwrap();
    let task = events.spawn();
    tokio::time::timeout(PATIENCE, session.wait_for_connection()).await.unwrap();
    Client { session, task, _dir: dir }
}

fn node(name: &str) -> NodeId {
    NodeId::new(2, name)
}

impl Client {
    async fn read(&self, id: impl Into<NodeId>) -> DataValue {
        let read = ReadValueId { node_id: id.into(), attribute_id: AttributeId::Value as u32, ..Default::default() };
        self.session.read(&[read], TimestampsToReturn::Both, 0.0).await.unwrap().remove(0)
    }

    async fn until(&self, name: &str, wanted: impl Fn(&DataValue) -> bool) -> DataValue {
        tokio::time::timeout(PATIENCE, async {
            loop {
                let value = self.read(node(name)).await;
                if wanted(&value) {
                    return value;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("{name} does not become what it should"))
    }

    async fn subscribe(&self, item: MonitoredItemCreateRequest) -> UnboundedReceiver<Heard> {
        let (tx, heard) = unbounded_channel();
        let id = self.session.create_subscription(Duration::from_millis(100), 100, 10, 0, 0, true, Ears(tx)).await.unwrap();
        let created = self.session.create_monitored_items(id, TimestampsToReturn::Both, vec![item]).await.unwrap();
        assert!(created[0].result.status_code.is_good(), "{:?}", created[0].result);
        heard
    }
}

#[derive(Debug)]
enum Heard {
    Value(DataValue),
    Event(Vec<Variant>),
}

struct Ears(UnboundedSender<Heard>);

impl OnSubscriptionNotification for Ears {
    fn on_data_value(&mut self, value: DataValue, _: &opcua::client::MonitoredItem) {
        let _ = self.0.send(Heard::Value(value));
    }

    fn on_event(&mut self, fields: Option<Vec<Variant>>, _: &opcua::client::MonitoredItem) {
        let _ = self.0.send(Heard::Event(fields.unwrap_or_default()));
    }
}

fn item(node_id: NodeId, attribute: AttributeId, queue_size: u32, filter: ExtensionObject) -> MonitoredItemCreateRequest {
    MonitoredItemCreateRequest {
        item_to_monitor: ReadValueId { node_id, attribute_id: attribute as u32, ..Default::default() },
        monitoring_mode: MonitoringMode::Reporting,
        requested_parameters: MonitoringParameters { client_handle: 1, sampling_interval: 50.0, queue_size, discard_oldest: true, filter },
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn presses_run_break_down_and_run_again() {
    let shop = Shop::start(Options { every: Duration::from_millis(20), ..Options::default() }).unwrap();
    let client = client(&shop).await;
    client.until("Press1.Running", |value| value.value == Some(Variant::Boolean(true))).await;
    let select = |path: &[&str]| SimpleAttributeOperand {
        type_definition_id: opcua::types::ObjectTypeId::BaseEventType.into(),
        browse_path: Some(path.iter().map(|name| (*name).into()).collect()),
        attribute_id: AttributeId::Value as u32,
        index_range: Default::default(),
    };
    let fields = [&["SourceName"][..], &["Message"], &["Severity"], &["ActiveState", "Id"]];
    // Of the type that all events are: the library's server knows no inherited fields.
    let select_clauses = Some(fields.iter().map(|path| select(path)).collect());
    let filter = ExtensionObject::from_message(EventFilter { select_clauses, where_clause: ContentFilter { elements: None } });
    let mut heard = client.subscribe(item(ObjectId::Server.into(), AttributeId::EventNotifier, 100, filter)).await;
    shop.breakdown(1).unwrap();
    let force = client.read(node("Press1.Force")).await;
    assert_eq!((force.status, force.value.filter(|value| !value.is_empty())), (Some(StatusCode::BadDeviceFailure), None));
    assert_eq!(client.read(node("Press1.State")).await.value, Some(Variant::Int32(3)));
    assert!(client.read(node("Press2.Force")).await.status().is_good(), "the others run on");
    // The library's server sends the attribute that events are asked of as a value, too.
    let event = async {
        loop {
            if let Heard::Event(fields) = heard.recv().await.expect("the subscription lives") {
                return fields;
            }
        }
    };
    let fields = tokio::time::timeout(PATIENCE, event).await.unwrap();
    assert_eq!((&fields[0], &fields[2], &fields[3]), (&Variant::from("Press1"), &Variant::UInt16(800), &Variant::Boolean(true)));
    shop.repair(1).unwrap();
    client.until("Press1.Force", |value| value.status().is_good()).await;
    assert!(shop.breakdown(9).is_err() && shop.repair(0).is_err() && shop.fail("Nobody", StatusCode::Bad).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_setpoint_can_be_written_and_nothing_else() {
    let shop = Shop::start(Options::default()).unwrap();
    let client = client(&shop).await;
    let write = async |name: &str| {
        let value = WriteValue {
            node_id: node(name),
            attribute_id: AttributeId::Value as u32,
            value: DataValue::value_only(150.0),
            ..Default::default()
        };
        client.session.write(&[value]).await.unwrap()[0]
    };
    assert_eq!(write("Press1.Setpoint").await, StatusCode::Good);
    assert_eq!(client.read(node("Press1.Setpoint")).await.value, Some(Variant::Double(150.0)));
    assert_eq!(write("Press1.Temp").await, StatusCode::BadUserAccessDenied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_overflows_a_queue_and_the_overflow_bit_says_so() {
    let shop = Shop::start(Options { load: 1, load_every: Duration::from_secs(3_600), ..Options::default() }).unwrap();
    let client = client(&shop).await;
    let mut heard = client.subscribe(item(node("Load.N000000"), AttributeId::Value, 10, ExtensionObject::null())).await;
    shop.burst("Load.N000000", 1..101).unwrap();
    let mut values = Vec::new();
    while values.last() != Some(&100.0) {
        match tokio::time::timeout(PATIENCE, heard.recv()).await.unwrap() {
            Some(Heard::Value(value)) => {
                values.push(value.value.as_ref().and_then(Variant::as_f64).unwrap());
                if values.last() == Some(&100.0) {
                    assert!(value.status().overflow(), "{value:?}");
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(values.len() <= 12, "{values:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_is_read_back_and_survives_a_restart_with_another_namespace_table() {
    let shop = Shop::start(Options { every: Duration::from_millis(5), ..Options::default() }).unwrap();
    let watcher = client(&shop).await;
    for _ in 0..25 {
        let before = watcher.read(node("Press1.Temp")).await.value;
        watcher.until("Press1.Temp", |value| value.value != before).await;
    }
    drop(watcher);
    shop.restart(&["urn:one", "urn:two"]).unwrap();
    let client = client(&shop).await;
    let Some(Variant::Array(table)) = client.read(VariableId::Server_NamespaceArray).await.value else { panic!("no namespaces") };
    let own = table.values.iter().position(|uri| *uri == Variant::from(millrace_opcua_sim::NAMESPACE)).expect("its own namespace");
    assert_eq!(own, 4, "{table:?}");
    let details = ReadRawModifiedDetails {
        start_time: opcua::types::DateTime::ymd(2026, 1, 1),
        end_time: opcua::types::DateTime::now(),
        num_values_per_node: 20,
        ..Default::default()
    };
    let mut point = Default::default();
    let mut times = Vec::new();
    loop {
        let node = HistoryReadValueId { node_id: NodeId::new(own as u16, "Press1.Temp"), continuation_point: point, ..Default::default() };
        let action = HistoryReadAction::ReadRawModifiedDetails(details.clone());
        let result = client.session.history_read(action, TimestampsToReturn::Both, false, &[node]).await.unwrap().remove(0);
        assert!(result.status_code.is_good(), "{result:?}");
        assert!(result.history_data.inner_as::<ByteStringBody>().is_none());
        let page = result.history_data.into_inner_as::<HistoryData>().expect("history is HistoryData").data_values.unwrap_or_default();
        times.extend(page.iter().filter_map(|value| value.source_timestamp));
        point = result.continuation_point;
        if point.is_null_or_empty() {
            break;
        }
        assert_eq!(page.len(), 20);
    }
    assert!(times.len() > 20 && times.is_sorted(), "{} values", times.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_shop_says_nothing_and_a_dropped_one_is_gone() {
    let shop = Shop::start(Options::default()).unwrap();
    let other = client(&shop).await;
    shop.freeze().unwrap();
    let read = ReadValueId { node_id: node("Press1.Temp"), attribute_id: AttributeId::Value as u32, ..Default::default() };
    let answer = tokio::time::timeout(Duration::from_millis(500), other.session.read(&[read], TimestampsToReturn::Both, 0.0)).await;
    assert!(answer.is_err(), "{answer:?}");
    shop.thaw();
    other.until("Press1.Temp", |value| value.status().is_good()).await;
    let port = shop.port();
    drop(shop);
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
}
