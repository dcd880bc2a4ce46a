//! Which items are on which subscription of a session, and which are polled because there is no place for them.
//!
//! ```text
//! a group          ──> a subscription of its own
//!   no more subscriptions ──> the nearest one that there is, its items as guests; queues as long as its publishing interval asks for
//!   no more items on it   ──> another subscription for the rest
//!   neither               ──> the rest is polled, and the group's status says so
//! ```
//!
//! Where the server made it so, the layout is a position, so that the next process goes on with the same subscriptions:
//!
//! ```text
//! "layout/0"     a line each: key, handles (`-`: none), `e` where the events are on it      s0/1 0-999 -
//!                                                                                          s0/1+1 1000-1499,2500 e
//! ```
//!
//! Invariants: every item is on one subscription or polled; a layout of an earlier process is taken only with exactly the items of today; a
//! subscription of an earlier process that has no place any more is deleted.

use crate::compiled::{CompiledSource, is_polled, is_subscribed};
use crate::events;
use crate::history::{Gaps, open_gap};
use crate::poll::Polling;
use crate::readings::Readings;
use crate::session::{Refused, Session};
use crate::shared::Shared;
use crate::subscribe::{Monitored, Subscription, delete, items, transfer};
use crate::watermarks;
use millrace_contract::Status;
use millrace_schemas::StatusCode;
use opcua::types::StatusCode as UaStatus;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

/// The subscriptions and polls of one session.
pub struct Layout {
    /// Which session of the source.
    index: usize,
    pub subscriptions: Vec<Subscription>,
    pub polls: Vec<Polling>,
    /// Groups of which items are polled instead, and why.
    pub instead: BTreeMap<usize, String>,
    /// Subscriptions of an earlier process that have no place here: key and id.
    stray: Vec<(String, u32)>,
    /// A subscription whose items move to others. It stays where a session ends in the middle of that.
    moving: Option<Subscription>,
    written: Vec<u8>,
}

impl Layout {
    pub fn new(index: usize) -> Self {
        Self {
            index,
            subscriptions: Vec::new(),
            polls: Vec::new(),
            instead: BTreeMap::new(),
            stray: Vec::new(),
            moving: None,
            written: Vec::new(),
        }
    }

    fn key(&self) -> String {
        format!("layout/{}", self.index)
    }

    /// A subscription for a group's items.
    pub fn add(&mut self, job: &CompiledSource, group: usize, handles: Vec<usize>) {
        let key = format!("s{}/{}", self.index, group + 1);
        let known = &job.polled.groups[group];
        self.subscriptions.push(Subscription::new(known.part.clone(), key, Some(group), known.every).with(handles));
    }

    /// A subscription for the events.
    pub fn add_events(&mut self) {
        let key = format!("s{}/events", self.index);
        self.subscriptions.push(Subscription::new("events".into(), key, None, Duration::from_millis(500)));
    }

    /// What a connection before had no place for is tried again.
    pub fn reconnected(&mut self, job: &CompiledSource) {
        self.polls.retain(|polling| is_polled(&job.polled.groups[polling.group]));
        self.subscriptions.iter_mut().for_each(|subscription| subscription.is_polled = false);
        self.instead.clear();
    }

    /// Items that came and went with the server's nodes.
    pub fn admit(&mut self, group: usize, new: &[usize], gone: &[usize]) {
        let mut with_group: Vec<_> = self.subscriptions.iter_mut().filter(|subscription| subscription.groups.contains(&group)).collect();
        for subscription in &mut with_group {
            subscription.handles.retain(|handle| !gone.contains(handle));
        }
        if let Some(last) = with_group.last_mut() {
            if last.handles.is_empty() && last.id == 0 {
                last.base = new.first().copied().unwrap_or_default();
            }
            last.handles.extend(new);
        }
        for polling in self.polls.iter_mut().filter(|polling| polling.group == group) {
            polling.handles.retain(|handle| !gone.contains(handle));
            if with_group.is_empty() {
                polling.handles.extend(new);
            }
        }
    }

