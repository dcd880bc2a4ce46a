//! What a method takes: its InputArguments.

use crate::session::{Refused, Session, references_of, value_of};
use crate::shared::Shared;
use crate::wire::builtin;
use opcua::types::{Argument as Declared, BinaryDecodable, ByteStringBody, ContextOwned, NodeId, ReferenceTypeId, Variant};

/// An argument of a method.
#[derive(Clone, PartialEq, Debug)]
pub struct Argument {
    pub name: String,
    /// Its built-in type.
    pub builtin: u8,
    pub is_array: bool,
}

/// Asks the server for the arguments of a method; none where it declares none.
pub async fn of(shared: &Shared, session: &Session, method: &NodeId) -> Result<Vec<Argument>, Refused> {
    let properties = session.browse(&[references_of(method.clone(), ReferenceTypeId::HasProperty)]).await?.pop();
    let properties = properties.and_then(Result::ok).unwrap_or_default();
    let Some(input) = properties.into_iter().find(|property| property.browse_name.name.as_ref() == "InputArguments") else {
        return Ok(Vec::new());
    };
    let value = session.read(&[value_of(input.node_id.node_id)]).await?.pop().and_then(|value| value.value);
    let Some(Variant::Array(array)) = value else { return Ok(Vec::new()) };
    let declared: Vec<Declared> = array.values.iter().filter_map(decoded).collect();
    let ids: Vec<NodeId> = declared.iter().map(|argument| argument.data_type.clone()).collect();
    let types = shared.learn_types(session, &ids).await?;
    let argument = |declared: Declared| Argument {
        builtin: types.known(&declared.data_type).map_or(builtin::VARIANT, |known| known.builtin),
        is_array: declared.value_rank >= 0,
        name: declared.name.to_string(),
    };
    Ok(declared.into_iter().map(argument).collect())
}

/// The session leaves extension objects as bytes.
fn decoded(value: &Variant) -> Option<Declared> {
    let Variant::ExtensionObject(object) = value else { return None };
    let body = object.inner_as::<ByteStringBody>()?.raw_body();
    Declared::decode(&mut body.as_ref(), &ContextOwned::default().context()).ok()
}
