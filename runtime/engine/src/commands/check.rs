//! May a command be carried out? Everything that can be known without the device.

use super::request::{Request, value_of};
use super::{Allowed, CommandRules};
use millrace_config::Reason;
use millrace_contract::{CommandValue, Condition, Must};
use millrace_schemas::{Micros, TagId};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A command that does not say when it expires lives this long after its Kafka timestamp.
pub const EXPIRES_AFTER: Duration = Duration::from_secs(10);
/// Bytes of an id.
const LONGEST_ID: usize = 200;

/// What is to be carried out.
#[derive(Debug)]
pub struct Order {
    pub tag: TagId,
    pub value: CommandValue,
    pub expires: Micros,
    pub conditions: Vec<Condition>,
}

/// Why it is not.
#[derive(Clone, PartialEq, Debug)]
pub enum No {
    Refused(String),
    Expired,
}

impl From<Reason> for No {
    fn from(reason: Reason) -> Self {
        Self::Refused(reason.into())
    }
}

/// What is known of the source's tags.
pub trait Tags {
    /// The tag of a path, with or without the site in front.
    fn tag_of(&self, path: &str) -> Option<TagId>;
    /// Its last good value in engineering units.
    fn last(&self, tag: TagId) -> Option<CommandValue>;
}

/// Judges a command. `times`: when each tag was last written, for the rate.
pub fn check(
    rules: &CommandRules,
    request: &Request,
    default_expiry: Micros,
    tags: &dyn Tags,
    times: &mut HashMap<String, Instant>,
) -> Result<Order, No> {
    if request.id.is_empty() || request.id.len() > LONGEST_ID {
        return Err(No::Refused(format!("an id has 1 to {LONGEST_ID} bytes, not {}", request.id.len())));
    }
    let full = |name: &str| millrace_contract::plugin::tag_path(&rules.at, name);
    let find = |name: &str| tags.tag_of(&full(name)).or_else(|| tags.tag_of(name));
    let wanted = find(&request.tag);
    let is_meant = |name: &str| *name == request.tag || (wanted.is_some() && find(name) == wanted);
    let Some((name, allowed)) = rules.allow.iter().find(|(name, _)| is_meant(name)) else {
        return Err(No::Refused(format!("tag {} is not allowed; `allow` of sink {} names the tags", request.tag, rules.name)));
    };
    let tag = find(name).ok_or_else(|| Reason::from(format!("source {} has no tag {name}", rules.source)))?;
    let expires = request.expires(default_expiry)?;
    if expires <= Micros::now() {
        return Err(No::Expired);
    }
    let value = value_of(&request.value)?;
    let value = match &value {
        CommandValue::Text(word) if !allowed.words.is_empty() => match allowed.words.get(word) {
            Some(number) => number.clone(),
            None => {
                let known: Vec<&str> = allowed.words.keys().map(String::as_str).collect();
                return Err(No::Refused(format!("{value} is none of the tag's `values`: {}", known.join(", "))));
            }
        },
        _ => value,
    };
    in_bounds(&value, allowed)?;
    let mut conditions = conditions(name, tag, &value, allowed, find)?;
    if !rules.reads_conditions {
        for condition in conditions.drain(..) {
            condition.judge(tags.last(condition.tag).as_ref())?;
        }
    }
    if let Some(rate) = allowed.bounds.rate {
        let distance = Duration::from_secs_f64(1.0 / rate.0.max(1e-9));
        let now = Instant::now();
        if times.get(name).is_some_and(|at| now.duration_since(*at) < distance) {
            return Err(No::Refused(format!("more often than {} times a second", rate.0)));
        }
        times.insert(name.clone(), now);
    }
    Ok(Order { tag, value, expires, conditions })
}

