//! This machine's clock against those of others: NTP, the schema registry, Kafka's newest records, and the devices of a running service.

use crate::ask::Service;
use crate::doctor::finding::Finding;
use crate::say;
use millrace_config::factory::Factory;
use millrace_engine::compile::CompiledFactory;
use millrace_kafka::{Admin, Settings};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const PATIENCE: Duration = Duration::from_secs(5);
/// Clocks may be so far apart.
const APART_MAX: i64 = 5;
const SET_IT: &str = "let chrony or timesyncd set it: timestamps that are far off are refused by Kafka and by certificates";

/// What systemd's timesyncd touches when it has set the clock.
const SYNCHRONIZED: &str = "/run/systemd/timesync/synchronized";

/// Every clock that can be asked.
pub fn look(factory: &Factory, works: Option<&CompiledFactory>, settings: &Settings, config: &[PathBuf]) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(ntp());
    findings.extend(registry(factory));
    findings.extend(works.and_then(|works| kafka(works, settings)));
    findings.extend(devices(config));
    findings
}

/// Whether the clock is set by NTP, where the system says so.
fn ntp() -> Option<Finding> {
    let asked = Command::new("timedatectl").args(["show", "--property=NTP", "--property=NTPSynchronized"]).output().ok();
    let said = asked.filter(|output| output.status.success()).map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let (is_on, is_set) = match said.as_deref().and_then(synchronized) {
        Some(told) => told,
        None if Path::new(SYNCHRONIZED).exists() => (true, true),
        // A container, another system: nobody says anything.
        None => return None,
    };
    let says = match (is_on, is_set) {
        (_, true) => "the clock is set by NTP",
        (true, false) => "NTP is switched on, and has not set the clock yet",
        (false, false) => "nothing sets the clock",
    };
    Some(Finding { what: "clock (NTP)".into(), ok: is_set, says: says.into(), help: SET_IT.into() })
}

/// `NTP=yes`, `NTPSynchronized=no`: whether it is switched on, and has set the clock.
fn synchronized(said: &str) -> Option<(bool, bool)> {
    let value = |key: &str| said.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    Some((value("NTP").is_some_and(|value| value == "yes"), value("NTPSynchronized")? == "yes"))
}

/// How far this machine's clock is from that of a schema registry, which says its own.
fn registry(factory: &Factory) -> Option<Finding> {
    let registry = &factory.schemas.registry.value;
    let url = registry.split(',').map(str::trim).find(|url| url.starts_with("http"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let answer = runtime.block_on(async {
        let client = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build().ok()?;
        client.get(url).send().await.ok()?.headers().get("date")?.to_str().ok().map(str::to_owned)
    });
    // Who does not say it is not asked; that it is not reached was said before.
    let theirs = answer.as_deref().and_then(|date| jiff::fmt::rfc2822::parse(date).ok())?;
    let apart = (jiff::Timestamp::now().as_second() - theirs.timestamp().as_second()).abs();
    let says = format!("{apart} s apart from the schema registry's");
    Some(Finding { what: "clock".into(), ok: apart <= APART_MAX, says, help: SET_IT.into() })
}

/// Kafka tells nobody its time; but its newest records are not of the future, unless a clock is wrong: this one, or that of who wrote them (which is
/// the broker itself in topics with `LogAppendTime`).
fn kafka(works: &CompiledFactory, settings: &Settings) -> Option<Finding> {
    let topics = works.topics.all();
    let mut names: Vec<&str> = topics.iter().map(|topic| &*topic.name).collect();
    names.push(millrace_engine::cursors::TOPIC);
    let newest = Admin::new(settings, PATIENCE).and_then(|admin| admin.newest(&names)).ok()?;
    let (at, name) = newest.into_iter().zip(names).filter_map(|(at, name)| Some((at?, name))).max()?;
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()?;
    let ahead = (at - now) / 1000;
    Some(Finding {
        what: "clock against Kafka".into(),
        ok: ahead <= APART_MAX,
        says: match ahead {
            ahead if ahead > APART_MAX => {
                format!("the newest record of {name} is of {}, {ahead} s ahead of this clock", say::time(at.saturating_mul(1000)))
            }
            _ => format!("no record is of the future; the newest, in {name}, is of {}", say::time(at.saturating_mul(1000))),
        },
        help: format!("this clock is behind, or that of who wrote it is ahead: {SET_IT}"),
    })
}

/// Devices whose times a running service did not believe.
fn devices(config: &[PathBuf]) -> Vec<Finding> {
    let Ok(status) = Service::of(config.to_vec()).open().and_then(|asking| asking.get("/status", &[])) else { return Vec::new() };
    let sources = status["sources"].as_object().into_iter().flatten();
    let refused = sources.filter_map(|(name, source)| Some((name, source["ledger"]["clock_refused"].as_u64().filter(|count| *count > 0)?)));
    let finding = |(name, count): (&String, u64)| Finding {
        what: format!("clock of source {name}"),
        ok: false,
        says: format!("{count} times of its devices were too far from this clock, and the time of reading was taken instead"),
        help: "set the device's clock (NTP, its project), or say how far it may be off: `clock: {behind, ahead}`".into(),
    };
    refused.map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_of_ntp_is_understood() {
        assert_eq!(synchronized("NTP=yes\nNTPSynchronized=no\n"), Some((true, false)));
        assert_eq!(synchronized("NTPSynchronized=yes\n"), Some((false, true)));
        assert_eq!(synchronized("System has not been booted with systemd"), None);
    }
}
