//! The transaction coordinator: what is known about each transactional id, and how a transaction ends.

pub mod ending;
pub mod state;
pub mod stuck;
#[cfg(test)]
mod tests;
