//! Sockets: who is let in, frames in, answers out in their order.

pub mod connection;
pub mod request_bounds;
pub mod sasl;
pub mod scram;
pub mod security;
pub mod server;
#[cfg(test)]
mod tests;
