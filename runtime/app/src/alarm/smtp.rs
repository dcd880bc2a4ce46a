//! Sends one mail (RFC 5321): EHLO, STARTTLS where it is demanded, AUTH, MAIL, RCPT, DATA. No queue and no relay: a failure is told, and tried again by
//! whoever asked.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use millrace_config::Reason;
use millrace_kit::Tls;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// How long one step may take.
const STEP: Duration = Duration::from_secs(20);
/// Bytes of one answer.
const ANSWER_MAX: u64 = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// TLS from the first byte.
    Tls,
    /// STARTTLS, or nothing is sent.
    StartTls,
    Never,
}

/// A mail server.
#[derive(Clone, Debug)]
pub struct Server {
    pub host: String,
    pub port: u16,
    pub security: Security,
    pub login: Option<(String, String)>,
    pub tls: Tls,
}

/// A text to some people.
#[derive(Clone, Debug)]
pub struct Mail {
    pub from: String,
    pub to: Vec<String>,
    pub subject: String,
    pub text: String,
}

impl Server {
    /// `smtps://host:465`, `smtp://host:587`, `smtp-plain://host:25`; ports may be left out.
    pub fn parse(url: &str) -> Result<(String, u16, Security), Reason> {
        let wrong = || format!("`{url}` is no mail server; write `smtps://host`, `smtp://host` (with STARTTLS) or `smtp-plain://host`");
        let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
        let (security, port) = match scheme {
            "smtps" => (Security::Tls, 465),
            "smtp" => (Security::StartTls, 587),
            "smtp-plain" => (Security::Never, 25),
            _ => return Err(wrong().into()),
        };
        let rest = rest.trim_end_matches('/');
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| wrong())?),
            None => (rest, port),
        };
        if host.is_empty() || host.contains(['/', '@', ' ']) {
            return Err(wrong().into());
        }
        Ok((host.to_owned(), port, security))
    }

    fn name(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Errors: which step failed, and what the server said.
    pub async fn send(&self, mail: &Mail) -> Result<(), Reason> {
        let connected = tokio::time::timeout(STEP, TcpStream::connect((self.host.as_str(), self.port))).await;
        let stream = match connected {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(format!("cannot connect to mail server {}: {error}", self.name()).into()),
            Err(_) => return Err(format!("mail server {} does not accept a connection in {STEP:?}", self.name()).into()),
        };
        match self.security {
            Security::Never => self.talk(Line::new(stream), mail, true).await,
            Security::Tls => self.talk(Line::new(self.secured(stream).await?), mail, true).await,
            Security::StartTls => {
                let mut line = Line::new(stream);
                line.answer(220, "the greeting").await?;
                let offers = line.say(&hello(), 250).await?;
                if !offers.lines().any(|offer| offer.eq_ignore_ascii_case("STARTTLS")) {
                    return Err(format!(
                        "mail server {} offers no STARTTLS; write `smtp-plain://` if it is to go unencrypted",
                        self.name()
                    )
                    .into());
                }
                line.say("STARTTLS", 220).await?;
                let stream = line.into_stream()?;
                self.talk(Line::new(self.secured(stream).await?), mail, false).await
            }
        }
    }

    async fn secured(&self, stream: TcpStream) -> Result<impl AsyncRead + AsyncWrite + Unpin, Reason> {
        let connected = tokio::time::timeout(STEP, self.tls.connect(stream, &self.host, &self.name())).await;
        connected
            .map_err(|_| format!("mail server {} does not do the TLS handshake in {STEP:?}", self.name()))?
            .map_err(|why| why.to_string().into())
    }

    async fn talk<S: AsyncRead + AsyncWrite + Unpin>(&self, mut line: Line<S>, mail: &Mail, greets: bool) -> Result<(), Reason> {
        if greets {
            line.answer(220, "the greeting").await?;
        }
        let offers = line.say(&hello(), 250).await?;
        if let Some((user, password)) = &self.login {
            let plain =
                offers.lines().any(|offer| offer.to_ascii_uppercase().starts_with("AUTH") && offer.to_ascii_uppercase().contains("PLAIN"));
            if plain {
                let secret = BASE64_STANDARD.encode(format!("\0{user}\0{password}"));
                line.secret("AUTH PLAIN", &format!("AUTH PLAIN {secret}"), 235).await?;
            } else {
                line.secret("AUTH LOGIN", "AUTH LOGIN", 334).await?;
                line.secret("AUTH LOGIN, the user", &BASE64_STANDARD.encode(user), 334).await?;
                line.secret("AUTH LOGIN, the password", &BASE64_STANDARD.encode(password), 235).await?;
            }
        }
        line.say(&format!("MAIL FROM:<{}>", mail.from), 250).await?;
        for to in &mail.to {
            line.say(&format!("RCPT TO:<{to}>"), 250).await?;
        }
        line.say("DATA", 354).await?;
        line.say(&format!("{}\r\n.", mail.whole()), 250).await?;
        // It is delivered; whether the farewell is heard changes nothing.
        let _ = line.say("QUIT", 221).await;
        Ok(())
    }
}

