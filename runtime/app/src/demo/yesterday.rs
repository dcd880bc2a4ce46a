//! Yesterday: nobody ran this plant then, so its history is generated, and says so. A day of the presses' forces is written as the export of a
//! historian; `millrace import history` brings it into Kafka beside the demo, in a process, a log and a ledger of its own, and the lake takes it from
//! there. Each sample has the origin `backfill` and the source [`NAME`].

use super::place::Place;
use super::plant::PRESSES;
use anyhow::{Context, Result};
use std::f64::consts::TAU;
use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The source of the samples.
const NAME: &str = "generated-yesterday";
/// Seconds from one value of a press to its next.
const EVERY: i64 = 10;
const DAY: i64 = 86_400;

pub struct Yesterday {
    file: PathBuf,
    /// The factory's file.
    config: PathBuf,
    state: State,
}

enum State {
    Ahead,
    Imports { child: Child, rows: usize },
    Over,
}

impl Yesterday {
    pub fn new(place: &Place) -> Self {
        Self { file: place.data.join("yesterday-generated.csv"), config: place.file.clone(), state: State::Ahead }
    }

    /// Goes on by a step that takes no time: begins, or looks whether it is done. What happened, for the screen.
    pub fn turn(&mut self) -> Option<String> {
        match &mut self.state {
            State::Ahead => match self.begin() {
                Ok(state) => {
                    self.state = state;
                    None
                }
                Err(error) => Some(self.failed(&error)),
            },
            State::Imports { child, rows } => match child.try_wait() {
                Ok(None) => None,
                Ok(Some(status)) if status.success() => {
                    let said = format!("yesterday is there, generated: {rows} values in the lake's topic, origin backfill");
                    self.state = State::Over;
                    Some(said)
                }
                Ok(Some(status)) => {
                    let mut why = String::new();
                    let _ = child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut why));
                    let why = why.lines().last().map_or_else(|| status.to_string(), str::to_owned);
                    Some(self.failed(&anyhow::anyhow!(why)))
                }
                Err(error) => Some(self.failed(&error.into())),
            },
            State::Over => None,
        }
    }

    fn failed(&mut self, error: &anyhow::Error) -> String {
        self.state = State::Over;
        format!("yesterday is not there: {error:#}")
    }

    fn begin(&self) -> Result<State> {
        let now = millrace_schemas::Micros::now().0.div_euclid(1_000_000);
        let (text, rows) = export(now);
        std::fs::write(&self.file, text).with_context(|| format!("cannot write {}", self.file.display()))?;
        Ok(State::Imports { child: import(&self.file, &self.config)?, rows })
    }

    /// It ends with the demo.
    pub fn stop(&mut self) {
        if let State::Imports { child, .. } = &mut self.state {
            let _ = child.kill();
            let _ = child.wait();
            self.state = State::Over;
        }
    }
}

impl Drop for Yesterday {
    fn drop(&mut self) {
        self.stop();
    }
}

fn import(file: &Path, config: &Path) -> Result<Child> {
    let program = std::env::current_exe().context("this program's own file is not known")?;
    let mut command = Command::new(program);
    command.args(["import", "history", "--to", "telemetry", "--at", "body", "--tag", "press-{press}/force", "--name", NAME]);
    command.args(["--yes", "--json", "-c"]).arg(config).arg(file);
    // It says one line at its end.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().context("cannot start the import")
}

/// A day up to a time in seconds since 1970, as CSV, and its rows.
fn export(until: i64) -> (String, usize) {
    let mut text = String::from("press,time,value\n");
    let mut rows = 0;
    for press in 1..=PRESSES {
        let mut noise = Noise(press as u64);
        let last = until - until.rem_euclid(EVERY);
        for time in (last - DAY..last).step_by(EVERY as usize) {
            let at = jiff::Timestamp::from_second(time).unwrap_or_default();
            let _ = writeln!(text, "{press},{at},{:.1}", force(press, time, noise.step()));
            rows += 1;
        }
    }
    (text, rows)
}

/// Kilonewtons: two shifts with a break in each, a tool that wears and is changed every four hours, and at night nothing.
fn force(press: usize, time: i64, noise: f64) -> f64 {
    let of_day = time.rem_euclid(DAY);
    let (hour, minute) = (of_day / 3600, of_day / 60 % 60);
    let is_break = matches!(hour, 10 | 18) && minute < 30;
    if !(6..22).contains(&hour) || is_break {
        return 0.0;
    }
    let wear = (of_day % (4 * 3600)) as f64 / (4.0 * 3600.0);
    let swing = (of_day as f64 / 5400.0 * TAU + press as f64).sin();
    200.0 + 10.0 * press as f64 + 25.0 * wear + 6.0 * swing + 8.0 * noise
}

/// The same from -1 to 1 in every demo.
struct Noise(u64);

impl Noise {
    fn step(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as f64 / f64::from(1_u32 << 30) - 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_of_each_press_ends_where_the_demo_begins() {
        let until = 1_795_824_007;
        let (text, rows) = export(until);
        assert_eq!((rows, text.lines().count()), (PRESSES * 8_640, rows + 1));
        let times =
            text.lines().skip(1).take(8_640).map(|line| line.split(',').nth(1).unwrap().parse::<jiff::Timestamp>().unwrap().as_second());
        let times: Vec<i64> = times.collect();
        assert_eq!((times[0], times[8_639]), (until - 7 - DAY, until - 7 - EVERY));
        // Every force is one that a press can have.
        assert!(
            text.lines().skip(1).all(|line| line
                .rsplit(',')
                .next()
                .unwrap()
                .parse::<f64>()
                .is_ok_and(|force| (0.0..300.0).contains(&force)))
        );
    }
}
