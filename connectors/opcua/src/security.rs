//! How a connection is secured: policies and modes, and what may be wrong with a server's certificate.

use opcua::crypto::SecurityPolicy;
use opcua::types::MessageSecurityMode;
use schemars::JsonSchema;
use serde::Deserialize;

/// A security policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
pub enum Policy {
    /// Nothing is signed, nothing encrypted.
    #[default]
    None,
    /// The usual one.
    Basic256Sha256,
    /// For small devices.
    #[serde(rename = "Aes128_Sha256_RsaOaep")]
    Aes128Sha256RsaOaep,
    /// The strongest.
    #[serde(rename = "Aes256_Sha256_RsaPss")]
    Aes256Sha256RsaPss,
}

/// What of a message is protected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
pub enum Mode {
    /// Nothing.
    #[default]
    None,
    /// Against change.
    Sign,
    /// Against change and reading.
    SignAndEncrypt,
}

impl Policy {
    pub fn uri(self) -> &'static str {
        self.of_the_library().to_uri()
    }

    pub(crate) fn of_the_library(self) -> SecurityPolicy {
        match self {
            Self::None => SecurityPolicy::None,
            Self::Basic256Sha256 => SecurityPolicy::Basic256Sha256,
            Self::Aes128Sha256RsaOaep => SecurityPolicy::Aes128Sha256RsaOaep,
            Self::Aes256Sha256RsaPss => SecurityPolicy::Aes256Sha256RsaPss,
        }
    }
}

impl Mode {
    pub(crate) fn of_the_library(self) -> MessageSecurityMode {
        match self {
            Self::None => MessageSecurityMode::None,
            Self::Sign => MessageSecurityMode::Sign,
            Self::SignAndEncrypt => MessageSecurityMode::SignAndEncrypt,
        }
    }
}

/// What may be wrong with a server's certificate and is put up with, where the YAML names it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Accept {
    /// It has expired, or is not valid yet.
    Expired,
    /// Its RSA key has fewer than 2,048 bits.
    ShortKey,
    /// It names no application URI.
    NoUri,
    /// It names another application URI than the server.
    OtherUri,
    /// It is for other host names than the endpoint's.
    OtherHost,
    /// The revocation list of its authority has expired.
    OldRevocationList,
}

impl Accept {
    /// As it is written in the YAML.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::ShortKey => "short_key",
            Self::NoUri => "no_uri",
            Self::OtherUri => "other_uri",
            Self::OtherHost => "other_host",
            Self::OldRevocationList => "old_revocation_list",
        }
    }

    /// What is given up by it, for a person.
    pub const fn risk(self) -> &'static str {
        match self {
            Self::Expired => "a certificate that has expired may be in other hands by now",
            Self::ShortKey => "a key of fewer than 2,048 bits can be broken",
            Self::NoUri => "a certificate without an application URI does not say which server it is for",
            Self::OtherUri => "the certificate is for another application",
            Self::OtherHost => "the certificate is for another host",
            Self::OldRevocationList => "a certificate that was revoked lately is still trusted",
        }
    }
}
