//! OPC UA.
