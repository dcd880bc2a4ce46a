//! Triggered reads on the line: the group's requests first, the trigger's own behind them, in front of everything else of the unit.

use crate::bus::Bus;
use crate::events::Open;
use crate::planner::Block;
use crate::point::piece;
use crate::unit::Work;
use millrace_kit::trigger::{Fired, Settled, write_value};
use millrace_schemas::{Micros, StatusCode};
use std::sync::Arc;

impl Bus<'_> {
    /// Begins to read an event's group.
    pub fn begin_event(&mut self, fired: Fired) {
        let Some(job) = self.source.jobs.iter().position(|job| job.is_triggered && job.groups.contains(&fired.group)) else { return };
        if self.events.open.iter().any(|open| open.job == job) {
            self.events.later.push_back(fired);
            return;
        }
        let unit = self.source.jobs[job].unit;
        let trigger = piece(&self.source.polled, self.events.triggers.tag(&fired));
        let block = Block::of(vec![trigger], self.source.units[unit].limits.register_bytes);
        let work = |block: Arc<Block>, is_trigger| Work { job, block, attempt: 0, part_of: None, is_trigger };
        let state = &mut self.jobs[job];
        state.rows.clear();
        state.rows.read_time = Micros::now();
        let mut works: Vec<_> = state.blocks.iter().map(|block| work(block.clone(), false)).collect();
        works.push(work(Arc::new(block), true));
        state.outstanding = works.len();
        for work in works.into_iter().rev() {
            self.units[unit].queue.push_front(work);
        }
        self.events.open.push(Open { fired, job, fields: Vec::new(), trigger: None, is_unread: false });
    }

    /// Everything of an event was read, or couldn't be.
    pub async fn end_event(&mut self, job: usize) {
        let Some(place) = self.events.open.iter().position(|open| open.job == job) else { return };
        let mut open = self.events.open.remove(place);
        let heap = std::mem::take(&mut self.jobs[job].rows.heap);
        match open.trigger.filter(|_| !open.is_unread) {
            None => self.events.triggers.unread(&open.fired),
            Some(trigger) => match self.events.triggers.settle(&mut open.fired, trigger, &heap) {
                Settled::Again => self.begin_event(open.fired),
                Settled::Whole => {
                    self.batch().await;
                    let source = self.source;
                    let Some(batch) = &mut self.batch else { return };
                    self.events.triggers.record(&open.fired, batch, |index, out| {
                        let Some((_, value, status)) = open.fields.iter().find(|(tag, ..)| *tag == index) else {
                            return StatusCode::BAD_NO_DATA;
                        };
                        write_value(*value, *status, &heap, &source.polled.tags[index].def.options, out)
                    });
                }
            },
        }
        self.jobs[job].rows.clear();
        if let Some(place) = self.events.later.iter().position(|fired| self.source.jobs[job].groups.contains(&fired.group))
            && let Some(fired) = self.events.later.remove(place)
        {
            self.begin_event(fired);
        }
    }
}
