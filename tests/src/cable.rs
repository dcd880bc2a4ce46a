//! A cable between the runtime and a peer that the test can cut: the testkit's fault proxy, run on threads of its own.

use millrace_testkit::FaultProxy;
use std::ops::Deref;
use std::sync::OnceLock;

/// `cut()`, `half_open()`, `slow(bytes_per_s)`, `delay(..)`, `refuse()`, `reset()`, `heal()`: see [`FaultProxy`].
pub struct Cable(FaultProxy);

fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a tokio runtime can be made")
    })
}

impl Cable {
    /// A cable to a port of 127.0.0.1.
    pub fn to(port: u16) -> Self {
        Self::between(crate::free_port(), port)
    }

    /// A cable that listens where its peer says it listens (`Kafka::proxy_port`, `Kafka::behind_proxy`).
    pub fn between(listen: u16, port: u16) -> Self {
        Self(runtime().block_on(FaultProxy::listen(&format!("127.0.0.1:{listen}"), format!("127.0.0.1:{port}"))))
    }

    /// Where clients connect.
    pub fn port(&self) -> u16 {
        self.0.addr().port()
    }
}

impl Deref for Cable {
    type Target = FaultProxy;

    fn deref(&self) -> &FaultProxy {
        &self.0
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        // Its connections are reset by tasks of the runtime.
        let _inside = runtime().enter();
        self.0.reset();
    }
}