    /// Takes up the positions of an earlier process.
    pub fn resume(&mut self, shared: &Shared) {
        let mut readings = shared.readings.lock();
        if let Some(text) = shared.io.resume(&self.key())
            && let Some(subscriptions) = self.read(&text, &readings, &shared.job)
        {
            (self.subscriptions, self.written) = (subscriptions, text);
        }
        for subscription in &mut self.subscriptions {
            subscription.make_plan(&readings, &shared.job);
            watermarks::resume(subscription, &shared.io, &mut readings);
            let Some(position) = shared.io.resume(&subscription.key) else { continue };
            if !subscription.resume(&position) {
                // Other items than these: it is taken over only to be deleted.
                subscription.plan = 0;
            } else if let Some(failures) = shared.io.resume(&subscription.failures_key()) {
                subscription.resume_failures(&failures, &shared.job);
            }
        }
        let prefix = format!("s{}/", self.index);
        for (key, position) in shared.io.positions(&prefix) {
            // What is below it, its failures and watermarks, has another level.
            let is_subscription = !key[prefix.len()..].contains('/');
            if is_subscription && !self.subscriptions.iter().any(|subscription| subscription.key == key) {
                let mut old = Subscription::new("".into(), String::new(), None, Duration::ZERO);
                old.resume(&position);
                self.stray.push((key, old.id));
            }
        }
    }

    /// Goes on with the subscriptions there are, where the server has them.
    pub async fn take_over(&mut self, shared: &Shared, session: &Session, gaps: &Gaps) -> Result<(), Refused> {
        if let Some(guest) = self.moving.take() {
            // Which of its items are where is not known: all begin again.
            for subscription in &mut self.subscriptions {
                subscription.handles.retain(|handle| !guest.handles.contains(handle));
                if subscription.id != 0 {
                    self.stray.push((String::new(), std::mem::take(&mut subscription.id)));
                    open_gap(shared, subscription, gaps);
                }
            }
            self.subscriptions.push(guest);
        }
        let had: Vec<usize> = (0..self.subscriptions.len()).filter(|index| self.subscriptions[*index].id != 0).collect();
        let mut ids: Vec<u32> = had.iter().map(|index| self.subscriptions[*index].id).collect();
        ids.extend(self.stray.iter().map(|(_, id)| *id).filter(|id| *id != 0));
        let results = match ids.is_empty() || session.is_resumed() {
            true => vec![UaStatus::Good; ids.len()],
            false => match transfer(session, &ids).await {
                Ok(results) => results,
                Err(refused) if session.channel().closed().is_none() => vec![refused.status(); ids.len()],
                Err(refused) => return Err(refused),
            },
        };
        let mut lost = Vec::new();
        for (index, result) in had.iter().copied().zip(&results) {
            let subscription = &mut self.subscriptions[index];
            let planned = subscription.plan;
            subscription.make_plan(&shared.readings.lock(), &shared.job);
            if result.is_good() && planned == subscription.plan {
                // What the server made of the keep-alive, an earlier process knew.
                subscription.expect(shared.job.keep_alive * 3, &shared.job, session);
                shared.triggers.lock().goes_on = true;
                continue;
            }
            if result.is_good() {
                delete(session, subscription.id).await;
            } else {
                tracing::info!(part = %subscription.part, status = %result, "the server does not hand the subscription over; it is made again");
            }
            subscription.id = 0;
            lost.push(index);
        }
        for index in lost {
            open_gap(shared, &self.subscriptions[index], gaps);
        }
        for (id, _) in ids[had.len()..].iter().zip(&results[had.len()..]).filter(|(_, result)| result.is_good()) {
            delete(session, *id).await;
        }
        self.forget_strays(shared).await;
        Ok(())
    }

    async fn forget_strays(&mut self, shared: &Shared) {
        let strays = std::mem::take(&mut self.stray);
        if strays.is_empty() {
            return;
        }
        let below = |key: &str| shared.io.positions(&format!("{key}/")).into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        let keys: Vec<String> =
            strays.iter().filter(|(key, _)| !key.is_empty()).flat_map(|(key, _)| std::iter::once(key.clone()).chain(below(key))).collect();
        let moved: Vec<(&str, &[u8])> = keys.iter().map(|key| (key.as_str(), &b""[..])).collect();
        let batch = shared.io.batch().await;
        shared.io.send(batch, &moved).await;
    }

