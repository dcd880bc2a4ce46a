//! The structure `PartResult` (with a structure inside) and the enumeration `PressState`: their encoding, and how the server describes them.

use crate::press::{Part, State};
use opcua::nodes::{DataTypeBuilder, ObjectBuilder, ReferenceDirection, VariableBuilder};
use opcua::server::address_space::AddressSpace;
use opcua::types::{
    BinaryDecodable, BinaryEncodable, DataTypeDefinition, DataTypeId, EnumDefinition, EnumField, ExpandedMessageInfo, ExpandedNodeId,
    LocalizedText, NodeId, ObjectTypeId, QualifiedName, ReferenceTypeId, StructureDefinition, StructureField, StructureType, UAString,
    UaNullable, VariableTypeId,
};

/// The namespace of everything in the shop.
pub const NAMESPACE: &str = "http://millrace.example/press-shop";

const STATE: u32 = 3001;
const STATE_STRINGS: u32 = 3002;
const DIE: u32 = 3003;
const DIE_BINARY: u32 = 3004;
const PART: u32 = 3005;
const PART_BINARY: u32 = 3006;

/// The die a part was made with.
#[derive(Debug, Clone, PartialEq, Default, BinaryEncodable, BinaryDecodable, UaNullable)]
pub struct DieInfo {
    id: u16,
    temperature: f64,
}

/// What a stroke made, as the server hands it out.
#[derive(Debug, Clone, PartialEq, Default, BinaryEncodable, BinaryDecodable, UaNullable)]
pub struct PartResult {
    serial: UAString,
    peak: f32,
    good: bool,
    state: i32,
    die: DieInfo,
    zones: Option<Vec<f64>>,
}

impl PartResult {
    pub fn of(part: &Part, die: usize) -> Self {
        Self {
            serial: part.serial.as_str().into(),
            peak: part.peak_kn,
            good: part.good,
            state: State::Running as i32,
            die: DieInfo { id: die as u16, temperature: part.zones_c[0] },
            zones: Some(part.zones_c.to_vec()),
        }
    }
}

fn id(number: u32) -> ExpandedNodeId {
    ExpandedNodeId { node_id: NodeId::new(0, number), namespace_uri: NAMESPACE.into(), server_index: 0 }
}

impl ExpandedMessageInfo for PartResult {
    fn full_type_id(&self) -> ExpandedNodeId {
        id(PART_BINARY)
    }

    fn full_json_type_id(&self) -> ExpandedNodeId {
        id(PART)
    }

    fn full_xml_type_id(&self) -> ExpandedNodeId {
        id(PART)
    }

    fn full_data_type_id(&self) -> ExpandedNodeId {
        id(PART)
    }
}

/// The data types' node ids in a namespace.
pub struct Types {
    pub state: NodeId,
    pub part: NodeId,
}

/// Adds the data types to the address space.
pub fn describe(space: &mut AddressSpace, ns: u16) -> Types {
    let state = NodeId::new(ns, STATE);
    let fields = State::ALL.iter().map(|(value, name)| EnumField {
        name: (*name).into(),
        display_name: LocalizedText::from(*name),
        description: LocalizedText::null(),
        value: *value as i64,
    });
    DataTypeBuilder::new(&state, QualifiedName::new(ns, "PressState"), "PressState")
        .subtype_of(DataTypeId::Enumeration)
        .data_type_definition(DataTypeDefinition::Enum(EnumDefinition { fields: Some(fields.collect()) }))
        .insert(space);
    let texts: Vec<LocalizedText> = State::ALL.iter().map(|(_, name)| LocalizedText::from(*name)).collect();
    VariableBuilder::new(&NodeId::new(ns, STATE_STRINGS), "EnumStrings", "EnumStrings")
        .data_type(DataTypeId::LocalizedText)
        .value_rank(1)
        .value(texts)
        .property_of(state.clone())
        .has_type_definition(VariableTypeId::PropertyType)
        .insert(space);

    let die = structure(
        space,
        ns,
        "DieInfo",
        (DIE, DIE_BINARY),
        vec![field("Id", DataTypeId::UInt16.into(), -1), field("Temperature", DataTypeId::Double.into(), -1)],
    );
    let part = structure(
        space,
        ns,
        "PartResult",
        (PART, PART_BINARY),
        vec![
            field("Serial", DataTypeId::String.into(), -1),
            field("Peak", DataTypeId::Float.into(), -1),
            field("Good", DataTypeId::Boolean.into(), -1),
            field("State", state.clone(), -1),
            field("Die", die, -1),
            field("Zones", DataTypeId::Double.into(), 1),
        ],
    );
    Types { state, part }
}

fn field(name: &str, data_type: NodeId, value_rank: i32) -> StructureField {
    let array_dimensions = (value_rank == 1).then(|| vec![0]);
    StructureField { name: name.into(), data_type, value_rank, array_dimensions, ..Default::default() }
}

fn structure(space: &mut AddressSpace, ns: u16, name: &str, (id, binary): (u32, u32), fields: Vec<StructureField>) -> NodeId {
    let (id, binary) = (NodeId::new(ns, id), NodeId::new(ns, binary));
    ObjectBuilder::new(&binary, "Default Binary", "Default Binary").has_type_definition(ObjectTypeId::DataTypeEncodingType).insert(space);
    DataTypeBuilder::new(&id, QualifiedName::new(ns, name), name)
        .subtype_of(DataTypeId::Structure)
        .data_type_definition(DataTypeDefinition::Structure(StructureDefinition {
            default_encoding_id: binary.clone(),
            base_data_type: DataTypeId::Structure.into(),
            structure_type: StructureType::Structure,
            fields: Some(fields),
        }))
        .reference(binary, ReferenceTypeId::HasEncoding, ReferenceDirection::Forward)
        .insert(space);
    id
}
