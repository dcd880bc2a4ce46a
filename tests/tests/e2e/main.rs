//! End to end: real peers, the real binary. One test binary, because each one links librdkafka.

mod peers;
