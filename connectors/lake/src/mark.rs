//! Where a sample lies in a table, for who walks over all of them and may break off.

use millrace_config::Reason;
use millrace_schemas::Batch;

/// Day since 1970, level, tag, time in microseconds, number: a walk goes in this order.
pub type Mark = (i32, String, String, i64, i64);

/// Takes a sample of a walk, as a batch of one row. Errors end the walk.
pub type Each<'e> = dyn FnMut(&Batch, Mark) -> Result<(), Reason> + 'e;