    /// Makes the subscriptions that are not there.
    pub async fn subscribe(&mut self, shared: &Shared, session: &Session) -> Result<(), Refused> {
        let mut index = 0;
        while index < self.subscriptions.len() {
            let subscription = &mut self.subscriptions[index];
            if subscription.id != 0 || subscription.is_polled {
                index += 1;
                continue;
            }
            match subscription.create(session, &shared.job).await {
                Ok(()) => {
                    self.furnish(shared, session, index).await?;
                    index += 1;
                }
                Err(refused) if refused.is_no_subscription() && session.channel().closed().is_none() => {
                    self.moving = Some(self.subscriptions.remove(index));
                    self.share(shared, session, refused).await?;
                    if let Some(rest) = self.moving.take() {
                        self.subscriptions.insert(index, rest);
                        index += 1;
                    }
                }
                Err(refused) => return Err(refused),
            }
        }
        self.write_down(shared).await;
        shared.io.status("", Status::Running);
        Ok(())
    }

    /// Monitors all that is to be on a new subscription.
    async fn furnish(&mut self, shared: &Shared, session: &Session, index: usize) -> Result<(), Refused> {
        let handles = self.subscriptions[index].handles.clone();
        let Monitored { failed, homeless } = monitor(shared, session, &mut self.subscriptions[index], &handles).await?;
        if !homeless.is_empty() && homeless.len() == handles.len() {
            // The server has no room for items anywhere.
            let subscription = &mut self.subscriptions[index];
            subscription.delete(session).await;
            subscription.handles = homeless;
            subscription.is_polled = true;
            poll(shared, subscription, "the server takes no more items", &mut self.polls, &mut self.instead);
            return Ok(());
        }
        let subscription = &mut self.subscriptions[index];
        if subscription.has_events {
            let all: Vec<usize> = (0..shared.job.events.len()).collect();
            events::watch(shared, session, subscription, &all).await?;
        }
        hear_model(shared, session, subscription).await?;
        remember(shared, subscription, failed).await;
        self.spill(shared, index, homeless);
        Ok(())
    }

    /// Gives items for which a subscription has no room others of their own, still to be made.
    fn spill(&mut self, shared: &Shared, index: usize, homeless: Vec<usize>) {
        if homeless.is_empty() {
            return;
        }
        let here = &self.subscriptions[index];
        tracing::info!(part = %here.part, items = here.handles.len(), more = homeless.len(), "the server takes no more items on this subscription; the others get another");
        let mut by_group: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        {
            let readings = shared.readings.lock();
            for handle in homeless {
                by_group.entry(readings.item(handle).group).or_default().push(handle);
            }
        }
        for (group, handles) in by_group {
            self.add(&shared.job, group, handles);
            let home = self.subscriptions.last().map(|subscription| subscription.key.clone()).unwrap_or_default();
            let is_taken = |key: &String| self.subscriptions.iter().any(|subscription| subscription.key == *key);
            let key = (1..).map(|number: usize| format!("{home}+{number}")).find(|key| !is_taken(key));
            if let (Some(subscription), Some(key)) = (self.subscriptions.last_mut(), key) {
                subscription.key = key;
            }
        }
    }

    /// Puts what moves on other subscriptions. What has no place there either stays.
    async fn share(&mut self, shared: &Shared, session: &Session, refused: Refused) -> Result<(), Refused> {
        let Some(guest) = &mut self.moving else { return Ok(()) };
        let mut hosts: Vec<&mut Subscription> = self.subscriptions.iter_mut().filter(|host| host.id != 0 && !host.is_full).collect();
        // One that publishes as often, or a little more often; else the fastest.
        hosts.sort_by_key(|host| {
            let is_slower = host.every > guest.every;
            (is_slower, if is_slower { host.every } else { guest.every - host.every })
        });
        for host in hosts {
            tracing::info!(part = %guest.part, with = %host.part, every = ?host.every, "the server makes no more subscriptions; this one is shared");
            if std::mem::take(&mut guest.has_events) {
                host.has_events = true;
                let all: Vec<usize> = (0..shared.job.events.len()).collect();
                events::watch(shared, session, host, &all).await?;
            }
            for (group, part) in guest.groups.iter().zip(&guest.parts) {
                if !host.groups.contains(group) {
                    host.groups.push(*group);
                    host.parts.push(part.clone());
                }
            }
            host.handles.extend(&guest.handles);
            let Monitored { failed, homeless } = monitor(shared, session, host, &guest.handles).await?;
            hear_model(shared, session, host).await?;
            remember(shared, host, failed).await;
            guest.handles = homeless;
            if guest.handles.is_empty() {
                self.moving = None;
                return Ok(());
            }
        }
        if guest.has_events {
            for watched in &shared.job.events {
                shared.io.status(&watched.part, Status::Degraded(format!("the server makes no subscription for events: {refused}")));
            }
        }
        if guest.groups.iter().any(|group| triggers(&shared.job, *group)) {
            return Err(refused);
        }
        guest.is_polled = true;
        poll(shared, guest, &format!("the server makes no more subscriptions ({refused})"), &mut self.polls, &mut self.instead);
        Ok(())
    }

