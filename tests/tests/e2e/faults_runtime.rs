//! The runtime is killed, loses its disk, its power, its space.
