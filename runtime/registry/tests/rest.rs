//! The embedded registry over HTTP, through our own client and by hand: codes, bodies, and what is refused.

use millrace_config::Secret;
use millrace_registry::{Client, Kind, Level, Reference, Registry, RegistryError, RegistryLogin, Schema, SchemaId, Settings, embedded};
use serde_json::{Value, json};

struct Site {
    url: String,
    http: reqwest::Client,
}

impl Site {
    async fn start() -> Self {
        // The second time it is there already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = embedded::router(Registry::in_memory(Level::Backward));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, http: reqwest::Client::builder().no_proxy().build().unwrap() }
    }

    fn client(&self) -> Client {
        Client::new(Settings::new(&self.url)).unwrap()
    }

    async fn raw(&self, method: &str, path: &str, body: Option<String>) -> (u16, Value) {
        let mut request = self.http.request(method.parse().unwrap(), format!("{}{path}", self.url));
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.raw("GET", path, None).await
    }

    async fn send(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.raw(method, path, Some(body.to_string())).await
    }

    /// The error code of a request that must fail.
    async fn code(&self, method: &str, path: &str, body: Option<Value>) -> (u16, i64) {
        let (status, answer) = self.raw(method, path, body.map(|body| body.to_string())).await;
        (status, answer["error_code"].as_i64().unwrap_or_else(|| panic!("{method} {path} has no error: {answer}")))
    }
}

