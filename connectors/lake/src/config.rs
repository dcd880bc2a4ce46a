//! The keys of `type: lake`.

use millrace_config::{ByteSize, Period, Problems, Secret, Spanned, suggest};
use millrace_kit::Tls;
use millrace_kit::http::{Endpoint, EndpointKeys, HttpLogin, Options};
use schemars::JsonSchema;
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;

/// Writes samples, or documents, to a table of Parquet files, each once, for years of history.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LakeConfig {
    /// Where the table lies: a folder, `s3://bucket/folder`, `abfss://container@account.dfs.core.windows.net/folder`, `gs://bucket/folder` or
    /// `hdfs://namenode:8020/folder`. Of an Iceberg table its name in the catalog: `plant.telemetry`. It is made when missing.
    pub table: Spanned<String>,
    /// What kind of table: `delta` is read by whatever knows Delta Lake, `iceberg` by whatever knows the catalog; `parquet` is for programs that read
    /// all files of a folder.
    #[serde(default)]
    pub format: TableFormat,
    /// The catalog of an Iceberg table.
    #[serde(default)]
    pub catalog: Option<Spanned<CatalogConfig>>,
    /// The folders: `date` (the day of `time`, in UTC) and, of samples, at most one of the upper two `levels`.
    #[serde(default = "partition_by")]
    pub partition_by: Vec<Spanned<String>>,
    /// How often files are written and committed, with the positions in Kafka. Left out: `60s`; of an Iceberg table `5m`, since each commit is a
    /// snapshot in its catalog.
    #[serde(default)]
    pub commit_every: Option<Spanned<Period>>,
    /// How much may wait in memory: what is above it is committed at once, and nothing is read from Kafka meanwhile.
    #[serde(default = "memory")]
    pub memory: Spanned<ByteSize>,
    /// How the table is tended by its sink. An Iceberg table is only where this says so: its catalog may do it, or `rewrite_data_files` and
    /// `expire_snapshots`.
    #[serde(default)]
    pub upkeep: Option<UpkeepConfig>,
    /// How the store is reached.
    #[serde(default)]
    pub store: StoreConfig,
}

/// Small files of days that are over become large ones; what no version or snapshot of the table names is deleted.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UpkeepConfig {
    /// `false`: it is left to `millrace lake compact` and `millrace lake vacuum`.
    pub enabled: bool,
    /// How often.
    pub every: Spanned<Period>,
    /// What no version names any more stays so long for readers of older ones; snapshots of an Iceberg table, too.
    pub keep: Spanned<Period>,
}

