//! Sessions made, activated and closed on a channel, with the user's token.

use crate::channel::{Channel, MESSAGE_BYTES, unexpected};
use crate::pki::Own;
use crate::session::Kept;
use crate::target::{Identity, Target};
use millrace_contract::Failure;
use opcua::core::ResponseMessage;
use opcua::crypto::{CertificateStore, PrivateKey, SecurityPolicy, X509};
use opcua::types::{
    ActivateSessionRequest, AnonymousIdentityToken, ApplicationDescription, ApplicationType, ByteString, CloseSessionRequest,
    CreateSessionRequest, EndpointDescription, Error, ExtensionObject, LocalizedText, MessageSecurityMode, SignatureData, StatusCode,
    UAString, UserNameIdentityToken, UserTokenPolicy, UserTokenType, X509IdentityToken,
};
use std::path::Path;
use std::sync::Arc;

/// Runs what reads files where it may wait for them.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Failure::Reconnect(format!("a task of the certificates ended: {error}")))
}

/// What is said where a password is not encrypted on its way.
const CLEAR_PASSWORD: &str = "the password goes to the server in clear text: the server asks for no encryption of it; set `security`, or a policy for user \
                              names on the server";

/// What sessions of one connection are made with.
pub struct Login<'a> {
    target: &'a Target,
    endpoint: EndpointDescription,
    own: Option<Own>,
    server_certificate: Option<X509>,
    user_certificate: Option<(X509, PrivateKey)>,
}

impl<'a> Login<'a> {
    pub async fn of(target: &'a Target, endpoint: EndpointDescription, own: Option<Own>) -> Result<Self, Failure> {
        let server_certificate = X509::from_byte_string(&endpoint.server_certificate).ok();
        let user_certificate = match &target.identity {
            Identity::Certificate(certificate, key) => {
                let (certificate_path, key_path) = (certificate.clone(), key.clone());
                let read = blocking(move || {
                    let certificate = CertificateStore::read_cert(Path::new(&certificate_path));
                    certificate.and_then(|certificate| CertificateStore::read_pkey(Path::new(&key_path)).map(|key| (certificate, key)))
                });
                let read = read.await?;
                Some(read.map_err(|error| {
                    Failure::Blocked(format!("cannot read the user's certificate {certificate} or its key {key}: {error}"))
                })?)
            }
            _ => None,
        };
        Ok(Self { target, endpoint, own, server_certificate, user_certificate })
    }

    pub async fn create(&self, channel: &Channel) -> Result<Kept, Error> {
        let within = self.target.answer_within;
        channel.token.store(Arc::default());
        let nonce = opcua::crypto::random::byte_string(32);
        let application_uri = self.own.as_ref().map_or("urn:millrace", |own| own.application_uri.as_str());
        let request = CreateSessionRequest {
            request_header: channel.header(within),
            client_description: ApplicationDescription {
                application_uri: application_uri.into(),
                product_uri: "urn:millrace".into(),
                application_name: LocalizedText::from("Millrace"),
                application_type: ApplicationType::Client,
                ..Default::default()
            },
            server_uri: UAString::null(),
            endpoint_url: self.target.url.as_str().into(),
            session_name: self.target.name.as_str().into(),
            client_nonce: nonce.clone(),
            client_certificate: self.own.as_ref().map(|own| own.certificate.as_byte_string()).unwrap_or_default(),
            requested_session_timeout: self.target.session_timeout.as_secs_f64() * 1000.0,
            max_response_message_size: MESSAGE_BYTES as u32,
        };
        let answer = match channel.send(request, within).await? {
            ResponseMessage::CreateSession(answer) => answer,
            other => return Err(unexpected(&other)),
        };
        if let Some(own) = &self.own {
            if answer.server_certificate != self.endpoint.server_certificate {
                let what = "the session's certificate is another than the endpoint's";
                return Err(Error::new(StatusCode::BadSecurityChecksFailed, what));
            }
            let server =
                self.server_certificate.as_ref().ok_or_else(|| Error::new(StatusCode::BadCertificateInvalid, "no server certificate"))?;
            let policy = self.target.policy.of_the_library();
            opcua::crypto::verify_signature_data(&answer.server_signature, policy, server, &own.certificate, nonce.as_ref())?;
        }
        Ok(Kept { session_id: answer.session_id, token: answer.authentication_token, nonce: answer.server_nonce })
    }

    /// Ends the session whose token the channel has, with its subscriptions.
    pub async fn close(&self, channel: &Channel) -> Result<(), Error> {
        let within = self.target.answer_within;
        let request = CloseSessionRequest { request_header: channel.header(within), delete_subscriptions: true };
        channel.send(request, within).await.map(drop)
    }

