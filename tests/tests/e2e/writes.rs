//! The write guard: with writes forbidden nothing leaves for the floor.
