//! The collector, as the file names it: checked without I/O.

use millrace_config::factory::Otlp;
use millrace_config::{Problems, Spanned};
use millrace_kit::Tls;
use millrace_kit::http::options::endpoint;
use millrace_kit::http::{HttpLogin, Options, Url};
use std::time::Duration;

/// Where everything goes, ready to send.
#[derive(Clone, Debug)]
pub struct Collector {
    pub metrics: Url,
    pub logs: Url,
    pub every: Duration,
    pub login: Option<HttpLogin>,
    pub tls: Tls,
    pub options: Options,
}

/// A collector that takes longer is behind: the next metrics say more.
const PATIENCE: Duration = Duration::from_secs(10);
const SHORTEST: Duration = Duration::from_secs(1);

impl Collector {
    /// `None` where the file names none, or after a problem, which is added at its place.
    pub fn compile(otlp: &Otlp, problems: &mut Problems) -> Option<Self> {
        let said = otlp.endpoint.as_ref()?;
        let mark = problems.mark();
        if !cfg!(feature = "export") {
            problems
                .error(said.place, "this program was built without OpenTelemetry")
                .help("take a package with everything in it, or build it with `--features otlp`; `/metrics` is there anyhow");
        }
        let base = endpoint(said, said.place, problems);
        if otlp.every.0 < SHORTEST {
            problems.error(otlp.every.place, format!("`every` is {} at least", millrace_config::Period(SHORTEST)));
        }
        let base = base?;
        let is_clear = base.scheme() == "http" && !is_loopback(&base);
        if is_clear && (otlp.bearer.is_some() || !otlp.headers.is_empty()) {
            problems.error(said.place, "a token would be sent unencrypted").help("write https://");
        }
        let headers =
            otlp.headers.iter().map(|(name, secret)| (name.clone(), Spanned { value: secret.expose().to_owned(), place: said.place }));
        let options = Options {
            timeout: millrace_config::Period(PATIENCE).into(),
            longest: millrace_config::Period(PATIENCE).into(),
            headers: headers.collect(),
            ..Options::default()
        };
        options.check(problems);
        if problems.has_errors_since(mark) {
            return None;
        }
        let below = |path: &str| Url::parse(&format!("{}/{path}", base.as_str().trim_end_matches('/'))).ok();
        Some(Self {
            metrics: below("v1/metrics")?,
            logs: below("v1/logs")?,
            every: otlp.every.0,
            login: otlp.bearer.clone().map(|bearer| HttpLogin { bearer: Some(bearer), ..HttpLogin::default() }),
            tls: Tls { ca: otlp.ca.clone(), ..Tls::default() },
            options,
        })
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(all(test, feature = "export"))]
mod tests {
    use super::*;
    use millrace_config::Node;

    fn compiled(yaml: &str) -> (Option<Collector>, String) {
        let mut problems = Problems::new();
        let otlp: Option<Otlp> = Node::from_yaml(yaml, &mut problems).and_then(|node| node.parse(&mut problems));
        (otlp.and_then(|otlp| Collector::compile(&otlp, &mut problems)), problems.render())
    }

    #[test]
    fn a_collector_has_its_two_paths_below_what_is_said() {
        for yaml in ["endpoint: http://otel:4318", "endpoint: http://otel:4318/"] {
            let collector = compiled(yaml).0.expect(yaml);
            assert_eq!((collector.metrics.as_str(), collector.logs.as_str()), ("http://otel:4318/v1/metrics", "http://otel:4318/v1/logs"));
            assert_eq!(collector.every, Duration::from_secs(15));
        }
        assert_eq!(compiled("endpoint: https://a.example/otlp").0.expect("it is one").logs.path(), "/otlp/v1/logs");
        assert!(compiled("{}").0.is_none());
    }

    #[test]
    fn what_can_not_be_sent_is_said() {
        for (yaml, wanted) in [
            ("endpoint: otel:4318", "not the URL of a server"),
            ("{endpoint: 'http://otel:4318', bearer: abc}", "sent unencrypted"),
            ("{endpoint: 'http://otel:4318', headers: {x-key: abc}}", "sent unencrypted"),
            ("{endpoint: 'https://otel', headers: {'a b': c}}", "not a header"),
            ("{endpoint: 'https://otel', every: 10ms}", "`every` is 1s at least"),
        ] {
            let (collector, said) = compiled(yaml);
            assert!(collector.is_none() && said.contains(wanted), "{yaml}: {said}");
        }
    }
}