    /// Activates a session on the channel; requests are its from here on. Returns the server's next nonce.
    pub async fn activate(&self, channel: &Channel, kept: &Kept) -> Result<ByteString, Error> {
        let (within, nonce) = (self.target.answer_within, &kept.nonce);
        channel.token.store(Arc::new(kept.token.clone()));
        let client_signature = match &self.own {
            None => SignatureData::null(),
            Some(own) => {
                let policy = self.target.policy.of_the_library();
                opcua::crypto::create_signature_data(&own.key, policy, &self.endpoint.server_certificate, nonce)?
            }
        };
        let (user_identity_token, user_token_signature) = self.identity(nonce)?;
        let request = ActivateSessionRequest {
            request_header: channel.header(within),
            client_signature,
            client_software_certificates: None,
            locale_ids: None,
            user_identity_token,
            user_token_signature,
        };
        match channel.send(request, within).await? {
            ResponseMessage::ActivateSession(answer) => Ok(answer.server_nonce),
            other => Err(unexpected(&other)),
        }
    }

    fn policy(&self, kind: UserTokenType, what: &str) -> Result<&UserTokenPolicy, Error> {
        usable_policy(&self.endpoint, kind)
            .ok_or_else(|| Error::new(StatusCode::BadIdentityTokenRejected, format!("this endpoint of the server takes no {what}")))
    }

    fn identity(&self, nonce: &ByteString) -> Result<(ExtensionObject, SignatureData), Error> {
        match &self.target.identity {
            Identity::Anonymous => {
                // Some servers name no policy at all for anonymous users.
                let policy_id = self.endpoint.find_policy(UserTokenType::Anonymous).map(|policy| policy.policy_id.clone());
                let token = AnonymousIdentityToken { policy_id: policy_id.unwrap_or_default() };
                Ok((ExtensionObject::from_message(token), SignatureData::null()))
            }
            Identity::User(user, password) => {
                let policy = self.policy(UserTokenType::UserName, "user name")?;
                let secret = opcua::crypto::legacy_encrypt_secret(
                    self.target.policy.of_the_library(),
                    self.target.mode.of_the_library(),
                    policy,
                    nonce.as_ref(),
                    &self.server_certificate,
                    password.expose().as_bytes(),
                )?;
                let is_encrypted =
                    !secret.encryption_algorithm.is_empty() || self.target.mode.of_the_library() == MessageSecurityMode::SignAndEncrypt;
                if !is_encrypted && !password.expose().is_empty() && !self.target.is_on_this_machine() {
                    tracing::warn!(endpoint = %self.target.url, user, "a password is sent as it is: {}", CLEAR_PASSWORD);
                }
                let token = UserNameIdentityToken {
                    policy_id: secret.policy,
                    user_name: user.as_str().into(),
                    password: secret.secret,
                    encryption_algorithm: secret.encryption_algorithm,
                };
                Ok((ExtensionObject::from_message(token), SignatureData::null()))
            }
            Identity::Certificate(..) => {
                let policy = self.policy(UserTokenType::Certificate, "user certificate")?;
                let Some((certificate, key)) = &self.user_certificate else {
                    return Err(Error::new(StatusCode::BadIdentityTokenInvalid, "the user's certificate was not read"));
                };
                let own_policy = policy.security_policy_uri.as_ref();
                let security =
                    if own_policy.is_empty() { self.target.policy.of_the_library() } else { SecurityPolicy::from_uri(own_policy) };
                let signature = opcua::crypto::create_signature_data(key, security, &self.endpoint.server_certificate, nonce)?;
                let token = X509IdentityToken { policy_id: policy.policy_id.clone(), certificate_data: certificate.as_byte_string() };
                Ok((ExtensionObject::from_message(token), signature))
            }
        }
    }
}

/// The first policy of a kind whose security the library knows; many servers put one of elliptic curves in front. Else the first.
fn usable_policy(endpoint: &EndpointDescription, kind: UserTokenType) -> Option<&UserTokenPolicy> {
    let is_usable = |policy: &&UserTokenPolicy| {
        let uri = policy.security_policy_uri.as_ref();
        policy.token_type == kind && (uri.is_empty() || SecurityPolicy::from_uri(uri).is_supported())
    };
    endpoint.user_identity_tokens.iter().flatten().find(is_usable).or_else(|| endpoint.find_policy(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_takes_the_first_policy_that_can_be_used() {
        let policy = |id: &str, kind: UserTokenType, uri: &str| UserTokenPolicy {
            policy_id: id.into(),
            token_type: kind,
            security_policy_uri: uri.into(),
            ..Default::default()
        };
        let ecc = "http://opcfoundation.org/UA/SecurityPolicy#ECC_nistP256";
        let rsa = "http://opcfoundation.org/UA/SecurityPolicy#Basic256Sha256";
        let endpoint = EndpointDescription {
            user_identity_tokens: Some(vec![
                policy("anonymous", UserTokenType::Anonymous, ""),
                policy("ecc", UserTokenType::UserName, ecc),
                policy("rsa", UserTokenType::UserName, rsa),
                policy("only", UserTokenType::Certificate, ecc),
            ]),
            ..Default::default()
        };
        let id = |kind| usable_policy(&endpoint, kind).map(|policy| policy.policy_id.to_string());
        assert_eq!(id(UserTokenType::UserName).as_deref(), Some("rsa"));
        assert_eq!(id(UserTokenType::Certificate).as_deref(), Some("only"));
        assert_eq!(id(UserTokenType::IssuedToken), None);
    }
}
