//! A runtime's own clock, which a test sets: a small library, preloaded (`tests/peers/clock.c`).

use crate::{Factory, peers};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// The clock of every process of a [`Factory`] that has it.
pub struct Clock {
    /// By how many seconds it is off: eight bytes that the processes look at.
    offset: File,
}

impl Clock {
    /// Gives a factory a clock that goes right until it is set.
    pub fn of(factory: Factory) -> (Self, Factory) {
        let (library, path) = (factory.dir().join("clock.so"), factory.dir().join("clock"));
        let mut cc = peers::debian("cc", "gcc libc6-dev");
        cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(peers::scripts().join("clock.c"));
        run(cc);
        let clock = Self { offset: File::create(&path).expect("a file can be made") };
        clock.put(0);
        let factory = factory.env("LD_PRELOAD", &library.display().to_string()).env("CLOCK_OFFSET", &path.display().to_string());
        (clock, factory)
    }

    /// Sets the clock to a time, in seconds since 1970.
    pub fn set(&self, seconds: u64) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970").as_secs();
        self.put(seconds as i64 - now as i64);
    }

    /// Sets the clock right, or wrong by so many seconds.
    pub fn put(&self, seconds: i64) {
        self.offset.write_all_at(&seconds.to_ne_bytes(), 0).expect("a file can be written");
    }
}

fn run(mut command: Command) {
    let output = command.output().expect("a compiler starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
