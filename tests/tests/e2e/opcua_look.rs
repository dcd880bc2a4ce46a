//! OPC UA servers of three implementations, and our own press shop, looked at: browse, probe, and who trusts whom.

use millrace_opcua_sim::{Options, Shop};
use millrace_tests::*;
use serde_json::Value;
use std::process::Output;

/// A folder to run commands in; nothing is started.
fn place() -> Millrace {
    Factory::at("127.0.0.1:1").prepare("")
}

fn said(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "ended with {}\n{out}{err}", output.status);
    out.into_owned()
}

fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "it went well: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Types the line that a refusal names.
fn approve(place: &Millrace, why: &str) {
    assert!(said(&place.type_line_of(why)).starts_with("trusted: "));
}

/// What `browse` printed passes `check` when it is pasted.
fn check(place: &Millrace, sources: &str) {
    place.write(&format!("topics: {{telemetry: {{format: json}}}}\n{sources}"));
    said(&place.run(&["check", "-c", "factory.yaml"]));
}

#[test]
fn servers_of_three_implementations_are_browsed_into_yaml_that_can_be_pasted() {
    let place = place();
    for stack in Stack::ALL {
        let plant = Plant::of(stack).load(20).limit(7).start();
        let yaml = said(&place.run(&["browse", "opcua", &plant.endpoint()]));
        for line in [
            "    namespaces: {plant: \"http://millrace.test/plant\"}",
            "          # Types",
            "          Types/Double: {node: \"plant:s=Types.Double\"}   # Double 0.1",
            "          Types/UInt64: {node: \"plant:s=Types.UInt64\"}   # UInt64 18446744073709551615",
            "          Types/Doubles: {node: \"plant:s=Types.Doubles\"}   # Double [3 values]",
            "          Types/Struct: {node: \"plant:s=Types.Struct\"}   # PartResult {..}",
            "          Types/Enum: {node: \"plant:s=Types.Enum\"}   # PressState 1",
            "          Load/N000019: {node: \"plant:s=Load.N000019\"}   # Double 0",
        ] {
            assert!(yaml.lines().any(|known| known == line), "{stack:?}: no line `{line}` in\n{yaml}");
        }
        check(&place, &yaml);
        let table = said(&place.run(&["browse", "opcua", &plant.endpoint(), "--below", "Objects/Load", "--csv"]));
        assert_eq!(table.lines().count(), 21, "{stack:?}: {table}");
        assert!(table.contains("\nN000007,nsu=http://millrace.test/plant;s=Load.N000007,,,,\n"), "{stack:?}: {table}");
        std::fs::write(place.dir().join("tags.csv"), &table).expect("a file can be written");
        let endpoint = plant.endpoint();
        check(
            &place,
            &format!(
                "sources: {{s: {{type: opcua, endpoint: \"{endpoint}\", topic: telemetry, groups: [{{every: 1s, tags_from: tags.csv}}]}}}}\n"
            ),
        );
        let few = said(&place.run(&["browse", "opcua", &plant.endpoint(), "--limit", "5"]));
        assert!(few.ends_with("# more than 5 variables: begin further down with --below, or raise --limit\n"), "{stack:?}: {few}");
    }
}

#[test]
fn the_press_shop_is_browsed_with_units_and_ranges_from_the_server() {
    let place = place();
    let shop = Shop::start(Options { presses: 2, ..Options::default() }).expect("the shop opens");
    let yaml = said(&place.run(&["browse", "opcua", &shop.endpoint()]));
    for part in [
        "Press1/Temp: {node: \"pressshop:s=Press1.Temp\", unit: \"degC\", min: 0, max: 900}   # Double ",
        "Press2/Motor1/Speed: {node: \"pressshop:s=Press2.Motor1.Speed\", unit: \"1/min\", min: 0, max: 3000}   # Float ",
        "Press1/State: {node: \"pressshop:s=Press1.State\"}   # PressState ",
        "Press1/LastPart: {node: \"pressshop:s=Press1.LastPart\"}   # PartResult {..}",
    ] {
        assert!(yaml.contains(part), "no `{part}` in\n{yaml}");
    }
    check(&place, &yaml);
}

