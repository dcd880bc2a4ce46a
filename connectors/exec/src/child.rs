//! The process: started in a group of its own, talked to in lines, ended with all that it started.
//!
//! While something is written to it, what it prints is read on into a bounded box: neither side waits for the other for ever.

use crate::config::Program;
use millrace_config::Reason;
use millrace_contract::Failure;
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::VecDeque;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};

/// How long it may take to end by itself.
pub const STOP_WITHIN: Duration = Duration::from_secs(3);
/// Bytes of lines that wait while something is written.
const WAITING_MAX: usize = 4 << 20;
/// Of what it says on standard error, so much of a line is told, and so many lines a second.
const SAID_MAX: usize = 2000;
const SAID_PER_SECOND: u32 = 20;
/// What is passed on of our own environment.
const PASSED_ON: [&str; 4] = ["PATH", "HOME", "LANG", "TZ"];

pub struct Child {
    child: tokio::process::Child,
    group: Option<Pid>,
    stdin: Option<ChildStdin>,
    lines: Lines,
    waiting: VecDeque<String>,
    waiting_bytes: usize,
    /// The last line it said on standard error.
    last_said: Arc<Mutex<String>>,
    what: String,
    answer_within: Duration,
}

struct Lines {
    stdout: BufReader<ChildStdout>,
    buffer: Vec<u8>,
    max: usize,
}

impl Lines {
    /// The next line; `None` at the end. Cancel-safe.
    async fn next(&mut self) -> Result<Option<String>, Reason> {
        loop {
            let available = self.stdout.fill_buf().await.map_err(|error| format!("cannot read what it prints: {error}"))?;
            if available.is_empty() {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err("it ended in the middle of a line".into()),
                };
            }
            let (taken, is_whole) = match available.iter().position(|byte| *byte == b'\n') {
                Some(end) => (end, true),
                None => (available.len(), false),
            };
            if self.buffer.len() + taken > self.max {
                return Err(
                    format!("it printed a line of more than {} bytes; raise `max_line`, or let it send less at a time", self.max).into()
                );
            }
            self.buffer.extend_from_slice(&available[..taken]);
            self.stdout.consume(taken + usize::from(is_whole));
            if is_whole {
                let line = String::from_utf8(std::mem::take(&mut self.buffer));
                return line.map(Some).map_err(|_| "it printed what is not UTF-8".to_owned().into());
            }
        }
    }
}

