//! A peer run by a script of ours (`tests/peers`): takes orders as lines of JSON on its standard input, answers each with a line.

use crate::{Process, eventually, scratch};
use serde_json::Value;
use std::fs::File;
use std::io::Write;
use std::process::{ChildStdin, Command, Stdio};

pub struct Script {
    name: String,
    process: Process,
    orders: ChildStdin,
    answers: usize,
    _dir: tempfile::TempDir,
}

impl Script {
    /// Starts it and waits until it says `{ready: true}`.
    pub fn start(name: &str, mut command: Command, ready: &str) -> Self {
        let dir = scratch("script");
        let log = dir.path().join("script.log");
        let out = File::create(&log).expect("a file can be made");
        command.stdin(Stdio::piped()).stdout(out.try_clone().expect("a file handle can be cloned")).stderr(out);
        let mut process = Process::spawn(name, command, &log);
        let orders = process.child().stdin.take().expect("its standard input is a pipe");
        let mut script = Self { name: name.into(), process, orders, answers: 0, _dir: dir };
        eventually(&format!("{name} is ready"), || {
            assert!(script.process.is_running(), "{name} ended at its start\n{}", script.process.output());
            script.said().iter().any(|line| line[ready] == true).then_some(())
        });
        script
    }

    /// Gives an order and waits until it is done.
    pub fn order(&mut self, order: Value) -> Value {
        self.begin(&order);
        let name = self.name.clone();
        let done = eventually(&format!("{name} does as it is told"), || {
            assert!(self.process.is_running(), "{name} ended\n{}", self.process.output());
            let answers = self.said().into_iter().filter(|line| line["done"].is_string() || line["failed"].is_string());
            answers.into_iter().nth(self.answers - 1)
        });
        assert!(done["done"].is_string(), "{name} refuses {order}: {done}");
        done
    }

    /// Gives an order that takes its time; the next [`Script::order`] waits for it, too.
    pub fn begin(&mut self, order: &Value) {
        writeln!(self.orders, "{order}").unwrap_or_else(|error| panic!("{} is gone: {error}\n{}", self.name, self.process.output()));
        self.answers += 1;
    }

    /// The lines it has said so far.
    pub fn said(&self) -> Vec<Value> {
        self.process.output().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