/// Whether an address can stand in a command and in a header.
pub fn is_address(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '<' | '>' | ',' | ';' | ':' | '"' | '\\' | '(' | ')');
    text.len() <= 254
        && text.split_once('@').is_some_and(|(name, host)| !name.is_empty() && !host.is_empty() && !host.contains('@'))
        && text.chars().all(is_plain)
}

fn hello() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host.trim().chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.')).collect();
    format!("EHLO {}", if host.is_empty() { "localhost" } else { &host })
}

impl Mail {
    /// Headers and body. The body is in base64, so that no line of it is a command.
    fn whole(&self) -> String {
        let date = jiff::fmt::rfc2822::to_string(&jiff::Zoned::now()).unwrap_or_default();
        let (id, host) = (chance(), self.from.rsplit('@').next().unwrap_or("localhost"));
        let mut whole = format!(
            "From: <{}>\r\nTo: {}\r\nSubject: {}\r\nDate: {date}\r\nMessage-ID: <{id}@{host}>\r\nMIME-Version: 1.0\r\n\
             Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\nAuto-Submitted: auto-generated\r\n\r\n",
            self.from,
            self.to.iter().map(|to| format!("<{to}>")).collect::<Vec<_>>().join(", "),
            encoded(&self.subject),
        );
        let body = BASE64_STANDARD.encode(self.text.replace('\n', "\r\n"));
        let lines: Vec<&str> = body.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).unwrap_or_default()).collect();
        whole.push_str(&lines.join("\r\n"));
        whole
    }
}