fn in_bounds(value: &CommandValue, allowed: &Allowed) -> Result<(), Reason> {
    let (min, max) = (allowed.bounds.min, allowed.bounds.max);
    if let CommandValue::List(list) = value {
        return list.iter().try_for_each(|value| in_bounds(value, allowed));
    }
    if min.is_none() && max.is_none() {
        return Ok(());
    }
    let bound = |b: Option<f64>| b.map_or("any".to_owned(), |b| b.to_string());
    let Some(number) = value.as_f64() else {
        return Err(format!("value {value} is no number, and only {}..{} is allowed", bound(min), bound(max)).into());
    };
    // Not a number is not inside.
    let is_inside = min.is_none_or(|min| number >= min) && max.is_none_or(|max| number <= max);
    if is_inside { Ok(()) } else { Err(format!("value {value} is outside {}..{}", bound(min), bound(max)).into()) }
}

/// What must hold right before it is carried out.
fn conditions(
    name: &str,
    tag: TagId,
    value: &CommandValue,
    allowed: &Allowed,
    find: impl Fn(&str) -> Option<TagId>,
) -> Result<Vec<Condition>, Reason> {
    let mut conditions = Vec::new();
    for (other, wanted) in &allowed.only_if {
        let tag = find(other).ok_or_else(|| format!("{other} must be {wanted}, and the source has no such tag"))?;
        conditions.push(Condition { tag, name: other.clone(), must: Must::Be(wanted.clone()) });
    }
    if let Some(step) = allowed.bounds.step {
        let from = value.as_f64().ok_or_else(|| format!("value {value} is no number, and only steps up to {step} are allowed"))?;
        conditions.push(Condition { tag, name: name.to_owned(), must: Must::BeWithin { step, from } });
    }
    Ok(conditions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::Allow;
    use serde_json::json;
    use std::collections::BTreeMap;

    struct Oven;

    impl Tags for Oven {
        fn tag_of(&self, path: &str) -> Option<TagId> {
            let known = ["paint/oven/setpoint", "paint/oven/burner", "paint/oven/mode", "hall/m01/limit"];
            known.iter().position(|known| *known == path || path == format!("acme/detroit/{known}")).map(|n| TagId(n as u32))
        }

        fn last(&self, tag: TagId) -> Option<CommandValue> {
            [CommandValue::Double(170.0), CommandValue::Bool(true), CommandValue::Text("auto".into())].get(tag.0 as usize).cloned()
        }
    }

    fn rules(allow: &[(&str, Allowed)]) -> CommandRules {
        CommandRules {
            name: "setpoints".into(),
            source: "oven".into(),
            at: "paint/oven".into(),
            topics: Vec::new(),
            group: String::new(),
            reply: None,
            allow: allow.iter().map(|(name, allowed)| ((*name).to_owned(), allowed.clone())).collect(),
            reads_conditions: false,
        }
    }

    fn bounded() -> Allowed {
        Allowed { bounds: Allow { min: Some(0.0), max: Some(300.0), ..Allow::default() }, ..Allowed::default() }
    }

    fn ask(rules: &CommandRules, tag: &str, value: serde_json::Value) -> Result<Order, No> {
        let request = Request { id: "1".into(), tag: tag.into(), value, expires: None, by: None };
        check(rules, &request, Micros(Micros::now().0 + 1_000_000), &Oven, &mut HashMap::new())
    }

    fn why(outcome: Result<Order, No>) -> String {
        match outcome {
            Err(No::Refused(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_tag_is_named_below_the_source_below_the_site_or_whole_and_no_other_is_taken_for_it() {
        let rules = rules(&[("setpoint", bounded()), ("hall/m01/limit", bounded())]);
        for name in ["setpoint", "paint/oven/setpoint", "acme/detroit/paint/oven/setpoint"] {
            assert_eq!(ask(&rules, name, json!(5)).unwrap().tag, TagId(0), "{name}");
        }
        assert_eq!(ask(&rules, "acme/detroit/hall/m01/limit", json!(5)).unwrap().tag, TagId(3));
        for name in ["burner", "x/paint/oven/setpoint", "point", ""] {
            assert!(why(ask(&rules, name, json!(5))).contains("is not allowed"), "{name}");
        }
    }

    #[test]
    fn what_is_outside_or_no_number_is_refused_whatever_its_type() {
        let rules = rules(&[("setpoint", bounded())]);
        assert_eq!(why(ask(&rules, "setpoint", json!(301))), "value 301 is outside 0..300");
        assert_eq!(why(ask(&rules, "setpoint", json!([1, -1]))), "value -1 is outside 0..300");
        for value in [json!("9999"), json!(true), json!("NaN")] {
            assert!(why(ask(&rules, "setpoint", value)).contains("is no number, and only 0..300 is allowed"));
        }
        assert!(in_bounds(&CommandValue::Double(f64::NAN), &bounded()).is_err());
    }

    #[test]
    fn a_step_and_conditions_hold_or_the_command_is_refused_or_the_source_gets_them() {
        let allow = |only_if: &[(&str, CommandValue)]| Allowed {
            bounds: Allow { step: Some(20.0), ..Allow::default() },
            only_if: only_if.iter().map(|(name, wanted)| ((*name).to_owned(), wanted.clone())).collect(),
            ..Allowed::default()
        };
        let with = |only_if: &[(&str, CommandValue)]| rules(&[("setpoint", allow(only_if))]);
        let (burner, auto) = (("burner", CommandValue::Bool(true)), ("mode", CommandValue::Text("auto".into())));
        assert!(ask(&with(&[burner.clone(), auto.clone()]), "setpoint", json!(185)).is_ok());
        assert_eq!(why(ask(&with(&[]), "setpoint", json!(191))), "a step from 170 to 191 is larger than 20");
        let off = ("burner", CommandValue::Bool(false));
        assert_eq!(why(ask(&with(&[off]), "setpoint", json!(185))), "burner must be false, and is true");
        let nothing = ("lid", CommandValue::Bool(false));
        assert!(why(ask(&with(&[nothing]), "setpoint", json!(185))).contains("no such tag"));
        let fresh = CommandRules { reads_conditions: true, ..with(&[burner, auto]) };
        assert_eq!(ask(&fresh, "setpoint", json!(1_000)).unwrap().conditions.len(), 3);
    }

    #[test]
    fn a_word_stands_for_the_number_that_the_tag_gives_it() {
        let words = BTreeMap::from([("running".to_owned(), CommandValue::Int(1)), ("stopped".to_owned(), CommandValue::Int(0))]);
        let rules = rules(&[("setpoint", Allowed { words, ..bounded() })]);
        assert_eq!(ask(&rules, "setpoint", json!("running")).unwrap().value, CommandValue::Int(1));
        assert_eq!(why(ask(&rules, "setpoint", json!("dancing"))), "`dancing` is none of the tag's `values`: running, stopped");
    }

    #[test]
    fn what_comes_late_too_often_or_without_an_id_is_not_carried_out() {
        let rate = Allowed { bounds: Allow { rate: Some(millrace_config::units::Rate(1.0)), ..Allow::default() }, ..Allowed::default() };
        let rules = rules(&[("setpoint", rate)]);
        let mut times = HashMap::new();
        let request = |id: &str| Request { id: id.into(), tag: "setpoint".into(), value: json!(1), expires: None, by: None };
        let soon = Micros(Micros::now().0 + 1_000_000);
        assert!(check(&rules, &request("1"), soon, &Oven, &mut times).is_ok());
        assert!(why(check(&rules, &request("2"), soon, &Oven, &mut times)).contains("more often than 1 times a second"));
        assert!(matches!(check(&rules, &request("3"), Micros(1), &Oven, &mut times), Err(No::Expired)));
        assert!(why(check(&rules, &request(""), soon, &Oven, &mut times)).contains("an id has"));
        assert!(why(check(&rules, &request(&"x".repeat(201)), soon, &Oven, &mut times)).contains("an id has"));
    }
}