impl Default for UpkeepConfig {
    fn default() -> Self {
        Self { enabled: true, every: Spanned::from(Period::from_secs(3600)), keep: Spanned::from(Period::from_secs(7 * 86_400)) }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TableFormat {
    /// A Delta table: a reader sees whole commits.
    #[default]
    Delta,
    /// The same table, kept so that its folder may be read without the log in `_delta_log`: what a broken-off commit left is removed at the next
    /// start. Until then, such a reader may see rows that come again.
    Parquet,
    /// A table of Apache Iceberg, format version 2, by a REST catalog: partitioned by the day of `time`, which needs no column of its own. In builds
    /// with the feature `lake-iceberg`.
    Iceberg,
}

/// A catalog that speaks Iceberg's REST interface: Polaris, Lakekeeper, Nessie, Gravitino, Unity.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CatalogConfig {
    /// Its address, without `/v1`: `https://catalog.plant/api/catalog`.
    pub uri: Spanned<String>,
    /// The warehouse, where the catalog has several.
    #[serde(default)]
    pub warehouse: Option<String>,
    /// Where a new table lies, if the catalog is not to choose: `s3://bucket/folder`.
    #[serde(default)]
    pub location: Option<String>,
    /// How to log in there: a bearer token, OAuth2 client credentials.
    #[serde(default)]
    pub login: Option<Spanned<HttpLogin>>,
    /// Certificates.
    #[serde(default)]
    pub tls: Option<Spanned<Tls>>,
    /// How requests are sent: timeouts, rate, proxy, headers.
    #[serde(default)]
    pub http: Options,
}

/// A catalog that can be asked.
#[derive(Clone, PartialEq, Debug)]
pub struct CatalogPlace {
    pub endpoint: Endpoint,
    pub warehouse: Option<String>,
    pub location: Option<String>,
}

impl CatalogConfig {
    fn place(&self, problems: &mut Problems) -> Option<CatalogPlace> {
        let keys = EndpointKeys { endpoint: self.uri.clone(), login: self.login.clone(), tls: self.tls.clone(), http: self.http.clone() };
        let endpoint = keys.compile(problems)?;
        Some(CatalogPlace { endpoint, warehouse: self.warehouse.clone(), location: self.location.clone() })
    }
}

/// How a store in a cloud is reached; what is left out comes from the environment, as for the cloud's own programs: `AWS_*`, `AZURE_*`,
/// `GOOGLE_*`, an instance profile, a web or workload identity.
#[derive(Clone, PartialEq, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// The address of a store that is not the cloud's own: `https://minio.plant:9000`.
    pub endpoint: Option<Spanned<String>>,
    /// S3: `eu-central-1`; stores of other makers take any.
    pub region: Option<Spanned<String>>,
    /// S3: the access key's id.
    pub access_key: Option<Spanned<String>>,
    /// S3: the access key's secret, by reference: `${file:/run/secrets/lake}`.
    pub secret_key: Option<Secret>,
    /// S3: whether the bucket is part of the host's name, as Amazon has it; most others have it in the path.
    pub virtual_hosts: bool,
    /// Azure: the key of the storage account, by reference.
    pub account_key: Option<Secret>,
    /// Azure: the tenant of an application that signs in instead of a key.
    pub tenant: Option<Spanned<String>>,
    /// Azure: the application's id.
    pub client: Option<Spanned<String>>,
    /// Azure: the application's secret, by reference.
    pub client_secret: Option<Secret>,
    /// Google: the key of a service account, its JSON, by reference.
    pub service_account: Option<Secret>,
}

/// Whose store a table lies in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cloud {
    S3,
    Azure,
    Google,
    /// Hadoop's file system.
    Hdfs,
}

impl Cloud {
    /// By the scheme of a table's address.
    fn of(scheme: &str) -> Option<Self> {
        match scheme {
            "s3" => Some(Self::S3),
            "abfss" => Some(Self::Azure),
            "gs" => Some(Self::Google),
            "hdfs" => Some(Self::Hdfs),
            _ => None,
        }
    }
}

impl StoreConfig {
    /// The file says by which credentials the store is reached; else those of an Iceberg table's catalog are, where it gives some.
    pub fn has_credentials(&self) -> bool {
        self.access_key.is_some() || self.account_key.is_some() || self.client.is_some() || self.service_account.is_some()
    }

    /// Keys that say nothing to the store at hand, or come without their partner.
    fn check(&self, table: &Spanned<String>, cloud: Option<Cloud>, problems: &mut Problems) {
        let said = [
            (Cloud::S3, "region", self.region.is_some()),
            (Cloud::S3, "access_key", self.access_key.is_some()),
            (Cloud::S3, "secret_key", self.secret_key.is_some()),
            (Cloud::Azure, "account_key", self.account_key.is_some()),
            (Cloud::Azure, "tenant", self.tenant.is_some()),
            (Cloud::Azure, "client", self.client.is_some()),
            (Cloud::Azure, "client_secret", self.client_secret.is_some()),
            (Cloud::Google, "service_account", self.service_account.is_some()),
        ];
        for (of, key, _) in said.into_iter().filter(|(of, _, is_said)| *is_said && cloud != Some(*of)) {
            let scheme = match of {
                Cloud::S3 => "s3",
                Cloud::Azure => "abfss",
                Cloud::Google => "gs",
                Cloud::Hdfs => "hdfs",
            };
            problems.error(table.place, format!("`{key}` of `store` is for tables in `{scheme}://`, and the table is `{}`", table.value));
        }
        if self.access_key.is_some() != self.secret_key.is_some() {
            problems
                .error(table.place, "`access_key` and `secret_key` come together")
                .help("give both, or neither: then the environment's are used");
        }
        let application = [self.tenant.is_some(), self.client.is_some(), self.client_secret.is_some()];
        if application.contains(&true) && application.contains(&false) {
            problems.error(table.place, "`tenant`, `client` and `client_secret` come together").help("give all three, or none of them");
        }
        if let (Some(endpoint), Some(Cloud::Hdfs)) = (&self.endpoint, cloud) {
            problems
                .error(endpoint.place, "HDFS has no endpoint: the name node, or the name of its cluster, stands in `table`")
                .help("the addresses of a cluster's name nodes are read from `core-site.xml` and `hdfs-site.xml` in HADOOP_CONF_DIR");
        }
        if let Some(endpoint) = &self.endpoint
            && !endpoint.starts_with("http://")
            && !endpoint.starts_with("https://")
        {
            problems.error(endpoint.place, format!("`endpoint: {}` is no address", endpoint.value)).help("write `https://host:port`");
        }
    }
}

