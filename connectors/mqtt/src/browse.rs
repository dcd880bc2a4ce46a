//! What a broker says, as YAML to paste.

use millrace_contract::Browse;
use std::future::Future;
use std::pin::Pin;

pub fn browse(_browse: Browse) -> Pin<Box<dyn Future<Output = Result<String, String>> + Send>> {
    Box::pin(async { Err("not yet".into()) })
}
