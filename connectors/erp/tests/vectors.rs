//! Documents as services write them: what they become, and what is said of those that are wrong. Shapes as the standard and SAP's help show them.

use millrace_contract::{Guarantee, Plugin};
use millrace_erp::batch;
use millrace_erp::literal;
use millrace_erp::metadata::{Edm, Metadata, Version};
use millrace_erp::outgoing;
use millrace_erp::page::{self, BadPage};
use millrace_erp::refusal;
use millrace_erp::shape::{self, Record, Shape};
use millrace_erp::values::{self, Removed};
use millrace_erp::watermark::{Seen, Watermark, fingerprint};
use millrace_erp::{ErpSinkPlugin, ErpSourcePlugin};
use millrace_schemas::contract::{Contract, Kind, Work};
use millrace_testkit::yaml;
use serde_json::json;
use std::time::Duration;

const V2: &str = r#"<edmx:Edmx Version="1.0" xmlns:edmx="e" xmlns:m="m" xmlns:sap="s"><edmx:DataServices m:DataServiceVersion="2.0">
<Schema Namespace="SRV"><EntityType Name="Order" sap:content-version="1"><Key><PropertyRef Name="Plant"/><PropertyRef Name="ID"/></Key>
<Property Name="Plant" Type="Edm.String" Nullable="false"/><Property Name="ID" Type="Edm.Int64" Nullable="false"/>
<Property Name="Amount" Type="Edm.Decimal" Precision="15" Scale="3"/><Property Name="Any" Type="Edm.Decimal"/>
<Property Name="Start" Type="Edm.DateTime" Precision="0" sap:display-format="Date"/><Property Name="Changed" Type="Edm.DateTime" Precision="7"/>
<Property Name="At" Type="Edm.DateTimeOffset" Precision="3"/><Property Name="Clock" Type="Edm.Time"/><Property Name="Guid" Type="Edm.Guid"/>
<Property Name="Raw" Type="Edm.Binary"/><Property Name="Big" Type="Edm.Double"/><Property Name="Done" Type="Edm.Boolean"/>
<Property Name="Where" Type="Edm.GeographyPoint"/><NavigationProperty Name="to_Item" Relationship="SRV.OI" FromRole="F" ToRole="T"/>
<NavigationProperty Name="to_Plant" Relationship="SRV.OP" FromRole="F" ToRole="T"/></EntityType>
<EntityType Name="Item"><Key><PropertyRef Name="No"/></Key><Property Name="No" Type="Edm.Int32"/><Property Name="Text" Type="Edm.String"/></EntityType>
<Association Name="OI"><End Type="SRV.Order" Multiplicity="1" Role="F"/><End Type="SRV.Item" Multiplicity="*" Role="T"/></Association>
<EntityContainer Name="C"><EntitySet Name="Orders" EntityType="SRV.Order"/><EntitySet Name="Items" EntityType="SRV.Item"/>
<FunctionImport Name="Release" m:HttpMethod="POST"><Parameter Name="ID" Type="Edm.String"/></FunctionImport></EntityContainer></Schema>
</edmx:DataServices></edmx:Edmx>"#;

