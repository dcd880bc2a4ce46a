//! The HTTP client against a server of the test's own, byte by byte: logins, tokens, redirects, busy servers, pages that are not data.

use millrace_config::{ByteSize, Node, Period, Place, Problems, Rate};
use millrace_contract::Failure;
use millrace_kit::Tls;
use millrace_kit::http::{Client, Expect, HttpError, HttpLogin, Method, Options, Request, Url};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What came: the first line and the headers, each as it stood, and the body.
#[derive(Clone, Debug, Default)]
struct Asked {
    line: String,
    headers: Vec<String>,
    body: String,
}

impl Asked {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// A server that answers with bytes.
struct Server {
    url: Url,
    asked: Arc<Mutex<Vec<Asked>>>,
}

type Answers = Arc<dyn Fn(usize, &Asked) -> Vec<u8> + Send + Sync>;

impl Server {
    async fn new(answer: impl Fn(usize, &Asked) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::with_tls(None, answer).await
    }

    async fn with_tls(tls: Option<TlsAcceptor>, answer: impl Fn(usize, &Asked) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = Url::parse(&format!("{scheme}://{}/odata", listener.local_addr().unwrap())).unwrap();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (log, answer): (_, Answers) = (asked.clone(), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, log, answer) = (tls.clone(), log.clone(), answer.clone());
                tokio::spawn(async move {
                    match tls {
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, log, answer).await;
                            }
                        }
                        None => serve(stream, log, answer).await,
                    }
                });
            }
        });
        Self { url, asked }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    fn at(&self, path: &str) -> Url {
        self.url.join(path).unwrap()
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, log: Arc<Mutex<Vec<Asked>>>, answer: Answers) {
    let mut bytes = Vec::new();
    loop {
        let head_end = loop {
            if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            if matches!(stream.read_buf(&mut bytes).await, Ok(0) | Err(_)) {
                return;
            }
        };
        let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap();
        let mut lines = head.lines().map(str::to_owned);
        let mut asked =
            Asked { line: lines.next().unwrap(), headers: lines.filter(|line| !line.is_empty()).collect(), body: String::new() };
        let length = asked.header("content-length").map_or(0, |length| length.parse().unwrap());
        while bytes.len() < head_end + length {
            stream.read_buf(&mut bytes).await.unwrap();
        }
        asked.body = String::from_utf8(bytes[head_end..head_end + length].to_vec()).unwrap();
        bytes.drain(..head_end + length);
        let number = {
            let mut log = log.lock().unwrap();
            log.push(asked.clone());
            log.len() - 1
        };
        let out = answer(number, &asked);
        if out.is_empty() || stream.write_all(&out).await.is_err() {
            // Silence: the client must not wait for it forever.
            tokio::time::sleep(Duration::from_secs(60)).await;
            return;
        }
        if out.ends_with(b"<cut>") {
            return;
        }
    }
}

fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn json(body: &str) -> Vec<u8> {
    answer("200 OK", "Content-Type: application/json;odata.metadata=minimal\r\n", body)
}

fn login(yaml: &str) -> HttpLogin {
    let mut problems = Problems::new();
    let login: Option<HttpLogin> = Node::from_yaml(yaml, &mut problems).and_then(|node| node.parse(&mut problems));
    let login = login.unwrap_or_else(|| panic!("{:?}", problems.iter().map(|p| &p.message).collect::<Vec<_>>()));
    login.check(Place::NONE, &mut problems);
    assert!(!problems.has_errors(), "{:?}", problems.iter().map(|p| &p.message).collect::<Vec<_>>());
    login
}

fn options() -> Options {
    Options { timeout: Period::from_secs(5).into(), ..Options::default() }
}

fn client(server: &Server, login: Option<&HttpLogin>) -> Client {
    Client::new(&server.url, login, &Tls::default(), &options()).unwrap()
}

const PASSWORD: &str = "open sesame";

fn basic() -> HttpLogin {
    HttpLogin { user: Some("plant".into()), password: Some(millrace_config::Secret::new(PASSWORD)), ..HttpLogin::default() }
}