fn chance() -> String {
    let bytes: [u8; 12] = millrace_console::logins::chance();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A subject: plain where it is ASCII, else as RFC 2047 has it, in words of at most 75 characters.
fn encoded(text: &str) -> String {
    let text: String = text.chars().filter(|c| !c.is_control()).take(300).collect();
    if text.is_ascii() && text.len() <= 200 {
        return text;
    }
    let mut words: Vec<String> = vec![String::new()];
    for c in text.chars() {
        if words.last().is_some_and(|word| word.len() + c.len_utf8() > 42) {
            words.push(String::new());
        }
        words.last_mut().expect("never empty").push(c);
    }
    words.iter().map(|word| format!("=?utf-8?B?{}?=", BASE64_STANDARD.encode(word))).collect::<Vec<_>>().join("\r\n ")
}

/// A conversation in lines.
struct Line<S> {
    stream: BufReader<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    fn new(stream: S) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    /// The stream itself. Errors: the server sent more than it was asked for; before TLS that is somebody else's text.
    fn into_stream(self) -> Result<S, Reason> {
        match self.stream.buffer().is_empty() {
            true => Ok(self.stream.into_inner()),
            false => Err("the mail server spoke before TLS began; nothing is sent".into()),
        }
    }

    async fn say(&mut self, text: &str, expected: u16) -> Result<String, Reason> {
        let what = text.lines().next().unwrap_or_default().split(' ').take(2).collect::<Vec<_>>().join(" ");
        let what = if text.contains("\r\n") { "the text".to_owned() } else { what };
        self.secret(&what, text, expected).await
    }

    /// As [`Line::say`], where the text itself must not be told.
    async fn secret(&mut self, what: &str, text: &str, expected: u16) -> Result<String, Reason> {
        let write = async {
            self.stream.write_all(format!("{text}\r\n").as_bytes()).await?;
            self.stream.flush().await
        };
        match tokio::time::timeout(STEP, write).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(format!("cannot send {what} to the mail server: {error}").into()),
            Err(_) => return Err(format!("the mail server does not take {what} in {STEP:?}").into()),
        }
        self.answer(expected, what).await
    }

    /// The text of the next answer, all its lines.
    async fn answer(&mut self, expected: u16, to: &str) -> Result<String, Reason> {
        let mut lines = Vec::new();
        let mut left = ANSWER_MAX;
        loop {
            let mut line = Vec::new();
            let mut limited = (&mut self.stream).take(left);
            let read = tokio::time::timeout(STEP, limited.read_until(b'\n', &mut line)).await;
            match read {
                Err(_) => return Err(format!("the mail server does not answer {to} in {STEP:?}").into()),
                Ok(Err(error)) => return Err(format!("the mail server does not answer {to}: {error}").into()),
                Ok(Ok(_)) if line.last() != Some(&b'\n') => {
                    return Err(format!("the mail server ends in the middle of its answer to {to}").into());
                }
                Ok(Ok(read)) => left = left.saturating_sub(read as u64),
            }
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            let (code, rest) = (line.get(..3).and_then(|code| code.parse::<u16>().ok()), line.get(4..).unwrap_or_default());
            let Some(code) = code else { return Err(format!("the mail server's answer to {to} is not SMTP: {line:?}").into()) };
            lines.push(rest.to_owned());
            if line.as_bytes().get(3) == Some(&b'-') {
                continue;
            }
            // 251: it is forwarded.
            return match code == expected || (expected == 250 && code == 251) {
                true => Ok(lines.join("\n")),
                false => Err(format!("the mail server refuses {to}: {code} {}", lines.join(" ")).into()),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_url_and_an_address_cannot_hold_a_command() {
        assert_eq!(Server::parse("smtp://mail.plant"), Ok(("mail.plant".into(), 587, Security::StartTls)));
        assert_eq!(Server::parse("smtps://mail:1465/"), Ok(("mail".into(), 1465, Security::Tls)));
        assert_eq!(Server::parse("smtp-plain://127.0.0.1:25"), Ok(("127.0.0.1".into(), 25, Security::Never)));
        for wrong in ["mail", "http://mail", "smtp://", "smtp://a b", "smtp://mail:x", "smtp://user@mail"] {
            assert!(Server::parse(wrong).is_err(), "{wrong}");
        }
        assert!(is_address("shift@plant.example"));
        for wrong in ["shift", "a@b>\r\nRCPT TO:<x", "a b@c", "@b", "a@", "a@b@c", "a@b,c@d"] {
            assert!(!is_address(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_mail_is_lines_of_ascii_whatever_stands_in_it() {
        let mail = Mail {
            from: "a@b".into(),
            to: vec!["c@d".into(), "e@f".into()],
            subject: format!("Über\r\nBcc: x {}", "ö".repeat(100)),
            text: "a\n.\nb\n".repeat(50),
        };
        let whole = mail.whole();
        assert!(whole.is_ascii() && whole.lines().all(|line| line.len() <= 200 && line != "."), "{whole}");
        assert!(!whole.contains("Bcc: x\r\n") && whole.contains("To: <c@d>, <e@f>\r\n"));
    }
}
