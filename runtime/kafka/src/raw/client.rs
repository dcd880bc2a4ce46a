//! A client of librdkafka and its configuration.

use crate::error::KafkaError;
use crate::logging::LogBridge;
use crate::oauth::{Token, TokenError};
use crate::raw::list::List;
use crate::raw::pin::{self, Opaque, Pin};
use crate::raw::text::{NO_ERROR, c_string, check, millis, owned};
use parking_lot::Mutex;
use rdkafka::bindings::*;
use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

/// librdkafka's flag for `rd_kafka_destroy_flags`: leave the group to the session timeout, the consumer was closed before.
const DESTROY_NO_CONSUMER_CLOSE: c_int = 0x8;

// ---- configuration ------------------------------------------------------------------------------------------------------------

/// A configuration that has not become a client yet, and the only certificate that it believes.
pub struct Conf(NonNull<rd_kafka_conf_t>, Option<Arc<Pin>>);

impl Conf {
    pub fn new() -> Self {
        // SAFETY: never null (librdkafka aborts when out of memory).
        Self(unsafe { NonNull::new_unchecked(rd_kafka_conf_new()) }, None)
    }

    /// Believes a broker that shows this certificate, and no other. Errors: it can't be read, or this librdkafka has no TLS.
    pub fn pin(&mut self, pin: Arc<Pin>) -> Result<(), KafkaError> {
        // SAFETY: the conf is ours, and `Native::new` sets the opaque.
        unsafe { pin::set(self.0.as_ptr(), &pin)? };
        self.1 = Some(pin);
        Ok(())
    }

    /// Sets one property; the error says what librdkafka dislikes about its name or value.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), KafkaError> {
        let refused = |why: &str| KafkaError::new(rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__INVALID_ARG as i32, why);
        let (Ok(name), Ok(value)) = (CString::new(name), CString::new(value)) else { return Err(refused("holds a NUL character")) };
        let mut error = [0 as c_char; 512];
        // SAFETY: all pointers live through the call.
        let outcome = unsafe { rd_kafka_conf_set(self.0.as_ptr(), name.as_ptr(), value.as_ptr(), error.as_mut_ptr(), error.len()) };
        match outcome {
            rd_kafka_conf_res_t::RD_KAFKA_CONF_OK => Ok(()),
            // SAFETY: librdkafka terminates what it writes.
            _ => Err(refused(&unsafe { owned(error.as_ptr()) })),
        }
    }
}

impl Drop for Conf {
    fn drop(&mut self) {
        // SAFETY: owned; `Native::new` forgets it when librdkafka took it.
        unsafe { rd_kafka_conf_destroy(self.0.as_ptr()) }
    }
}

// ---- client -------------------------------------------------------------------------------------------------------------------

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Producer,
    Consumer,
}

/// One instance of librdkafka. Its events wait in queues; its log lines go to its bridge.
pub struct Native {
    pub(super) rk: NonNull<rd_kafka_t>,
    pub(super) role: Role,
    /// Pointed to by librdkafka as its opaque; dropped after it.
    pub(super) opaque: Box<Opaque>,
}

// SAFETY: rd_kafka_t is thread-safe by its documentation.
unsafe impl Send for Native {}

unsafe impl Sync for Native {}

unsafe extern "C" fn say(rk: *const rd_kafka_t, level: c_int, facility: *const c_char, line: *const c_char) {
    // SAFETY: the opaque is this client's, set before the client existed and dropped after it.
    unsafe {
        let opaque = rd_kafka_opaque(rk).cast::<Opaque>();
        if let Some(opaque) = opaque.as_ref() {
            opaque.log.say(level, &owned(facility), &owned(line));
        }
    }
}

