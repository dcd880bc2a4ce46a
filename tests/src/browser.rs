//! A real browser: Debian's Chromium, driven over WebDriver (W3C), one JSON request after another.
//!
//! Screenshots lie in `target/screenshots`; axe-core, from npm, judges how accessible a page is.

use crate::{Process, eventually, free_port, http, peers, scratch};
use base64::Engine as _;
use serde_json::{Value, json};
use std::path::PathBuf;

/// A browser with one window. Dropping it ends both.
pub struct Browser {
    _driver: Process,
    _dir: tempfile::TempDir,
    port: u16,
    session: String,
}

/// What the driver says of an element that is being drawn, in WebDriver's words.
const NOT_YET: [&str; 3] = ["stale element reference", "element click intercepted", "element not interactable"];
/// The name under which WebDriver hands out elements.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

impl Browser {
    /// `dark`: the reader prefers dark pages.
    pub fn start(dark: bool) -> Self {
        // Both come together; the driver looks for the browser by itself.
        let _ = peers::debian("chromium", "chromium chromium-driver fonts-dejavu-core");
        let mut command = peers::debian("chromedriver", "chromium-driver");
        let (port, dir) = (free_port(), scratch("browser"));
        command.arg(format!("--port={port}"));
        let driver = Process::start("chromedriver", command, &dir.path().join("chromedriver.log"));
        eventually("chromedriver answers", || matches!(http::get(port, "/status"), Ok((200, _))).then_some(()));
        let profile = dir.path().join("profile");
        let mut args = vec![
            "--headless=new".to_owned(),
            "--no-sandbox".into(),
            "--disable-gpu".into(),
            "--disable-dev-shm-usage".into(),
            "--window-size=1280,900".into(),
            "--lang=en-US".into(),
            format!("--user-data-dir={}", profile.display()),
        ];
        if dark {
            args.push("--blink-settings=preferredColorScheme=0".into());
        }
        let wanted = json!({"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": {"args": args},
            "goog:loggingPrefs": {"browser": "ALL"}, "timeouts": {"script": 120_000}}}});
        // On a busy machine a browser may take longer to start than its driver waits.
        let answer = eventually("a browser starts", || try_ask(port, "POST", "/session", &wanted).ok());
        let session = answer["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {answer}")).to_owned();
        Self { _driver: driver, _dir: dir, port, session }
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        ask(self.port, method, &format!("/session/{}{path}", self.session), body)
    }

    pub fn open(&self, url: &str) {
        self.call("POST", "/url", &json!({ "url": url }));
    }

    /// Opens a page in one more window, which is asked from then on; those before stay as they are.
    pub fn another_window(&self, url: &str) {
        let window = self.call("POST", "/window/new", &json!({ "type": "window" }));
        self.call("POST", "/window", &json!({ "handle": window["handle"] }));
        self.open(url);
    }

    pub fn size(&self, width: u32, height: u32) {
        self.call("POST", "/window/rect", &json!({ "width": width, "height": height }));
    }

    /// What a script returns; `arguments` holds what is given.
    pub fn run(&self, script: &str, arguments: &[Value]) -> Value {
        self.call("POST", "/execute/sync", &json!({ "script": script, "args": arguments }))
    }

    fn find(&self, css: &str) -> String {
        eventually(&format!("{css} is on the page"), || {
            let found = self.call("POST", "/elements", &json!({ "using": "css selector", "value": css }));
            found[0][ELEMENT].as_str().map(str::to_owned)
        })
    }

    /// As a mouse does it: the element must be there, and not be covered.
    pub fn click(&self, css: &str) {
        self.of_element(css, "POST", "click", &json!({}));
    }

    /// Asks something of an element; one that was drawn anew meanwhile, or is covered for a moment, is looked for again.
    fn of_element(&self, css: &str, method: &str, what: &str, body: &Value) -> Value {
        eventually(&format!("{what} of {css}"), || {
            let path = format!("/session/{}/element/{}/{what}", self.session, self.find(css));
            match try_ask(self.port, method, &path, body) {
                Ok(answer) => Some(answer),
                Err(error) if NOT_YET.iter().any(|word| error.contains(word)) => None,
                Err(error) => panic!("{what} of {css}: {error}"),
            }
        })
    }

    pub fn type_into(&self, css: &str, text: &str) {
        self.of_element(css, "POST", "value", &json!({ "text": text }));
    }

    /// Keys that go to whatever has the focus.
    pub fn keys(&self, keys: &str) {
        let presses = keys.chars().flat_map(|key| [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})]);
        let actions = json!({"actions": [{"type": "key", "id": "keyboard", "actions": presses.collect::<Vec<_>>()}]});
        self.call("POST", "/actions", &actions);
    }

    /// What a person reads in an element.
    pub fn text(&self, css: &str) -> String {
        self.of_element(css, "GET", "text", &Value::Null).as_str().unwrap_or_default().to_owned()
    }

    /// Waits until a person reads something that fits.
    pub fn text_until(&self, css: &str, fits: impl Fn(&str) -> bool) -> String {
        crate::within(crate::wait::PATIENCE, &format!("{css} says what it should"), || {
            let script = "return document.querySelector(arguments[0])?.innerText ?? ''";
            let text = self.run(script, &[css.into()]).as_str().unwrap_or_default().to_owned();
            fits(&text).then_some(text)
        })
    }

    /// A number as a person reads it, separators left out.
    pub fn number(&self, css: &str) -> u64 {
        let text = self.text(css);
        let digits: String = text.chars().filter(char::is_ascii_digit).collect();
        digits.parse().unwrap_or_else(|_| panic!("{css} shows no number: {text:?}"))
    }

    /// Takes a picture of the window into `target/screenshots`.
    pub fn screenshot(&self, name: &str) -> PathBuf {
        let picture = self.call("GET", "/screenshot", &Value::Null);
        let bytes = base64::engine::general_purpose::STANDARD.decode(picture.as_str().unwrap_or_default()).expect("it is base64");
        let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/screenshots"));
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        let path = folder.join(format!("{name}.png"));
        std::fs::write(&path, bytes).expect("a picture can be written");
        path
    }

    /// What axe-core finds wrong with the page as it is shown: rule, and where. A page that is redrawn meanwhile may be judged half drawn: what is
    /// wrong is found again.
    pub fn inaccessible(&self) -> Vec<String> {
        let axe = std::fs::read_to_string(peers::axe_core().join("node_modules/axe-core/axe.min.js")).expect("axe-core was fetched");
        self.run(&axe, &[]);
        let mut found = self.axe();
        for _ in 0..2 {
            if found.is_empty() {
                break;
            }
            let again = self.axe();
            found.retain(|(rule, _)| again.iter().any(|(other, _)| other == rule));
        }
        found.into_iter().map(|(rule, text)| format!("{rule} {text}")).collect()
    }

    /// Each rule that is broken, and where.
    fn axe(&self) -> Vec<(String, String)> {
        let script = "const done = arguments[arguments.length - 1]; axe.run(document, {resultTypes: ['violations']}).then(
            (r) => done(r.violations.map((v) => [v.id, '(' + v.impact + '): ' + v.nodes.map((n) => n.target.join(' ') + ' ' + n.failureSummary).join(' | ')])),
            (e) => done([['axe failed', String(e)]]));";
        let found = self.call("POST", "/execute/async", &json!({ "script": script, "args": [] }));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        found.as_array().into_iter().flatten().map(|one| (text(&one[0]), text(&one[1]))).collect()
    }

    /// Errors in the browser's console: scripts that failed, what the page's own policy refused.
    pub fn errors(&self) -> Vec<String> {
        let entries = self.call("POST", "/se/log", &json!({ "type": "browser" }));
        let severe = |entry: &&Value| entry["level"] == "SEVERE";
        entries.as_array().into_iter().flatten().filter(severe).map(|entry| entry["message"].to_string()).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = http::request(self.port, "DELETE", &format!("/session/{}", self.session), "");
    }
}

fn ask(port: u16, method: &str, path: &str, body: &Value) -> Value {
    try_ask(port, method, path, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
}

fn try_ask(port: u16, method: &str, path: &str, body: &Value) -> Result<Value, String> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let (code, text) =
        http::request_with(port, method, path, &[], &body, std::time::Duration::from_secs(180)).map_err(|error| error.to_string())?;
    let answer: Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
    if code == 200 { Ok(answer["value"].clone()) } else { Err(format!("{}: {}", answer["value"]["error"], answer["value"]["message"])) }
}
