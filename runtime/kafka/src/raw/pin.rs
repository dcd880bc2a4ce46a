//! A broker that is known by its certificate itself: no authority need vouch for it, and no name need fit.

use crate::error::KafkaError;
use crate::logging::LogBridge;
use parking_lot::Mutex;
use rdkafka::bindings::*;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::ffi::{c_char, c_int, c_void};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// OpenSSL's "certificate not trusted".
const NOT_TRUSTED: c_int = 27;

/// The only certificate that is believed: the first of a PEM file, as it was when the first client was made with it.
pub struct Pin {
    file: PathBuf,
    certificate: OnceLock<Vec<u8>>,
}

impl Pin {
    pub fn of(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into(), certificate: OnceLock::new() }
    }

    /// Reads the file, unless it was read before. Errors: it can't be, or holds no certificate.
    fn read(&self) -> Result<(), KafkaError> {
        if self.certificate.get().is_none() {
            let read = CertificateDer::from_pem_file(&self.file);
            let read = read.map_err(|error| no_tls(format!("cannot read the broker's certificate {}: {error}", self.file.display())))?;
            self.certificate.get_or_init(|| read.to_vec());
        }
        Ok(())
    }
}

fn no_tls(why: impl Into<String>) -> KafkaError {
    KafkaError::new(rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__SSL as i32, why)
}

/// What librdkafka hands back to callbacks.
pub(super) struct Opaque {
    pub log: LogBridge,
    pub pin: Option<Arc<Pin>>,
    /// Why the last certificate that a broker showed is not believed.
    pub refused: Mutex<Option<String>>,
}

/// Lets a client believe this certificate and no other.
///
/// SAFETY: the conf is live; the opaque that the callback reads is set with every client.
pub(super) unsafe fn set(conf: *mut rd_kafka_conf_t, pin: &Pin) -> Result<(), KafkaError> {
    pin.read()?;
    match unsafe { rd_kafka_conf_set_ssl_cert_verify_cb(conf, Some(verify)) } {
        rd_kafka_conf_res_t::RD_KAFKA_CONF_OK => Ok(()),
        _ => Err(no_tls("this librdkafka has no TLS")),
    }
}

/// Asked for every certificate of the chain, and for every fault of it; depth 0 is the broker's own, and is asked for in any case.
unsafe extern "C" fn verify(
    _client: *mut rd_kafka_t,
    _broker: *const c_char,
    _id: i32,
    fault: *mut c_int,
    depth: c_int,
    certificate: *const c_char,
    len: usize,
    text: *mut c_char,
    text_len: usize,
    opaque: *mut c_void,
) -> c_int {
    // SAFETY: the opaque is this client's, and lives as long as it; certificate and text are librdkafka's, with their lengths.
    unsafe {
        let Some(opaque) = opaque.cast::<Opaque>().as_ref() else { return 0 };
        let known = opaque.pin.as_ref().and_then(|pin| pin.certificate.get());
        let is_known =
            !certificate.is_null() && known.is_some_and(|known| std::slice::from_raw_parts(certificate.cast::<u8>(), len) == &known[..]);
        if depth > 0 || is_known {
            if is_known {
                *opaque.refused.lock() = None;
            }
            *fault = 0;
            return 1;
        }
        *fault = NOT_TRUSTED;
        let file = opaque.pin.as_ref().map_or_else(String::new, |pin| pin.file.display().to_string());
        let why = format!("what the broker shows is not the certificate in {file}; if that was renewed, restart the broker");
        *opaque.refused.lock() = Some(why.clone());
        let why = why + "\0";
        let len = why.len().min(text_len);
        std::ptr::copy_nonoverlapping(why.as_ptr().cast(), text, len);
        if len > 0 {
            *text.add(len - 1) = 0;
        }
        0
    }
}
