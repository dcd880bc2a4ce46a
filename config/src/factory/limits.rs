//! Bounds below which a setting can only be a slip.

use crate::tree::node::{Node, Text};
use crate::tree::problem::Problems;
use crate::tree::units::ByteSize;

const SMALLEST_LOG: u64 = 1 << 20;

/// Refuses a log that is too small to be meant.
pub(crate) fn log_size(size: ByteSize, node: Option<&Node>, problems: &mut Problems) {
    let Some(node) = node.filter(|_| size.0 < SMALLEST_LOG) else { return };
    let problem = problems.error(node.place, format!("a log of {size} is too small: 1MiB is the least"));
    match node.text().map(Text::as_str).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit())) {
        Some(number) => problem.help(format!("write a unit: `{number}GiB` or `{number}MiB`")),
        None => problem.help("write a size such as `256MiB` or `4GiB`"),
    };
}
