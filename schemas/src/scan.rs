//! JSON text read piece by piece, without a tree.