    /// The server's nodes changed: those that came are monitored, those that went are not any more.
    pub async fn change(&mut self, shared: &Shared, session: &Session, group: usize, new: &[usize], gone: &[usize]) -> Result<(), Refused> {
        let mut spilt = None;
        for (index, subscription) in self.subscriptions.iter_mut().enumerate() {
            if subscription.id == 0 || !subscription.groups.contains(&group) {
                continue;
            }
            subscription.forget(session, gone).await?;
            let new: Vec<usize> = new.iter().copied().filter(|handle| subscription.handles.contains(handle)).collect();
            let Monitored { failed, homeless } = monitor(shared, session, subscription, &new).await?;
            remember(shared, subscription, failed).await;
            if !homeless.is_empty() {
                spilt = Some((index, homeless));
            }
        }
        if let Some((index, homeless)) = spilt {
            self.spill(shared, index, homeless);
        }
        Ok(())
    }

    /// Whether every group has a subscription of its own, and nothing else is there.
    fn is_plain(&self) -> bool {
        self.subscriptions.iter().all(|one| one.groups.len() + usize::from(one.has_events) == 1 && !one.key.contains('+'))
    }

    async fn write_down(&mut self, shared: &Shared) {
        let mut text = String::new();
        if !self.is_plain() {
            for subscription in &self.subscriptions {
                let events = if subscription.has_events { "e" } else { "-" };
                text += &format!("{} {} {events}\n", subscription.key, ranges(&subscription.handles));
            }
        }
        if text.as_bytes() != self.written {
            self.written = text.into_bytes();
            let batch = shared.io.batch().await;
            shared.io.send(batch, &[(&self.key(), &self.written)]).await;
        }
    }

    /// The subscriptions that an earlier process had. `None`: it had other items.
    fn read(&self, text: &[u8], readings: &Readings, job: &CompiledSource) -> Option<Vec<Subscription>> {
        let mut read = Vec::new();
        for line in std::str::from_utf8(text).ok()?.lines() {
            let mut words = line.split(' ');
            let (key, handles, events) = (words.next()?, parse(words.next()?, readings.len())?, words.next()? == "e");
            let home = key.strip_prefix(&format!("s{}/", self.index))?;
            let group = match home.split('+').next()? {
                "events" => None,
                number => Some(number.parse::<usize>().ok()?.checked_sub(1)?),
            };
            if group.is_some_and(|group| job.polled.groups.get(group).is_none_or(|group| !is_subscribed(group))) {
                return None;
            }
            let (part, every) = match group {
                Some(group) => (job.polled.groups[group].part.clone(), job.polled.groups[group].every),
                None => ("events".into(), Duration::from_millis(500)),
            };
            let mut subscription = Subscription::new(part, key.to_owned(), group, every);
            for handle in &handles {
                let group = readings.item(*handle).group;
                if !subscription.groups.contains(&group) {
                    subscription.groups.push(group);
                    subscription.parts.push(job.polled.groups[group].part.clone());
                }
            }
            subscription.has_events = events;
            read.push(subscription.with(handles));
        }
        let all = |subscriptions: &[Subscription]| {
            let mut handles: Vec<usize> = subscriptions.iter().flat_map(|subscription| subscription.handles.iter().copied()).collect();
            handles.sort_unstable();
            (handles, subscriptions.iter().filter(|subscription| subscription.has_events).count())
        };
        (!read.is_empty() && all(&read) == all(&self.subscriptions)).then_some(read)
    }
}

