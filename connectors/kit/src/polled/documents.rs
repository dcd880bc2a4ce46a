//! What the documents of triggers are made of, where the protocol knows its types: a topic without a schema of its own is written with theirs.
//!
//! ```text
//! tags of the group   serial: STRING[20]   peak: REAL, scale 0.1      "serial": string?, "peak": double?
//! beside them         what was not good, and whether it was torn      "_torn": boolean?, "_status": {"serial": long?, "peak": long?}?
//! ```

use super::{Polled, Tag};
use crate::shape::{Field, Record, Shape};
use millrace_contract::SourceIo;
use millrace_schemas::{RouteId, avsc};
use std::collections::BTreeMap;

impl<A> Tag<A> {
    /// What its value is in a document: a scaled one is a floating-point number.
    fn field(&self) -> Option<Field> {
        let is_number = matches!(self.shape, Some(Shape::Int | Shape::Long | Shape::Decimal(_) | Shape::Double));
        let shape = if is_number && self.def.options.scaling().is_some() { Shape::Double } else { self.shape.clone()? };
        Some(Field { name: self.name.to_string(), shape, is_key: false })
    }
}

impl<A, G, D> Polled<A, G, D> {
    /// Whether it knows what the documents of all its triggers are.
    pub fn describes(&self) -> bool {
        let mut fields = self.groups.iter().filter_map(|group| group.trigger.as_ref()).flat_map(|trigger| &trigger.fields).peekable();
        fields.peek().is_some() && fields.all(|tag| self.tags[*tag].shape.is_some())
    }

    /// The documents of each topic, with a route to it. Two triggers that write to one topic share the record; of a field that both have, the first
    /// says what it is.
    fn documents(&self) -> BTreeMap<&str, (usize, Record)> {
        let mut documents = BTreeMap::new();
        for trigger in self.groups.iter().filter_map(|group| group.trigger.as_ref()) {
            let topic = &*self.routes[trigger.route].topic;
            let (_, record) = documents.entry(topic).or_insert_with(|| (trigger.route, Record::new(avsc::name(topic))));
            for field in trigger.fields.iter().filter_map(|tag| self.tags[*tag].field()) {
                if record.index(&field.name).is_none() {
                    record.push(field);
                }
            }
        }
        for (_, record) in documents.values_mut() {
            let mut status = Record::new(format!("{}_status", record.name));
            for field in &record.fields {
                status.push(Field { name: field.name.clone(), shape: Shape::Long, is_key: false });
            }
            record.push(Field { name: "_torn".into(), shape: Shape::Bool, is_key: false });
            record.push(Field { name: "_status".into(), shape: Shape::Record(Box::new(status)), is_key: false });
        }
        documents
    }

    /// Tells the topics of the triggers' documents what they are made of, where that is known.
    pub(super) fn tell_documents(&self, io: &SourceIo) {
        if !self.describes() {
            return;
        }
        let namespace = self.namespace.as_str();
        for (topic, (route, record)) in self.documents() {
            if let Err(error) = io.describe(RouteId(route as u32), &|kind| record.schema(kind, namespace)) {
                tracing::error!(%topic, %error, "no schema can be made of the tags; a tag in an avro record has only letters, digits and underscores in its name");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::polled::{Group, Trigger};
    use millrace_config::Place;
    use millrace_contract::{Route, TagDef, TagOptions};
    use millrace_schemas::contract::{Contract, Kind, Work};
    use std::time::Duration;

    fn tag(name: &str, shape: Option<Shape>, scale: Option<f64>) -> Tag<()> {
        let options = TagOptions { scale, ..TagOptions::default() };
        let def =
            TagDef { path: name.into(), address: String::new(), kind: None, topic: "t".into(), part: "".into(), options: options.into() };
        Tag { address: (), group: 1, name: name.into(), place: Place::NONE, def, shape }
    }

    fn polled(tags: Vec<Tag<()>>) -> Polled<()> {
        let fields = (0..tags.len()).collect();
        let trigger = Trigger { tag: 0, edge: crate::groups::Edge::Rising, ack: None, route: 0, key: None, fields, position: "p".into() };
        let group = Group {
            device: None,
            every: Duration::from_secs(1),
            align: false,
            tags: 0..tags.len(),
            trigger: Some(trigger),
            part: "".into(),
            topic: "t".into(),
            options: TagOptions::default(),
            place: Place::NONE,
            own: (),
        };
        let routes = vec![Route { topic: "part-results".into(), name: "trigger".into(), samples: false }];
        Polled { devices: Vec::new(), groups: vec![group], tags, routes, namespace: "acme.oven".into() }
    }

    fn fit(contract: &Contract, document: &str) -> Option<String> {
        contract.fit(document.as_bytes(), &mut Vec::new(), &mut Work::default()).err().map(|misfit| format!("{misfit:?}"))
    }

    #[test]
    fn a_document_is_what_its_schema_says() {
        let polled = polled(vec![
            tag("serial", Some(Shape::Text), None),
            tag("peak", Some(Shape::Long), Some(0.1)),
            tag("count", Some(Shape::UNSIGNED), None),
            tag("zones", Some(Shape::List(Box::new(Shape::Double))), None),
        ]);
        assert!(polled.describes());
        let documents = polled.documents();
        let (route, record) = &documents["part-results"];
        assert_eq!(*route, 0);
        let avro = record.schema(Kind::Avro, &polled.namespace).expect("there is one");
        let avro = Contract::compile(Kind::Avro, &avro, None, &mut |_| None).expect("it is a schema");
        let json = record.schema(Kind::Json, &polled.namespace).expect("there is one");
        let json = Contract::compile(Kind::Json, &json, None, &mut |_| None).expect("it is a schema");
        assert_eq!(avro.schema().name, "acme.oven.part_results".into());
        for document in [
            r#"{"serial":"0711","peak":81.5,"count":18446744073709551615,"zones":[1.5,2.5]}"#,
            r#"{"serial":null,"peak":81.5,"count":1,"zones":null,"_torn":true,"_status":{"serial":2156527616,"zones":2147483648}}"#,
        ] {
            assert_eq!(fit(&avro, document), None, "{document}");
            assert_eq!(fit(&json, document), None, "{document}");
        }
        assert!(fit(&avro, r#"{"serial":"0711","peak":"hot","count":1,"zones":[]}"#).is_some());
    }

    #[test]
    fn what_is_not_known_before_the_device_is_asked_is_not_described() {
        assert!(!polled(vec![tag("serial", Some(Shape::Text), None), tag("peak", None, None)]).describes());
    }
}
