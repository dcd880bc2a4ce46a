//! The nodes of the shop: what each is called, of which type it is, and its value at a moment.

use crate::part::{self, PartResult};
use crate::press::{CURVE_POINTS, Press};
use opcua::nodes::{ObjectBuilder, VariableBuilder};
use opcua::server::address_space::{AddressSpace, EventNotifier};
use opcua::types::{
    DataTypeId, DataValue, DateTime, EUInformation, ExtensionObject, LocalizedText, NodeId, ObjectId, ObjectTypeId, QualifiedName, Range,
    UAString, VariableTypeId, Variant,
};
use std::collections::HashMap;

/// A variable of a press.
struct Column {
    name: &'static str,
    data_type: DataTypeId,
    /// Unit and range; none: no analog item.
    analog: Option<(&'static str, f64, f64)>,
    flags: u8,
    value: fn(&Press) -> Variant,
}

const WRITABLE: u8 = 1;
const HISTORY: u8 = 2;

const fn column(name: &'static str, data_type: DataTypeId, value: fn(&Press) -> Variant) -> Column {
    Column { name, data_type, analog: None, flags: 0, value }
}

impl Column {
    const fn analog(mut self, unit: &'static str, low: f64, high: f64) -> Self {
        self.analog = Some((unit, low, high));
        self
    }

    const fn flags(mut self, flags: u8) -> Self {
        self.flags = flags;
        self
    }
}

/// What every press has. `Force` is the second: its value turns bad with a breakdown.
const COLUMNS: [Column; 17] = [
    column("Temp", DataTypeId::Double, |p| p.temperature_c.into()).analog("degC", 0.0, 900.0).flags(HISTORY),
    column("Force", DataTypeId::Int16, |p| p.force.into()).analog("raw", 0.0, 27_648.0),
    column("State", DataTypeId::Enumeration, |p| (p.state as i32).into()),
    column("Word", DataTypeId::UInt16, |p| p.word().into()),
    column("Running", DataTypeId::Boolean, |p| (p.state == crate::press::State::Running).into()),
    column("Strokes", DataTypeId::UInt32, |p| p.strokes.into()).flags(HISTORY),
    column("Scrap", DataTypeId::UInt32, |p| p.scrap.into()),
    column("Order", DataTypeId::String, |p| format!("FA-{}", p.order).into()),
    column("PartDone", DataTypeId::Boolean, |p| p.part_done.into()),
    column("Serial", DataTypeId::String, |p| p.part.as_ref().map_or(UAString::null(), |part| part.serial.as_str().into()).into()),
    column("Peak", DataTypeId::Float, |p| p.part.as_ref().map_or(0.0, |part| part.peak_kn).into()).analog("kN", 0.0, 400.0),
    column("Curve", DataTypeId::Float, |p| p.part.as_ref().map_or(vec![0.0; CURVE_POINTS], |part| part.curve_kn.to_vec()).into()),
    column("LastPart", DataTypeId::Structure, |p| {
        let result = p.part.as_ref().map_or_else(PartResult::default, |part| PartResult::of(part, p.number));
        ExtensionObject::new(result).into()
    }),
    column("Motor1/Speed", DataTypeId::Float, |p| p.motor_rpm[0].into()).analog("1/min", 0.0, 3000.0),
    column("Motor1/Current", DataTypeId::Float, |p| p.motor_a[0].into()).analog("A", 0.0, 63.0),
    column("Motor2/Speed", DataTypeId::Float, |p| p.motor_rpm[1].into()).analog("1/min", 0.0, 3000.0),
    column("Motor2/Current", DataTypeId::Float, |p| p.motor_a[1].into()).analog("A", 0.0, 63.0),
];

/// What is written from outside: name, type, value at first.
const SETPOINT: &str = "Setpoint";
const PART_ACK: &str = "PartAck";

/// A press's nodes.
pub struct Nodes {
    pub press: NodeId,
    pub name: String,
    pub setpoint: NodeId,
    pub part_ack: NodeId,
    columns: Vec<NodeId>,
}

impl Nodes {
    /// The node whose value a breakdown turns bad.
    pub fn force(&self) -> &NodeId {
        &self.columns[1]
    }

    /// Every variable with its value now.
    pub fn values<'a>(&'a self, press: &'a Press, now: DateTime) -> impl Iterator<Item = (&'a NodeId, DataValue)> {
        self.columns.iter().zip(&COLUMNS).map(move |(id, column)| (id, DataValue::new_at((column.value)(press), now)))
    }

    pub fn historic(&self) -> impl Iterator<Item = &NodeId> {
        self.columns.iter().zip(&COLUMNS).filter(|(_, column)| column.flags & HISTORY != 0).map(|(id, _)| id)
    }
}

