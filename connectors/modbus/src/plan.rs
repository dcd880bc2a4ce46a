//! What will go over the line: every request with its tags, its bytes and its time, and whether all of it fits.
//!
//! The time of a serial line is counted from its baud rate and parity; a device's own time to answer is not known before it is asked, and is taken
//! as [`DEVICE_TIME`]. What doesn't fit even with devices that answer at once is an error.

use crate::compiled::{CompiledSource, Job, Unit};
use crate::pdu::Request;
use crate::planner::{Block, Cuts, plan as plan_blocks};
use millrace_config::{Period, Problems};
use millrace_contract::{Context, Plan};
use std::time::Duration;

/// What a device usually takes to answer.
pub const DEVICE_TIME: Duration = Duration::from_millis(10);

/// A request's frames.
struct Cost {
    out_bytes: usize,
    back_bytes: usize,
    /// On the line, without the device's own time.
    line_time: Duration,
}

fn cost(source: &CompiledSource, block: &Block) -> Cost {
    let framing = source.endpoint.framing();
    let request = Request::Read(block.read);
    let mut out = Vec::new();
    framing.encode(0, 1, &request, &mut out);
    let back_bytes = request.answer_bytes().unwrap_or_default() + framing.overhead_bytes();
    let line_time = match source.endpoint.serial() {
        Some(serial) => serial.transmission(out.len() + back_bytes) + serial.silence() + source.line.pause.max(serial.silence()),
        None => source.line.pause,
    };
    Cost { out_bytes: out.len(), back_bytes, line_time }
}

/// The plan, and an error where it can't be kept.
pub fn plan(source: &CompiledSource, context: &Context, problems: &mut Problems) -> Option<Plan> {
    let mut lines = Vec::new();
    let mut load = 0.0;
    let mut bare_load = 0.0;
    for job in &source.jobs {
        let unit = &source.units[job.unit];
        let blocks = plan_blocks(job.pieces.clone(), &unit.limits, &Cuts::default());
        let costs: Vec<Cost> = blocks.iter().map(|block| cost(source, block)).collect();
        let line_time: Duration = costs.iter().map(|cost| cost.line_time).sum();
        let cycle = line_time + DEVICE_TIME * blocks.len() as u32;
        if !job.is_triggered {
            let in_flight =
                if source.units.len() == 1 { source.line.in_flight as f64 } else { (source.line.in_flight.min(source.units.len())) as f64 };
            load += cycle.as_secs_f64() / in_flight / job.every.as_secs_f64();
            bare_load += line_time.as_secs_f64() / in_flight / job.every.as_secs_f64();
        }
        lines.push(head(source, job, unit, blocks.len(), cycle));
        lines.extend(blocks.iter().zip(&costs).map(|(block, cost)| line(source, block, cost)));
    }
    lines.push(format!("the line is busy {:.0} % of the time, if devices answer within {}", load * 100.0, Period(DEVICE_TIME)));
    if bare_load > 1.0 {
        let what = match source.endpoint.serial() {
            Some(serial) => format!("{} baud", serial.baud),
            None => format!("a pause of {}", Period(source.line.pause)),
        };
        problems
            .error(
                context.place,
                format!(
                    "`{}` can't be read as often as asked: at {what} its requests take {:.0} % of the time",
                    context.name,
                    bare_load * 100.0
                ),
            )
            .help("read some groups less often (`every`), raise the baud rate, or spread the devices over several lines");
        return None;
    }
    if load > 1.0 {
        problems.warn(
            context.place,
            format!(
                "`{}` will skip cycles: with {} for each answer its requests take {:.0} % of the time",
                context.name,
                Period(DEVICE_TIME),
                load * 100.0
            ),
        );
    }
    Some(Plan { endpoint: source.endpoint.to_string(), lines, rate: Some(source.polled.rate()) })
}

fn head(source: &CompiledSource, job: &Job, unit: &Unit, requests: usize, cycle: Duration) -> String {
    let when = if job.is_triggered {
        let trigger = job.groups.first().and_then(|group| source.polled.groups[*group].trigger.as_ref());
        trigger.map_or_else(String::new, |trigger| format!("when {}", trigger.describe(&source.polled.tags)))
    } else {
        let clock = if job.align { ", on the clock" } else { "" };
        format!("every {}{clock}", Period(job.every))
    };
    let cycle = Duration::from_millis(cycle.as_millis().max(1) as u64);
    let (values, requests) = (counted(job.pieces.len(), "value"), counted(requests, "request"));
    format!("{} (unit {}) {when}: {values} in {requests}, about {}", unit.name, unit.id, Period(cycle))
}

fn line(source: &CompiledSource, block: &Block, cost: &Cost) -> String {
    let names: Vec<&str> = block.pieces.iter().map(|piece| &*source.polled.tags[piece.tag as usize].name).collect();
    let function = Request::Read(block.read).function();
    format!(
        "  FC{function} {} ({}, {} + {} bytes): {}",
        block.read,
        counted(block.read.count.into(), if block.read.table.is_bits() { "bit" } else { "register" }),
        cost.out_bytes,
        cost.back_bytes,
        names.join(", ")
    )
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}
