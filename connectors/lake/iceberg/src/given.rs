//! What a catalog gives for the store of a table: how it is reached, and credentials that end.
//!
//! ```text
//! GET config           defaults, overrides ─┐
//! GET table, with X-Iceberg-Access-Delegation: config, storage-credentials (the longest prefix of the table's location) ─▶ Given
//!                                                                            renewed by asking again, before it ends
//! ```

use serde_json::Value;
use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// So long before they end, credentials are asked for again; of those that live shorter, at half their time.
const EARLY: Duration = Duration::from_secs(300);
/// Those that say no end are asked for again after this.
const UNSAID: Duration = Duration::from_secs(1800);

/// The texts of a map.
pub(crate) fn texts(map: &Value) -> impl Iterator<Item = (String, String)> {
    map.as_object().into_iter().flatten().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
}

/// Credentials of one place in a store.
pub(crate) struct OfPlace {
    prefix: String,
    config: HashMap<String, String>,
}

impl OfPlace {
    pub fn read(place: &Value) -> Option<Self> {
        Some(Self { prefix: place["prefix"].as_str()?.to_owned(), config: texts(&place["config"]).collect() })
    }
}

/// What a catalog said, by Iceberg's own names: `s3.access-key-id`, `client.region`.
#[derive(Clone, Default)]
pub struct Given {
    properties: HashMap<String, String>,
    renew: Option<Instant>,
    ends: Option<Instant>,
}

/// Names without values: some of them are secret.
impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.properties.keys()).finish()
    }
}

impl Given {
    /// What holds for a table at that location, as of now.
    pub(crate) fn new(mut properties: HashMap<String, String>, places: Vec<OfPlace>, location: &str) -> Self {
        let nearest = places.into_iter().filter(|place| location.starts_with(&place.prefix)).max_by_key(|place| place.prefix.len());
        properties.extend(nearest.map(|place| place.config).unwrap_or_default());
        let now = Instant::now();
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ends = properties
            .iter()
            .filter(|(name, _)| name.contains("expires-at"))
            .filter_map(|(_, at)| at.parse().ok().map(Duration::from_millis))
            .min();
        // One that ended already is asked for again at once.
        let left = ends.map(|ends| ends.saturating_sub(since));
        let rest = left.map_or(UNSAID, |left| left.saturating_sub(EARLY).max(left / 2));
        Self { properties, renew: now.checked_add(rest), ends: left.and_then(|left| now.checked_add(left)) }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.properties.get(name).map(String::as_str)
    }

    /// The first of those that begin so, and its name's rest.
    pub fn begins_with(&self, prefix: &str) -> impl Iterator<Item = (&str, &str)> {
        self.properties.iter().filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?, value.as_str())))
    }

    /// It is time to ask again.
    pub(crate) fn is_old(&self) -> bool {
        self.renew.is_some_and(|renew| renew <= Instant::now())
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ends.is_some_and(|ends| ends <= Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(properties: &[(&str, &str)], places: &str) -> Given {
        let properties = properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let places: Vec<Value> = serde_json::from_str(places).unwrap();
        Given::new(properties, places.iter().filter_map(OfPlace::read).collect(), "s3://plant/lake/telemetry")
    }

    #[test]
    fn the_credentials_of_the_nearest_place_hold() {
        let given = of(
            &[("client.region", "eu-central-1"), ("s3.access-key-id", "of the table")],
            r#"[{"prefix": "s3", "config": {"s3.access-key-id": "of all"}},
                {"prefix": "s3://plant/lake", "config": {"s3.access-key-id": "of the lake"}},
                {"prefix": "s3://plant/other/and/longer", "config": {"s3.access-key-id": "of another"}}]"#,
        );
        assert_eq!((given.get("s3.access-key-id"), given.get("client.region")), (Some("of the lake"), Some("eu-central-1")));
        assert_eq!(of(&[("a.b", "1")], "[]").begins_with("a.").collect::<Vec<_>>(), [("b", "1")]);
        assert_eq!(format!("{:?}", of(&[("s3.secret-access-key", "hush")], "[]")), r#"{"s3.secret-access-key"}"#);
    }

    #[test]
    fn credentials_are_old_before_they_end() {
        let in_seconds = |seconds: i64| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
            of(&[("s3.session-token-expires-at-ms", &(now + seconds * 1_000).to_string())], "[]")
        };
        let rest = |given: &Given| given.renew.unwrap().saturating_duration_since(Instant::now()).as_secs();
        assert!((3_290..=3_300).contains(&rest(&in_seconds(3_600))));
        assert!((95..=100).contains(&rest(&in_seconds(200))), "a short life is halved");
        assert!(in_seconds(-5).is_old() && in_seconds(-5).has_ended());
        let unsaid = of(&[], "[]");
        assert!(!unsaid.is_old() && !unsaid.has_ended() && rest(&unsaid) > 1_700);
    }
}