impl Native {
    pub fn new(role: Role, mut conf: Conf, events: i32, log: LogBridge) -> Result<Arc<Self>, KafkaError> {
        let opaque = Box::new(Opaque { log, pin: conf.1.take(), refused: Mutex::default() });
        let mut error = [0 as c_char; 512];
        // SAFETY: the conf is handed over if, and only if, a client comes back.
        unsafe {
            rd_kafka_conf_set_opaque(conf.0.as_ptr(), (&raw const *opaque).cast_mut().cast());
            rd_kafka_conf_set_log_cb(conf.0.as_ptr(), Some(say));
            rd_kafka_conf_set_events(conf.0.as_ptr(), events);
            let kind = match role {
                Role::Producer => rd_kafka_type_t::RD_KAFKA_PRODUCER,
                Role::Consumer => rd_kafka_type_t::RD_KAFKA_CONSUMER,
            };
            let rk = rd_kafka_new(kind, conf.0.as_ptr(), error.as_mut_ptr(), error.len());
            let Some(rk) = NonNull::new(rk) else {
                let code = rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__INVALID_ARG as i32;
                return Err(KafkaError::new(code, format!("cannot make a Kafka client: {}", owned(error.as_ptr()))));
            };
            std::mem::forget(conf);
            if role == Role::Consumer {
                rd_kafka_poll_set_consumer(rk.as_ptr());
            }
            Ok(Arc::new(Self { rk, role, opaque }))
        }
    }

    pub(super) fn ptr(&self) -> *mut rd_kafka_t {
        self.rk.as_ptr()
    }

    /// Messages and requests that wait in the client.
    pub fn waiting(&self) -> usize {
        // SAFETY: a plain count.
        usize::try_from(unsafe { rd_kafka_outq_len(self.ptr()) }).unwrap_or(0)
    }

    /// Sends what waits without lingering, and waits for its reports, which another thread must be polling.
    pub fn flush(&self, timeout: Duration) -> Result<(), KafkaError> {
        // SAFETY: thread-safe.
        check(unsafe { rd_kafka_flush(self.ptr(), millis(timeout)) }, "cannot flush")
    }

    /// Fails everything that waits or is in flight; the reports say so.
    pub fn purge(&self) {
        // SAFETY: the flags are valid, which is all that can go wrong.
        unsafe { rd_kafka_purge(self.ptr(), RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT) };
    }

    /// The fatal error that ended this client, if one did.
    pub fn fatal(&self) -> Option<KafkaError> {
        let mut error = [0 as c_char; 512];
        // SAFETY: librdkafka terminates what it writes.
        unsafe {
            let code = rd_kafka_fatal_error(self.ptr(), error.as_mut_ptr(), error.len()) as i32;
            (code != NO_ERROR).then(|| KafkaError::new(code, owned(error.as_ptr())))
        }
    }

    pub fn init_transactions(&self, timeout: Duration) -> Result<(), TransactionFault> {
        // SAFETY: thread-safe; the error object is ours.
        unsafe { transaction(rd_kafka_init_transactions(self.ptr(), millis(timeout))) }
    }

    pub fn begin_transaction(&self) -> Result<(), TransactionFault> {
        // SAFETY: as above.
        unsafe { transaction(rd_kafka_begin_transaction(self.ptr())) }
    }

    pub fn commit_transaction(&self, timeout: Duration) -> Result<(), TransactionFault> {
        // SAFETY: as above.
        unsafe { transaction(rd_kafka_commit_transaction(self.ptr(), millis(timeout))) }
    }

    pub fn abort_transaction(&self, timeout: Duration) -> Result<(), TransactionFault> {
        // SAFETY: as above.
        unsafe { transaction(rd_kafka_abort_transaction(self.ptr(), millis(timeout))) }
    }

    pub fn set_token(&self, token: Result<Token, TokenError>) -> Result<(), TokenError> {
        // SAFETY: the client lives.
        unsafe { set_token(self.ptr(), token) }
    }

    /// Why no broker's certificate is believed, if that is so.
    pub(super) fn refusal(&self) -> Option<KafkaError> {
        let why = self.opaque.refused.lock().clone()?;
        Some(KafkaError::new(rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__SSL as i32, why))
    }

    /// Asks the leader for a partition's first and next offset.
    pub fn watermarks(&self, topic: &str, partition: i32, timeout: Duration) -> Result<(i64, i64), KafkaError> {
        let c_topic = c_string(topic)?;
        let (mut low, mut high) = (0, 0);
        // SAFETY: all pointers live through the call.
        let code =
            unsafe { rd_kafka_query_watermark_offsets(self.ptr(), c_topic.as_ptr(), partition, &mut low, &mut high, millis(timeout)) };
        check(code, &format!("cannot read the offsets of {topic}-{partition}"))?;
        Ok((low, high))
    }

