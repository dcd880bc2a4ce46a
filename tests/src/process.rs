//! A child process of a test: its own process group, its output in a file, killed when dropped.
//!
//! Invariant: no child outlives the tests. Dropping kills its group; if the test process itself is killed, the kernel kills the child
//! (every child is spawned by one thread that lives as long as the process, because the parent-death signal is bound to a thread).

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc;

pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

type Order = (Command, mpsc::Sender<std::io::Result<Child>>);

fn spawn_on_keeper(command: Command) -> std::io::Result<Child> {
    static KEEPER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let keeper = KEEPER.get_or_init(|| {
        let (orders, incoming) = mpsc::channel::<Order>();
        std::thread::Builder::new()
            .name("keeper-of-children".into())
            .spawn(move || {
                for (mut command, answer) in incoming {
                    let _ = answer.send(command.spawn());
                }
            })
            .expect("a thread can be started");
        orders
    });
    let (answer, outcome) = mpsc::channel();
    keeper.send((command, answer)).expect("the keeper lives as long as the process");
    outcome.recv().expect("the keeper answers")
}

impl Process {
    /// Starts a command; its output is appended to `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Self {
        let out = File::options().create(true).append(true).open(log).expect("the log file can be opened");
        let err = out.try_clone().expect("a file handle can be cloned");
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        Self::spawn(name, command, log)
    }

    /// Starts a command with its standard streams as the caller set them.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Self {
        command.process_group(0);
        // SAFETY: prctl is async-signal-safe, and nothing else happens between fork and exec.
        unsafe {
            command.pre_exec(|| Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let text = format!("{command:?}");
        let child = spawn_on_keeper(command).unwrap_or_else(|error| panic!("cannot start {name}: {error}; the command was {text}"));
        Self { name: name.to_owned(), child, log: log.to_owned() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn group(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Kills the whole group at once, as a power switch would, and reaps it.
    pub fn kill9(&mut self) {
        let _ = kill_process_group(self.group(), Signal::KILL);
        let _ = self.child.wait();
    }

    /// SIGTERM to the process itself.
    pub fn terminate(&self) {
        let _ = kill_process(self.group(), Signal::TERM);
    }

    /// SIGHUP to the process itself.
    pub fn hangup(&self) {
        let _ = kill_process(self.group(), Signal::HUP);
    }

    /// SIGINT to the process itself, as Ctrl-C sends it.
    pub fn interrupt(&self) {
        let _ = kill_process(self.group(), Signal::INT);
    }

    /// Stops the world for this process: its sockets stay open and say nothing.
    pub fn freeze(&self) {
        let _ = kill_process_group(self.group(), Signal::STOP);
    }

    pub fn thaw(&self) {
        let _ = kill_process_group(self.group(), Signal::CONT);
    }

    /// Waits for the end, generously.
    pub fn wait(&mut self) -> ExitStatus {
        let name = self.name.clone();
        crate::eventually(&format!("{name} ends"), || self.child.try_wait().expect("a child can be waited for"))
    }

    /// What it has written so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// CPU seconds used so far, user and system, of all its threads.
    pub fn cpu_seconds(&self) -> f64 {
        cpu_seconds(self.pid())
    }

    /// A field of `/proc/PID/status` in KiB: `VmHWM`, `VmRSS`.
    pub fn memory_kib(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0)
    }
}

/// CPU seconds of a running process, from `/proc/PID/stat` (fields 14 and 15, in ticks of 10 ms).
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks as f64 / 100.0
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            let output = self.output();
            let lines: Vec<&str> = output.lines().collect();
            let from = lines.len().saturating_sub(60);
            eprintln!("---- last lines of {} ({}) ----\n{}\n----", self.name, self.log.display(), lines[from..].join("\n"));
        }
    }
}
