//! What a plant installs: the Debian package and its unit, what systemd is told, the dashboard and the alerts.

use millrace_tests::*;
use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lie in the workspace").to_owned()
}

fn said(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} ended with {}: {text}", output.status);
    text
}

fn build(folder: &Path, version: &str) -> PathBuf {
    let script = top().join("packaging/debian/build");
    PathBuf::from(said(Command::new(script).arg(millrace::binary()).args([version]).arg(folder)).trim())
}

#[test]
fn the_package_is_installed_upgraded_removed_and_purged_and_its_unit_is_hardened() {
    let dir = scratch("packaging");
    let first = build(dir.path(), "0.1.0~test1");
    let listed = said(Command::new("dpkg-deb").arg("--contents").arg(&first));
    for path in [
        "./usr/bin/millrace",
        "./lib/systemd/system/millrace.service",
        "./etc/millrace/factory.yaml",
        "/man1/millrace-reload.1.gz",
        "/completions/millrace",
        "_millrace",
        "/millrace.cdx.json",
    ] {
        assert!(listed.contains(path), "{path} is missing: {listed}");
    }
    let unit = top().join("packaging/systemd/millrace.service");
    let mut analyze = peers::debian("systemd-analyze", "systemd");
    let security = said(analyze.args(["security", "--offline=true", "--no-pager"]).arg(&unit));
    let exposure = security
        .lines()
        .rev()
        .find_map(|line| line.split("exposure level for ").nth(1)?.split(": ").nth(1)?.split(' ').next()?.parse::<f64>().ok());
    assert!(exposure.is_some_and(|exposure| exposure < 2.0), "{security}");

    assert!(rustix::process::geteuid().is_root(), "installing a package takes root: run this test as root, in a container say");
    let mut purge = Command::new("dpkg");
    purge.args(["--purge", "millrace"]);
    let _ = purge.output();
    struct Purged(Command);
    impl Drop for Purged {
        fn drop(&mut self) {
            let _ = self.0.output();
        }
    }
    let purged = Purged(purge);
    said(Command::new("dpkg").arg("--install").arg(&first));
    said(peers::debian("systemd-analyze", "systemd").args(["verify", "/lib/systemd/system/millrace.service"]));
    let user = said(Command::new("getent").args(["passwd", "millrace"]));
    let id: u32 = user.split(':').nth(2).and_then(|id| id.parse().ok()).expect("a user has a number");
    let about = |path: &str| std::fs::metadata(path).map(|about| (about.uid(), about.permissions().mode() & 0o777));
    assert_eq!(about("/var/lib/millrace").ok(), Some((id, 0o700)));
    assert_eq!(about("/etc/millrace/factory.yaml").ok(), Some((0, 0o640)));
    let as_user = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=millrace", "--regid=millrace", "--init-groups", "--reset-env", "/usr/bin/millrace"]).args(args);
        said(command.current_dir("/"))
    };
    assert!(as_user(&["check", "-c", "/etc/millrace"]).contains("no error"));

    // An upgrade keeps what a person wrote, and the log.
    let mine = std::fs::read_to_string("/etc/millrace/factory.yaml").unwrap().replace("enterprise/site", "acme/detroit");
    std::fs::write("/etc/millrace/factory.yaml", &mine).unwrap();
    std::fs::write("/var/lib/millrace/kept", "log").unwrap();
    said(Command::new("dpkg").arg("--install").arg(build(dir.path(), "0.1.0~test2")));
    assert!(said(Command::new("dpkg").args(["--status", "millrace"])).contains("Version: 0.1.0~test2"));
    assert_eq!(std::fs::read_to_string("/etc/millrace/factory.yaml").unwrap(), mine);
    said(Command::new("dpkg").args(["--remove", "millrace"]));
    assert!(!Path::new("/usr/bin/millrace").exists());
    assert!(Path::new("/var/lib/millrace/kept").exists() && Path::new("/etc/millrace/factory.yaml").exists(), "removing keeps them");
    drop(purged);
    assert!(!Path::new("/var/lib/millrace").exists() && !Path::new("/etc/millrace").exists(), "purging takes them");
    assert!(!Command::new("getent").args(["passwd", "millrace"]).output().unwrap().status.success(), "and the user");
}