fn partition_by() -> Vec<Spanned<String>> {
    vec![Spanned::from(DATE.to_owned())]
}

fn memory() -> Spanned<ByteSize> {
    Spanned::from(ByteSize(128 << 20))
}

/// Below it, files would be small whatever `commit_every` says.
const LEAST_MEMORY: u64 = 1 << 20;
/// Kafka takes partitions from who says nothing for five minutes; a commit must fit in between.
const LONGEST_COMMIT: Duration = Duration::from_secs(3600);
/// A writer may hold a file so long before it commits it.
const LEAST_KEEP: Duration = Duration::from_secs(3600);
/// What a partition may be named after: deeper levels have more folders than a table can bear.
const LEVELS: usize = 2;

/// A level of `at` that partitions the table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Level {
    pub name: String,
    /// Which part of a tag's path it is: `enterprise/site` are 0 and 1.
    pub part: usize,
}

/// The partition column of the day: of a sample's time, of a record's time in Kafka.
pub const DATE: &str = "date";
pub const DOCUMENTS_DATE: &str = "kafka_date";

/// What a table holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Shape {
    /// Samples, in folders by day and perhaps a level.
    Samples(Option<Level>),
    /// Documents, in folders by day.
    Documents,
}

impl Shape {
    /// The partition columns.
    pub fn folders(&self) -> Vec<&str> {
        [self.date()].into_iter().chain(self.level().map(|level| level.name.as_str())).collect()
    }

    /// The partition column of the day.
    pub fn date(&self) -> &'static str {
        match self {
            Self::Samples(_) => DATE,
            Self::Documents => DOCUMENTS_DATE,
        }
    }

    pub fn level(&self) -> Option<&Level> {
        match self {
            Self::Samples(level) => level.as_ref(),
            Self::Documents => None,
        }
    }

    /// In the plural, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Samples(_) => "samples",
            Self::Documents => "documents",
        }
    }
}

/// Where a table is, and how it is laid out: what the sink, `millrace lake` and `millrace query` need.
#[derive(Clone, Debug)]
pub struct Place {
    /// A folder or an address, as written.
    pub table: String,
    pub format: TableFormat,
    pub shape: Shape,
    pub store: StoreConfig,
    /// Of an Iceberg table.
    pub catalog: Option<CatalogPlace>,
}

impl Place {
    /// A table that no factory's file names: a folder, or S3 as the environment says.
    pub fn bare(table: &str) -> Self {
        let (format, shape) = (TableFormat::Delta, Shape::Samples(None));
        Self { table: table.to_owned(), format, shape, store: StoreConfig::default(), catalog: None }
    }

    /// `None`: it is a folder.
    pub fn cloud(&self) -> Option<Cloud> {
        self.table.split_once("://").and_then(|(scheme, _)| Cloud::of(scheme))
    }

    /// The folder of a local table.
    pub fn folder(&self) -> PathBuf {
        PathBuf::from(self.table.strip_prefix("file://").unwrap_or(&self.table))
    }
}

impl LakeConfig {
    /// Checks the keys, and says where the table is. `levels`: what the parts of `at` are called.
    pub fn place(&self, levels: &[String], problems: &mut Problems) -> Place {
        let catalog = self.check_table(problems);
        self.check_times(problems);
        if self.memory.0 < LEAST_MEMORY {
            problems.error(self.memory.place, format!("`memory: {}` is less than 1MiB", self.memory.value));
        }
        let level = self.level(levels, problems);
        Place { table: self.table.value.clone(), format: self.format, shape: Shape::Samples(level), store: self.store.clone(), catalog }
    }

