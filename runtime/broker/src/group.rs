//! Consumer groups: one group's members and generations, its offsets, and all groups with their journal.

pub mod groups;
pub mod membership;
pub mod offsets;
pub mod stored;
