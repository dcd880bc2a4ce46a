//! YAML text to the marked tree.
use crate::node::Node;
use crate::problem::Problems;

pub fn read(_name: &str, _bytes: &[u8], _problems: &mut Problems) -> Option<Node> {
    todo!()
}
pub fn core_bool(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}
pub fn core_int(_text: &str) -> Option<i128> {
    todo!()
}
pub fn core_float(_text: &str) -> Option<f64> {
    todo!()
}