    /// Where the table is: in a catalog, whose store is where that says, or in a store.
    fn check_table(&self, problems: &mut Problems) -> Option<CatalogPlace> {
        let table = &self.table;
        match (&self.catalog, self.format == TableFormat::Iceberg) {
            (None, false) => self.check_address(problems),
            (Some(catalog), false) => {
                problems
                    .error(catalog.place, "`catalog` is for tables of `format: iceberg`")
                    .help("other tables need none: who knows the folder reads them");
            }
            (None, true) => {
                problems
                    .error(table.place, "an Iceberg table is in a catalog, and `catalog` says none")
                    .help("write `catalog: {uri: https://catalog.plant/api/catalog}`");
            }
            (Some(catalog), true) => {
                let parts: Vec<&str> = table.split('.').collect();
                if parts.len() < 2 || parts.iter().any(|part| part.trim().is_empty()) || table.contains('/') {
                    problems
                        .error(table.place, format!("`{}` names no table of a catalog", table.value))
                        .help("write its namespace and its name: `plant.telemetry`; where its files lie, the catalog says, or `location`");
                }
                return catalog.place(problems);
            }
        }
        None
    }

    fn check_address(&self, problems: &mut Problems) {
        let table = &self.table;
        if table.trim().is_empty() {
            problems.error(table.place, "`table` names no folder").help("write a folder, or `s3://bucket/folder`");
        } else if let Some((scheme, rest)) = table.split_once("://") {
            let is_bare = rest.trim_matches('/').is_empty();
            match Cloud::of(scheme) {
                Some(_) if is_bare => _ = problems.error(table.place, format!("`{}` names no bucket", table.value)),
                Some(Cloud::Azure) if !rest.split('/').next().is_some_and(|host| host.contains('@')) => {
                    problems
                        .error(table.place, format!("`{}` names no storage account", table.value))
                        .help("write `abfss://container@account.dfs.core.windows.net/folder`");
                }
                Some(_) if !rest.trim_end_matches('/').contains('/') => {
                    problems.error(table.place, format!("`{}` is a whole bucket", table.value)).help(format!(
                        "add a folder, so that other things have room beside it: `{}/telemetry`",
                        table.trim_end_matches('/')
                    ));
                }
                None if scheme != "file" => {
                    problems
                        .error(table.place, format!("there is no store `{scheme}://`"))
                        .help("a table is a folder, or lies in `s3://`, `abfss://`, `gs://` or `hdfs://`");
                }
                _ => {}
            }
        }
        let cloud = table.split_once("://").and_then(|(scheme, _)| Cloud::of(scheme));
        self.store.check(table, cloud, problems);
    }

    /// How often files are committed.
    pub fn commit_every(&self) -> Duration {
        let usual = if self.format == TableFormat::Iceberg { Duration::from_secs(300) } else { Duration::from_secs(60) };
        self.commit_every.as_ref().map_or(usual, |period| period.0)
    }

    fn check_times(&self, problems: &mut Problems) {
        if let Some(every) = &self.commit_every {
            if every.is_zero() || every.0 > LONGEST_COMMIT {
                problems.error(every.place, format!("`commit_every: {}` must be more than 0 and at most 1h", every.value));
            } else if self.format == TableFormat::Iceberg && every.0 < Duration::from_secs(60) {
                problems
                    .warn(every.place, format!("`commit_every: {}` makes very many snapshots of an Iceberg table", every.value))
                    .help("each is kept in the catalog's metadata until `expire_snapshots`; 5m is usual");
            } else if every.0 < Duration::from_secs(1) {
                problems.warn(every.place, format!("`commit_every: {}` makes very many small files", every.value));
            }
        }
        let Some(upkeep) = &self.upkeep else { return };
        if upkeep.every.0 < Duration::from_secs(1) {
            problems
                .error(upkeep.every.place, format!("`every: {}` of `upkeep` is less than 1s", upkeep.every.value))
                .help("to leave it out, write `upkeep: {enabled: false}`");
        }
        if upkeep.keep.0 < LEAST_KEEP {
            problems
                .error(upkeep.keep.place, format!("`keep: {}` of `upkeep` is less than 1h", upkeep.keep.value))
                .help("a writer may not have committed its files yet");
        }
    }