#[tokio::test]
async fn each_login_stands_where_servers_look_for_it() {
    let server = Server::new(|_, _| json("{}")).await;
    let key = HttpLogin {
        api_key: Some(millrace_kit::http::login::ApiKey { header: "APIKey".to_owned().into(), value: millrace_config::Secret::new("k-1") }),
        ..HttpLogin::default()
    };
    let bearer = HttpLogin { bearer: Some(millrace_config::Secret::new("b-1")), ..HttpLogin::default() };
    for login in [&basic(), &bearer, &key] {
        client(&server, Some(login)).fetch(&Request::get(server.url.clone())).await.unwrap();
    }
    let asked = server.asked();
    assert_eq!(asked[0].header("authorization"), Some("Basic cGxhbnQ6b3BlbiBzZXNhbWU="));
    assert_eq!(asked[1].header("authorization"), Some("Bearer b-1"));
    assert_eq!((asked[2].header("authorization"), asked[2].header("apikey")), (None, Some("k-1")));
    assert_eq!(asked[0].header("accept"), Some("application/json"));
}

#[tokio::test]
async fn a_token_is_fetched_once_renewed_when_it_is_refused_and_the_request_repeated_once() {
    let server = Server::new(|number, asked| {
        if asked.line.starts_with("POST /token") {
            return json(&format!(r#"{{"access_token": "t{number}", "token_type": "Bearer", "expires_in": 3600}}"#));
        }
        match asked.header("authorization") {
            Some("Bearer t0") if number < 3 => json("{}"),
            Some("Bearer t0") => answer("401 Unauthorized", "", "expired"),
            Some(_) => json(r#"{"again": true}"#),
            None => answer("401 Unauthorized", "", "none"),
        }
    })
    .await;
    let login = HttpLogin {
        oauth2: Some(millrace_kit::http::login::OAuth2 {
            token_url: server.at("/token").to_string().into(),
            client_id: "mill race".into(),
            client_secret: millrace_config::Secret::new("a+b/c"),
            scope: Some("orders read".into()),
            fields: Default::default(),
            credentials_in: Default::default(),
        }),
        ..HttpLogin::default()
    };
    let client = client(&server, Some(&login));
    let get = Request::get(server.url.clone());
    fn may_move<F: Future + Send>(future: F) -> F {
        future
    }
    let (one, two) = tokio::join!(may_move(client.fetch(&get)), client.fetch(&get));
    assert_eq!((one.unwrap().body, two.unwrap().body), (b"{}".to_vec(), b"{}".to_vec()));
    assert_eq!(client.fetch(&get).await.unwrap().text(), r#"{"again": true}"#);
    let asked = server.asked();
    let fetched: Vec<_> = asked.iter().filter(|asked| asked.line.starts_with("POST")).collect();
    assert_eq!(fetched.len(), 2, "{asked:?}");
    assert_eq!(fetched[0].body, "grant_type=client_credentials&scope=orders+read");
    // Both are form-encoded before they are base64: RFC 6749, section 2.3.1.
    assert_eq!(fetched[0].header("authorization"), Some("Basic bWlsbCtyYWNlOmElMkJiJTJGYw=="));
    assert_eq!(asked.len(), 6);
}

#[tokio::test]
async fn a_fresh_token_that_is_refused_again_and_again_needs_a_human_at_last() {
    let server = Server::new(|number, asked| match asked.line.starts_with("POST") {
        true => json(&format!(r#"{{"access_token": "t{number}", "expires_in": 3600}}"#)),
        false => answer("401 Unauthorized", "", "no right"),
    })
    .await;
    let login = HttpLogin {
        oauth2: Some(millrace_kit::http::login::OAuth2 {
            token_url: server.at("/token").to_string().into(),
            client_id: "m".into(),
            client_secret: millrace_config::Secret::new("s3cr3t"),
            scope: None,
            fields: Default::default(),
            credentials_in: Default::default(),
        }),
        ..HttpLogin::default()
    };
    let client = client(&server, Some(&login));
    let mut waits = 0;
    loop {
        match Failure::from(client.fetch(&Request::get(server.url.clone())).await.unwrap_err()) {
            Failure::Reconnect(text) => {
                assert!(text.contains("refuses a fresh token: no right"), "{text}");
                waits += 1;
            }
            Failure::Blocked(_) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(waits, 4);
}

#[tokio::test]
async fn a_token_is_renewed_before_it_ends() {
    let server = Server::new(|number, asked| match asked.line.starts_with("POST") {
        true => json(&format!(r#"{{"access_token": "t{number}", "expires_in": "1"}}"#)),
        false => json("{}"),
    })
    .await;
    let login = HttpLogin {
        oauth2: Some(millrace_kit::http::login::OAuth2 {
            token_url: server.at("/token").to_string().into(),
            client_id: "m".into(),
            client_secret: millrace_config::Secret::new("secret"),
            scope: None,
            fields: [("audience".to_owned(), "erp".to_owned())].into(),
            credentials_in: millrace_kit::http::login::CredentialsIn::Body,
        }),
        ..HttpLogin::default()
    };
    let client = client(&server, Some(&login));
    client.fetch(&Request::get(server.url.clone())).await.unwrap();
    // Half of its life of a second.
    tokio::time::sleep(Duration::from_millis(600)).await;
    client.fetch(&Request::get(server.url.clone())).await.unwrap();
    let asked = server.asked();
    assert_eq!(asked[0].body, "grant_type=client_credentials&audience=erp&client_id=m&client_secret=secret");
    assert_eq!(
        asked.iter().map(|asked| asked.header("authorization")).collect::<Vec<_>>(),
        [None, Some("Bearer t0"), None, Some("Bearer t2")]
    );
}

#[tokio::test]
async fn a_refused_client_is_blocked_and_its_secret_is_not_shown() {
    let server = Server::new(|_, asked| {
        answer(
            "401 Unauthorized",
            "Content-Type: application/json\r\n",
            &format!(r#"{{"error": "invalid_client", "error_description": "no client has {}"}}"#, asked.body.rsplit('=').next().unwrap()),
        )
    })
    .await;
    let login = HttpLogin {
        oauth2: Some(millrace_kit::http::login::OAuth2 {
            token_url: server.at("/token?access_token=abc").to_string().into(),
            client_id: "m".into(),
            client_secret: millrace_config::Secret::new("s3cr3t"),
            scope: None,
            fields: Default::default(),
            credentials_in: millrace_kit::http::login::CredentialsIn::Body,
        }),
        ..HttpLogin::default()
    };
    let error = client(&server, Some(&login)).fetch(&Request::get(server.url.clone())).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("invalid_client no client has <secret>") && !text.contains("s3cr3t") && !text.contains("abc"), "{text}");
    assert!(matches!(Failure::from(error), Failure::Blocked(_)));
    assert!(!format!("{login:?}").contains("s3cr3t"));
}

#[tokio::test]
async fn a_redirect_to_another_host_carries_no_credentials() {
    let elsewhere = Server::new(|_, _| json(r#"{"from": "elsewhere"}"#)).await;
    let target = elsewhere.at("/moved").to_string();
    let server = Server::new(move |_, asked| match asked.line.split(' ').nth(1).unwrap() {
        "/odata" => answer("302 Found", "Location: /odata/\r\n", ""),
        "/odata/" => answer("307 Temporary Redirect", &format!("Location: {target}\r\n"), ""),
        _ => answer("302 Found", "Location: /odata\r\n", ""),
    })
    .await;
    let client = client(&server, Some(&basic()));
    let get = Request::get(server.url.clone()).header("X-CSRF-Token", "abc").header("Cookie", "session=1");
    assert_eq!(client.fetch(&get).await.unwrap().text(), r#"{"from": "elsewhere"}"#);
    let home = server.asked();
    assert!(home.iter().all(|asked| asked.header("authorization").is_some() && asked.header("cookie").is_some()), "{home:?}");
    let away = elsewhere.asked();
    for name in ["authorization", "cookie", "x-csrf-token", "referer"] {
        assert_eq!(away[0].header(name), None, "{away:?}");
    }

    // A link that an answer gave is no other way out.
    client.fetch(&Request::get(elsewhere.at("/next")).header("Cookie", "session=1")).await.unwrap();
    let away = elsewhere.asked();
    assert_eq!((away[1].header("authorization"), away[1].header("cookie")), (None, None));

    let post = Request::new(Method::POST, server.at("/post")).body("application/json", "{}");
    let error = client.fetch(&post).await.unwrap_err();
    assert!(matches!(&error, HttpError::Redirected { .. }) && error.to_string().contains("only a GET"), "{error}");
    assert!(!error.may_be_done());
}

#[tokio::test]
async fn a_busy_server_says_when_and_is_believed_within_bounds() {
    let server = Server::new(|number, _| match number {
        0 => answer("429 Too Many Requests", "Retry-After: 7\r\nContent-Type: text/html\r\n", "slow\ndown"),
        1 => answer("503 Service Unavailable", "Retry-After: 999999\r\n", ""),
        2 => answer("503 Service Unavailable", "Retry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n", ""),
        _ => answer("503 Service Unavailable", "", ""),
    })
    .await;
    let client = client(&server, None);
    let mut waits = Vec::new();
    for _ in 0..4 {
        let error = client.fetch(&Request::get(server.url.clone())).await.unwrap_err();
        waits.push(Failure::from(error));
    }
    let wait = |failure: &Failure| if let Failure::RetryAfter(wait, _) = failure { Some(wait.as_secs()) } else { None };
    assert_eq!(waits.iter().map(wait).collect::<Vec<_>>(), [Some(7), Some(3600), Some(0), None], "{waits:?}");
    assert!(waits[0].to_string().ends_with("is busy (429 Too Many Requests): slow down"), "{}", waits[0]);
    assert!(matches!(waits[3], Failure::Reconnect(_)));
}

#[tokio::test]
async fn a_login_page_with_status_200_is_an_error_and_in_the_long_run_a_humans_affair() {
    let page = "<!DOCTYPE html><html><head><TITLE>Log On open sesame</TITLE></head></html>";
    let server = Server::new(move |_, _| answer("200 OK", "Content-Type: text/html; charset=utf-8\r\n", page)).await;
    let client = client(&server, Some(&basic()));
    let mut last = Failure::Stopped;
    for times in 1..=10 {
        let error = client.fetch(&Request::get(server.url.clone())).await.unwrap_err();
        assert!(error.to_string().contains("instead of JSON: Log On <secret>; is it a login page"), "{error}");
        last = error.into();
        assert_eq!(matches!(last, Failure::Reconnect(_)), times < 10, "{last:?}");
    }
    assert!(matches!(last, Failure::Blocked(_)));
    // A reader of anything is told too, but for one who wants a page.
    let data = Request::get(server.url.clone()).expect(Expect::Data);
    assert!(matches!(client.fetch(&data).await, Err(HttpError::WrongContent { .. })));
    assert_eq!(client.fetch(&data.expect(Expect::Any)).await.unwrap().text(), page);
}

#[tokio::test]
async fn a_body_is_bounded_and_a_body_that_ends_early_is_no_body() {
    let server = Server::new(|number, _| match number {
        0 => json(&"x".repeat(2_000)),
        1 => b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
            .iter()
            .copied()
            .chain(format!("7d0\r\n{}\r\n", "x".repeat(2_000)).bytes())
            .collect(),
        2 => b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{\"value\": [<cut>".to_vec(),
        3 => b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n<cut>".to_vec(),
        _ => b"".to_vec(),
    })
    .await;
    let options = Options { timeout: Period::from_millis(500).into(), max_body: ByteSize(1_000), ..Options::default() };
    let client = Client::new(&server.url, None, &Tls::default(), &options).unwrap();
    let get = Request::get(server.url.clone());
    for number in 0..2 {
        let error = client.fetch(&get).await.unwrap_err();
        assert!(matches!(error, HttpError::TooLarge { limit: 1_000, .. }), "{number}: {error}");
    }
    for number in 2..4 {
        let error = client.fetch(&get).await.unwrap_err();
        assert!(matches!(error, HttpError::Cut { .. }) && error.may_be_done(), "{number}: {error:?}");
    }
    let error = client.fetch(&get).await.unwrap_err();
    assert!(matches!(error, HttpError::TimedOut { .. }) && error.may_be_done(), "{error:?}");
}

#[tokio::test]
async fn nobody_there_and_a_bad_status_say_so() {
    let server = Server::new(|_, _| answer("403 Forbidden", "Content-Type: application/json\r\n", r#"{"error": "no"}"#)).await;
    let client = client(&server, None);
    let error = client.fetch(&Request::get(server.at("/odata?$filter=a&apikey=1234"))).await.unwrap_err();
    assert_eq!(error.to_string(), format!(r#"{} answered 403 Forbidden: {{"error": "no"}}"#, server.at("/odata?$filter=a&apikey=...")));
    assert!(matches!(Failure::from(error), Failure::Blocked(_)));
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let nowhere = Url::parse(&format!("http://{dead}/")).unwrap();
    let error = Client::new(&nowhere, None, &Tls::default(), &options()).unwrap().fetch(&Request::get(nowhere)).await.unwrap_err();
    assert!(matches!(error, HttpError::Unreachable { .. }) && !error.may_be_done() && error.to_string().contains("refused"), "{error:?}");
}

#[tokio::test]
async fn requests_keep_to_the_rate() {
    let server = Server::new(|_, _| json("{}")).await;
    let options = Options { rate: Some(Rate(20.0).into()), ..options() };
    let client = Client::new(&server.url, None, &Tls::default(), &options).unwrap();
    let begin = std::time::Instant::now();
    for _ in 0..5 {
        client.fetch(&Request::get(server.url.clone())).await.unwrap();
    }
    assert!(begin.elapsed() >= Duration::from_millis(195), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_proxy_is_asked_with_its_own_login() {
    let proxy = Server::new(|_, _| json(r#"{"by": "proxy"}"#)).await;
    let yaml = format!("{{proxy: {{url: 'http://{}'}}}}", proxy.url.authority());
    let mut problems = Problems::new();
    let mut options: Options = Node::from_yaml(&yaml, &mut problems).unwrap().parse(&mut problems).unwrap();
    options.check(&mut problems);
    assert!(!problems.has_errors());
    options.proxy.as_mut().unwrap().0.login = Some(millrace_kit::Login { user: "p".into(), password: millrace_config::Secret::new("q") });
    let server = Url::parse("http://erp.invalid/odata").unwrap();
    let client = Client::new(&server, Some(&basic()), &Tls::default(), &options).unwrap();
    assert_eq!(client.fetch(&Request::get(server)).await.unwrap().text(), r#"{"by": "proxy"}"#);
    let asked = &proxy.asked()[0];
    assert_eq!(asked.line, "GET http://erp.invalid/odata HTTP/1.1");
    assert_eq!(asked.header("proxy-authorization"), Some("Basic cDpx"));
}

#[tokio::test]
async fn a_client_certificate_an_own_authority_and_a_name_that_is_not_the_host() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        Some(path)
    };
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "plant");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let sign = |name: &str| {
        let key = KeyPair::generate().unwrap();
        (CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &authority).unwrap().pem(), key.serialize_pem())
    };
    let (server_cert, server_key) = sign("erp.plant");
    let (client_cert, client_key) = sign("millrace");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(server_cert.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(server_key.as_bytes()).unwrap(),
        )
        .unwrap();
    let server = Server::with_tls(Some(TlsAcceptor::from(Arc::new(config))), |_, _| json("{}")).await;
    let tls = Tls {
        ca: write("ca.pem", &authority.pem()),
        cert: write("client.pem", &client_cert),
        key: write("client.key", &client_key),
        server_name: Some("erp.plant".into()),
    };
    let ask = async |tls: &Tls| {
        let client = Client::new(&server.url, None, tls, &options()).unwrap();
        client.fetch(&Request::get(server.url.clone())).await
    };
    ask(&tls).await.unwrap();
    let error = ask(&Tls { server_name: None, ..tls.clone() }).await.unwrap_err();
    assert!(error.to_string().contains("its certificate is for") && error.to_string().contains("erp.plant"), "{error}");
    assert!(matches!(Failure::from(error), Failure::Blocked(_)));
    let error = ask(&Tls { cert: None, key: None, ..tls.clone() }).await.unwrap_err();
    assert!(error.to_string().contains("wants a client certificate"), "{error}");
    let error = ask(&Tls { ca: None, ..tls }).await.unwrap_err();
    assert!(error.to_string().contains("nobody trusted here has signed"), "{error}");
}

#[test]
fn what_cannot_work_is_refused_with_its_place() {
    let check = |yaml: &str| {
        let mut problems = Problems::new();
        let options: Option<Options> = Node::from_yaml(yaml, &mut problems).unwrap().parse(&mut problems);
        if let Some(options) = options {
            options.check(&mut problems);
        }
        problems.iter().map(|problem| problem.message.clone()).collect::<Vec<_>>().join("; ")
    };
    for (yaml, expected) in [
        ("{timeout: 1ms}", "`timeout: 1ms` is too short"),
        ("{timeout: 20m}", "`longest: 10m` is shorter than `timeout: 20m`"),
        ("{rate: 0/s}", "sends nothing"),
        ("{proxy: 'socks5://x:1'}", "is not the address of a proxy"),
        ("{headers: {Authorization: x}}", "is written by the client"),
        ("{headers: {'a b': x}}", "is not a header"),
        ("{tiemout: 1s}", "unknown key `tiemout`"),
    ] {
        assert!(check(yaml).contains(expected), "{yaml}: {}", check(yaml));
    }
    for (yaml, expected) in [
        ("{}", "a login needs"),
        ("{user: a}", "stand together"),
        ("{user: 'a:b', api_key: {value: '${env:PATH}'}}", "one of `user`, `api_key`"),
    ] {
        let mut problems = Problems::new();
        let login: Option<HttpLogin> = Node::from_yaml(yaml, &mut problems).and_then(|node| node.parse(&mut problems));
        login.unwrap_or_default().check(Place::NONE, &mut problems);
        let found = problems.iter().map(|problem| problem.message.clone()).collect::<Vec<_>>().join("; ");
        assert!(found.contains(expected), "{yaml}: {found}");
    }
    let _ = login("{user: a, password: '${env:PATH}'}");
}