/// Polls the items of a subscription that can't be made.
fn poll(shared: &Shared, subscription: &Subscription, why: &str, polls: &mut Vec<Polling>, instead: &mut BTreeMap<usize, String>) {
    let readings = shared.readings.lock();
    for (group, part) in subscription.groups.iter().zip(&subscription.parts) {
        let handles: Vec<usize> = subscription.handles.iter().copied().filter(|handle| readings.item(*handle).group == *group).collect();
        let (items, every) = (handles.len(), shared.job.polled.groups[*group].every);
        let what = format!(
            "{items} items are polled every {every:?}, so that a change between two polls is not seen: {why}; put groups together, raise the server's \
             limit, or set `sessions: 2`"
        );
        tracing::warn!(%part, "polled instead of subscribed: {what}");
        shared.io.status(part, Status::Degraded(what.clone()));
        instead.insert(*group, what);
        polls.push(Polling { group: *group, handles });
    }
}

/// Monitors items on a subscription that is there, and fixes what it is about.
async fn monitor(shared: &Shared, session: &Session, subscription: &mut Subscription, handles: &[usize]) -> Result<Monitored, Refused> {
    let nodes = shared.resolve(session, handles).await?;
    let items = items(&shared.readings.lock(), handles, nodes);
    let monitored = subscription.monitor(session, &shared.job, &items).await?;
    subscription.make_plan(&shared.readings.lock(), &shared.job);
    Ok(monitored)
}

/// Where a group of the subscription is browsed, the server is asked to say when its nodes change.
async fn hear_model(shared: &Shared, session: &Session, subscription: &mut Subscription) -> Result<(), Refused> {
    let is_browsed = |group: &usize| shared.job.polled.groups[*group].own.browse.is_some();
    if !subscription.hears_model && subscription.groups.iter().any(is_browsed) {
        subscription.hears_model = true;
        events::watch_model(session, subscription).await?;
    }
    Ok(())
}

/// Whether a tag of the group is what a trigger waits for: a poll might miss it.
fn triggers(job: &CompiledSource, group: usize) -> bool {
    job.polled.groups.iter().filter_map(|other| other.trigger.as_ref()).any(|trigger| job.polled.tags[trigger.tag].group == group)
}

/// A subscription that was just made, or has other items now, for a process that takes this one's place; and what of it can't be read.
async fn remember(shared: &Shared, subscription: &Subscription, failed: Vec<(usize, StatusCode)>) {
    let mut batch = shared.io.batch().await;
    {
        let mut readings = shared.readings.lock();
        for (handle, status) in failed {
            readings.bad(handle, status, &mut batch);
        }
    }
    let (position, failures) = (subscription.position(), subscription.failures());
    shared.io.send(batch, &[(&subscription.key, position.as_bytes()), (&subscription.failures_key(), failures.as_bytes())]).await;
}

/// `0-999,1200`; of none `-`.
fn ranges(handles: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for handle in handles {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *handle => *last = *handle,
            _ => runs.push((*handle, *handle)),
        }
    }
    let text: Vec<String> =
        runs.iter().map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") }).collect();
    if text.is_empty() { "-".to_owned() } else { text.join(",") }
}

/// `None`: not what [`ranges`] writes, or a handle that is not below `most` or comes twice.
fn parse(text: &str, most: usize) -> Option<Vec<usize>> {
    let mut handles = Vec::new();
    if text == "-" {
        return Some(handles);
    }
    for run in text.split(',') {
        let (first, last) = run.split_once('-').unwrap_or((run, run));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= most || handles.len() > most {
            return None;
        }
        handles.extend(first..=last);
    }
    let distinct: HashSet<&usize> = handles.iter().collect();
    (distinct.len() == handles.len()).then_some(handles)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_written_as_ranges_and_read_again() {
        for handles in [vec![], vec![7], vec![0, 1, 2, 5, 7, 8, 3]] {
            assert_eq!(parse(&ranges(&handles), 9), Some(handles.clone()), "{handles:?}");
        }
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "0-2,5,7-8");
        for wrong in ["", "0-9", "3-1", "1,1", "a", "0-99999999999", "1-"] {
            assert_eq!(parse(wrong, 9), None, "{wrong}");
        }
    }
}