    /// The next offset of a partition as of the last fetch, without asking; `None` before the first.
    pub fn known_end(&self, topic: &str, partition: i32) -> Option<i64> {
        let c_topic = CString::new(topic).ok()?;
        let (mut low, mut high) = (0, 0);
        // SAFETY: all pointers live through the call.
        let code = unsafe { rd_kafka_get_watermark_offsets(self.ptr(), c_topic.as_ptr(), partition, &mut low, &mut high) };
        (code as i32 == NO_ERROR && high >= 0).then_some(high)
    }

    pub fn subscribe(&self, topics: &List) -> Result<(), KafkaError> {
        // SAFETY: the list is copied.
        check(unsafe { rd_kafka_subscribe(self.ptr(), topics.0.as_ptr()) }, "cannot subscribe")
    }

    /// Gives the subscription up; a member tells the group that it leaves, a static one too.
    pub fn unsubscribe(&self) -> Result<(), KafkaError> {
        // SAFETY: thread-safe.
        check(unsafe { rd_kafka_unsubscribe(self.ptr()) }, "cannot leave the group")
    }

    /// Whether the group knows this client at the moment.
    pub fn is_member(&self) -> bool {
        // SAFETY: the text is ours, and given back once it is looked at.
        unsafe {
            let id = rd_kafka_memberid(self.ptr());
            let is_member = !owned(id).is_empty();
            if !id.is_null() {
                rd_kafka_mem_free(self.ptr(), id.cast());
            }
            is_member
        }
    }

    pub fn assign(&self, parts: Option<&List>) -> Result<(), KafkaError> {
        // SAFETY: the list is copied; null means nothing.
        check(unsafe { rd_kafka_assign(self.ptr(), parts.map_or(ptr::null(), |p| p.0.as_ptr().cast_const())) }, "cannot assign")
    }

    pub fn incremental_assign(&self, parts: &List) -> Result<(), KafkaError> {
        // SAFETY: the list is copied; the error object is ours.
        unsafe { fallible(rd_kafka_incremental_assign(self.ptr(), parts.0.as_ptr())) }
    }

    pub fn incremental_unassign(&self, parts: &List) -> Result<(), KafkaError> {
        // SAFETY: as above.
        unsafe { fallible(rd_kafka_incremental_unassign(self.ptr(), parts.0.as_ptr())) }
    }

    pub fn is_cooperative(&self) -> bool {
        // SAFETY: null or a constant text.
        unsafe { owned(rd_kafka_rebalance_protocol(self.ptr())) == "COOPERATIVE" }
    }

    /// Whether the partitions are another member's already (session timed out): a commit would be refused.
    pub fn assignment_lost(&self) -> bool {
        // SAFETY: a plain flag.
        unsafe { rd_kafka_assignment_lost(self.ptr()) != 0 }
    }

    /// Commits offsets to the group and waits for the answer.
    pub fn commit(&self, offsets: &List) -> Result<(), KafkaError> {
        // SAFETY: the list lives through the call.
        check(unsafe { rd_kafka_commit(self.ptr(), offsets.0.as_ptr(), 0) }, "cannot commit offsets")
    }

    /// Fills in the group's committed offsets.
    pub fn committed(&self, parts: &mut List, timeout: Duration) -> Result<(), KafkaError> {
        // SAFETY: the list lives through the call.
        check(unsafe { rd_kafka_committed(self.ptr(), parts.0.as_ptr(), millis(timeout)) }, "cannot read committed offsets")
    }

    /// Turns each partition's time (milliseconds since 1970, as its offset) into the offset of the first record that is not older.
    pub fn offsets_for_times(&self, parts: &mut List, timeout: Duration) -> Result<(), KafkaError> {
        // SAFETY: the list lives through the call.
        check(unsafe { rd_kafka_offsets_for_times(self.ptr(), parts.0.as_ptr(), millis(timeout)) }, "cannot ask for offsets by time")
    }

    pub fn seek(&self, parts: &mut List, timeout: Duration) -> Result<(), KafkaError> {
        // SAFETY: the list lives through the call; the error object is ours.
        unsafe { fallible(rd_kafka_seek_partitions(self.ptr(), parts.0.as_ptr(), millis(timeout))) }
    }

