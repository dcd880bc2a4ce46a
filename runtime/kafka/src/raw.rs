//! Every unsafe line of this crate: owned handles of librdkafka, and calls that take plain Rust values.
//!
//! Invariants: a handle is destroyed once, by the Rust value that owns it; queues, topics and lists hold the client alive that they
//! belong to; what a pointer of librdkafka shows is borrowed from the event or message that owns it. Error numbers coming out of
//! messages are read as integers, because a newer broker may send one that the bindings' enum does not know.

use crate::error::KafkaError;
use crate::oauth::Token;
use crate::voice::Voice;
use rdkafka::bindings::*;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

const NO_ERROR: i32 = rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR as i32;
/// librdkafka's flag for `rd_kafka_destroy_flags`: leave the group to the session timeout, the consumer was closed before.
const DESTROY_NO_CONSUMER_CLOSE: c_int = 0x8;

/// Every code librdkafka knows, with its name and text.
fn descriptions() -> &'static HashMap<i32, (&'static str, &'static str)> {
    static TABLE: OnceLock<HashMap<i32, (&'static str, &'static str)>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut first = ptr::null();
        let mut count = 0;
        // SAFETY: the table is a constant of librdkafka; entries without a name are holes.
        unsafe {
            rd_kafka_get_err_descs(&mut first, &mut count);
            (0..count)
                .map(|i| first.add(i))
                .filter(|d| !(**d).name.is_null() && !(**d).desc.is_null())
                .map(|d| {
                    ((&raw const (*d).code).cast::<i32>().read(), (text(NonNull::from(&*(*d).name)), text(NonNull::from(&*(*d).desc))))
                })
                .collect()
        }
    })
}

/// SAFETY: `from` must point to a text that lives as long as the process.
unsafe fn text(from: NonNull<c_char>) -> &'static str {
    unsafe { CStr::from_ptr(from.as_ptr()) }.to_str().unwrap_or("")
}

/// The text of an error code.
pub fn describe(code: i32) -> String {
    descriptions().get(&code).map_or_else(|| format!("unknown error {code}"), |(_, text)| (*text).to_owned())
}

/// The name of an error code.
pub fn name(code: i32) -> &'static str {
    descriptions().get(&code).map_or("UNKNOWN", |(name, _)| *name)
}

fn c_string(text: &str) -> Result<CString, KafkaError> {
    CString::new(text)
        .map_err(|_| KafkaError::new(rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__INVALID_ARG as i32, format!("{text:?} holds a NUL character")))
}

/// Reads a C text that librdkafka owns; null is empty.
///
/// SAFETY: `from` is null or points to a NUL-terminated text.
unsafe fn owned(from: *const c_char) -> String {
    if from.is_null() { String::new() } else { unsafe { CStr::from_ptr(from) }.to_string_lossy().into_owned() }
}

fn check(code: rd_kafka_resp_err_t, what: &str) -> Result<(), KafkaError> {
    match code as i32 {
        NO_ERROR => Ok(()),
        code => Err(KafkaError::described(code, what)),
    }
}

fn millis(timeout: Duration) -> c_int {
    c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX)
}

// ---- configuration ------------------------------------------------------------------------------------------------------------

/// A configuration that has not become a client yet.
pub struct Conf(NonNull<rd_kafka_conf_t>);

impl Conf {
    pub fn new() -> Self {
        // SAFETY: never null (librdkafka aborts when out of memory).
        Self(unsafe { NonNull::new_unchecked(rd_kafka_conf_new()) })
    }

