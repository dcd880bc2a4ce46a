//! What a press does: strokes, heat, parts, set-ups and breakdowns, as numbers. Knows no OPC UA.

use fastrand::Rng;
use std::time::Duration;

/// The raw value of a force sensor at its full range: 27648 is 400 kN.
pub const FULL_FORCE: f64 = 27_648.0;
/// Points of a force curve.
pub const CURVE_POINTS: usize = 32;
const STROKES_PER_ORDER: u32 = 500;
const SET_UP_S: f64 = 5.0;
const COLD_C: f64 = 22.0;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Stopped = 0,
    Running = 1,
    SetUp = 2,
    Fault = 3,
}

impl State {
    pub const ALL: [(Self, &'static str); 4] =
        [(Self::Stopped, "Stopped"), (Self::Running, "Running"), (Self::SetUp, "SetUp"), (Self::Fault, "Fault")];
}

/// One press.
#[derive(Clone, Debug)]
pub struct Press {
    pub number: usize,
    pub state: State,
    pub temperature_c: f64,
    pub setpoint_c: f64,
    /// Raw, 0 to 27648.
    pub force: i16,
    pub strokes: u32,
    pub scrap: u32,
    pub order: u32,
    pub part: Option<Part>,
    /// A part waits to be taken over; falls with the acknowledgement, else in the middle of the next stroke.
    pub part_done: bool,
    pub motor_rpm: [f32; 2],
    pub motor_a: [f32; 2],
    stroke_s: f64,
    strength: f64,
    phase: f64,
    set_up_left_s: f64,
    rng: Rng,
}

/// What a stroke made.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    pub serial: String,
    pub peak_kn: f32,
    pub good: bool,
    pub curve_kn: [f32; CURVE_POINTS],
    pub zones_c: [f64; 3],
}

impl Press {
    pub fn new(number: usize, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ number as u64);
        Self {
            number,
            state: State::Running,
            temperature_c: 180.0 + 10.0 * rng.f64(),
            setpoint_c: 200.0,
            force: 0,
            strokes: 0,
            scrap: 0,
            order: 4711 + number as u32 * 100,
            part: None,
            part_done: false,
            motor_rpm: [0.0; 2],
            motor_a: [0.0; 2],
            stroke_s: 1.5 + rng.f64(),
            strength: 0.6 + 0.3 * rng.f64(),
            phase: rng.f64(),
            set_up_left_s: 0.0,
            rng,
        }
    }

    /// A machine word as a PLC would pack it: bit 0 ready, bit 3 door open.
    pub fn word(&self) -> u16 {
        let ready = self.state == State::Running;
        let door_open = matches!(self.state, State::SetUp | State::Fault);
        u16::from(ready) | u16::from(door_open) << 3
    }

    pub fn breaks_down(&mut self) {
        self.state = State::Fault;
        self.force = 0;
    }

    pub fn is_repaired(&mut self) {
        if self.state == State::Fault {
            self.state = State::Running;
        }
    }

    pub fn acknowledged(&mut self) {
        self.part_done = false;
    }

    /// Lives on for a moment.
    pub fn step(&mut self, passed: Duration) {
        let passed_s = passed.as_secs_f64();
        let is_running = self.state == State::Running;
        let aim = if is_running { self.setpoint_c + 4.0 } else { COLD_C };
        self.temperature_c += (aim - self.temperature_c) * (passed_s / 60.0).min(1.0) + (self.rng.f64() - 0.5) * 0.4;
        for motor in 0..2 {
            let wobble = self.rng.f32() - 0.5;
            self.motor_rpm[motor] = if is_running { 1480.0 + 8.0 * wobble } else { 0.0 };
            self.motor_a[motor] = if is_running { 12.0 + 20.0 * self.load() as f32 + wobble } else { 0.0 };
        }
        match self.state {
            State::Running => self.stroke(passed_s),
            State::SetUp => {
                self.set_up_left_s -= passed_s;
                if self.set_up_left_s <= 0.0 {
                    self.order += 1;
                    self.state = State::Running;
                }
            }
            State::Stopped | State::Fault => {}
        }
    }