    fn level(&self, levels: &[String], problems: &mut Problems) -> Option<Level> {
        let first = self.partition_by.first();
        if first.is_none_or(|first| first.value != DATE) {
            problems
                .error(first.map_or(self.table.place, |first| first.place), "`partition_by` begins with `date`")
                .help("write `partition_by: [date]`, or `[date, area]`");
            return None;
        }
        if let Some(third) = self.partition_by.get(2) {
            problems
                .error(third.place, "`partition_by` has `date` and at most one level")
                .help("more would make very many small files; within a file the rows are sorted by tag and time");
        }
        let wanted = self.partition_by.get(1)?;
        match levels.iter().position(|level| *level == wanted.value) {
            Some(index) if index < LEVELS => Some(Level { name: wanted.value.clone(), part: index + 2 }),
            Some(_) => {
                problems
                    .error(wanted.place, format!("`{}` is too fine to partition by: a folder for each and every day", wanted.value))
                    .help(format!("take one of the upper two levels ({}), or `date` alone", levels[..LEVELS].join(", ")));
                None
            }
            None => {
                let help = match suggest::nearest(&wanted.value, levels.iter().map(String::as_str)) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None if levels.is_empty() => "name the parts of `at` by `levels: [area, line]`, or partition by `date` alone".into(),
                    None => format!("there are {}; what grows without bound, such as a tag, can't partition a table", levels.join(", ")),
                };
                problems.error(wanted.place, format!("`{}` is none of the file's `levels`", wanted.value)).help(help);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The checks that need no table: in every build.
    fn problems(text: &str, levels: &[&str]) -> String {
        let mut problems = Problems::new();
        let node = millrace_config::Node::from_yaml(text, &mut problems).unwrap();
        let levels: Vec<String> = levels.iter().map(ToString::to_string).collect();
        if let Some(config) = node.parse::<LakeConfig>(&mut problems) {
            config.place(&levels, &mut problems);
        }
        problems.render()
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_reason() {
        let levels = ["area", "line", "cell"];
        for (text, expected) in [
            ("table: \"\"\n", "names no folder"),
            ("table: s3://plant\n", "is a whole bucket"),
            ("table: ftp://name/a\n", "there is no store `ftp://`"),
            ("table: hdfs://name/a\nstore: {endpoint: 'http://a'}\n", "HDFS has no endpoint"),
            ("table: a\npartition_by: [area]\n", "begins with `date`"),
            ("table: a\npartition_by: [date, tag]\n", "what grows without bound"),
            ("table: a\npartition_by: [date, aera]\n", "did you mean `area`"),
            ("table: a\npartition_by: [date, cell]\n", "too fine to partition by"),
            ("table: a\npartition_by: [date, area, line]\n", "at most one level"),
            ("table: a\ncommit_every: 2h\n", "at most 1h"),
            ("table: a\nmemory: 1KiB\n", "less than 1MiB"),
            ("table: s3://a/b\nstore: {access_key: a}\n", "come together"),
            ("table: s3://a/b\nstore: {endpoint: minio}\n", "is no address"),
            ("table: a\nformat: hudi\n", "delta"),
            ("table: a.b\nformat: iceberg\n", "`catalog` says none"),
            ("table: telemetry\nformat: iceberg\ncatalog: {uri: 'http://localhost'}\n", "names no table of a catalog"),
            ("table: a.b\nformat: iceberg\ncatalog: {uri: 'catalog'}\n", "is not the URL of a server"),
            ("table: a.b\nformat: iceberg\ncommit_every: 10s\ncatalog: {uri: 'http://localhost'}\n", "very many snapshots"),
            ("table: a\ncatalog: {uri: 'http://localhost'}\n", "is for tables of `format: iceberg`"),
        ] {
            let said = problems(text, &levels);
            assert!(said.contains(expected), "{expected} is not in\n{said}");
        }
        assert_eq!(problems("table: a\npartition_by: [date, line]\n", &levels), "");
    }
}