#[test]
fn a_probe_says_who_a_server_is_how_it_is_secured_and_what_it_takes() {
    let place = place();
    for stack in Stack::ALL {
        let plant = Plant::of(stack).secured().limit(70).start();
        let report: Value =
            serde_json::from_str(&said(&place.run(&["probe", "opcua", &plant.endpoint(), "--json"]))).expect("the report is JSON");
        let endpoints = report["endpoints"].as_array().expect("it lists endpoints");
        for policy in ["Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss"] {
            for mode in ["Sign", "SignAndEncrypt"] {
                let is_there = |one: &Value| one["policy"] == policy && one["mode"] == mode;
                assert!(endpoints.iter().any(is_there), "{stack:?} {policy} {mode}: {report:#}");
            }
        }
        assert_eq!(report["limits"]["nodes_per_read"], 70, "{stack:?}: {report:#}");
        assert_eq!(report["server"]["state"], "running", "{stack:?}: {report:#}");
        assert!(report["namespaces"].as_array().is_some_and(|uris| uris.contains(&plant::NAMESPACE.into())), "{stack:?}: {report:#}");
        let lines = said(&place.run(&["probe", "opcua", &plant.endpoint()]));
        assert!(lines.contains("  nodes_per_read            70\n"), "{stack:?}: {lines}");
    }
}

#[test]
fn a_server_is_trusted_once_a_person_types_the_line_and_then_under_every_policy_it_has() {
    for stack in Stack::ALL {
        let place = place();
        let plant = Plant::of(stack).secured().user("millrace", "secret").start();
        let look = |security: &str, password: &str| {
            let data = place.data_dir().display().to_string();
            let (endpoint, variable) = (plant.endpoint(), format!("PASSWORD_{password}"));
            place.run_with(
                &["browse", "opcua", &endpoint, "--security", security, "--data", &data, "--user", "millrace", "--password-env", &variable],
                &[(&variable, password)],
            )
        };
        let why = refused(&look("Basic256Sha256", "secret"));
        assert!(why.contains("is not trusted"), "{stack:?}: {why}");
        approve(&place, &why);
        // node-opcua's certificate has the names of the machine and not its loopback.
        let again = look("Basic256Sha256", "secret");
        if !again.status.success() {
            let why = refused(&again);
            assert!(why.contains("not for 127.0.0.1") && why.contains("--host 127.0.0.1"), "{stack:?}: {why}");
            approve(&place, &why);
        }
        for policy in ["Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss"] {
            for mode in ["Sign", "SignAndEncrypt"] {
                let yaml = said(&look(&format!("{policy}/{mode}"), "secret"));
                assert!(
                    yaml.contains("Types/Double: {node: \"plant:s=Types.Double\"}   # Double 0.1"),
                    "{stack:?} {policy} {mode}: {yaml}"
                );
                assert!(yaml.contains(&format!("security: {{policy: {policy}, mode: {mode}}}")), "{yaml}");
            }
        }
        let why = refused(&look("Basic256Sha256", "wrong"));
        assert!(why.contains("check `login`"), "{stack:?}: {why}");
        let data = place.data_dir().display().to_string();
        let listed: Value = serde_json::from_str(&said(&place.run(&["pki", "list", "--json", "--data", &data]))).expect("the list is JSON");
        let shelves: Vec<&str> = listed.as_array().into_iter().flatten().filter_map(|one| one["shelf"].as_str()).collect();
        assert_eq!(shelves, ["own", "trusted"], "{stack:?}: {listed:#}");
        let thumbprint = listed[1]["thumbprint"].as_str().expect("it has a thumbprint");
        assert!(said(&place.run(&["pki", "reject", &thumbprint[..10], "--data", &data])).starts_with("rejected: "));
        assert!(refused(&look("Basic256Sha256", "secret")).contains("is not trusted"), "{stack:?}");
        let exported = said(&place.run(&["pki", "export", "--to", "for-servers", "--data", &data]));
        assert!(exported.trim().ends_with(".der") && place.dir().join(exported.trim()).is_file(), "{exported}");
        for shelf in ["rejected", "trusted"] {
            assert!(!place.dir().join(shelf).exists(), "{stack:?}: a folder `{shelf}` was made where the command ran");
        }
    }
}

#[test]
fn what_a_server_does_not_offer_is_refused_and_nothing_less_is_taken() {
    let place = place();
    let plant = Plant::start(Stack::Asyncua);
    let data = place.data_dir().display().to_string();
    let why = refused(&place.run(&["browse", "opcua", &plant.endpoint(), "--security", "Basic256Sha256", "--data", &data]));
    assert!(why.contains("does not offer Basic256Sha256 with SignAndEncrypt; it offers None"), "{why}");
}
