//! What the meters and the drive measure: a hall with power meters, a drive, a unit that is dead and one that is slow.
//!
//! ```text
//! meter (units 1..)     input 0, 2, 4     voltages, f32 ABCD          input 52    power, i32 CDAB, 80000000 on the wire: not available
//!                       input 6, 8, 10    currents, f32 ABCD          holding 800 energy, f64 CDAB, counts to 10^6
//! drive (unit 7 + N)    holding 100       speed, f32 CDAB             holding 110 setpoint, f32 CDAB, writable
//!                       coil 7            door open                   holding 120 status word: bit 0 ready, bit 3 door open
//!                       holding 130..139  its name, a text            holding 200, 201 part counter and its echo; 210 the part's weight
//! ```

use crate::gateway::{Faults, Gateway, Options};
use std::time::Duration;
use tokio::task::JoinHandle;

/// A hall behind one gateway.
pub struct Plant {
    pub gateway: std::sync::Arc<Gateway>,
    meters: u8,
    life: JoinHandle<()>,
}

/// How often the values change.
const STEP: Duration = Duration::from_millis(200);

impl Plant {
    /// So many meters from unit 1 on, and behind them the drive.
    ///
    /// Errors: the address can't be listened on.
    pub async fn start(options: Options, meters: u8) -> std::io::Result<Self> {
        let gateway = std::sync::Arc::new(Gateway::start(options).await?);
        let drive = meters + 1;
        step(&gateway, meters, 0);
        gateway.unit(drive, |memory| {
            memory.coils.insert(7, false);
            memory.set_holding(110, &cdab(1.5_f32.to_bits()));
            memory.set_holding(130, &words("SIM DRIVE 7\0\0\0\0\0\0\0\0\0"));
            memory.set_holding(200, &[0, 0]);
            memory.set_holding(210, &abcd(0));
        });
        let living = gateway.clone();
        let life = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(STEP);
            for number in 1.. {
                ticks.tick().await;
                step(&living, meters, number);
            }
        });
        Ok(Self { gateway, meters, life })
    }

    /// The drive's unit.
    pub fn drive(&self) -> u8 {
        self.meters + 1
    }

    /// Gives each meter so many more measurements, f32 ABCD in its input registers from 1000 on. They all change with every reading of the clock.
    pub fn load(&self, measurements: u16) {
        let (gateway, meters) = (self.gateway.clone(), self.meters);
        let fill = move |number: u64| {
            for unit in 1..=meters {
                let words: Vec<u16> = (0..measurements).flat_map(|n| abcd((f32::from(n) + number as f32 / 8.0).to_bits())).collect();
                gateway.unit(unit, |memory| memory.set_input(1000, &words));
            }
        };
        fill(0);
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(STEP * 5);
            for number in 1.. {
                ticks.tick().await;
                fill(number);
            }
        });
    }

    /// The last meter but one is silent, and the last one takes 300 ms.
    pub fn trouble(&self) {
        if self.meters > 2 {
            self.gateway.kill(self.meters - 1);
        }
        self.gateway.slow(self.meters, Duration::from_millis(300));
    }

    /// Ends all troubles.
    pub fn heal(&self) {
        for unit in 1..=self.meters {
            self.gateway.revive(unit);
            self.gateway.slow(unit, Duration::ZERO);
        }
        self.gateway.inflict(Faults::default());
    }
}

impl Drop for Plant {
    fn drop(&mut self) {
        self.life.abort();
    }
}

const fn abcd(bits: u32) -> [u16; 2] {
    [(bits >> 16) as u16, bits as u16]
}

const fn cdab(bits: u32) -> [u16; 2] {
    [bits as u16, (bits >> 16) as u16]
}

fn words(text: &str) -> Vec<u16> {
    text.as_bytes().chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect()
}

/// The values at one moment.
fn step(gateway: &Gateway, meters: u8, number: u64) {
    let turn = number as f32 / 50.0;
    for unit in 1..=meters {
        let phase = turn + f32::from(unit);
        gateway.unit(unit, |memory| {
            for line in 0..3u16 {
                let shift = phase + f32::from(line) * 2.1;
                memory.set_input(line * 2, &abcd((230.0 + 2.0 * shift.sin()).to_bits()));
                memory.set_input(6 + line * 2, &abcd((12.0 + 3.0 * shift.cos()).to_bits()));
            }
            // At night, as meters and inverters do.
            let power = if (number / 500) % 4 == 3 { [0x8000, 0] } else { cdab((8_000.0 + 900.0 * phase.sin()) as i32 as u32) };
            memory.set_input(52, &power);
            let energy = (f64::from(unit) * 1_000.0 + number as f64 * 0.01) % 1_000_000.0;
            let mut words: Vec<u16> = energy.to_be_bytes().chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
            words.reverse();
            memory.set_holding(800, &words);
        });
    }
    gateway.unit(meters + 1, |memory| {
        let is_open = (number / 50) % 10 == 9;
        let speed = if is_open { 0.0 } else { 1.5 + 0.1 * turn.sin() };
        memory.set_holding(100, &cdab(speed.to_bits()));
        memory.coils.insert(7, is_open);
        memory.set_holding(120, &[u16::from(!is_open) | u16::from(is_open) << 3]);
    });
}
