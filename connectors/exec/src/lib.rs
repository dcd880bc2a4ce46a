//! Connectors of others without a rebuild: a child process that speaks lines of JSON, as a source or as a sink.
//!
//! ```text
//! source                                                        sink
//! ──▶ {"type":"start","protocol":1,"name":..,"config":{..},     ──▶ {"type":"start",..}
//!      "positions":{..}}                                        ◀── {"type":"ready"}
//! ◀── {"type":"ready"}                                          ──▶ {"type":"records","records":[{topic,partition,offset,
//! ◀── {"type":"batch","id":7,"samples":[..],"documents":[..],         timestamp,key,value,headers}]}
//!      "position":{"file":"a:17"}}                              ──▶ {"type":"flush","id":3}
//! ──▶ {"type":"ack","id":7}      all up to 7 is synced          ◀── {"type":"flushed","id":3,"refused":[{topic,partition,offset,reason}]}
//! ──▶ {"type":"stop"}            end, within 3 s                ──▶ {"type":"stop"}
//! ```
//!
//! - [`child`]: the process: started, talked to, ended with all it started. [`message`]: what it says. [`config`]: the YAML.
//! - [`source`], [`sink`]: the two roles.
//!
//! Invariants: a line is at most `max_line` long, and so many wait at most; a child that prints what is no message, does not answer or ends is ended with
//! its whole process group, and what it did last is in the reason. A child sees its own part of the YAML, and of the environment only what it is given.

pub mod child;
pub mod config;
pub mod message;
pub mod sink;
pub mod source;

pub use sink::ExecSink;
pub use source::ExecSource;
