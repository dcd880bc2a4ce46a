//! `millrace status | tags | why | lost | top`: the answers of a running service, over its HTTP, for a person or as JSON.

use crate::say::{self, say, say_part, time, visible};
use anyhow::{Context, Result, anyhow, bail};
use millrace_config::factory::{Factory, TokenRole};
use millrace_config::{Load, Period, Problems};
use reqwest::Method;
use serde_json::Value;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Which service is asked.
#[derive(clap::Args, Clone)]
pub struct Service {
    /// The factory's YAML: says where the service listens, its certificate and a token.
    #[arg(short, long = "config", value_name = "FILE")]
    pub config: Vec<PathBuf>,
    /// The service's address, instead of --config.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// The name of an environment variable that holds a token.
    #[arg(long, value_name = "VARIABLE")]
    token_env: Option<String>,
    /// A certificate (PEM) to trust.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

#[derive(clap::Args)]
pub struct StatusOptions {
    #[command(flatten)]
    service: Service,
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct TagsOptions {
    /// A tag's path or a pattern with `*`; every tag without it.
    #[arg(default_value = "")]
    name: String,
    #[command(flatten)]
    service: Service,
    /// Only those that nothing vouches for any more.
    #[arg(long)]
    stale: bool,
    /// Only those whose value is bad, or that can't be read.
    #[arg(long)]
    bad: bool,
    /// At most so many.
    #[arg(long, default_value_t = 1000)]
    limit: usize,
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct WhyOptions {
    /// The tag's path, with the site or below it.
    tag: String,
    #[command(flatten)]
    service: Service,
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct LostOptions {
    #[command(flatten)]
    service: Service,
    /// Only what was lost within this time: `30m`, `1d`. The service knows when since it was started.
    #[arg(long, value_name = "PERIOD")]
    since: Option<Period>,
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct TopOptions {
    #[command(flatten)]
    service: Service,
    /// How often it looks.
    #[arg(long, value_name = "PERIOD", default_value = "1s")]
    every: Period,
    /// Ends after so many looks.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// One JSON object for each look.
    #[arg(long)]
    json: bool,
}

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a change may take: connectors end in order, and start.
const CHANGE_PATIENCE: Duration = Duration::from_secs(120);

/// The factory that files declare; what is wrong in them is said.
pub fn factory(config: &[PathBuf]) -> Result<Factory> {
    let mut problems = Problems::new();
    let factory = millrace_config::load(config, &Load::to_run(), &mut problems);
    factory.filter(|_| !problems.has_errors()).ok_or_else(|| anyhow!("cannot load the configuration\n{}", problems.render()))
}

/// A service that can be asked.
pub struct Asking {
    base: String,
    token: Option<String>,
    client: reqwest::Client,
    runtime: tokio::runtime::Runtime,
}

impl Service {
    /// The service that these files declare.
    pub fn of(config: Vec<PathBuf>) -> Self {
        Self { config, url: None, token_env: None, ca: None }
    }

    /// Where only looking is meant.
    pub fn open(&self) -> Result<Asking> {
        self.open_as(TokenRole::Viewer)
    }

    /// With a token that allows as much, and no more where there is a choice.
    pub fn open_as(&self, role: TokenRole) -> Result<Asking> {
        let factory = if self.config.is_empty() { None } else { Some(factory(&self.config)?) };
        let http = factory.as_ref().map(|factory| &factory.http);
        let base = match (&self.url, http) {
            (Some(url), _) if url.contains("://") => url.trim_end_matches('/').to_owned(),
            (Some(url), _) => format!("http://{}", url.trim_end_matches('/')),
            (None, Some(http)) => {
                let mut listen = http.listen.0;
                if listen.ip().is_unspecified() {
                    listen.set_ip(if listen.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
                }
                format!("{}://{listen}", if http.tls.is_some() { "https" } else { "http" })
            }
            (None, None) => "http://127.0.0.1:8080".to_owned(),
        };
        let token = match (&self.token_env, http) {
            (Some(name), _) => Some(std::env::var(name).map_err(|_| anyhow!("the environment has no variable {name}"))?),
            (None, Some(http)) => {
                let fitting = http.tokens.values().filter(|token| token.role >= role).min_by_key(|token| token.role);
                fitting.or(http.tokens.values().next()).map(|token| token.token.expose().to_owned())
            }
            (None, None) => None,
        };
        let mut client = reqwest::Client::builder().connect_timeout(PATIENCE).no_proxy();
        let own = http.and_then(|http| http.tls.as_ref()).filter(|_| self.url.is_none());
        if let Some(path) = self.ca.as_ref().or(own.map(|tls| &tls.certificate)) {
            let pem = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem).with_context(|| format!("{} is not PEM", path.display()))?;
            client = client.tls_certs_only(certificates);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
        Ok(Asking { base, token, client: client.build().context("cannot make a client")?, runtime })
    }
}

impl Asking {
    /// The answer to a GET, as JSON. Errors: what the service says, or that it does not answer.
    pub fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Value> {
        let text = self.text(path, query)?;
        serde_json::from_str(&text).with_context(|| format!("{} answered what is not JSON; is that Millrace?", self.base))
    }

    pub fn text(&self, path: &str, query: &[(&str, String)]) -> Result<String> {
        self.runtime.block_on(async {
            let answer = tokio::time::timeout(PATIENCE, async {
                let answer = self.request(Method::GET, path, query).await?;
                answer.text().await.with_context(|| format!("{} broke off its answer", self.base))
            });
            answer.await.with_context(|| format!("{} did not answer within {PATIENCE:?}", self.base))?
        })
    }

    /// Asks for a change; the answer as JSON, whether it was taken or not. `None`: nobody answers there.
    pub fn post(&self, path: &str, query: &[(&str, String)]) -> Result<Option<(u16, Value)>> {
        self.runtime.block_on(async {
            let answer = match self.builder(Method::POST, path, query).timeout(CHANGE_PATIENCE).send().await {
                Ok(answer) => answer,
                Err(error) if error.is_connect() => return Ok(None),
                Err(error) => return Err(error).with_context(|| format!("{} did not answer", self.base)),
            };
            let code = answer.status().as_u16();
            let text = answer.text().await.with_context(|| format!("{} broke off its answer", self.base))?;
            let value =
                serde_json::from_str(&text).with_context(|| format!("{} answered what is not JSON; is that Millrace?", self.base))?;
            Ok(Some((code, value)))
        })
    }

    fn builder(&self, method: Method, path: &str, query: &[(&str, String)]) -> reqwest::RequestBuilder {
        let pairs: Vec<String> = query.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect();
        let request = self.client.request(method, format!("{}{path}?{}", self.base, pairs.join("&")));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Reads lines as they come, until the service ends or `each` says false.
    pub fn lines(&self, path: &str, query: &[(&str, String)], mut each: impl FnMut(&str) -> bool) -> Result<()> {
        self.runtime.block_on(async {
            let mut answer = self.request(Method::GET, path, query).await?;
            let mut rest = Vec::new();
            while let Some(chunk) = answer.chunk().await.with_context(|| format!("{} broke off", self.base))? {
                rest.extend_from_slice(&chunk);
                while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = rest.drain(..=end).collect();
                    if !each(&String::from_utf8_lossy(&line[..end])) {
                        return Ok(());
                    }
                }
            }
            Ok(())
        })
    }

    /// An answer that is a success; its body is still to be read.
    async fn request(&self, method: Method, path: &str, query: &[(&str, String)]) -> Result<reqwest::Response> {
        let request = self.builder(method, path, query);
        let answer =
            request.send().await.with_context(|| format!("no service answers at {}; is it running, is --url (or -c) right", self.base))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let text = answer.text().await.unwrap_or_default();
        let said = serde_json::from_str::<Value>(&text).ok().and_then(|answer| Some(answer.get("error")?.as_str()?.to_owned()));
        match (status.as_u16(), said) {
            (401, _) => bail!("{} wants a token: give -c FILE, or --token-env VARIABLE", self.base),
            (_, Some(said)) => bail!("{said}"),
            (code, None) => bail!("{} answered {code} to {path}", self.base),
        }
    }
}

/// A value of a query.
pub fn escaped(text: &str) -> String {
    text.bytes()
        .map(|b| if b.is_ascii_alphanumeric() || b"-_./*".contains(&b) { (b as char).to_string() } else { format!("%{b:02X}") })
        .collect()
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or("")
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn entries<'v>(value: &'v Value, key: &str) -> impl Iterator<Item = (&'v String, &'v Value)> {
    value[key].as_object().into_iter().flatten()
}

fn items<'v>(value: &'v Value, key: &str) -> impl Iterator<Item = &'v Value> {
    value[key].as_array().into_iter().flatten()
}

/// `millrace status`. Exit code 1 where something is Blocked.
pub fn status(options: &StatusOptions) -> Result<ExitCode> {
    let status = options.service.open()?.get("/status", &[])?;
    if options.json {
        say::json(&status);
    } else {
        say_part!("{}", status_for_a_person(&status));
    }
    Ok(if status["status"] == "Blocked" { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn status_for_a_person(status: &Value) -> String {
    let mut out =
        format!("{}  {}  since {}\n", text(status, "site"), text(status, "status"), time(status["started"].as_i64().unwrap_or(0)));
    for trouble in items(status, "troubles") {
        let since = trouble["since"].as_i64().map_or(String::new(), |since| format!(" since {}", time(since)));
        out += &format!("\n{}: {}{since}\n  {}\n", text(trouble, "what"), text(trouble, "status"), visible(text(trouble, "reason")));
        out += &format!("  -> {}\n", visible(text(trouble, "help")));
    }
    out += &group_for_a_person(&status["group"]);
    out +=
        &format!("\n{:<24} {:<9} {:>12} {:>12} {:>9} {:>6} {:>6}\n", "source", "status", "received", "in Kafka", "waiting", "dead", "lost");
    for (name, source) in entries(status, "sources") {
        let ledger = &source["ledger"];
        let dead = number(&ledger["dead_at_intake"]) + number(&ledger["dead_at_send"]);
        let lost: u64 = entries(ledger, "lost").map(|(_, count)| number(count)).sum();
        let lost = lost + number(&ledger["dropped_at_intake"]) + number(&ledger["dropped_from_log"]);
        let (received, produced, waiting) = (number(&ledger["received"]), number(&ledger["produced"]), number(&ledger["waiting"]));
        // Of one that another runtime reads: who.
        let elsewhere = source["elsewhere"].as_str().map_or(String::new(), |who| format!("  ({})", visible(who)));
        let word = text(source, "status");
        out += &format!("{name:<24} {word:<9} {received:>12} {produced:>12} {waiting:>9} {dead:>6} {lost:>6}{elsewhere}\n");
    }
    for (at, (name, sink)) in entries(status, "sinks").enumerate() {
        if at == 0 {
            out += &format!("\n{:<24} {:<9} {:>12} {:>12} {:>9} {:>6}\n", "sink", "status", "consumed", "written", "behind", "dead");
        }
        let counts = &sink["counts"];
        let [consumed, written, lag, dead] = ["consumed", "written", "lag", "dead"].map(|key| number(&counts[key]));
        out += &format!("{name:<24} {:<9} {consumed:>12} {written:>12} {lag:>9} {dead:>6}\n", text(sink, "status"));
    }
    out
}

/// The runtimes that share the sources, and what each reads.
fn group_for_a_person(group: &Value) -> String {
    if group.is_null() {
        return String::new();
    }
    let mut out = format!("\ngroup {}  {}  this is {}\n", text(group, "group"), text(group, "status"), text(group, "id"));
    out += &format!("{:<16} {:<16} {:<6} {:<10} {:<9} {}\n", "runtime", "host", "state", "version", "file", "reads");
    for (id, one) in entries(group, "runtimes") {
        let reads: Vec<String> = entries(one, "reads").map(|(name, word)| format!("{name} ({})", word.as_str().unwrap_or(""))).collect();
        let [host, state, version, config] = ["host", "state", "version", "config"].map(|key| visible(text(one, key)));
        out += &format!("{:<16} {host:<16} {state:<6} {version:<10} {config:<9} {}\n", visible(id), visible(&reads.join(", ")));
    }
    out
}

/// `millrace tags`.
pub fn tags(options: &TagsOptions) -> Result<ExitCode> {
    let query = [
        ("name", options.name.clone()),
        ("stale", options.stale.to_string()),
        ("bad", options.bad.to_string()),
        ("limit", options.limit.to_string()),
    ];
    let found = options.service.open()?.get("/tags", &query)?;
    if options.json {
        say::json(&found);
        return Ok(ExitCode::SUCCESS);
    }
    let now = found["now"].as_i64().unwrap_or(0);
    let mut shown = 0;
    for tag in items(&found, "tags") {
        shown += 1;
        say!("{}", tag_for_a_person(tag, now));
    }
    let total = number(&found["total"]);
    match (shown, total) {
        (0, _) => say!("no tag fits; `*` matches: millrace tags '*/temperature'"),
        (shown, total) if shown < total => say!("{shown} of {total} tags; --limit shows more"),
        _ => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn tag_for_a_person(tag: &Value, now: i64) -> String {
    let is_stale = tag["stale"] == true;
    let value = match &tag["sample"] {
        Value::Object(sample) if !is_stale => sample.get("value").map_or_else(|| "-".to_owned(), Value::to_string),
        _ => "-".to_owned(),
    };
    let age = match tag["time"].as_i64().unwrap_or(0) {
        0 => "never read".to_owned(),
        time => format!("{:.1} s", (now - time).max(0) as f64 / 1e6),
    };
    let quality = if is_stale { "stale" } else { text(tag, "quality") };
    format!("{}  {}  {quality}  {age}", visible(text(tag, "tag")), visible(&value))
}

/// `millrace why TAG`. Exit code 1 where a hop is broken.
pub fn why(options: &WhyOptions) -> Result<ExitCode> {
    let answer = options.service.open()?.get("/why", &[("tag", options.tag.clone())])?;
    let is_broken = !answer["broken"].is_null();
    if options.json {
        say::json(&answer);
    } else {
        say!("{}", visible(text(&answer, "tag")));
        for hop in items(&answer, "hops") {
            let mark = if hop["ok"] == true { "ok " } else { "BAD" };
            say!("  {mark} {:<12} {}", text(hop, "hop"), visible(text(hop, "says")));
        }
        match is_broken {
            true => say!("broken at {}: {}", text(&answer, "broken"), visible(text(&answer, "help"))),
            false => say!("every hop works"),
        }
    }
    Ok(if is_broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// `millrace lost`.
pub fn lost(options: &LostOptions) -> Result<ExitCode> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let since = options.since.map(|since| now.saturating_sub(since.0).as_micros().to_string());
    let query: Vec<(&str, String)> = since.into_iter().map(|since| ("since", since)).collect();
    let answer = options.service.open()?.get("/lost", &query)?;
    if options.json {
        say::json(&answer);
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(from) = answer["from"].as_i64() {
        say!("since {}", time(from));
    }
    let mut rows = 0;
    for row in items(&answer, "lost") {
        rows += 1;
        let last = row["last"].as_i64().map_or(String::new(), |last| format!(", last seen to grow at {}", time(last)));
        say!("{:>10}  {}  {}: {}{last}", number(&row["count"]), text(row, "source"), text(row, "what"), visible(text(row, "reason")));
    }
    if rows == 0 {
        say!("nothing was lost, dropped, or became a dead letter");
    }
    Ok(ExitCode::SUCCESS)
}

/// `millrace top`: rates between two looks.
pub fn top(options: &TopOptions) -> Result<ExitCode> {
    let asking = options.service.open()?;
    let every = options.every.0.max(Duration::from_millis(100));
    let mut before = (Instant::now(), asking.get("/status", &[])?);
    let mut left = options.count.unwrap_or(u64::MAX);
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stdout()) && !options.json;
    while left > 0 {
        std::thread::sleep(every);
        let now = (Instant::now(), asking.get("/status", &[])?);
        let seconds = now.0.duration_since(before.0).as_secs_f64();
        let rates = rates(&before.1, &now.1, seconds);
        if options.json {
            say::json_line(&rates);
        } else {
            let clear = if is_terminal { "\x1b[H\x1b[2J" } else { "" };
            say_part!("{clear}{}", rates_for_a_person(&now.1, &rates));
        }
        before = now;
        left -= 1;
    }
    Ok(ExitCode::SUCCESS)
}

fn rates(before: &Value, now: &Value, seconds: f64) -> Value {
    let rate = |path: &str| {
        let of = |value: &Value| value.pointer(path).and_then(Value::as_u64).unwrap_or(0);
        ((of(now).saturating_sub(of(before))) as f64 / seconds.max(0.001) * 10.0).round() / 10.0
    };
    let pointer = |name: &str| name.replace('~', "~0").replace('/', "~1");
    let sources: serde_json::Map<String, Value> = entries(now, "sources")
        .map(|(name, source)| {
            let at = format!("/sources/{}/ledger", pointer(name));
            let row = serde_json::json!({
                "status": source["status"], "received_per_second": rate(&format!("{at}/received")),
                "to_kafka_per_second": rate(&format!("{at}/produced")), "waiting": source["ledger"]["waiting"], "log_bytes": source["log_bytes"],
            });
            (name.clone(), row)
        })
        .collect();
    let sinks: serde_json::Map<String, Value> = entries(now, "sinks")
        .map(|(name, sink)| {
            let written = rate(&format!("/sinks/{}/counts/written", pointer(name)));
            (name.clone(), serde_json::json!({"status": sink["status"], "written_per_second": written, "lag": sink["counts"]["lag"]}))
        })
        .collect();
    serde_json::json!({ "sources": sources, "sinks": sinks })
}

fn rates_for_a_person(status: &Value, rates: &Value) -> String {
    let mut out = format!("{}  {}  {} in flight\n", text(status, "site"), text(status, "status"), number(&status["kafka"]["in_flight"]));
    out += &format!("{:<24} {:<9} {:>12} {:>12} {:>12} {:>10}\n", "source", "status", "received/s", "to Kafka/s", "waiting", "log MiB");
    for (name, row) in entries(rates, "sources") {
        let [received, sent] = ["received_per_second", "to_kafka_per_second"].map(|key| row[key].as_f64().unwrap_or(0.0));
        let mib = number(&row["log_bytes"]) as f64 / 1048576.0;
        let waiting = number(&row["waiting"]);
        out += &format!("{name:<24} {:<9} {received:>12.1} {sent:>12.1} {waiting:>12} {mib:>10.1}\n", text(row, "status"));
    }
    for (name, row) in entries(rates, "sinks") {
        let (written, lag) = (row["written_per_second"].as_f64().unwrap_or(0.0), number(&row["lag"]));
        out += &format!("{name:<24} {:<9} {:>12} {written:>12.1} {lag:>12}   (sink)\n", text(row, "status"), "");
    }
    out + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_wrong_stands_in_front_with_what_to_do() {
        let status = json!({
            "site": "acme/plant", "status": "Blocked", "started": 1_000_000,
            "troubles": [{"what": "source press", "status": "Blocked", "since": 2_000_000, "reason": "not trusted\u{1b}[2J", "help": "approve it"}],
            "sources": {"press": {"status": "Blocked", "ledger": {"received": 3, "lost": {"poll_skipped": 2}, "dropped_at_intake": 1}}},
            "sinks": {},
        });
        let said = status_for_a_person(&status);
        assert!(said.contains("source press: Blocked since 1970-01-01T00:00:02.000Z\n  not trusted\\x1b[2J\n  -> approve it\n"), "{said}");
        assert!(said.find("approve").unwrap() < said.find("received").unwrap());
    }

    #[test]
    fn a_rate_is_the_difference_over_the_time() {
        let at = |received| json!({"sources": {"a": {"status": "Running", "ledger": {"received": received, "produced": 0, "waiting": 1}}}});
        let rates = rates(&at(10), &at(30), 2.0);
        assert_eq!(rates["sources"]["a"]["received_per_second"], 10.0);
        assert_eq!(super::rates(&at(30), &at(10), 2.0)["sources"]["a"]["received_per_second"], 0.0, "it was started anew");
    }

    #[test]
    fn a_tag_is_one_line() {
        let tag = json!({"tag": "a/b/c", "sample": {"value": 1.5}, "quality": "good", "time": 1_000_000, "stale": false});
        assert_eq!(tag_for_a_person(&tag, 3_500_000), "a/b/c  1.5  good  2.5 s");
    }
}