fn record(fields: &str) -> Schema {
    Schema::new(Kind::Avro, format!(r#"{{"type":"record","name":"R","fields":[{fields}]}}"#))
}

const A: &str = r#"{"name":"a","type":"int"}"#;
const B: &str = r#"{"name":"b","type":"string"}"#;
const B_WITH_DEFAULT: &str = r#"{"name":"b","type":"string","default":""}"#;

#[tokio::test]
async fn a_schema_has_one_id_whatever_the_subject_and_a_version_per_subject() {
    let site = Site::start().await;
    let client = site.client();
    let id = client.register("one-value", &record(A)).await.unwrap();
    assert_eq!(id, SchemaId(1));
    assert_eq!(site.client().register("two-value", &record(&A.replace(':', " : "))).await.unwrap(), id, "white space is no difference");
    assert_eq!(client.register("one-value", &record(&format!("{A},{B_WITH_DEFAULT}"))).await.unwrap(), SchemaId(2));
    assert_eq!(client.versions("one-value").await.unwrap(), [1, 2]);
    assert_eq!(client.subjects().await.unwrap(), ["one-value", "two-value"]);
    assert_eq!(
        site.get("/schemas/ids/1/versions").await.1,
        json!([{"subject":"one-value","version":1},{"subject":"two-value","version":1}])
    );
    assert_eq!(site.get("/schemas/ids/1/subjects").await.1, json!(["one-value", "two-value"]));
    let resolved = client.schema(id).await.unwrap();
    assert_eq!(resolved.schema, record(A));
    assert_eq!(client.lookup("one-value", &record(A)).await.unwrap().version, 1);
    assert!(matches!(client.lookup("one-value", &record(B)).await, Err(RegistryError::NotFound(_))));
}

#[tokio::test]
async fn an_incompatible_schema_is_refused_with_the_place_and_changes_nothing() {
    let site = Site::start().await;
    let client = site.client();
    client.register("s", &record(A)).await.unwrap();
    let Err(RegistryError::Refused(why)) = client.register("s", &record(&format!("{A},{B}"))).await else { panic!("refused") };
    assert!(why.contains("READER_FIELD_MISSING_DEFAULT_VALUE") && why.contains("/fields/1") && why.contains("(409)"), "{why}");
    assert_eq!(client.versions("s").await.unwrap(), [1]);
    let verdict = client.check("s", &record(&format!("{A},{B}"))).await.unwrap();
    assert!(!verdict.compatible && verdict.messages[0].contains("The field 'b' at path '/fields/1' in the new schema"), "{verdict:?}");
    assert!(verdict.messages.contains(&"{oldSchemaVersion: 1}".to_owned()), "{verdict:?}");
    assert!(client.check("s", &record(&format!("{A},{B_WITH_DEFAULT}"))).await.unwrap().compatible);
    assert!(client.check("nobody", &record(B)).await.unwrap().compatible, "a first version breaks nothing");
}

#[tokio::test]
async fn each_level_asks_in_its_direction_and_as_far_back_as_it_says() {
    let site = Site::start().await;
    let schema = |text: &str| json!({ "schema": text });
    // 1: int. 2: long (reads int). 3: double (reads long and int, an int reader reads none of them).
    for (subject, level) in [("backward", "BACKWARD"), ("all", "BACKWARD_TRANSITIVE"), ("forward", "FORWARD"), ("full", "FULL_TRANSITIVE")]
    {
        assert_eq!(
            site.send("PUT", &format!("/config/{subject}"), json!({"compatibility": level})).await,
            (200, json!({"compatibility": level}))
        );
        assert_eq!(site.send("POST", &format!("/subjects/{subject}/versions"), schema("\"long\"")).await.0, 200);
        let wider = site.send("POST", &format!("/subjects/{subject}/versions"), schema("\"double\"")).await.0;
        let narrower = site.send("POST", &format!("/subjects/{subject}/versions"), schema("\"int\"")).await.0;
        let expected = match subject {
            "forward" => (409, 200),
            "full" => (409, 409),
            _ => (200, 409),
        };
        assert_eq!((wider, narrower), expected, "{level}");
    }
    // A field that went and comes back with another type: only the transitive level remembers it.
    for (subject, level, expected) in [("short", "BACKWARD", 200), ("long", "BACKWARD_TRANSITIVE", 409)] {
        site.send("PUT", &format!("/config/{subject}"), json!({"compatibility": level})).await;
        for fields in [r#"{"name":"x","type":"int"}"#, ""] {
            let text = record(fields).text;
            assert_eq!(site.send("POST", &format!("/subjects/{subject}/versions"), schema(&text)).await.0, 200);
        }
        let text = record(r#"{"name":"x","type":"string","default":""}"#).text;
        assert_eq!(site.send("POST", &format!("/subjects/{subject}/versions"), schema(&text)).await.0, expected, "{level}");
    }
}

#[tokio::test]
async fn what_is_deleted_softly_is_hidden_and_what_is_deleted_for_good_is_gone() {
    let site = Site::start().await;
    let client = site.client();
    let id = client.register("s", &record(A)).await.unwrap();
    client.register("s", &record("")).await.unwrap();
    assert_eq!(site.code("DELETE", "/subjects/s/versions/1?permanent=true", None).await, (404, 40407));
    assert_eq!(site.raw("DELETE", "/subjects/s/versions/1", None).await, (200, json!(1)));
    assert_eq!(site.code("DELETE", "/subjects/s/versions/1", None).await, (404, 40406));
    assert_eq!(site.code("GET", "/subjects/s/versions/1", None).await, (404, 40402));
    assert_eq!(site.get("/subjects/s/versions/1?deleted=true").await.0, 200);
    assert_eq!(site.get("/subjects/s/versions").await.1, json!([2]));
    assert_eq!(site.get("/subjects/s/versions?deleted=true").await.1, json!([1, 2]));
    assert_eq!(client.schema(id).await.unwrap().schema, record(A), "records written with it can still be read");
    // Registered again it has its id, and a version of its own.
    site.send("PUT", "/config/s", json!({"compatibility": "NONE"})).await;
    assert_eq!(site.client().register("s", &record(A)).await, Ok(id));
    assert_eq!(site.raw("DELETE", "/subjects/s", None).await, (200, json!([2, 3])));
    assert_eq!(site.code("DELETE", "/subjects/s", None).await, (404, 40404));
    assert_eq!(site.get("/subjects").await.1, json!([]));
    assert_eq!(site.get("/subjects?deleted=true").await.1, json!(["s"]));
    assert_eq!(site.get("/subjects?deletedOnly=true").await.1, json!(["s"]));
    assert_eq!(site.get("/config/s").await.1["compatibilityLevel"], "NONE", "what is only hidden keeps its rules");
    assert_eq!(site.raw("DELETE", "/subjects/s?permanent=true", None).await, (200, json!([1, 2, 3])));
    assert_eq!(site.code("DELETE", "/subjects/s?permanent=true", None).await, (404, 40401));
    assert_eq!(site.code("GET", "/config/s", None).await, (404, 40408));
    assert_eq!(site.code("GET", &format!("/schemas/ids/{id}"), None).await, (404, 40403));
    assert_eq!(site.client().register("s", &record(B)).await.unwrap(), SchemaId(3), "no id is used twice");
}

#[tokio::test]
async fn references_are_followed_guarded_and_named_where_they_lead_nowhere() {
    let site = Site::start().await;
    let client = site.client();
    client.register("unit", &Schema::new(Kind::Avro, r#"{"type":"enum","name":"acme.Unit","symbols":["C","K"]}"#)).await.unwrap();
    let to = |subject: &str, version| vec![Reference { name: "acme.Unit".into(), subject: subject.into(), version }];
    let user = Schema { references: to("unit", -1), ..record(r#"{"name":"u","type":"acme.Unit"}"#) };
    let id = client.register("user", &user).await.unwrap();
    let resolved = client.schema(id).await.unwrap();
    assert_eq!(resolved.schema.references, to("unit", 1), "the latest is a number once it is registered");
    assert_eq!(resolved.references[0].0, "acme.Unit");
    assert_eq!(site.get("/subjects/unit/versions/1/referencedby").await.1, json!([id]));
    assert_eq!(site.code("DELETE", "/subjects/unit/versions/1", None).await, (422, 42206));
    assert_eq!(site.code("DELETE", "/subjects/unit", None).await, (422, 42206));
    let Err(RegistryError::Refused(why)) = client.register("user", &Schema { references: to("nobody", 1), ..user.clone() }).await else {
        panic!("refused")
    };
    assert!(why.contains("nobody") && why.contains("42201"), "{why}");
    let Err(RegistryError::Refused(why)) = client.register("user", &Schema { references: Vec::new(), ..user }).await else {
        panic!("refused")
    };
    assert!(why.contains("undefined name: \\\"acme.Unit\\\"") || why.contains("acme.Unit"), "{why}");
}

#[tokio::test]
async fn protobuf_comes_as_text_or_as_a_descriptor_and_is_the_same_schema() {
    let site = Site::start().await;
    let client = site.client();
    let text = "syntax = \"proto3\";\npackage p;\n\n// A reading.\nmessage M {\n  map<string, int64> counts = 1;\n  oneof what { string a = 2; bytes b = 3; }\n  optional double x = 4;\n  E e = 5;\n  enum E { ZERO = 0; ONE = 1; }\n}\n";
    let id = client.register("p-value", &Schema::new(Kind::Protobuf, text)).await.unwrap();
    let (_, body) = site.get(&format!("/schemas/ids/{id}?format=serialized")).await;
    let descriptor = body["schema"].as_str().unwrap().to_owned();
    assert_eq!(
        site.client().register("q-value", &Schema::new(Kind::Protobuf, descriptor)).await.unwrap(),
        id,
        "the same bytes on the wire"
    );
    let (_, body) = site.get("/subjects/q-value/versions/1").await;
    assert_eq!(body["schemaType"], "PROTOBUF");
    let printed = body["schema"].as_str().unwrap();
    assert!(
        printed.contains("map<string, int64> counts = 1;")
            && printed.contains("oneof what {")
            && printed.contains("optional double x = 4;"),
        "{printed}"
    );
}

#[tokio::test]
async fn bad_input_is_named_with_confluents_codes() {
    let site = Site::start().await;
    let register = "/subjects/s/versions";
    for (body, code) in [
        (json!({}), 42201),
        (json!({"schema": ""}), 42201),
        (json!({"schema": "{\"type\":\"recor\"}"}), 42201),
        (json!({"schema": "{\"type\":"}), 42201),
        (json!({"schema": "x", "schemaType": "THRIFT"}), 42201),
        (json!({"schema": "{\"type\":\"objec\"}", "schemaType": "JSON"}), 42201),
        (json!({"schema": "{\"$ref\":\"#/nowhere\"}", "schemaType": "JSON"}), 42201),
        (json!({"schema": "{\"$ref\":\"other.json\"}", "schemaType": "JSON"}), 42201),
        (json!({"schema": "message M {", "schemaType": "PROTOBUF"}), 42201),
        (json!({"schema": "syntax = \"proto3\"; import \"nowhere.proto\";", "schemaType": "PROTOBUF"}), 42201),
        (json!({"schema": format!("\"{}\"", "x".repeat(1_000_000))}), 42209),
        (json!({"schema": "[".repeat(100_000)}), 42201),
        (json!({"schema": format!("{}{}", "{\"not\":".repeat(5_000), "true"), "schemaType": "JSON"}), 42201),
        (json!({"schema": format!("syntax = \"proto3\"; {}", "message M {".repeat(5_000)), "schemaType": "PROTOBUF"}), 42201),
        (json!({"schema": "\"int\"", "ruleSet": {"domainRules": []}}), 42210),
        (json!({"schema": "\"int\"", "id": 7}), 42205),
        (json!({"schema": "\"int\"", "unknown": 1}), 422),
    ] {
        let shown: String = body.to_string().chars().take(100).collect();
        assert_eq!(site.code("POST", register, Some(body)).await, (422, code), "{shown}");
    }
    assert_eq!(site.raw("POST", register, Some("{\"schema\"".into())).await.1["error_code"], 400);
    for (method, path, body, expected) in [
        ("GET", "/subjects/nobody/versions", None, (404, 40401)),
        ("GET", "/subjects/nobody/versions/1", None, (404, 40401)),
        ("GET", "/subjects/nobody/versions/0", None, (422, 42202)),
        ("GET", "/subjects/nobody/versions/one", None, (422, 42202)),
        ("GET", "/schemas/ids/1", None, (404, 40403)),
        ("GET", "/schemas/ids/99999999999", None, (404, 404)),
        ("POST", "/subjects/nobody", Some(json!({"schema": "\"int\""})), (404, 40401)),
        ("POST", "/compatibility/subjects/nobody/versions/1", Some(json!({"schema": "\"int\""})), (404, 40402)),
        ("GET", "/config/nobody", None, (404, 40408)),
        ("PUT", "/config", Some(json!({"compatibility": "SOMEHOW"})), (422, 42203)),
        ("PUT", "/mode", Some(json!({"mode": "SOMEHOW"})), (422, 42204)),
        ("GET", "/mode/nobody", None, (404, 40409)),
        ("DELETE", "/config/nobody", None, (404, 40401)),
        ("GET", "/nowhere", None, (404, 404)),
        ("PUT", "/subjects", None, (405, 405)),
    ] {
        assert_eq!(site.code(method, path, body).await, expected, "{method} {path}");
    }
}

#[tokio::test]
async fn a_mode_says_who_may_write() {
    let site = Site::start().await;
    let client = site.client();
    client.register("s", &record(A)).await.unwrap();
    assert_eq!(site.send("PUT", "/mode/s", json!({"mode": "READONLY"})).await, (200, json!({"mode": "READONLY"})));
    assert_eq!(site.code("POST", "/subjects/s/versions", Some(json!({"schema": "\"int\""}))).await, (422, 42205));
    assert_eq!(client.register("s", &record(A)).await, Ok(SchemaId(1)), "what is there is found");
    assert_eq!(site.code("DELETE", "/subjects/s", None).await, (422, 42205));
    assert_eq!(site.raw("DELETE", "/mode/s", None).await, (200, json!({"mode": "READONLY"})));
    assert_eq!(site.code("PUT", "/mode", Some(json!({"mode": "IMPORT"}))).await, (422, 42205));
    assert_eq!(site.send("PUT", "/mode/copy", json!({"mode": "IMPORT"})).await.0, 200);
    let import = json!({"schema": "\"long\"", "id": 70, "version": 5});
    assert_eq!(site.send("POST", "/subjects/copy/versions", import).await, (200, json!({"id": 70})));
    assert_eq!(site.get("/subjects/copy/versions").await.1, json!([5]));
    assert_eq!(site.code("POST", "/subjects/copy/versions", Some(json!({"schema": "\"float\"", "id": 70}))).await, (422, 42205));
}

/// `$ref` in every way that reaches somewhere, and recursion that ends.
#[tokio::test]
async fn a_json_schema_reaches_its_references_and_itself() {
    let site = Site::start().await;
    let client = site.client();
    let item = r#"{"$schema":"http://json-schema.org/draft-07/schema#","$id":"http://acme/item.json","type":"object","properties":{"n":{"type":"integer"}}}"#;
    client.register("item", &Schema::new(Kind::Json, item)).await.unwrap();
    let list = r##"{"$schema":"http://json-schema.org/draft-07/schema#","type":"object","properties":{"items":{"type":"array","items":{"$ref":"item.json"}},"also":{"$ref":"http://acme/item.json#/properties/n"},"self":{"$ref":"#"}}}"##;
    let references = vec![Reference { name: "item.json".into(), subject: "item".into(), version: 1 }];
    let schema = Schema { kind: Kind::Json, text: list.into(), references };
    client.register("list", &schema).await.unwrap();
    let narrowed = Schema { text: list.replace("\"type\":\"array\"", "\"type\":\"array\",\"maxItems\":3"), ..schema };
    let verdict = client.check("list", &narrowed).await.unwrap();
    assert!(!verdict.compatible && verdict.messages[0].contains("#/properties/items/maxItems"), "{verdict:?}");
}

#[tokio::test]
async fn a_registry_that_is_away_is_replaced_by_what_it_said_before() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::start().await;
    let memory = Some(dir.path().join("ids"));
    let settings = || Settings { memory: memory.clone(), ..Settings::new(&site.url) };
    let id = Client::new(settings()).unwrap().register("s", &record(A)).await.unwrap();
    // The same addresses, and nobody there: a port that was free a moment ago.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let text = std::fs::read_to_string(dir.path().join("ids")).unwrap().replace(&site.url, &format!("http://{nobody}"));
    std::fs::write(dir.path().join("ids"), text).unwrap();
    let client = Client::new(Settings { memory, ..Settings::new(&format!("http://{nobody}")) }).unwrap();
    assert_eq!(client.register("s", &record(A)).await, Ok(id));
    assert!(matches!(client.register("s", &record(B)).await, Err(RegistryError::Away(_))));
    assert!(matches!(client.schema(id).await, Err(RegistryError::Away(_))));
}

#[tokio::test]
async fn of_several_addresses_one_that_answers_is_enough_and_an_error_is_not_remembered() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let site = Site::start().await;
    let client = Client::new(Settings::new(&format!("http://{nobody},{}", site.url))).unwrap();
    assert!(matches!(client.schema(SchemaId(1)).await, Err(RegistryError::NotFound(_))));
    assert_eq!(client.register("s", &record(A)).await, Ok(SchemaId(1)));
    assert_eq!(client.schema(SchemaId(1)).await.unwrap().schema, record(A), "what was not there a moment ago");
    assert!(client.known(SchemaId(1)).is_some());
}

#[tokio::test]
async fn apicurios_serdes_find_a_schema_and_what_it_refers_to() {
    let site = Site::start().await;
    let line = json!({"schema": r#"{"type":"record","name":"Line","fields":[{"name":"n","type":"int"}]}"#});
    site.send("POST", "/subjects/lines/versions", line).await;
    let order = json!({
        "schema": r#"{"type":"record","name":"Order","fields":[{"name":"line","type":"Line"}]}"#,
        "references": [{"name": "Line", "subject": "lines", "version": 1}],
    });
    let id = site.send("POST", "/subjects/orders/versions", order).await.1["id"].as_i64().unwrap();
    let below = |path: &str| format!("/apis/registry/v3{path}");
    for ids in ["contentIds", "globalIds"] {
        let (status, schema) = site.get(&below(&format!("/ids/{ids}/{id}"))).await;
        assert_eq!((status, &schema["name"]), (200, &json!("Order")));
        let (_, references) = site.get(&below(&format!("/ids/{ids}/{id}/references"))).await;
        assert_eq!(references, json!([{"groupId": "default", "artifactId": "lines", "version": "1", "name": "Line"}]));
    }
    // What a deleted version was written with is still read.
    site.send("DELETE", "/subjects/orders", json!({})).await;
    site.send("DELETE", "/subjects/lines", json!({})).await;
    let line = "/groups/default/artifacts/lines/versions/1";
    assert_eq!(site.get(&below(&format!("{line}/content"))).await.1["name"], "Line");
    assert_eq!(site.get(&below(&format!("{line}/references"))).await, (200, json!([])));
    assert_eq!(site.get(&below("/ids/contentIds/99")).await.0, 404);
    assert_eq!(site.get(&below("/groups/other/artifacts/lines/versions/1/content")).await.0, 404);
}

#[tokio::test]
async fn a_page_in_a_browser_changes_nothing() {
    let site = Site::start().await;
    let url = format!("{}/subjects/s/versions", site.url);
    let body = json!({"schema": "\"string\""}).to_string();
    let post = || site.http.post(&url).body(body.clone());
    let status = async |request: reqwest::RequestBuilder| request.send().await.unwrap().status().as_u16();
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
        assert_eq!(status(post().header("content-type", kind)).await, 415, "{kind}");
    }
    assert_eq!(status(post()).await, 415, "a body of no type");
    let json = || post().header("content-type", "application/vnd.schemaregistry.v1+json; charset=utf-8");
    assert_eq!(status(json().header("origin", "http://evil.example")).await, 403);
    assert_eq!(status(json().header("origin", "null")).await, 403);
    assert_eq!(status(json().header("host", "evil.example:8081")).await, 403);
    assert_eq!(status(site.http.get(&url).header("host", "evil.example")).await, 403);
    assert_eq!(site.get("/subjects").await.1, json!([]));
    assert_eq!(status(json()).await, 200);
    assert_eq!(status(json().header("origin", site.url.as_str())).await, 200, "its own page");
}

#[tokio::test]
async fn a_login_is_asked_for_where_one_is_given_and_must_be_given_off_loopback() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let registry = Registry::in_memory(Level::Backward);
    let open = embedded::serve(([0, 0, 0, 0], 0).into(), registry.clone(), None).await;
    assert!(matches!(open, Err(embedded::ServeError::Unguarded(_))), "{open:?}");
    let login = |password: &str| RegistryLogin::Basic { user: "u".into(), password: Secret::new(password) };
    let listen = embedded::serve(([127, 0, 0, 1], 0).into(), registry.clone(), Some(&login("right"))).await.unwrap();
    let client = |login| Client::new(Settings { login, ..Settings::new(&format!("http://{listen}")) }).unwrap();
    assert!(client(Some(login("right"))).register("s", &record(A)).await.is_ok());
    for wrong in [None, Some(login("wrong")), Some(RegistryLogin::Token(Secret::new("right")))] {
        let refused = client(wrong).register("s", &record(A)).await;
        assert!(matches!(refused, Err(RegistryError::Refused(_))), "{refused:?}");
    }
    registry.stop().await;
}