    /// Sets one property; the error says what librdkafka dislikes about its name or value.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let (Ok(name), Ok(value)) = (CString::new(name), CString::new(value)) else { return Err("holds a NUL character".into()) };
        let mut error = [0 as c_char; 512];
        // SAFETY: all pointers live through the call.
        let outcome = unsafe { rd_kafka_conf_set(self.0.as_ptr(), name.as_ptr(), value.as_ptr(), error.as_mut_ptr(), error.len()) };
        match outcome {
            rd_kafka_conf_res_t::RD_KAFKA_CONF_OK => Ok(()),
            // SAFETY: librdkafka terminates what it writes.
            _ => Err(unsafe { owned(error.as_ptr()) }),
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

/// One instance of librdkafka. Its events wait in queues; its log lines go to its voice.
pub struct Native {
    rk: NonNull<rd_kafka_t>,
    role: Role,
    /// Pointed to by librdkafka as its opaque; dropped after it.
    _voice: Box<Voice>,
}

// SAFETY: rd_kafka_t is thread-safe by its documentation.
unsafe impl Send for Native {}
unsafe impl Sync for Native {}

unsafe extern "C" fn log(rk: *const rd_kafka_t, level: c_int, facility: *const c_char, line: *const c_char) {
    // SAFETY: the opaque is the voice of this client, set before the client existed and dropped after it.
    unsafe {
        let voice = rd_kafka_opaque(rk).cast::<Voice>();
        if let Some(voice) = voice.as_ref() {
            voice.say(level, &owned(facility), &owned(line));
        }
    }
}

impl Native {
    pub fn new(role: Role, conf: Conf, events: i32, voice: Voice) -> Result<Arc<Self>, KafkaError> {
        let voice = Box::new(voice);
        let mut error = [0 as c_char; 512];
        // SAFETY: the conf is handed over if, and only if, a client comes back.
        unsafe {
            rd_kafka_conf_set_opaque(conf.0.as_ptr(), (&raw const *voice).cast_mut().cast());
            rd_kafka_conf_set_log_cb(conf.0.as_ptr(), Some(log));
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
            Ok(Arc::new(Self { rk, role, _voice: voice }))
        }
    }

    fn ptr(&self) -> *mut rd_kafka_t {
        self.rk.as_ptr()
    }

    /// The queue all events come out of: of a consumer, with its messages.
    pub fn queue(self: &Arc<Self>) -> Queue {
        // SAFETY: both calls return a new reference; a consumer always has its queue.
        let queue = unsafe {
            match self.role {
                Role::Producer => rd_kafka_queue_get_main(self.ptr()),
                Role::Consumer => rd_kafka_queue_get_consumer(self.ptr()),
            }
        };
        Queue { queue: NonNull::new(queue).expect("every client has its queue"), native: self.clone() }
    }

    pub fn topic(self: &Arc<Self>, name: &str) -> Result<TopicHandle, KafkaError> {
        let c_name = c_string(name)?;
        // SAFETY: a null configuration means the client's own defaults.
        let rkt = unsafe { rd_kafka_topic_new(self.ptr(), c_name.as_ptr(), ptr::null_mut()) };
        match NonNull::new(rkt) {
            Some(rkt) => Ok(TopicHandle { rkt, native: self.clone() }),
            None => {
                // SAFETY: reads the calling thread's last error.
                let code = unsafe { rd_kafka_last_error() } as i32;
                Err(KafkaError::described(code, &format!("cannot use topic {name}")))
            }
        }
    }

    /// Hands a message over; its bytes are copied. The code is librdkafka's, zero when it was taken.
    #[allow(clippy::too_many_arguments)]
    pub fn produce(
        &self,
        topic: &TopicHandle,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp_ms: i64,
        headers: Option<HeaderList>,
        opaque: u64,
    ) -> i32 {
        let (key_ptr, key_len) = bytes(key);
        let (value_ptr, value_len) = bytes(value);
        let header_list = headers.as_ref().map_or(ptr::null_mut(), |h| h.0.as_ptr());
        // SAFETY: each tag is followed by the values librdkafka documents for it; with F_COPY nothing is kept of ours.
        let code = unsafe {
            rd_kafka_producev(
                self.ptr(),
                rd_kafka_vtype_t::RD_KAFKA_VTYPE_RKT,
                topic.rkt.as_ptr(),
                rd_kafka_vtype_t::RD_KAFKA_VTYPE_PARTITION,
                partition,
                rd_kafka_vtype_t::RD_KAFKA_VTYPE_MSGFLAGS,
                RD_KAFKA_MSG_F_COPY,
                rd_kafka_vtype_t::RD_KAFKA_VTYPE_VALUE,
                value_ptr,
                value_len,
                rd_kafka_vtype_t::RD_KAFKA_VTYPE_KEY,
                key_ptr,
                key_len,
                rd_kafka_vtype_t::RD_KAFKA_VTYPE_OPAQUE,
                opaque as usize as *mut c_void,
                rd_kafka_vtype_t::RD_KAFKA_VTYPE_TIMESTAMP,
                timestamp_ms,
                rd_kafka_vtype_t::RD_KAFKA_VTYPE_HEADERS,
                header_list,
                rd_kafka_vtype_t::RD_KAFKA_VTYPE_END,
            )
        } as i32;
        if code == NO_ERROR {
            std::mem::forget(headers); // the message owns them now
        }
        code
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

    pub fn send_offsets(&self, offsets: &List, group: &GroupHandle, timeout: Duration) -> Result<(), TransactionFault> {
        // SAFETY: as above; list and group live through the call.
        unsafe { transaction(rd_kafka_send_offsets_to_transaction(self.ptr(), offsets.0.as_ptr(), group.0.as_ptr(), millis(timeout))) }
    }

    pub fn set_token(&self, token: Result<Token, String>) -> Result<(), String> {
        // SAFETY: the client lives.
        unsafe { set_token(self.ptr(), token) }
    }

    /// Asks for a topic's partitions; `None` for every topic of the cluster. Blocks up to the timeout.
    pub fn metadata(&self, topic: Option<&TopicHandle>, timeout: Duration) -> Result<Vec<TopicMetadata>, KafkaError> {
        let mut metadata = ptr::null();
        let only = topic.map_or(ptr::null_mut(), |t| t.rkt.as_ptr());
        // SAFETY: on success the metadata is ours until destroyed; counts and arrays belong together.
        unsafe {
            check(
                rd_kafka_metadata(self.ptr(), c_int::from(topic.is_none()), only, &mut metadata, millis(timeout)),
                "cannot read the cluster's metadata",
            )?;
            let count = usize::try_from((*metadata).topic_cnt).unwrap_or(0);
            let topics = (0..count)
                .map(|i| {
                    let topic = (*metadata).topics.add(i);
                    let partitions = usize::try_from((*topic).partition_cnt).unwrap_or(0);
                    TopicMetadata { name: owned((*topic).topic), partitions, error: (&raw const (*topic).err).cast::<i32>().read() }
                })
                .collect();
            rd_kafka_metadata_destroy(metadata);
            Ok(topics)
        }
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

    pub fn group(&self) -> Option<GroupHandle> {
        // SAFETY: a new object, or null.
        NonNull::new(unsafe { rd_kafka_consumer_group_metadata(self.ptr()) }).map(GroupHandle)
    }

    /// Starts leaving the group; revocations come out of the queue until [`Native::is_closed`].
    pub fn close(&self, queue: &Queue) -> Result<(), KafkaError> {
        // SAFETY: the queue belongs to this client; the error object is ours.
        unsafe { fallible(rd_kafka_consumer_close_queue(self.ptr(), queue.queue.as_ptr())) }
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

fn bytes(from: Option<&[u8]>) -> (*mut c_void, usize) {
    // An empty slice's pointer is dangling but never null: librdkafka tells empty from null by it.
    from.map_or((ptr::null_mut(), 0), |b| (b.as_ptr().cast_mut().cast(), b.len()))
}

/// SAFETY: `error` is null or an error object, which is destroyed here.
unsafe fn fallible(error: *mut rd_kafka_error_t) -> Result<(), KafkaError> {
    if error.is_null() {
        return Ok(());
    }
    unsafe {
        let fault = KafkaError::new(rd_kafka_error_code(error) as i32, owned(rd_kafka_error_string(error)));
        rd_kafka_error_destroy(error);
        Err(fault)
    }
}

/// As [`Native::set_token`], for rdkafka's own administrative client.
pub fn set_admin_token(client: &rdkafka::client::Client, token: Result<Token, String>) -> Result<(), String> {
    // SAFETY: the client lives.
    unsafe { set_token(client.native_ptr(), token) }
}

/// Gives a client its token, or tells it that there is none.
///
/// SAFETY: `rk` is a live client.
unsafe fn set_token(rk: *mut rd_kafka_t, token: Result<Token, String>) -> Result<(), String> {
    let mut error = [0 as c_char; 512];
    let outcome = token.and_then(|token| {
        let (Ok(value), Ok(principal)) = (CString::new(token.value), CString::new(token.principal)) else {
            return Err("the token holds a NUL character".to_owned());
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
            if code as i32 == NO_ERROR { Ok(()) } else { Err(owned(error.as_ptr())) }
        }
    });
    if let Err(why) = &outcome {
        let why = CString::new(why.replace('\0', " ")).unwrap_or_default();
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
unsafe fn transaction(error: *mut rd_kafka_error_t) -> Result<(), TransactionFault> {
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
    pub error: i32,
}

// ---- topic, headers, group ----------------------------------------------------------------------------------------------------

/// A cached topic handle: what makes sending cheap.
pub struct TopicHandle {
    rkt: NonNull<rd_kafka_topic_t>,
    native: Arc<Native>,
}

// SAFETY: rd_kafka_topic_t is thread-safe.
unsafe impl Send for TopicHandle {}
unsafe impl Sync for TopicHandle {}

impl TopicHandle {
    pub fn belongs_to(&self, native: &Arc<Native>) -> bool {
        Arc::ptr_eq(&self.native, native)
    }
}

impl Drop for TopicHandle {
    fn drop(&mut self) {
        // SAFETY: owned.
        unsafe { rd_kafka_topic_destroy(self.rkt.as_ptr()) }
    }
}

/// Headers on their way into a message.
pub struct HeaderList(NonNull<rd_kafka_headers_t>);

impl HeaderList {
    pub fn new() -> Self {
        // SAFETY: never null.
        Self(unsafe { NonNull::new_unchecked(rd_kafka_headers_new(2)) })
    }

    pub fn push(&mut self, name: &str, value: Option<&[u8]>) {
        let (value, size) = bytes(value);
        // SAFETY: name and value are copied; lengths are given, nothing is searched for its NUL. Names longer than isize don't exist.
        unsafe { rd_kafka_header_add(self.0.as_ptr(), name.as_ptr().cast(), name.len() as isize, value, size as isize) };
    }
}

impl Drop for HeaderList {
    fn drop(&mut self) {
        // SAFETY: owned; forgotten once a message has taken it.
        unsafe { rd_kafka_headers_destroy(self.0.as_ptr()) }
    }
}

/// A consumer's membership, for a transaction that commits its offsets.
pub struct GroupHandle(NonNull<rd_kafka_consumer_group_metadata_t>);

// SAFETY: an immutable object.
unsafe impl Send for GroupHandle {}
unsafe impl Sync for GroupHandle {}

impl Drop for GroupHandle {
    fn drop(&mut self) {
        // SAFETY: owned.
        unsafe { rd_kafka_consumer_group_metadata_destroy(self.0.as_ptr()) }
    }
}

// ---- partition lists ----------------------------------------------------------------------------------------------------------

/// A list of partitions, with offsets where they matter.
pub struct List(NonNull<rd_kafka_topic_partition_list_t>);

impl List {
    pub fn new() -> Self {
        // SAFETY: never null.
        Self(unsafe { NonNull::new_unchecked(rd_kafka_topic_partition_list_new(8)) })
    }

    pub fn push(&mut self, topic: &str, partition: i32, offset: i64) -> Result<(), KafkaError> {
        let topic = c_string(topic)?;
        // SAFETY: the topic is copied; the new entry is never null.
        unsafe { (*rd_kafka_topic_partition_list_add(self.0.as_ptr(), topic.as_ptr(), partition)).offset = offset };
        Ok(())
    }

    pub fn entries(&self) -> Vec<(String, i32, i64, i32)> {
        // SAFETY: owned.
        unsafe { entries(self.0.as_ptr()) }
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: owned.
        unsafe { rd_kafka_topic_partition_list_destroy(self.0.as_ptr()) }
    }
}

/// Topic, partition, offset and error of each entry.
///
/// SAFETY: `list` is null or a list.
unsafe fn entries(list: *const rd_kafka_topic_partition_list_t) -> Vec<(String, i32, i64, i32)> {
    if list.is_null() {
        return Vec::new();
    }
    unsafe {
        (0..usize::try_from((*list).cnt).unwrap_or(0))
            .map(|i| {
                let entry = (*list).elems.add(i);
                (owned((*entry).topic), (*entry).partition, (*entry).offset, (&raw const (*entry).err).cast::<i32>().read())
            })
            .collect()
    }
}

// ---- events -------------------------------------------------------------------------------------------------------------------

/// Where a client's events wait.
pub struct Queue {
    queue: NonNull<rd_kafka_queue_t>,
    native: Arc<Native>,
}

// SAFETY: rd_kafka_queue_t is thread-safe.
unsafe impl Send for Queue {}
unsafe impl Sync for Queue {}

impl Queue {
    pub fn poll(&self, timeout: Duration) -> Option<Event> {
        // SAFETY: the event is ours.
        NonNull::new(unsafe { rd_kafka_queue_poll(self.queue.as_ptr(), millis(timeout)) }).map(Event)
    }

    /// Ends a poll that waits in another thread.
    pub fn wake(&self) {
        // SAFETY: thread-safe.
        unsafe { rd_kafka_queue_yield(self.queue.as_ptr()) }
    }

    pub fn native(&self) -> &Arc<Native> {
        &self.native
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: owned.
        unsafe { rd_kafka_queue_destroy(self.queue.as_ptr()) }
    }
}

pub struct Event(NonNull<rd_kafka_event_t>);

/// A delivery report as it lies in its event.
pub struct RawReport {
    pub opaque: u64,
    pub partition: i32,
    pub offset: i64,
    pub code: i32,
    pub text: Option<String>,
}

impl Event {
    pub fn kind(&self) -> i32 {
        // SAFETY: a plain number.
        unsafe { rd_kafka_event_type(self.0.as_ptr()) }
    }

    pub fn code(&self) -> i32 {
        // SAFETY: a plain number.
        unsafe { rd_kafka_event_error(self.0.as_ptr()) as i32 }
    }

    pub fn error(&self) -> KafkaError {
        // SAFETY: the text belongs to the event.
        KafkaError::new(self.code(), unsafe { owned(rd_kafka_event_error_string(self.0.as_ptr())) })
    }

    pub fn is_fatal(&self) -> bool {
        // SAFETY: a plain flag.
        unsafe { rd_kafka_event_error_is_fatal(self.0.as_ptr()) != 0 }
    }

    /// Each delivery report of a report event, in the order of the partition.
    pub fn reports(&self, mut each: impl FnMut(RawReport)) {
        // SAFETY: messages belong to the event; a null ends them.
        unsafe {
            while let Some(message) = rd_kafka_event_message_next(self.0.as_ptr()).as_ref() {
                let code = (&raw const message.err).cast::<i32>().read();
                each(RawReport {
                    opaque: message._private as usize as u64,
                    partition: message.partition,
                    offset: message.offset,
                    code,
                    text: (code != NO_ERROR).then(|| produce_text(message, code)),
                });
            }
        }
    }

    /// The message of a fetch event.
    pub fn message(&self) -> Option<RawMessage<'_>> {
        // SAFETY: the message belongs to the event, and the borrow says so.
        unsafe { rd_kafka_event_message_next(self.0.as_ptr()).as_ref() }.map(RawMessage)
    }

    pub fn partitions(&self) -> Vec<(String, i32, i64, i32)> {
        // SAFETY: the list belongs to the event.
        unsafe { entries(rd_kafka_event_topic_partition_list(self.0.as_ptr())) }
    }

    /// The partition an error event is about, and its offset.
    pub fn partition(&self) -> Option<(String, i32, i64)> {
        // SAFETY: a new object, or null.
        unsafe {
            let part = NonNull::new(rd_kafka_event_topic_partition(self.0.as_ptr()))?;
            let found = (owned(part.as_ref().topic), part.as_ref().partition, part.as_ref().offset);
            rd_kafka_topic_partition_destroy(part.as_ptr());
            Some(found)
        }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: owned.
        unsafe { rd_kafka_event_destroy(self.0.as_ptr()) }
    }
}

/// Why a message was not delivered: the broker's own words, else those for the code.
///
/// SAFETY: `message` comes from a report event. (`rd_kafka_message_errstr` is for consumers: of a report it would be the payload.)
unsafe fn produce_text(message: &rd_kafka_message_t, code: i32) -> String {
    let text = unsafe { owned(rd_kafka_message_produce_errstr(message)) };
    if text.is_empty() { describe(code) } else { text }
}

/// A fetched message, borrowed from its event.
#[derive(Clone, Copy)]
pub struct RawMessage<'a>(&'a rd_kafka_message_t);

impl<'a> RawMessage<'a> {
    pub fn code(self) -> i32 {
        // SAFETY: reads the number as it is.
        unsafe { (&raw const self.0.err).cast::<i32>().read() }
    }

    pub fn topic(self) -> &'a str {
        // SAFETY: the topic outlives its message; names of topics are ASCII.
        unsafe { CStr::from_ptr(rd_kafka_topic_name(self.0.rkt)) }.to_str().unwrap_or("")
    }

    pub fn partition(self) -> i32 {
        self.0.partition
    }

    pub fn offset(self) -> i64 {
        self.0.offset
    }

    pub fn key(self) -> Option<&'a [u8]> {
        // SAFETY: pointer and length belong together, as long as the message lives.
        unsafe { slice(self.0.key, self.0.key_len) }
    }

    pub fn value(self) -> Option<&'a [u8]> {
        // SAFETY: as above.
        unsafe { slice(self.0.payload, self.0.len) }
    }

    pub fn timestamp_ms(self) -> Option<i64> {
        let mut kind = rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message lives.
        let time = unsafe { rd_kafka_message_timestamp(self.0, &mut kind) };
        (kind != rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE).then_some(time)
    }

    pub fn headers(self) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> {
        let mut list = ptr::null_mut();
        // SAFETY: the list belongs to the message.
        let found = unsafe { rd_kafka_message_headers(self.0, &mut list) } as i32 == NO_ERROR;
        let mut index = 0;
        std::iter::from_fn(move || {
            let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
            // SAFETY: name and value belong to the message.
            unsafe {
                if !found || rd_kafka_header_get_all(list, index, &mut name, &mut value, &mut size) as i32 != NO_ERROR {
                    return None;
                }
                index += 1;
                Some((CStr::from_ptr(name).to_str().unwrap_or(""), slice(value, size)))
            }
        })
    }
}

/// SAFETY: a non-null pointer shows `len` bytes that live through `'a`.
unsafe fn slice<'a>(from: *const c_void, len: usize) -> Option<&'a [u8]> {
    (!from.is_null()).then(|| unsafe { std::slice::from_raw_parts(from.cast(), len) })
}
