//! What a topic is called at the target, what is never copied, and how a loop is noticed.

use millrace_config::{Place, Problems};
use millrace_contract::is_meant;
use millrace_kit::Template;

/// The header that says where a record was written first: `ORIGIN/TOPIC/PARTITION/OFFSET`.
pub const ORIGIN: &str = "millrace.origin";
/// Where positions are kept at the target. One compacted topic for all sinks that write there.
pub const POSITIONS: &str = "millrace.replication";

const NAMES: [&str; 3] = ["topic", "site", "origin"];

/// Names of topics at the target.
#[derive(Clone, Debug, PartialEq)]
pub struct Names {
    template: Option<Template>,
    /// `/` of the site as `.`.
    site: String,
    /// What the factory's cluster is called in headers, positions and `{origin}`.
    pub origin: String,
    /// What the target is called by those who copy from there; records that came from it do not go back.
    pub target: Option<String>,
    /// What stays at home by the user's word; names or patterns.
    pub stay_home: Vec<String>,
}

impl Names {
    /// `rename`: a template, and where it stands; left out, topics keep their names.
    pub fn parse(
        rename: Option<(&str, Place)>,
        site: &str,
        origin: Option<String>,
        target: Option<String>,
        problems: &mut Problems,
    ) -> Option<Self> {
        let site = site.replace('/', ".");
        let template = match rename {
            None => None,
            Some((text, place)) => {
                let is_known = |name: &str| {
                    if NAMES.contains(&name) { Ok(()) } else { Err(format!("unknown; there are `{{{}}}`", NAMES.join("}`, `{")).into()) }
                };
                let template = Template::parse(text, place, problems, is_known)?;
                if !template.names().any(|name| name == "topic") {
                    problems
                        .error(place, format!("`rename: {text}` gives every topic the same name"))
                        .help("add `{topic}`, as in `{site}.{topic}`");
                    return None;
                }
                Some(template)
            }
        };
        Some(Self { template, origin: origin.unwrap_or_else(|| site.clone()), site, target, stay_home: Vec::new() })
    }

    /// The same, but for what stays at home.
    pub fn with_home(self, stay_home: Vec<String>) -> Self {
        Self { stay_home, ..self }
    }

    /// Whether a topic keeps its name. Then only the header tells a copy from an original.
    pub fn keeps(&self) -> bool {
        self.template.is_none()
    }

    /// The topic's name at the target.
    pub fn at_target(&self, topic: &str) -> String {
        let Some(template) = &self.template else { return topic.to_owned() };
        let mut name = Vec::new();
        let fill = |what: &str, out: &mut Vec<u8>| -> Result<(), std::convert::Infallible> {
            let text = match what {
                "topic" => topic,
                "site" => &self.site,
                _ => &self.origin,
            };
            out.extend_from_slice(text.as_bytes());
            Ok(())
        };
        let Ok(()) = template.render(&mut name, fill);
        String::from_utf8_lossy(&name).into_owned()
    }

    /// Whether a topic stays at home whatever a pattern says: Kafka's and our own bookkeeping, copies that came from the target, and what must not leave.
    pub fn stays(&self, topic: &str) -> bool {
        is_internal(topic)
            || self.stays_by_word(topic)
            || self.target.as_deref().is_some_and(|target| topic.strip_prefix(target).is_some_and(|rest| rest.starts_with('.')))
    }

    /// Whether a topic must not leave, nor its dead letters.
    pub fn stays_by_word(&self, topic: &str) -> bool {
        self.stay_home.iter().any(|home| is_meant(home, topic))
    }

    /// Whether a record with this `millrace.origin` was written first at the target: a copy of it would go round forever.
    pub fn came_from_target(&self, origin: &[u8]) -> bool {
        let Some(target) = &self.target else { return false };
        origin.strip_prefix(target.as_bytes()).is_some_and(|rest| rest.first() == Some(&b'/'))
    }
}

/// Topics that mean something only in their own cluster.
fn is_internal(topic: &str) -> bool {
    const OURS: [&str; 5] = ["millrace.cursors", POSITIONS, "millrace.assign", "millrace.status", "millrace.audit"];
    topic.starts_with("__")
        || topic == "_schemas"
        || OURS.contains(&topic)
        || topic.ends_with(".internal")
        || topic.ends_with("-internal")
        || topic.ends_with(".replica")
        || topic == "heartbeats"
        || topic.ends_with(".heartbeats")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(rename: Option<&str>, target: Option<&str>) -> Result<Names, String> {
        let mut problems = Problems::new();
        let names = Names::parse(rename.map(|r| (r, Place::default())), "acme/detroit", None, target.map(Into::into), &mut problems);
        names.ok_or_else(|| problems.iter().map(|p| p.message.clone()).collect())
    }

    #[test]
    fn topics_are_renamed_or_keep_their_names() {
        let renamed = names(Some("{site}.{topic}"), None).unwrap();
        assert_eq!(renamed.at_target("telemetry"), "acme.detroit.telemetry");
        assert!(!renamed.keeps());
        let same = names(None, None).unwrap();
        assert_eq!((same.at_target("telemetry").as_str(), same.keeps()), ("telemetry", true));
        assert!(names(Some("cloud"), None).unwrap_err().contains("the same name"));
        assert!(names(Some("{tag}.{topic}"), None).unwrap_err().contains("unknown"));
    }

    #[test]
    fn bookkeeping_and_what_came_from_the_target_stays_at_home() {
        let names = names(None, Some("cloud")).unwrap();
        for stays in ["__consumer_offsets", "millrace.cursors", "mm2-offsets.west.internal", "cloud.orders", "_schemas", "a.heartbeats"] {
            assert!(names.stays(stays), "{stays}");
        }
        for goes in ["telemetry", "millrace.tags", "cloudy.orders", "cloud"] {
            assert!(!names.stays(goes), "{goes}");
        }
        let private = names.clone().with_home(vec!["payroll*".into()]);
        assert!(private.stays("payroll-2026") && !private.stays("orders") && !names.stays("payroll-2026"));
        assert!(names.came_from_target(b"cloud/orders/0/17"));
        assert!(!names.came_from_target(b"cloudy/orders/0/17"));
        assert!(!names.came_from_target(b"acme.detroit/orders/0/17"));
    }
}
