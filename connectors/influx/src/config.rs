//! The keys of `type: influx`, checked and compiled without I/O.

use crate::line::Dialect;
use millrace_config::{Period, Problems, Secret, Spanned};
use millrace_contract::{Carries, Context};
use millrace_kit::groups::Beside;
use millrace_kit::http::login::ApiKey;
use millrace_kit::http::{Endpoint, EndpointKeys, HttpLogin, Url};
use schemars::JsonSchema;
use serde::Deserialize;
use std::time::Duration;

/// The keys of the server, and the sink's own.
pub type InfluxConfig = Beside<EndpointKeys, InfluxKeys>;

/// Writes samples to InfluxDB or QuestDB, by the line protocol over HTTP. With `bucket` it is InfluxDB 2 or 3, with `database` InfluxDB 1, with neither
/// QuestDB.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InfluxKeys {
    /// A bucket of InfluxDB 2, a database of InfluxDB 3. `login: {bearer: ..}` is its token.
    #[serde(default)]
    pub bucket: Option<Spanned<String>>,
    /// The organization that the bucket belongs to. InfluxDB 3 has none.
    #[serde(default)]
    pub org: Option<Spanned<String>>,
    /// A database of InfluxDB 1.
    #[serde(default)]
    pub database: Option<Spanned<String>>,
    /// A retention policy of that database. Left out: its default.
    #[serde(default)]
    pub retention_policy: Option<Spanned<String>>,
    /// The measurement; in QuestDB the table, which is made when missing.
    #[serde(default = "measurement")]
    pub measurement: Spanned<String>,
    /// Lines in one request, at most.
    #[serde(default = "batch")]
    pub batch: Spanned<u32>,
    /// How long a line may wait for others.
    #[serde(default = "flush_every")]
    pub flush_every: Spanned<Period>,
    /// Whether requests are compressed.
    #[serde(default = "yes")]
    pub gzip: bool,
}

fn measurement() -> Spanned<String> {
    "telemetry".to_owned().into()
}

fn batch() -> Spanned<u32> {
    5_000.into()
}

fn flush_every() -> Spanned<Period> {
    Period::from_secs(1).into()
}

fn yes() -> bool {
    true
}

/// A sink that knows all it will do.
#[derive(Clone, Debug)]
pub struct Settings {
    pub server: Endpoint,
    /// Where lines are posted.
    pub url: Url,
    pub dialect: Dialect,
    /// As it stands in a line.
    pub measurement: String,
    pub batch: usize,
    pub flush_every: Duration,
    pub gzip: bool,
}

/// Checks everything, each problem at its place.
pub fn compile(config: &InfluxConfig, context: &Context, problems: &mut Problems) -> Option<Settings> {
    let mark = problems.mark();
    let (at, keys) = (&config.shared, &config.own);
    let server = at.compile(problems);
    if let Some(url) = server.as_ref().map(|server| &server.url)
        && (url.query().is_some() || url.fragment().is_some())
    {
        problems.error(at.endpoint.place, "the address of the server has no `?`").help("write `bucket` or `database` as keys of their own");
    }
    if let (Some(bucket), Some(_)) = (&keys.bucket, &keys.database) {
        problems.error(bucket.place, "`bucket` is InfluxDB 2 or 3, and `database` is InfluxDB 1").help("leave one of them out");
    }
    if let (Some(org), None) = (&keys.org, &keys.bucket) {
        problems.error(org.place, "`org` belongs to a bucket, and there is none").help("add `bucket`");
    }
    if let (Some(policy), None) = (&keys.retention_policy, &keys.database) {
        problems.error(policy.place, "`retention_policy` belongs to a database of InfluxDB 1, and there is none").help("add `database`");
    }
    for name in [&keys.bucket, &keys.org, &keys.database, &keys.retention_policy].into_iter().flatten().filter(|name| name.is_empty()) {
        problems.error(name.place, "an empty name names nothing");
    }
    let measurement = &keys.measurement;
    if measurement.is_empty() || measurement.starts_with(['_', '#']) || measurement.contains(|c: char| c.is_control() || c == '\\') {
        problems
            .error(measurement.place, format!("`{}` is not the name of a measurement", measurement.value))
            .help("write letters, digits and `_`, and begin with a letter: `telemetry`");
    }
    if !(1..=100_000).contains(&keys.batch.value) {
        problems.error(keys.batch.place, format!("`batch: {}` is not between 1 and 100000", keys.batch.value));
    }
    if keys.flush_every.0 < Duration::from_millis(10) {
        problems.error(keys.flush_every.place, "`flush_every` is at least 10ms");
    }
    if context.carries != Carries::Samples {
        problems.error(context.place, format!("sink {} reads topics that are not declared to carry samples alone", context.name)).help(
            "topics of samples say `schema: telemetry`; documents go to `type: sql` or `type: lake`, and patterns with `*` say nothing",
        );
    }
    if problems.has_errors_since(mark) {
        return None;
    }
    let mut server = server?;
    let mut url = server.url.clone();
    let path = if keys.bucket.is_some() { "api/v2/write" } else { "write" };
    url.set_path(&format!("{}/{path}", server.url.path().trim_end_matches('/')));
    let is_quest = keys.bucket.is_none() && keys.database.is_none();
    let query = [("bucket", &keys.bucket), ("org", &keys.org), ("db", &keys.database), ("rp", &keys.retention_policy)];
    for (name, value) in query {
        if let Some(value) = value {
            url.query_pairs_mut().append_pair(name, value);
        }
    }
    url.query_pairs_mut().append_pair("precision", if is_quest { "n" } else { "ns" });
    if keys.bucket.is_some() {
        server.login = server.login.map(as_token);
    }
    Some(Settings {
        server,
        url,
        dialect: if is_quest { Dialect::Quest } else { Dialect::Influx },
        measurement: measurement.value.replace(',', "\\,").replace(' ', "\\ "),
        batch: keys.batch.value as usize,
        flush_every: keys.flush_every.0,
        gzip: keys.gzip,
    })
}

