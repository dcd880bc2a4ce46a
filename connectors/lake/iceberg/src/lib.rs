//! Iceberg tables through a REST catalog.
