//! Whether a server's certificate is trusted: by itself, or by its authority; and all that is wrong with it.
//!
//! Source: OPC 10000-4, 6.1.3 (determining if a certificate is trusted).

use crate::certificate::{CertificateInfo, TrustList, Unreadable, describe, same_host, split_chain};
use crate::fault::{Fault, PkiError, Refusal};
use crate::pki::{Pki, SMALLEST_RSA_BITS, files};
use crate::security::Accept;
use opcua::crypto::X509;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;
use webpki::{
    ALL_VERIFICATION_ALGS, CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy, anchor_from_trusted_cert,
};

impl Pki {
    /// Judges a server's certificate (DER, issuers behind it) for this host and application. What a person may approve is kept in `rejected`. Returns
    /// what is wrong with it and accepted. Errors: all that is wrong with it, and what to do.
    pub fn judge(&self, certificate: &[u8], host: &str, application_uri: &str, accept: &[Accept]) -> Result<Vec<Fault>, PkiError> {
        self.judge_at(certificate, host, application_uri, accept, SystemTime::now())
    }

    pub(crate) fn judge_at(
        &self,
        certificate: &[u8],
        host: &str,
        application_uri: &str,
        accept: &[Accept],
        now: SystemTime,
    ) -> Result<Vec<Fault>, PkiError> {
        let unreadable = |why: Option<String>| PkiError::Unreadable { host: host.to_owned(), why };
        let chain = split_chain(certificate).ok_or_else(|| unreadable(None))?;
        let leaf = describe(TrustList::Rejected, PathBuf::new(), chain[0]).map_err(|Unreadable(why)| unreadable(Some(why)))?;
        let mut faults = Vec::new();
        if now < leaf.from || now > leaf.until {
            faults.push(Fault::Expired { from: leaf.span.0.clone(), until: leaf.span.1.clone() });
        }
        if let Ok(certificate) = X509::from_der(chain[0])
            && let Ok(bits) = certificate.key_length()
            && bits < SMALLEST_RSA_BITS
        {
            faults.push(Fault::ShortKey { bits });
        }
        faults.extend(uri_fault(&leaf, application_uri));
        let names_host = |names: &[String]| names.iter().any(|name| same_host(name, host));
        if !names_host(&leaf.names) && !names_host(&self.hosts(&leaf.thumbprint)) {
            faults.push(Fault::OtherHost { names: leaf.names.join(", "), host: host.to_owned() });
        }
        let trusted = self.shelf_der(TrustList::Trusted);
        let is_approved = trusted.iter().any(|known| known == chain[0]);
        if !is_approved {
            // An expired certificate that is accepted is as good as on its last day.
            let judged_at = if accept.contains(&Accept::Expired) { now.clamp(leaf.from, leaf.until) } else { now };
            faults.extend(self.chain_fault(&trusted, &chain, accept, judged_at, now)?);
        }
        let (accepted, faults): (Vec<Fault>, Vec<Fault>) =
            faults.into_iter().partition(|fault| fault.accept().is_some_and(|word| accept.contains(&word)));
        if faults.is_empty() {
            return Ok(accepted);
        }
        let kept = if !is_approved && faults.iter().any(Fault::is_approvable) { self.keep_rejected(&leaf, chain[0]) } else { Ok(()) };
        let unkept = kept.err().map(|error| error.to_string());
        let CertificateInfo { thumbprint, subject, .. } = leaf;
        Err(PkiError::Refused(Box::new(Refusal { thumbprint, subject, host: host.to_owned(), faults, at: self.at(), unkept })))
    }

    /// What is wrong with the way from the certificate to a trusted authority; `None`: it leads there, and none of it is revoked.
    fn chain_fault(
        &self,
        trusted: &[Vec<u8>],
        chain: &[&[u8]],
        accept: &[Accept],
        judged_at: SystemTime,
        now: SystemTime,
    ) -> Result<Option<Fault>, PkiError> {
        let untrusted = |why: Option<String>| Some(Fault::Untrusted { why });
        let authorities: Vec<CertificateDer<'_>> = trusted.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        let valid = |der: &[u8]| describe(TrustList::Trusted, PathBuf::new(), der).is_ok_and(|one| one.from <= now && now <= one.until);
        let anchors: Vec<TrustAnchor<'_>> =
            authorities.iter().filter(|der| valid(der)).filter_map(|der| anchor_from_trusted_cert(der).ok()).collect();
        let known = self.shelf_der(TrustList::Issuers);
        let behind = chain[1..].iter().copied().chain(known.iter().map(Vec::as_slice));
        let between: Vec<CertificateDer<'_>> = behind.map(CertificateDer::from).collect();
        let leaf = CertificateDer::from(chain[0]);
        let Ok(leaf) = EndEntityCert::try_from(&leaf) else { return Ok(untrusted(None)) };
        let lists = match self.revocation_lists() {
            Ok(lists) => lists,
            Err(error) => return Ok(untrusted(Some(error.to_string()))),
        };
        let lists: Vec<&CertRevocationList<'_>> = lists.iter().collect();
        // An authority without a list is taken to have revoked nothing; a list that has expired is no list any more, and says so.
        let expiration = if accept.contains(&Accept::OldRevocationList) { ExpirationPolicy::Ignore } else { ExpirationPolicy::Enforce };
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            options
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(UnknownStatusPolicy::Allow)
                .with_expiration_policy(expiration)
                .build()
        });
        let time = UnixTime::since_unix_epoch(judged_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        let path = leaf.verify_for_usage(ALL_VERIFICATION_ALGS, &anchors, &between, time, KeyUsage::server_auth(), revocation, None);
        Ok(match path {
            Ok(_) => None,
            Err(webpki::Error::UnknownIssuer | webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. }) => {
                untrusted(None)
            }
            Err(webpki::Error::CertRevoked) => untrusted(Some("its authority has revoked it".into())),
            Err(webpki::Error::CrlExpired { .. }) => Some(Fault::OldRevocationList),
            Err(error) => untrusted(Some(format!("{error:?}"))),
        })
    }

    fn revocation_lists(&self) -> Result<Vec<CertRevocationList<'static>>, PkiError> {
        let mut lists = Vec::new();
        for shelf in [TrustList::Trusted, TrustList::Issuers] {
            for path in files(&self.folder().join(shelf.name()).join("crl")) {
                let list = fs::read(&path).map_err(|error| PkiError::file("read", &path, &error))?;
                let list = OwnedCertRevocationList::from_der(&list)
                    .map_err(|error| PkiError::RevocationList { path: path.clone(), why: format!("{error:?}") })?;
                lists.push(list.into());
            }
        }
        Ok(lists)
    }
}

fn uri_fault(leaf: &CertificateInfo, application: &str) -> Option<Fault> {
    if application.is_empty() || leaf.names.iter().any(|name| name == application) {
        return None;
    }
    let application = application.to_owned();
    let is_uri = |name: &String| name.contains(':') && name.parse::<std::net::IpAddr>().is_err();
    Some(match leaf.names.iter().any(is_uri) {
        true => Fault::OtherUri { names: leaf.names.join(", "), application },
        false => Fault::NoUri { application },
    })
}