impl Child {
    /// Starts the program.
    ///
    /// Errors: `Blocked`, where there is no such program, or it must not be started.
    pub fn start(program: &Program) -> Result<Self, Failure> {
        let mut command = Command::new(&program.command[0]);
        command.args(&program.command[1..]).env_clear();
        for name in PASSED_ON {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.envs(&program.env).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).process_group(0);
        if let Some(dir) = &program.dir {
            command.current_dir(dir);
        }
        let what = program.words();
        let mut child = command
            .spawn()
            .map_err(|error| Failure::Blocked(format!("cannot start `{what}`: {error}; is it installed, and may this user run it?")))?;
        let group = child.id().and_then(|id| Pid::from_raw(id as i32));
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdout), Some(stderr)) = (stdout, stderr) else {
            return Err(Failure::Reconnect(format!("`{what}` has no output")));
        };
        let last_said: Arc<Mutex<String>> = Arc::default();
        tokio::spawn(tell(what.clone(), stderr, last_said.clone()));
        let lines = Lines { stdout: BufReader::with_capacity(64 << 10, stdout), buffer: Vec::new(), max: program.max_line };
        let answer_within = program.answer_within;
        Ok(Self { child, group, stdin, lines, waiting: VecDeque::new(), waiting_bytes: 0, last_said, what, answer_within })
    }

    /// The next line it prints. Cancel-safe.
    ///
    /// Errors: it ended, or printed what is no line.
    pub async fn line(&mut self) -> Result<String, Failure> {
        if let Some(line) = self.waiting.pop_front() {
            self.waiting_bytes -= line.len();
            return Ok(line);
        }
        match self.lines.next().await {
            Ok(Some(line)) => Ok(line),
            Ok(None) => Err(self.ended().await),
            Err(why) => Err(Failure::Reconnect(format!("`{}`: {why}", self.what))),
        }
    }

    /// Writes one message. What it prints meanwhile waits.
    ///
    /// Errors: it does not read, or is gone.
    pub async fn say(&mut self, message: &serde_json::Value) -> Result<(), Failure> {
        let text = format!("{message}\n");
        let Some(stdin) = &mut self.stdin else { return Err(Failure::Reconnect(format!("`{}` is being stopped", self.what))) };
        let is_gone = {
            let write = async {
                stdin.write_all(text.as_bytes()).await?;
                stdin.flush().await
            };
            tokio::pin!(write);
            let until = tokio::time::sleep(self.answer_within);
            tokio::pin!(until);
            let mut is_open = true;
            loop {
                tokio::select! {
                    written = &mut write => break written.is_err(),
                    () = &mut until => {
                        let why = format!("`{}` does not read what it is sent, for {:?}", self.what, self.answer_within);
                        return Err(Failure::Reconnect(why));
                    }
                    line = self.lines.next(), if is_open && self.waiting_bytes < WAITING_MAX => match line {
                        Ok(Some(line)) => {
                            self.waiting_bytes += line.len();
                            self.waiting.push_back(line);
                        }
                        Ok(None) => is_open = false,
                        Err(why) => return Err(Failure::Reconnect(format!("`{}`: {why}", self.what))),
                    },
                }
            }
        };
        if is_gone { Err(self.ended().await) } else { Ok(()) }
    }

    /// Why it is gone.
    async fn ended(&mut self) -> Failure {
        let status = tokio::time::timeout(STOP_WITHIN, self.child.wait()).await;
        let how = match status {
            Ok(Ok(status)) => words(status),
            _ => "closed its output".to_owned(),
        };
        let said = self.last_said.lock().map(|said| said.clone()).unwrap_or_default();
        let said = if said.is_empty() { String::new() } else { format!("; it said last: {said}") };
        Failure::Reconnect(format!("`{}` {how}{said}", self.what))
    }

    /// Tells it to end, waits for that, and ends it and all it started where it does not.
    pub async fn stop(mut self) {
        let _ = self.say(&serde_json::json!({ "type": "stop" })).await;
        self.stdin = None;
        let waiting = async {
            // What it still prints must not keep it from ending.
            while let Ok(Some(_)) = self.lines.next().await {}
            self.child.wait().await
        };
        if tokio::time::timeout(STOP_WITHIN, waiting).await.is_err() {
            tracing::warn!(command = self.what, "the program does not end within {STOP_WITHIN:?} and is killed");
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // The whole group: what it forked, too.
        if let Some(group) = self.group {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

fn words(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        _ => "ended".to_owned(),
    }
}

/// What it says on standard error goes to the messages, not faster than a person reads.
async fn tell(command: String, stderr: ChildStderr, last: Arc<Mutex<String>>) {
    let mut lines = Said { stderr: BufReader::new(stderr) };
    let (mut second, mut said) = (tokio::time::Instant::now(), 0);
    while let Some(line) = lines.next().await {
        if second.elapsed() > Duration::from_secs(1) {
            (second, said) = (tokio::time::Instant::now(), 0);
        }
        said += 1;
        if said <= SAID_PER_SECOND {
            tracing::info!(command, "{line}");
        }
        if let Ok(mut last) = last.lock() {
            *last = line;
        }
    }
}

struct Said {
    stderr: BufReader<ChildStderr>,
}

impl Said {
    /// The next line, cut where it is long; its control characters replaced.
    async fn next(&mut self) -> Option<String> {
        let mut line = Vec::new();
        loop {
            let available = self.stderr.fill_buf().await.ok()?;
            if available.is_empty() {
                return (!line.is_empty()).then(|| plain(&line));
            }
            let (taken, is_whole) = match available.iter().position(|byte| *byte == b'\n') {
                Some(end) => (end, true),
                None => (available.len(), false),
            };
            let room = SAID_MAX.saturating_sub(line.len());
            line.extend_from_slice(&available[..taken.min(room)]);
            self.stderr.consume(taken + usize::from(is_whole));
            if is_whole {
                return Some(plain(&line));
            }
        }
    }
}

fn plain(line: &[u8]) -> String {
    String::from_utf8_lossy(line).chars().map(|c| if c.is_control() && c != '\t' { '\u{FFFD}' } else { c }).collect()
}