const V4: &str = r#"<edmx:Edmx Version="4.0" xmlns:edmx="e"><edmx:DataServices><Schema Namespace="com.plant" Alias="p">
<TypeDefinition Name="Qty" UnderlyingType="Edm.Decimal" Precision="9" Scale="2"/><EnumType Name="State"><Member Name="open"/></EnumType>
<ComplexType Name="Address"><Property Name="City" Type="Edm.String"/></ComplexType>
<EntityType Name="Base" Abstract="true"><Key><PropertyRef Name="ID"/></Key><Property Name="ID" Type="Edm.Guid" Nullable="false"/></EntityType>
<EntityType Name="Order" BaseType="p.Base"><Property Name="Qty" Type="p.Qty"/><Property Name="State" Type="p.State"/><Property Name="Ship" Type="p.Address"/>
<Property Name="Tags" Type="Collection(Edm.String)"/><Property Name="At" Type="Edm.DateTimeOffset" Precision="7"/><Property Name="Day" Type="Edm.Date"/>
<Property Name="Blob" Type="Edm.Stream"/><Property Name="Bytes" Type="Edm.Binary"/><NavigationProperty Name="Items" Type="Collection(p.Item)"/></EntityType>
<EntityType Name="Item"><Key><PropertyRef Name="No"/></Key><Property Name="No" Type="Edm.Int64" Nullable="false"/></EntityType>
<Action Name="confirm" IsBound="true"><Parameter Name="it" Type="p.Order"/><Parameter Name="yield" Type="p.Qty"/></Action>
<EntityContainer Name="C"><EntitySet Name="Orders" EntityType="p.Order"/><ActionImport Name="Run" Action="p.run"/></EntityContainer></Schema>
</edmx:DataServices></edmx:Edmx>"#;

fn orders(metadata: &str, expand: &[&str]) -> (Record, Version) {
    let metadata = Metadata::parse(metadata).unwrap();
    let expand: Vec<String> = expand.iter().map(|path| (*path).to_owned()).collect();
    let record = shape::of(&metadata, metadata.type_of_set("Orders").unwrap(), &[], &expand).unwrap();
    (record, metadata.version)
}