    pub fn pause(&self, parts: &mut List, paused: bool) -> Result<(), KafkaError> {
        // SAFETY: the list lives through the call.
        let code = unsafe {
            if paused {
                rd_kafka_pause_partitions(self.ptr(), parts.0.as_ptr())
            } else {
                rd_kafka_resume_partitions(self.ptr(), parts.0.as_ptr())
            }
        };
        check(code, "cannot pause partitions")
    }

    pub fn is_closed(&self) -> bool {
        // SAFETY: a plain flag.
        unsafe { rd_kafka_consumer_closed(self.ptr()) != 0 }
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        // SAFETY: queues, topics and lists hold an Arc of this value, so this is the last reference.
        unsafe {
            match self.role {
                Role::Producer => rd_kafka_destroy(self.ptr()),
                Role::Consumer => rd_kafka_destroy_flags(self.ptr(), DESTROY_NO_CONSUMER_CLOSE),
            }
        }
    }
}

pub(super) fn bytes(from: Option<&[u8]>) -> (*mut c_void, usize) {
    // An empty slice's pointer is dangling but never null: librdkafka tells empty from null by it.
    from.map_or((ptr::null_mut(), 0), |b| (b.as_ptr().cast_mut().cast(), b.len()))
}

/// SAFETY: `error` is null or an error object, which is destroyed here.
pub(super) unsafe fn fallible(error: *mut rd_kafka_error_t) -> Result<(), KafkaError> {
    if error.is_null() {
        return Ok(());
    }
    unsafe {
        let fault = KafkaError::new(rd_kafka_error_code(error) as i32, owned(rd_kafka_error_string(error)));
        rd_kafka_error_destroy(error);
        Err(fault)
    }
}

/// Gives a client its token, or tells it that there is none.
///
/// SAFETY: `rk` is a live client.
unsafe fn set_token(rk: *mut rd_kafka_t, token: Result<Token, TokenError>) -> Result<(), TokenError> {
    let mut error = [0 as c_char; 512];
    let outcome = token.and_then(|token| {
        let (Ok(value), Ok(principal)) = (CString::new(token.value), CString::new(token.principal)) else {
            return Err(TokenError::new("the token holds a NUL character"));
        };
        // SAFETY: all pointers live through the call, and librdkafka terminates what it writes.
        unsafe {
            let (extensions, none) = (ptr::null_mut(), 0);
            let code = rd_kafka_oauthbearer_set_token(
                rk,
                value.as_ptr(),
                token.expires_ms,
                principal.as_ptr(),
                extensions,
                none,
                error.as_mut_ptr(),
                error.len(),
            );
            if code as i32 == NO_ERROR { Ok(()) } else { Err(TokenError::new(owned(error.as_ptr()))) }
        }
    });
    if let Err(why) = &outcome {
        let why = CString::new(why.to_string().replace('\0', " ")).unwrap_or_default();
        // SAFETY: as above.
        unsafe { rd_kafka_oauthbearer_set_token_failure(rk, why.as_ptr()) };
    }
    outcome
}

/// What a call of the transaction interface says besides its error.
#[derive(Debug)]
pub struct TransactionFault {
    pub error: KafkaError,
    pub fatal: bool,
    pub retriable: bool,
    pub abort: bool,
}

/// SAFETY: as [`fallible`].
pub(super) unsafe fn transaction(error: *mut rd_kafka_error_t) -> Result<(), TransactionFault> {
    if error.is_null() {
        return Ok(());
    }
    unsafe {
        let (fatal, retriable, abort) =
            (rd_kafka_error_is_fatal(error) != 0, rd_kafka_error_is_retriable(error) != 0, rd_kafka_error_txn_requires_abort(error) != 0);
        let error = fallible(error).expect_err("an error object is an error");
        Err(TransactionFault { error, fatal, retriable, abort })
    }
}

/// A topic as the cluster describes it.
#[derive(Clone, Debug)]
pub struct TopicMetadata {
    pub name: String,
    pub partitions: usize,
    /// Of its first partition.
    pub replicas: usize,
    pub error: i32,
}
