//! What the simulated ERP knows: orders in the order of their changes, and the confirmations that came back.

use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};

#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    pub id: String,
    /// As SAP keeps it: 18 digits.
    pub material: String,
    /// A JSON number, or what is to be taken for one.
    pub quantity: Value,
    pub status: String,
    /// Milliseconds since 1970.
    pub modified_at: i64,
}

impl Order {
    pub fn new(id: impl Into<String>, modified_at: i64) -> Self {
        Self { id: id.into(), material: "000000000000004711".into(), quantity: json!(12.5), status: "released".into(), modified_at }
    }

    fn json(&self) -> Value {
        let at = jiff::Timestamp::from_millisecond(self.modified_at).unwrap_or_default();
        json!({
            "@odata.etag": format!("W/\"{}-{}\"", self.modified_at, self.status), "ID": self.id, "material": self.material,
            "quantity": self.quantity, "status": self.status, "modifiedAt": at.to_string(),
        })
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Confirmation {
    pub id: u64,
    pub external_id: String,
    /// As they were posted.
    pub fields: Map<String, Value>,
}

impl Confirmation {
    /// A property that is a text.
    pub fn text(&self, property: &str) -> Option<&str> {
        self.fields.get(property)?.as_str()
    }

    pub fn json(&self) -> Value {
        let mut fields = self.fields.clone();
        fields.insert("ID".into(), self.id.into());
        fields.into()
    }
}

#[derive(Debug, Default)]
pub struct Store {
    orders: BTreeMap<String, Order>,
    /// By time and id, as pages go.
    by_time: BTreeMap<(i64, String), ()>,
    /// Ids in the order of changes, the deleted ones too; the index is a delta token. Not kept: there are no delta links.
    changes: Option<Vec<(String, bool)>>,
    /// The token of the first change that is remembered.
    remembered: usize,
    pub confirmations: Vec<Confirmation>,
    /// Posts that were carried out, or answered from memory.
    pub posts: u64,
    by_request: HashMap<String, usize>,
    /// Orders that no list has, though they are there: as where others were deleted while it was read, and it is paged by counting.
    pub hidden: HashSet<String>,
    /// Questions for orders by their ids are refused.
    pub refuses_ids: bool,
}

/// Which orders are asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// Changed then or later.
    pub begin: Option<i64>,
    pub status: Option<String>,
    pub ids: Option<HashSet<String>>,
}

impl Wanted {
    /// `(status eq 'released') and ((ID eq '1') or (ID eq '2')) and modifiedAt ge ..`. `None`: a filter that is not simulated.
    pub fn parse(filter: &str) -> Option<Self> {
        let mut wanted = Self::default();
        for part in filter.split(" and ") {
            let bare = part.trim_matches(['(', ')']);
            if let Some(time) = bare.strip_prefix("modifiedAt ge ") {
                wanted.begin = Some(time.parse::<jiff::Timestamp>().ok()?.as_millisecond());
            } else if let Some(status) = bare.strip_prefix("status eq '") {
                wanted.status = Some(status.strip_suffix('\'')?.to_owned());
            } else {
                let id = |one: &str| Some(one.trim_matches(['(', ')']).strip_prefix("ID eq '")?.strip_suffix('\'')?.replace("''", "'"));
                wanted.ids = Some(part.split(" or ").map(id).collect::<Option<_>>()?);
            }
        }
        Some(wanted)
    }

    fn has(&self, order: &Order, hidden: &HashSet<String>) -> bool {
        self.begin.is_none_or(|begin| order.modified_at >= begin)
            && self.status.as_ref().is_none_or(|status| order.status == *status)
            && self.ids.as_ref().map_or_else(|| !hidden.contains(&order.id), |ids| ids.contains(&order.id))
    }
}

impl Store {
    /// From now on there are delta links.
    pub fn track_changes(&mut self) {
        self.changes.get_or_insert_default();
    }