/// Adds the whole shop: presses first, then as many doubles as `load` says.
pub fn furnish(space: &mut AddressSpace, ns: u16, presses: &[Press], load: usize) -> (Vec<Nodes>, Vec<NodeId>) {
    let types = part::describe(space, ns);
    let own_types = HashMap::from([("State", types.state), ("LastPart", types.part)]);
    let nodes = presses.iter().map(|press| add_press(space, ns, press, &own_types)).collect();
    (nodes, add_load(space, ns, load))
}

fn add_press(space: &mut AddressSpace, ns: u16, press: &Press, own_types: &HashMap<&str, NodeId>) -> Nodes {
    let name = format!("Press{}", press.number);
    let id = NodeId::new(ns, name.as_str());
    ObjectBuilder::new(&id, QualifiedName::new(ns, name.as_str()), name.as_str())
        .event_notifier(EventNotifier::SUBSCRIBE_TO_EVENTS)
        .organized_by(ObjectId::ObjectsFolder)
        .has_type_definition(ObjectTypeId::BaseObjectType)
        .insert(space);
    for motor in ["Motor1", "Motor2"] {
        let below = format!("{name}.{motor}");
        ObjectBuilder::new(&NodeId::new(ns, below), QualifiedName::new(ns, motor), motor)
            .component_of(id.clone())
            .has_type_definition(ObjectTypeId::BaseObjectType)
            .insert(space);
    }
    let columns = COLUMNS.iter().map(|column| add_column(space, ns, &name, press, column, own_types)).collect();
    let setpoint = column(SETPOINT, DataTypeId::Double, |p| p.setpoint_c.into()).analog("degC", 20.0, 300.0).flags(WRITABLE);
    let part_ack = column(PART_ACK, DataTypeId::Boolean, |_| false.into()).flags(WRITABLE);
    Nodes {
        press: id,
        setpoint: add_column(space, ns, &name, press, &setpoint, own_types),
        part_ack: add_column(space, ns, &name, press, &part_ack, own_types),
        columns,
        name,
    }
}

fn add_column(space: &mut AddressSpace, ns: u16, press_name: &str, press: &Press, column: &Column, own: &HashMap<&str, NodeId>) -> NodeId {
    let text = format!("{press_name}.{}", column.name.replace('/', "."));
    let id = NodeId::new(ns, text.as_str());
    let (parent, name) = match column.name.split_once('/') {
        Some((object, name)) => (NodeId::new(ns, format!("{press_name}.{object}")), name),
        None => (NodeId::new(ns, press_name), column.name),
    };
    let value = (column.value)(press);
    let mut variable = VariableBuilder::new(&id, QualifiedName::new(ns, name), name)
        .data_type(own.get(column.name).cloned().unwrap_or_else(|| column.data_type.into()))
        .component_of(parent)
        .has_type_definition(if column.analog.is_some() { VariableTypeId::AnalogItemType } else { VariableTypeId::BaseDataVariableType });
    if matches!(value, Variant::Array(_)) {
        variable = variable.value_rank(1).array_dimensions(&[CURVE_POINTS as u32]);
    }
    if column.flags & WRITABLE != 0 {
        variable = variable.writable();
    }
    if column.flags & HISTORY != 0 {
        variable = variable.history_readable().historizing(true);
    }
    variable.value(value).insert(space);
    if let Some((unit, low, high)) = column.analog {
        let unit = EUInformation {
            namespace_uri: "http://www.opcfoundation.org/UA/units/un/cefact".into(),
            unit_id: -1,
            display_name: LocalizedText::from(unit),
            description: LocalizedText::from(unit),
        };
        add_property(space, &id, &text, "EngineeringUnits", DataTypeId::EUInformation, ExtensionObject::new(unit).into());
        add_property(space, &id, &text, "EURange", DataTypeId::Range, ExtensionObject::new(Range { low, high }).into());
    }
    id
}

fn add_property(space: &mut AddressSpace, of: &NodeId, of_text: &str, name: &str, data_type: DataTypeId, value: Variant) {
    let id = NodeId::new(of.namespace, format!("{of_text}.{name}"));
    VariableBuilder::new(&id, name, name)
        .data_type(data_type)
        .value(value)
        .property_of(of.clone())
        .has_type_definition(VariableTypeId::PropertyType)
        .insert(space);
}

fn add_load(space: &mut AddressSpace, ns: u16, count: usize) -> Vec<NodeId> {
    if count == 0 {
        return Vec::new();
    }
    let folder = NodeId::new(ns, "Load");
    space.add_folder(&folder, QualifiedName::new(ns, "Load"), "Load", &ObjectId::ObjectsFolder.into());
    (0..count)
        .map(|number| {
            let name = format!("N{number:06}");
            let id = NodeId::new(ns, format!("Load.{name}"));
            VariableBuilder::new(&id, QualifiedName::new(ns, name.as_str()), name.as_str())
                .data_type(DataTypeId::Double)
                .value(0.0f64)
                .organized_by(folder.clone())
                .has_type_definition(VariableTypeId::BaseDataVariableType)
                .insert(space);
            id
        })
        .collect()
}