fn document(text: &str, (record, version): &(Record, Version)) -> Result<String, String> {
    let mut out = Vec::new();
    values::entity(text, record, *version, &[], &mut out).map_err(|wrong| wrong.to_string())?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn metadata_of_both_versions_gives_types_keys_navigation_and_actions() {
    let v2 = Metadata::parse(V2).unwrap();
    assert_eq!((v2.version, v2.type_of_set("Items")), (Version::V2, Some("SRV.Item")));
    let order = v2.structure("SRV.Order").unwrap();
    assert_eq!(order.keys, ["Plant", "ID"]);
    let of = |name: &str| order.properties.iter().find(|p| p.name == name).unwrap().of.clone();
    assert_eq!(of("Amount"), Edm::Decimal(Some((15, 3))));
    assert_eq!((of("Start"), of("Changed")), (Edm::DateTime(true), Edm::DateTime(false)));
    assert_eq!(of("to_Item"), Edm::List(Box::new(Edm::Named("SRV.Item".into()))));
    assert_eq!(v2.actions["Release"].method.as_deref(), Some("POST"));

    let v4 = Metadata::parse(V4).unwrap();
    let order = v4.structure(v4.type_of_set("Orders").unwrap()).unwrap();
    assert_eq!((order.keys, order.properties[0].name.as_str()), (vec!["ID".to_owned()], "ID"));
    assert!(v4.actions["com.plant.confirm"].is_bound);
    let (record, _) = orders(V4, &[]);
    let shape = |name: &str| record.fields[record.index(name).unwrap()].shape.clone();
    assert_eq!((shape("Qty"), shape("State")), (Shape::Decimal(Some((9, 2))), Shape::Text));
    assert!(record.index("Blob").is_none() && record.index("Items").is_none());
}

#[test]
fn metadata_that_is_none_says_why() {
    for (text, expected) in [
        ("<html><body>Log on</body></html>", "begins with `html`"),
        ("not xml at all", "not an EDMX"),
        (&V4[..V4.len() / 2], "it is not XML"),
        ("<edmx:Edmx Version=\"4.0\"></edmx:Edmx>", "no entity set"),
        ("<a><b></a>", "begins with `a`"),
        (&"<Edmx>".repeat(50), "nest deeper"),
    ] {
        let error = Metadata::parse(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    let v4 = Metadata::parse(V4).unwrap();
    let error = shape::of(&v4, "com.plant.Order", &["qty".into()], &[]).unwrap_err();
    assert!(error.contains("no property `qty`; it has ID, Qty"), "{error}");
}

#[test]
fn an_entity_of_v2_becomes_a_document_without_a_digit_lost() {
    let orders = orders(V2, &["to_Item"]);
    let text = r#"{"__metadata":{"uri":"https://erp/Orders(1)","etag":"W/\"7\""},"Plant":"0010","ID":"9007199254740993","Amount":"0000123456789012.500",
        "Any":"1234567890123456789012345678.9012","Start":"\/Date(1782864000000)\/","Changed":"/Date(1782892800123)/","At":"/Date(-1000+0120)/",
        "Clock":"PT13H20M","Guid":"0050568d-1111-1ee4-aaaa-000000000001","Raw":"AP8=","Big":"INF","Done":true,"Where":{"x":1},
        "to_Item":{"results":[{"__metadata":{},"No":1,"Text":"a\"b"}]},"to_Plant":{"__deferred":{"uri":"x"}},"ZNew":"later"}"#;
    assert_eq!(
        document(text, &orders).unwrap(),
        concat!(
            r#"{"Plant":"0010","ID":9007199254740993,"Amount":123456789012.500,"Any":"1234567890123456789012345678.9012","Start":"2026-07-01","#,
            r#""Changed":"2026-07-01T08:00:00.123","At":"1969-12-31T23:59:59Z","Clock":"13:20:00","Guid":"0050568d-1111-1ee4-aaaa-000000000001","#,
            r#""Raw":"AP8=","Big":"Infinity","Done":true,"Where":"{\"x\":1}","to_Item":[{"No":1,"Text":"a\"b"}],"ZNew":"later"}"#
        )
    );
    // SAP's initial dates are none; the end of time is one.
    assert_eq!(
        document(r#"{"Start":"0000-00-00","Changed":null,"At":"/Date(253402214400000)/"}"#, &orders).unwrap(),
        r#"{"Start":null,"Changed":null,"At":"9999-12-31T00:00:00Z"}"#
    );
}

#[test]
fn an_entity_of_v4_keeps_its_texts_and_its_own_key_for_bytes() {
    let orders = orders(V4, &["Items"]);
    let text = r##"{"@odata.etag":"W/\"1\"","ID":"0191-a","Qty":12.50,"State":"open","Ship":{"City":"Köln"},"Tags":["a",null],"Tags@odata.count":2,
        "At":"2026-07-01T08:00:00.1234567Z","Day":"2026-07-01","Bytes":"_-8","Items":[{"No":5}],"#com.plant.confirm":{}}"##;
    assert_eq!(
        document(text, &orders).unwrap(),
        r#"{"ID":"0191-a","Qty":12.50,"State":"open","Ship":{"City":"Köln"},"Tags":["a",null],"At":"2026-07-01T08:00:00.1234567Z","Day":"2026-07-01","Bytes":"/+8=","Items":[{"No":5}]}"#
    );
    let mut out = Vec::new();
    let found = values::entity(text, &orders.0, orders.1, &[0], &mut out).unwrap();
    assert_eq!((&*found.etag(), &out[found.wanted[0].clone()]), ("W/\"1\"", &b"\"0191-a\""[..]));
}

#[test]
fn what_is_not_what_the_metadata_says_is_wrong_with_its_place() {
    let (v2, v4) = (orders(V2, &["to_Item"]), orders(V4, &["Items"]));
    for (orders, text, expected) in [
        (&v2, r#"{"Amount":"12,5"}"#, "Amount: `\"12,5\"` is not a number"),
        (&v2, r#"{"ID":"1.5"}"#, "ID: `\"1.5\"` is not a whole number"),
        (&v2, r#"{"Changed":"/Date(99999999999999999)/"}"#, "Changed: `/Date(99999999999999999)/` is not a date or a time that exists"),
        (&v2, r#"{"Clock":"PT25H"}"#, "Clock: `PT25H` is not a date or a time that exists"),
        (&v2, r#"{"Done":"X"}"#, "Done: `\"X\"` is not true or false"),
        (&v2, r#"{"Raw":"%%"}"#, "Raw: `%%` is not base64"),
        (&v2, r#"{"to_Item":{"results":[],"__next":"x"}}"#, "to_Item: the service gives only a part"),
        (&v2, r#"{"to_Item":{"results":[{"No":"x"}]}}"#, "to_Item/No: `\"x\"` is not a number"),
        (&v4, r#"{"Items@odata.nextLink":"x","Items":[]}"#, "Items: the service gives only a part"),
        (&v4, r#"{"Day":"2026-02-30"}"#, "Day: `2026-02-30` is not a date"),
        (&v4, r#"{"Tags":"a"}"#, "Tags: `\"a\"` is not a list"),
        (&v4, r#"[1]"#, "expected an entity"),
        (&v4, r#"{"ID":"#, "is not JSON"),
    ] {
        let error = document(text, orders).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn the_schema_takes_the_documents_exactly() {
    for (metadata, text) in [
        (
            V2,
            r#"{"Plant":"0010","ID":"5","Amount":"-12.500","Any":"1E2","Start":"/Date(0)/","Changed":"/Date(1)/","At":"/Date(1)/","Clock":"PT1S","Guid":"0050568d-1111-1ee4-aaaa-000000000001","Raw":"AP8=","Big":"NaN","Done":false,"Where":[1],"to_Item":{"results":[{"No":1}]}}"#,
        ),
        (
            V4,
            r#"{"ID":"0050568d-1111-1ee4-aaaa-000000000001","Qty":1.25,"Ship":{"City":null},"Tags":["x"],"At":"9999-12-31T23:59:59.9999999Z","Day":"2026-07-01","Bytes":"","Items":null}"#,
        ),
    ] {
        let expand: &[&str] = if metadata == V2 { &["to_Item"] } else { &["Items"] };
        let orders = orders(metadata, expand);
        let document = document(text, &orders).unwrap();
        for kind in [Kind::Avro, Kind::Json] {
            let schema = orders.0.schema(kind, "acme.erp").unwrap();
            let contract = Contract::compile(kind, &schema, None, &mut |_| None).unwrap_or_else(|error| panic!("{error}\n{schema}"));
            contract
                .fit(document.as_bytes(), &mut Vec::new(), &mut Work::default())
                .unwrap_or_else(|misfit| panic!("{misfit}\n{document}\n{schema}"));
        }
        let avro = Contract::compile(Kind::Avro, &orders.0.schema(Kind::Avro, "acme.erp").unwrap(), None, &mut |_| None).unwrap();
        // A fraction finer than the metadata says is not rounded.
        let misfit = avro.fit(br#"{"Plant":"1","ID":5,"Amount":0.0001,"Qty":0.001}"#, &mut Vec::new(), &mut Work::default());
        assert!(misfit.is_err());
    }
}

#[test]
fn pages_of_both_styles_and_what_is_none() {
    let v4 = page::parse(
        r#"{"@odata.context":"$metadata#O","@odata.count":7,"value":[{"a":1},{}],"@odata.nextLink":"O?$skiptoken=2"}"#,
        Version::V4,
    )
    .unwrap();
    assert_eq!((v4.rows.len(), v4.next.as_deref(), v4.count), (2, Some("O?$skiptoken=2"), Some(7)));
    let v401 = page::parse(r#"{"value":[],"@deltaLink":"O?x"}"#, Version::V4).unwrap();
    assert_eq!(v401.delta.as_deref(), Some("O?x"));
    let v2 =
        page::parse(r#"{"d":{"results":[{"a":1}],"__next":"https://h/n","__count":"12","__delta":"https://h/d"}}"#, Version::V2).unwrap();
    assert_eq!((v2.rows.len(), v2.next.as_deref(), v2.delta.as_deref(), v2.count), (1, Some("https://h/n"), Some("https://h/d"), Some(12)));
    assert_eq!(page::parse(r#"{"d":[{"a":1},{"a":2}]}"#, Version::V2).unwrap().rows.len(), 2);
    for (text, version, expected) in [
        (r#"{"value":[{"a":1},{"a""#, Version::V4, "the answer is not JSON"),
        (r#"{"value":[{"a":1}],"error":{"code":"1","message":"in the middle"}}"#, Version::V4, "the service says: in the middle"),
        (r#"{"items":[]}"#, Version::V4, "no list"),
        (r#"[]"#, Version::V4, "no list"),
        (r#"{"d":{"ID":1}}"#, Version::V2, "no list"),
    ] {
        let error = page::parse(text, version).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(matches!(error, BadPage::Damaged(_)), expected.contains("JSON"));
    }
}

#[test]
fn an_erps_own_words_are_found_in_json_and_in_xml() {
    let text = |body: &str| refusal::of(body.as_bytes()).map(|refusal| refusal.to_string());
    let v2 = r#"{"error":{"code":"RU/114","message":{"lang":"en","value":"Order is locked"},"innererror":{"transactionid":"7AF","errordetails":[{"message":"by MEIER"}]}}}"#;
    assert_eq!(text(v2).unwrap(), "Order is locked; by MEIER (transaction 7AF) [RU/114]");
    let v4 = r#"{"error":{"code":400,"message":"bad","target":"qty","details":[{"message":"too large","target":"qty"}]}}"#;
    assert_eq!(text(v4).unwrap(), "bad (qty); too large (qty) [400]");
    let xml = r#"<?xml version="1.0"?><error xmlns="m"><code>005056A509B11EE1B9A8FEC11C21D78E</code><message xml:lang="en">Resource not found</message></error>"#;
    assert_eq!(text(xml).unwrap(), "Resource not found [005056A509B11EE1B9A8FEC11C21D78E]");
    for none in ["", "<html><error>x</error></html>", "{}", "[1]", "<error><code>"] {
        assert_eq!(text(none), None, "{none}");
    }
}

#[test]
fn a_batch_is_read_part_by_part_and_a_failed_change_set_is_one_part() {
    let operation = |n: u8| batch::Operation {
        method: "POST".into(),
        path: "Orders".into(),
        headers: vec![("Content-Type".into(), "application/json".into())],
        body: format!("{{\"n\":{n}}}").into_bytes(),
    };
    let (boundary, body) = batch::write(&[operation(1), operation(2)]);
    let body = String::from_utf8(body).unwrap();
    assert_eq!(body.matches("POST Orders HTTP/1.1\r\n").count(), 2, "{body}");
    assert!(
        body.ends_with(&format!("--{boundary}--\r\n")) && body.contains("Content-ID: 2\r\n") && body.contains("\r\n\r\n{\"n\":1}\r\n--"),
        "{body}"
    );

    let answer = "--o\r\nContent-Type: multipart/mixed; boundary=i\r\n\r\n--i\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\n\
        HTTP/1.1 201 Created\r\nLocation: Orders(1)\r\nContent-Length: 9\r\n\r\n{\"a\":\"b\"}\r\n--i--\r\n\r\n--o\r\nContent-Type: application/http\r\n\r\n\
        HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n\r\n{\"error\":{}}\r\n--o--\r\n";
    let parts = batch::read("multipart/mixed; boundary=o", answer.as_bytes()).unwrap();
    assert_eq!(parts.iter().map(|part| part.status).collect::<Vec<_>>(), [201, 400]);
    assert_eq!(
        (parts[0].header("location"), parts[0].body.as_slice(), parts[1].body.as_slice()),
        ("Orders(1)", &b"{\"a\":\"b\"}"[..], &b"{\"error\":{}}"[..])
    );
    for cut in [0, 40, answer.len() / 2, answer.len() - 8] {
        assert!(batch::read("multipart/mixed; boundary=o", &answer.as_bytes()[..cut]).is_err(), "cut at {cut}");
    }
    assert!(batch::read("application/json", b"{}").is_err());
}

#[test]
fn keys_stand_in_urls_and_come_back_out_of_ids() {
    let (v2, version) = orders(V2, &[]);
    let key = json!({"Plant": "a'b/c", "ID": 5});
    assert_eq!(literal::key(&key, &v2, version).unwrap(), "(Plant=%27a%27%27b%2Fc%27,ID=5L)");
    assert_eq!(literal::key(&json!({"Plant": "a"}), &v2, version), None);
    let id = "https://erp/srv/Orders(Plant='a''b%2Cc',ID=9007199254740993L)";
    assert_eq!(literal::key_of_id(id, &v2), Some(json!({"Plant": "a'b,c", "ID": 9007199254740993_i64})));
    let (v4, version) = orders(V4, &[]);
    assert_eq!(literal::key(&json!({"ID": "0191"}), &v4, version).unwrap(), "(0191)");
    assert_eq!(literal::key_of_id("Orders(0191)", &v4), Some(json!({"ID": "0191"})));
    for none in ["", "Orders", "Orders()x", "Orders(Plant='1')"] {
        assert_eq!(literal::key_of_id(none, &v2), None, "{none}");
    }
    let mut out = Vec::new();
    let removed = values::entity(r#"{"@removed":{"reason":"changed"},"@id":"Orders(1)"}"#, &v4, Version::V4, &[], &mut out).unwrap();
    assert_eq!((removed.removed, &*removed.id()), (Some(Removed::LeftFilter), "Orders(1)"));
}

#[test]
fn a_record_is_written_as_its_version_wants_it() {
    let text = br#"{"Plant":"1","ID":5,"Amount":"12.50","Start":"2026-07-01","At":"2026-07-01T08:00:00Z","Clock":"13:20:00","Big":1.5,"to_Item":[{"No":1}]}"#;
    let (v2, version) = orders(V2, &["to_Item"]);
    assert_eq!(
        String::from_utf8(outgoing::body(text, &v2, version, &["Plant"]).unwrap()).unwrap(),
        r#"{"ID":"5","Amount":"12.50","Start":"/Date(1782864000000)/","At":"/Date(1782892800000+0000)/","Clock":"PT13H20M00S","Big":"1.5","to_Item":[{"No":1}]}"#
    );
    let (v4, version) = orders(V4, &[]);
    assert_eq!(outgoing::body(br#"{"Qty":"12.50","Bytes":"/+8="}"#, &v4, version, &[]).unwrap(), br#"{"Qty":12.50,"Bytes":"_-8="}"#);
    for (text, expected) in [(&b"[]"[..], "not a JSON object"), (br#"{"Qty":"x"}"#, "Qty: \"x\" is not a number"), (b"\xff", "is not JSON")]
    {
        let error = outgoing::body(text, &v4, version, &[]).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_watermark_goes_back_by_its_overlap_and_never_into_the_future() {
    let at = |shape: Shape| Watermark { name: "At".into(), field: 0, shape };
    let moment = at(Shape::Moment(3));
    let seen = moment.ordinal(b"\"2026-07-01T10:00:00.123+02:00\"").unwrap();
    let begin = moment.floor(moment.begin(seen, Duration::from_secs(60)), Version::V4);
    assert_eq!(moment.filter(begin, Version::V4).unwrap(), "At ge 2026-07-01T07:59:00.123Z");
    let begin = moment.floor(begin, Version::V2);
    assert_eq!(moment.filter(begin, Version::V2).unwrap(), "At ge datetimeoffset'2026-07-01T07:59:00Z'");
    let local = at(Shape::LocalTime);
    let begin = local.floor(local.ordinal(b"\"2026-07-01T08:00:00.5\"").unwrap(), Version::V2);
    assert_eq!(local.filter(begin, Version::V2).unwrap(), "At ge datetime'2026-07-01T08:00:00'");
    let number = at(Shape::Long);
    assert_eq!(number.filter(number.begin(7, Duration::from_secs(60)), Version::V2).unwrap(), "At ge 7L");
    assert_eq!(moment.ordinal(b"\"9999-12-31T23:59:59Z\""), None);
    let end_of_time = moment.ordinal(b"\"2999-12-31T00:00:00Z\"").unwrap();
    assert_eq!(moment.raised(Some(seen), end_of_time, seen), Some(seen));
    assert_eq!(moment.raised(Some(seen), seen - 1, seen), Some(seen));

    let mut known = Seen::default();
    assert!(
        known.insert(fingerprint(b"a", b"1"), 10)
            && !known.insert(fingerprint(b"a", b"1"), 10)
            && known.insert(fingerprint(b"a", b"2"), 11)
    );
    assert_ne!(fingerprint(b"ab", b"c"), fingerprint(b"a", b"bc"));
    assert_eq!(Seen::read(known.write(i64::MIN).as_bytes()), known);
    known.forget(11);
    assert_eq!(known.len(), 1);
}

#[test]
fn mistakes_are_told_at_once_and_a_plan_says_what_is_posted_where() {
    let refused = |text: &str, expected: &str| {
        let context = yaml::context("erp", &[]);
        let problems = yaml::compile::<ErpSourcePlugin>(text, &context).err().unwrap_or_else(|| panic!("{text} was taken"));
        assert!(problems.contains(expected), "{expected} is not in\n{problems}");
    };
    refused("{endpoint: 'https://u:p@erp/x', entity_sets: [{name: A, topic: t}]}", "a login stands in the URL");
    refused("{endpoint: 'erp/x', entity_sets: [{name: A, topic: t}]}", "is not the URL of a server");
    refused("{endpoint: 'https://erp/x', client: '1', entity_sets: [{name: A, topic: t}]}", "is not a client");
    refused("{endpoint: 'https://erp/x', entity_sets: [{name: A, topic: t}, {name: A, topic: t}]}", "read twice");
    refused("{endpoint: 'https://erp/x', entity_sets: [{name: A, topic: t, watermrk: x}]}", "did you mean `watermark`");
    refused("{endpoint: 'https://erp/x', entity_sets: [{name: A, topic: t, key: '{a/b}'}]}", "not the name of a property");
    refused("{endpoint: 'https://erp/x', entity_sets: []}", "is empty");

    let context = yaml::context("confirmations", &["confirmations"]);
    let sink = |text: &str| yaml::compile::<ErpSinkPlugin>(text, &context);
    let compiled = sink("{endpoint: 'https://erp/x', entity_set: Confirmations, lookup: Ext, reply: results, batch: 5, login: {user: m, password: '${env:PATH}'}}").unwrap();
    let plan = compiled.plan().lines.join("\n");
    for part in [
        "of each record of topic confirmations: creates an entity by POST https://erp/x/Confirmations",
        "as user m",
        "looks up by Ext",
        "5 operations in one $batch",
        "to topic results",
    ] {
        assert!(plan.contains(part), "{part} is not in\n{plan}");
    }
    assert!(matches!(compiled.guarantee(), Guarantee::ExactlyOnce(_)));
    for (text, expected) in [
        ("{endpoint: 'https://erp/x'}", "neither `entity_set` nor `action`"),
        ("{endpoint: 'https://erp/x', entity_set: A, batch: 0}", "not between 1 and 1000"),
        ("{endpoint: 'https://erp/x', action: Run, lookup: a}", "there is none"),
        ("{endpoint: 'https://erp/x', entity_set: A, reply: confirmations}", "writes its replies there"),
    ] {
        let problems = sink(text).err().unwrap_or_else(|| panic!("{text} was taken"));
        assert!(problems.contains(expected), "{expected} is not in\n{problems}");
    }
    assert_eq!(ErpSinkPlugin::TYPE, "erp");
}