    pub fn tracks(&self) -> bool {
        self.changes.is_some()
    }

    /// The token of now.
    pub fn token(&self) -> usize {
        self.remembered + self.changes.as_ref().map_or(0, Vec::len)
    }

    pub fn put(&mut self, order: Order) {
        if let Some(old) = self.orders.get(&order.id) {
            self.by_time.remove(&(old.modified_at, old.id.clone()));
        }
        self.by_time.insert((order.modified_at, order.id.clone()), ());
        self.log(&order.id, false);
        self.orders.insert(order.id.clone(), order);
    }

    pub fn delete(&mut self, id: &str) {
        if let Some(old) = self.orders.remove(id) {
            self.by_time.remove(&(old.modified_at, old.id));
            self.log(id, true);
        }
    }

    fn log(&mut self, id: &str, is_deleted: bool) {
        if let Some(changes) = &mut self.changes {
            changes.push((id.to_owned(), is_deleted));
        }
    }

    pub fn orders(&self) -> impl Iterator<Item = &Order> {
        self.orders.values()
    }

    pub fn count(&self, wanted: &Wanted) -> usize {
        self.orders.values().filter(|order| wanted.has(order, &self.hidden)).count()
    }

    /// A page of orders, and its last row where there are more.
    #[allow(clippy::type_complexity, reason = "rows, and where they end")]
    pub fn page(&self, wanted: &Wanted, after: Option<(i64, String)>, size: usize) -> (Vec<Value>, Option<(i64, String)>) {
        let from = after.clone().unwrap_or((wanted.begin.unwrap_or(i64::MIN), String::new()));
        let is_wanted = |at: &&(i64, String)| {
            Some(*at) != after.as_ref() && self.orders.get(&at.1).is_some_and(|order| wanted.has(order, &self.hidden))
        };
        let mut rows: Vec<&(i64, String)> = self.by_time.range(from..).map(|(at, ())| at).filter(is_wanted).take(size + 1).collect();
        let more = rows.len() > size;
        rows.truncate(size);
        let last = rows.last().filter(|_| more).map(|at| (*at).clone());
        (rows.iter().filter_map(|(_, id)| self.orders.get(id)).map(Order::json).collect(), last)
    }

    /// What changed since a token; each once, as it is now. `None`: the token is of no time that is remembered.
    pub fn changes(&self, token: usize) -> Option<Vec<Value>> {
        let changed = self.changes.as_ref()?.get(token.checked_sub(self.remembered)?..)?;
        let mut seen = std::collections::HashSet::new();
        let newest = changed.iter().rev().filter(|(id, _)| seen.insert(id.as_str()));
        let mut entries: Vec<Value> = newest
            .map(|(id, is_deleted)| match self.orders.get(id).filter(|_| !is_deleted) {
                Some(order) => order.json(),
                None => json!({"@removed": {"reason": "deleted"}, "@id": format!("ProductionOrders('{id}')")}),
            })
            .collect();
        entries.reverse();
        Some(entries)
    }

    /// Forgets what changed: every token given out so far is gone.
    pub fn forget_changes(&mut self) {
        if let Some(changes) = &mut self.changes {
            // The next one is another than any that was given out.
            self.remembered += changes.len() + 1;
            changes.clear();
        }
    }

    /// Takes a confirmation in; one with a known request id is the one from then.
    pub fn confirm(&mut self, fields: &Map<String, Value>, request: &str) -> Confirmation {
        self.posts += 1;
        if let Some(known) = self.by_request.get(request) {
            return self.confirmations[*known].clone();
        }
        let external_id = fields.get("externalId").and_then(Value::as_str).unwrap_or_default().to_owned();
        let confirmation = Confirmation { id: self.confirmations.len() as u64 + 1, external_id, fields: fields.clone() };
        if !request.is_empty() {
            self.by_request.insert(request.to_owned(), self.confirmations.len());
        }
        self.confirmations.push(confirmation.clone());
        confirmation
    }
}