    /// How hard the ram presses now, 0 to 1: half a sine around the bottom of the stroke.
    fn load(&self) -> f64 {
        load_at(self.phase)
    }

    fn stroke(&mut self, passed_s: f64) {
        self.phase += passed_s / self.stroke_s;
        if self.phase > 0.5 {
            self.part_done = false;
        }
        let noise = 1.0 + (self.rng.f64() - 0.5) * 0.02;
        self.force = (self.load() * self.strength * noise * FULL_FORCE) as i16;
        if self.phase >= 1.0 {
            self.phase = self.phase.fract();
            self.finish_part();
            if self.strokes.is_multiple_of(STROKES_PER_ORDER) {
                self.state = State::SetUp;
                self.set_up_left_s = SET_UP_S;
                self.force = 0;
            }
        }
    }

    fn finish_part(&mut self) {
        self.strokes = self.strokes.wrapping_add(1);
        let good = self.rng.f64() > 0.02;
        self.scrap += u32::from(!good);
        let strength_kn = 400.0 * self.strength * if good { 1.0 } else { 0.7 };
        let mut curve_kn = [0.0; CURVE_POINTS];
        for (point, force) in curve_kn.iter_mut().enumerate() {
            let phase = 0.35 + 0.3 * point as f64 / (CURVE_POINTS - 1) as f64;
            *force = (load_at(phase) * strength_kn * (1.0 + (self.rng.f64() - 0.5) * 0.01)) as f32;
        }
        self.part = Some(Part {
            serial: format!("P{}-{}-{:06}", self.number, self.order, self.strokes),
            peak_kn: curve_kn.iter().copied().fold(0.0, f32::max),
            good,
            curve_kn,
            zones_c: [0.0, 1.5, -0.8].map(|offset| self.temperature_c + offset),
        });
        self.part_done = true;
    }
}

fn load_at(phase: f64) -> f64 {
    let bottom = (phase - 0.35) / 0.3;
    if (0.0..=1.0).contains(&bottom) { (bottom * std::f64::consts::PI).sin() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(press: &mut Press, steps: usize) {
        for _ in 0..steps {
            press.step(Duration::from_millis(100));
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_press() {
        let (mut one, mut other, mut third) = (Press::new(1, 7), Press::new(1, 7), Press::new(2, 7));
        run(&mut one, 300);
        run(&mut other, 300);
        run(&mut third, 300);
        assert_eq!((one.part.clone(), one.force, one.temperature_c), (other.part, other.force, other.temperature_c));
        assert_ne!(one.part, third.part);
    }

    #[test]
    fn a_running_press_makes_parts_and_a_broken_one_none() {
        let mut press = Press::new(1, 1);
        run(&mut press, 600);
        let made = press.strokes;
        assert!((20..=45).contains(&made), "{made} strokes in a minute of 1.5 to 2.5 s each");
        let part = press.part.clone().expect("a part is made");
        assert!(part.peak_kn > 100.0 && part.peak_kn <= 400.0, "{part:?}");
        press.breaks_down();
        run(&mut press, 600);
        assert_eq!((press.strokes, press.force, press.word()), (made, 0, 0b1000));
        press.is_repaired();
        run(&mut press, 600);
        assert!(press.strokes > made);
    }

    #[test]
    fn an_order_ends_with_a_set_up() {
        let mut press = Press::new(1, 1);
        let mut seen = 0;
        for _ in 0..20_000 {
            press.step(Duration::from_millis(100));
            seen += usize::from(press.state == State::SetUp);
        }
        assert!(seen >= 45 && press.order > 4811, "{seen} steps of set-up, order {}", press.order);
    }

    #[test]
    fn a_part_waits_for_its_acknowledgement_but_not_for_ever() {
        let mut press = Press::new(1, 1);
        let wait = |press: &mut Press, done: bool| {
            for _ in 0..100 {
                if press.part_done == done {
                    return;
                }
                press.step(Duration::from_millis(100));
            }
            panic!("part_done does not turn {done}");
        };
        wait(&mut press, true);
        wait(&mut press, false);
        wait(&mut press, true);
        press.acknowledged();
        assert!(!press.part_done);
    }
}