#[test]
fn the_tarball_is_whole_its_bill_of_materials_and_the_manifests_are_valid() {
    let dir = scratch("tarball");
    // A debug build takes minutes to compress: what calls it stands for it.
    let stand_in = dir.path().join("millrace");
    std::fs::write(&stand_in, format!("#!/bin/sh\nexec '{}' \"$@\"\n", millrace::binary().display())).unwrap();
    std::fs::set_permissions(&stand_in, std::fs::Permissions::from_mode(0o755)).unwrap();
    let pack = || said(Command::new(top().join("packaging/tarball")).arg(&stand_in).args(["0.1.0-test"]).arg(dir.path()));
    let archive = PathBuf::from(pack().trim());
    let sum = || std::fs::read_to_string(archive.with_extension("gz.sha256")).unwrap();
    let first = sum();
    pack();
    assert_eq!(sum(), first, "the same binary gives the same bytes");
    said(Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(dir.path()));
    let root = PathBuf::from(archive.to_str().unwrap().strip_suffix(".tar.gz").unwrap());
    said(Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(&root));
    for path in
        ["man/man1/millrace-run.1.gz", "completions/millrace.bash", "systemd/millrace.service", "kubernetes/millrace.yaml", "LICENSE"]
    {
        assert!(root.join(path).is_file(), "{path} is missing");
    }
    assert!(said(Command::new(root.join("bin/millrace")).args(["check", "factory.yaml"]).current_dir(&root)).contains("no error"));

    let bill = root.join("millrace.cdx.json");
    let judge = "import sys; from cyclonedx.validation.json import JsonStrictValidator; from cyclonedx.schema import SchemaVersion; \
                 wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(sys.argv[1]).read()); sys.exit(str(wrong) if wrong else 0)";
    said(peers::python(peers::judges()).args(["-c", judge]).arg(&bill));
    let bill: serde_json::Value = serde_json::from_slice(&std::fs::read(bill).unwrap()).unwrap();
    let names: BTreeSet<&str> = bill["components"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert!(["rdkafka-sys", "tokio", "millrace-log"].iter().all(|name| names.contains(name)), "{names:?}");
    assert!(!names.contains("millrace-testkit"), "what only tests it is no part of it");

    let judge = "import sys, yaml, kubernetes_validate\n\
                 for one in yaml.safe_load_all(open(sys.argv[1])):\n kubernetes_validate.validate(one, '1.34', strict=True); print(one['kind'])";
    let kinds = said(peers::python(peers::judges()).args(["-c", judge]).arg(root.join("kubernetes/millrace.yaml")));
    let kinds: BTreeSet<&str> = kinds.lines().collect();
    let expected = ["ServiceAccount", "Service", "StatefulSet", "PodDisruptionBudget", "NetworkPolicy"];
    assert!(expected.iter().all(|kind| kinds.contains(kind)), "{kinds:?}");
}

/// A log in the form in which 0.1.0 wrote it while Kafka was away: 300 lines. When the form changes, this one is still read, and another joins it.
#[test]
fn a_log_that_an_earlier_release_left_full_goes_to_kafka_and_goes_on() {
    let kafka = Kafka::shared();
    let factory = Factory::on(kafka);
    let (data, mut open) = (factory.dir().join("data/log"), vec![PathBuf::new()]);
    let fixture = top().join("tests/fixtures/kept-by-0.1.0/log");
    while let Some(folder) = open.pop() {
        std::fs::create_dir_all(data.join(&folder)).unwrap();
        for entry in std::fs::read_dir(fixture.join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let name = folder.join(entry.file_name());
            match entry.file_type().unwrap().is_dir() {
                true => open.push(name),
                false => _ = std::fs::copy(entry.path(), data.join(name)).unwrap(),
            }
        }
    }
    std::fs::create_dir(factory.dir().join("in")).unwrap();
    let mut millrace = factory.start(
        "site: acme/kept\ntopics: {kept-by-0-1-0: {format: json}}\n\
         sources: {lines: {type: file, path: '$dir/in/*.ndjson', format: ndjson, topic: kept-by-0-1-0}}\n",
    );
    let number = |record: &Record| record.json()["n"].as_i64();
    let read: Vec<_> = kafka.follow("kept-by-0-1-0").count(300).iter().map(number).collect();
    assert_eq!(read, (0..300).map(Some).collect::<Vec<_>>());
    std::fs::write(millrace.dir().join("in/new.ndjson"), "{\"n\":300}\n").unwrap();
    assert_eq!(kafka.follow("kept-by-0-1-0").count(301).last().and_then(number), Some(300));
    millrace.stop();
}

/// What PyYAML makes of a file.
fn yaml(path: &Path) -> serde_json::Value {
    let read = "import sys, json, yaml; json.dump(yaml.safe_load(open(sys.argv[1])), sys.stdout)";
    serde_json::from_str(&said(peers::python(peers::judges()).args(["-c", read]).arg(path))).unwrap()
}

#[test]
fn the_compose_file_names_what_there_is_and_its_parts_find_each_other() {
    let folder = top().join("packaging/compose");
    let compose = yaml(&folder.join("compose.yaml"));
    let services = compose["services"].as_object().unwrap();
    let texts = |list: &serde_json::Value| -> Vec<String> {
        list.as_array().into_iter().flatten().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let mut mounts = std::collections::BTreeMap::new();
    for (name, service) in services {
        for mount in texts(&service["volumes"]) {
            let (from, rest) = mount.split_once(':').unwrap();
            let to = rest.split(':').next().unwrap();
            let is_there = if from.starts_with('.') { folder.join(from).is_file() } else { compose["volumes"].get(from).is_some() };
            assert!(is_there, "{name} mounts {from}, which is not there");
            mounts.insert(to.to_owned(), from.to_owned());
        }
        assert!(texts(&service["depends_on"]).iter().all(|other| services.contains_key(other)), "{name}");
        for port in texts(&service["ports"]) {
            assert!(port.starts_with("127.0.0.1:"), "{name} is open to the network: {port}");
        }
    }
    // Millrace: the image that the Dockerfile makes, with what its entry point looks for.
    let millrace = &services["millrace"];
    let context = folder.join(millrace["build"]["context"].as_str().unwrap());
    let dockerfile = std::fs::read_to_string(context.join(millrace["build"]["dockerfile"].as_str().unwrap())).unwrap();
    let line = |word: &str| dockerfile.lines().rev().find_map(|line| line.strip_prefix(word)).unwrap_or_else(|| panic!("no {word}")).trim();
    assert_eq!(mounts.get(line("VOLUME")).map(String::as_str), Some("millrace"));
    assert_eq!(line("ENV MILLRACE_DATA_DIR="), line("VOLUME"));
    let command: Vec<String> = serde_json::from_str(line("CMD")).unwrap();
    let [run, option, place] = &command[..] else { panic!("{command:?}") };
    assert_eq!((run.as_str(), option.as_str()), ("run", "-c"));
    assert!(mounts.keys().any(|to| Path::new(to).parent() == Some(Path::new(place))), "{mounts:?} has nothing in {place}");
    assert_eq!(context.canonicalize().unwrap(), top().canonicalize().unwrap());
    said(Command::new(millrace::binary()).args(["check", "-c"]).arg(folder.join("factory.yaml")));
    let factory = yaml(&folder.join("factory.yaml"));
    let kafka = &services["kafka"]["environment"];
    let brokers = factory["kafka"]["brokers"].as_str().unwrap();
    assert!(kafka["KAFKA_ADVERTISED_LISTENERS"].as_str().unwrap().contains(&format!("PLAIN://{brokers}")), "{kafka}");
    let registry = factory["schemas"]["listen"].as_str().unwrap().rsplit(':').next().unwrap();
    assert!(texts(&millrace["ports"])[0].ends_with(&format!(":{registry}")), "{registry}");
    // Prometheus scrapes what listens in Millrace's network, with the alerts beside it; Grafana asks it there.
    assert_eq!(services["prometheus"]["network_mode"], "service:millrace");
    let prometheus = yaml(&folder.join("prometheus.yaml"));
    assert_eq!(prometheus["scrape_configs"][0]["static_configs"][0]["targets"][0], factory["http"]["listen"]);
    let etc = scratch("compose");
    for (to, from) in mounts.iter().filter(|(to, _)| to.starts_with("/etc/prometheus/")) {
        std::fs::copy(folder.join(from), etc.path().join(Path::new(to).file_name().unwrap())).unwrap();
    }
    said(peers::debian("promtool", "prometheus").args(["check", "config"]).arg(etc.path().join("prometheus.yml")));
    let source = yaml(&folder.join("grafana/datasource.yaml"));
    assert_eq!(
        (&source["datasources"][0]["type"], &source["datasources"][0]["url"]),
        (&"prometheus".into(), &"http://millrace:9090".into())
    );
    let board = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"].as_str().unwrap();
    assert_eq!(mounts.get(board).map(String::as_str), Some("../grafana/dashboard.json"));
    let boards = yaml(&folder.join("grafana/dashboards.yaml"));
    assert!(board.starts_with(boards["providers"][0]["options"]["path"].as_str().unwrap()), "{boards}");
}

#[test]
fn systemd_hears_when_it_is_ready_that_it_lives_and_when_it_stops() {
    let (kafka, topic) = (Kafka::shared(), Kafka::shared().topic("notify"));
    let factory = Factory::on(kafka).with("topic", &topic);
    let path = factory.dir().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket can be bound");
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let hear = || {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).expect("systemd is told something");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let factory = factory.env("NOTIFY_SOCKET", path.to_str().expect("a path")).env("WATCHDOG_USEC", "400000");
    let mut millrace = factory
        .start("topics: {$topic: {format: json}}\nsources: {load: {type: generator, at: load, topic: $topic, tags: 1, rate: 1/s}}\n");
    assert_eq!(hear(), "READY=1");
    for _ in 0..5 {
        assert_eq!(hear(), "WATCHDOG=1");
    }
    millrace.process().terminate();
    let rest: Vec<String> = std::iter::repeat_with(hear).take_while(|word| word != "STOPPING=1").collect();
    assert!(rest.iter().all(|word| word == "WATCHDOG=1"), "{rest:?}");
    millrace.process().wait();
}

/// Names of metrics in a text of PromQL.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("millrace_") || word.starts_with("process_")).collect()
}

#[test]
fn the_dashboard_and_the_alerts_ask_for_metrics_that_there_are() {
    let (kafka, topic) = (Kafka::shared(), Kafka::shared().topic("metrics"));
    let mut millrace = Factory::on(kafka).with("topic", &topic).start(
        "topics: {$topic: {format: json}}\nsources: {load: {type: generator, at: load, topic: $topic, tags: 1, rate: 10/s}}\nsinks: {archive: {type: file, topics: [$topic], path: '$dir/out.ndjson'}}\n",
    );
    millrace.wait_ledger("load", "some is in Kafka", |ledger| ledger.produced > 0);
    let metrics = millrace.metrics();
    let families = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let mut known: BTreeSet<String> = BTreeSet::new();
    for (name, kind) in families {
        known.insert(name.to_owned());
        if kind == "summary" {
            known.extend([format!("{name}_sum"), format!("{name}_count")]);
        }
    }
    let folder = top().join("packaging/grafana");
    let alerts = std::fs::read_to_string(folder.join("alerts.yaml")).unwrap();
    let expressions: String = alerts.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).collect::<Vec<_>>().join("\n");
    let dashboard: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(folder.join("dashboard.json")).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let asked: String = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap())
        .chain(dashboard["annotations"]["list"].as_array().unwrap())
        .map(|target| target["expr"].as_str().unwrap())
        .collect::<Vec<_>>()
        .join("\n");
    let ids: BTreeSet<i64> = panels.iter().map(|panel| panel["id"].as_i64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    for text in [&expressions, &asked] {
        let unknown: Vec<&str> = names(text).into_iter().filter(|name| !known.contains(*name)).collect();
        assert!(names(text).len() > 8 && unknown.is_empty(), "there are no such metrics: {unknown:?}");
    }
    // Prometheus' own tool judges the rules, every expression of the dashboard, and what it would scrape.
    let promtool = || peers::debian("promtool", "prometheus");
    assert!(said(promtool().args(["check", "rules"]).arg(folder.join("alerts.yaml"))).contains("SUCCESS: 15 rules found"));
    let as_rules = asked.replace("$__rate_interval", "5m").replace("$instance", ".*").replace("$source", ".*");
    let rules: String = as_rules.lines().map(|expr| format!("  - {{record: a, expr: {}}}\n", serde_json::json!(expr))).collect();
    let path = millrace.dir().join("rules.yaml");
    std::fs::write(&path, format!("groups:\n- name: dashboard\n  rules:\n{rules}")).unwrap();
    said(promtool().args(["check", "rules", "--lint=none"]).arg(&path));
    let scraped = millrace.dir().join("metrics.txt");
    std::fs::write(&scraped, &metrics).unwrap();
    said(promtool().args(["check", "metrics"]).stdin(std::fs::File::open(&scraped).unwrap()));
    millrace.stop();
}
