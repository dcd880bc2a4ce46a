//! The event a breakdown raises: an off-normal alarm, as OPC UA part 9 names its fields.

use opcua::nodes::Event;
use opcua::server::EventField;
use opcua::types::{AttributeId, ByteString, DateTime, LocalizedText, NodeId, NumericRange, ObjectTypeId, QualifiedName, Variant};

/// A breakdown, or its end.
#[derive(Debug)]
pub struct BreakdownAlarm {
    pub event_id: ByteString,
    pub event_type: NodeId,
    pub press: NodeId,
    pub name: String,
    pub message: String,
    pub severity: u16,
    pub active: bool,
    pub time: DateTime,
}

impl BreakdownAlarm {
    /// `number`: of the event, in this shop.
    pub fn new(number: u64, press: NodeId, name: &str, active: bool) -> Self {
        Self {
            event_id: ByteString::from(number.to_be_bytes().to_vec()),
            event_type: ObjectTypeId::OffNormalAlarmType.into(),
            press,
            name: name.into(),
            message: if active { format!("{name} broke down") } else { format!("{name} runs again") },
            severity: if active { 800 } else { 100 },
            active,
            time: DateTime::now(),
        }
    }

    /// The condition behind the event, one per press.
    fn condition(&self) -> NodeId {
        NodeId::new(self.press.namespace, format!("{}.Breakdown", self.name))
    }
}

impl EventField for BreakdownAlarm {
    fn get_value(&self, attribute_id: AttributeId, _: &NumericRange, path: &[QualifiedName]) -> Variant {
        if path.is_empty() && attribute_id == AttributeId::NodeId {
            return self.condition().into();
        }
        let mut names = path.iter().map(|name| name.name.as_ref());
        let state = |active: bool, yes: &str, no: &str| LocalizedText::new("en", if active { yes } else { no });
        match (attribute_id, names.next().unwrap_or_default(), names.next()) {
            (AttributeId::Value, "EventId", None) => self.event_id.clone().into(),
            (AttributeId::Value, "EventType", None) => self.event_type.clone().into(),
            (AttributeId::Value, "SourceNode", None) => self.press.clone().into(),
            (AttributeId::Value, "SourceName", None) => self.name.as_str().into(),
            (AttributeId::Value, "Time" | "ReceiveTime", None) => self.time.into(),
            (AttributeId::Value, "Message", None) => LocalizedText::new("en", &self.message).into(),
            (AttributeId::Value, "Severity", None) => self.severity.into(),
            (AttributeId::Value, "ConditionName", None) => "Breakdown".into(),
            (AttributeId::Value, "Retain", None) => self.active.into(),
            (AttributeId::Value, "BranchId", None) => NodeId::null().into(),
            (AttributeId::Value, "EnabledState", None) => state(true, "Enabled", "Disabled").into(),
            (AttributeId::Value, "EnabledState", Some("Id")) => true.into(),
            (AttributeId::Value, "ActiveState", None) => state(self.active, "Active", "Inactive").into(),
            (AttributeId::Value, "ActiveState", Some("Id")) => self.active.into(),
            (AttributeId::Value, "AckedState", None) => state(!self.active, "Acknowledged", "Unacknowledged").into(),
            (AttributeId::Value, "AckedState", Some("Id")) => (!self.active).into(),
            _ => Variant::Empty,
        }
    }
}

impl Event for BreakdownAlarm {
    fn get_field(&self, _: &NodeId, attribute_id: AttributeId, range: &NumericRange, path: &[QualifiedName]) -> Variant {
        self.get_value(attribute_id, range, path)
    }

    fn time(&self) -> &DateTime {
        &self.time
    }

    fn event_type_id(&self) -> &NodeId {
        &self.event_type
    }
}