/// InfluxDB 2 has a word of its own for a bearer's token. The token itself stays with the login, which knows what no message may show.
fn as_token(login: HttpLogin) -> HttpLogin {
    let key = login
        .bearer
        .as_ref()
        .map(|token| ApiKey { header: "authorization".to_owned().into(), value: Secret::new(format!("Token {}", token.expose())) });
    HttpLogin { api_key: key.or(login.api_key), ..login }
}

#[cfg(test)]
mod tests {
    use crate::InfluxSink;
    use millrace_contract::{Carries, Context};
    use millrace_testkit::yaml;

    fn plan(text: &str) -> Result<Vec<String>, String> {
        let context = Context { carries: Carries::Samples, ..yaml::context("influx", &["telemetry"]) };
        yaml::compile::<InfluxSink>(text, &context).map(|compiled| compiled.plan().lines)
    }

    #[test]
    fn where_lines_go_depends_on_the_server() {
        let posted = |text: &str| plan(text).unwrap()[0].clone();
        let of_2 = posted("{endpoint: 'https://influx.plant:8086/', bucket: a&b, org: acme, login: {bearer: secret}}");
        assert!(of_2.ends_with("https://influx.plant:8086/api/v2/write?bucket=a%26b&org=acme&precision=ns"), "{of_2}");
        let of_1 = posted("{endpoint: 'http://127.0.0.1:8086', database: plant, retention_policy: year}");
        assert!(of_1.ends_with("http://127.0.0.1:8086/write?db=plant&rp=year&precision=ns"), "{of_1}");
        let of_quest = posted("{endpoint: 'http://127.0.0.1:9000/behind/proxy'}");
        assert!(of_quest.ends_with("http://127.0.0.1:9000/behind/proxy/write?precision=n"), "{of_quest}");
    }

    #[test]
    fn what_does_not_go_together_is_said_where_it_stands() {
        for (text, said) in [
            ("{endpoint: 'http://127.0.0.1', bucket: a, database: b}", "`bucket` is InfluxDB 2 or 3"),
            ("{endpoint: 'http://127.0.0.1', org: a}", "`org` belongs to a bucket"),
            ("{endpoint: 'http://127.0.0.1', retention_policy: a}", "belongs to a database of InfluxDB 1"),
            ("{endpoint: 'http://127.0.0.1', database: ''}", "an empty name"),
            ("{endpoint: 'http://127.0.0.1', measurement: _a}", "is not the name of a measurement"),
            ("{endpoint: 'http://127.0.0.1', batch: 0}", "is not between 1 and 100000"),
            ("{endpoint: 'http://127.0.0.1', flush_every: 1ms}", "at least 10ms"),
            ("{endpoint: 'http://127.0.0.1/write?db=a'}", "has no `?`"),
            ("{endpoint: 'tcp://127.0.0.1:9009'}", "is not the URL of a server"),
        ] {
            let problems = plan(text).unwrap_err();
            assert!(problems.contains(said), "{text}: {problems}");
        }
        let documents = yaml::compile::<InfluxSink>("{endpoint: 'http://127.0.0.1'}", &yaml::context("influx", &["orders"]));
        assert!(documents.err().is_some_and(|problems| problems.contains("schema: telemetry")));
    }
}
