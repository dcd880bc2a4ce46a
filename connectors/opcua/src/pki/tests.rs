//! Certificates as plants have them: self-signed, issued, expired, revoked, for another host.

use super::*;
use crate::fault::Fault;
use crate::security::Accept;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};

const URI: &str = "urn:press:server";

struct Place {
    _dir: tempfile::TempDir,
    pki: Pki,
}

fn place() -> Place {
    let dir = tempfile::tempdir().expect("a folder can be made");
    let pki = Pki::new(dir.path().join("pki"));
    Place { _dir: dir, pki }
}

impl Place {
    fn put(&self, name: &str, bytes: &[u8]) {
        let path = self.pki.folder().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

fn at(year: u16) -> SystemTime {
    let days = (u64::from(year) - 1970) * 365 + (u64::from(year) - 1969) / 4;
    SystemTime::UNIX_EPOCH + DAY * days as u32
}

fn server(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["press.plant".into()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.subject_alt_names.push(SanType::URI(URI.try_into().unwrap()));
    params.subject_alt_names.push(SanType::IpAddress([10, 0, 0, 5].into()));
    params.not_before = date_time_ymd(2025, 1, 1);
    params.not_after = date_time_ymd(2030, 1, 1);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.serial_number = Some(SerialNumber::from(77u64));
    params
}

fn self_signed(common_name: &str) -> Vec<u8> {
    server(common_name).self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = date_time_ymd(2024, 1, 1);
    params.not_after = date_time_ymd(2035, 1, 1);
    params
}

fn root() -> CertifiedIssuer<'static, KeyPair> {
    CertifiedIssuer::self_signed(authority("Plant authority"), KeyPair::generate().unwrap()).unwrap()
}

fn judge(place: &Place, certificate: &[u8]) -> Result<(), String> {
    judge_for(place, certificate, "press.plant", URI, at(2026))
}

fn judge_for(place: &Place, certificate: &[u8], host: &str, application: &str, now: SystemTime) -> Result<(), String> {
    place.pki.judge_at(certificate, host, application, &[], now).map(drop).map_err(|error| error.to_string())
}

#[test]
fn an_unknown_server_is_turned_away_with_the_line_that_approves_it() {
    let place = place();
    let certificate = self_signed("Press");
    let refused = judge(&place, &certificate).unwrap_err();
    let line = refused.split("type: ").nth(1).expect("it says what to type");
    let thumbprint = X509::from_der(&certificate).unwrap().thumbprint().as_hex_string();
    assert_eq!(line, format!("millrace pki approve {thumbprint} --data {}", place.pki.folder().parent().unwrap().display()));
    assert!(refused.contains("CN=Press") && refused.contains("press.plant"), "{refused}");

    let approved = place.pki.approve(&thumbprint[..8], &[]).unwrap();
    assert_eq!((approved.shelf, approved.thumbprint.as_str()), (TrustList::Trusted, thumbprint.as_str()));
    assert_eq!(judge(&place, &certificate), Ok(()));
    place.pki.reject(&thumbprint).unwrap();
    assert!(judge(&place, &certificate).unwrap_err().contains("is not trusted"));
    assert_eq!(place.pki.list().len(), 1, "turned away twice, kept once");
}

#[test]
fn an_approved_certificate_is_trusted_alone_and_not_another_of_its_name() {
    let place = place();
    place.put("trusted/certs/press.der", &self_signed("Press"));
    assert!(judge(&place, &self_signed("Press")).unwrap_err().contains("is not trusted"));
}

#[test]
fn a_certificate_out_of_its_time_is_refused_even_where_it_is_trusted() {
    let place = place();
    let certificate = self_signed("Press");
    place.put("trusted/certs/press.der", &certificate);
    for year in [2024, 2031] {
        let refused = judge_for(&place, &certificate, "press.plant", URI, at(year)).unwrap_err();
        assert!(refused.contains("is valid from 2025-01-01T00:00:00Z to 2030-01-01T00:00:00Z"), "{refused}");
    }
}

#[test]
fn a_certificate_for_another_host_or_application_is_refused_until_a_person_names_the_host() {
    let place = place();
    let certificate = self_signed("Press");
    place.put("trusted/certs/press.der", &certificate);
    for host in ["press.plant", "PRESS.plant", "10.0.0.5"] {
        assert_eq!(judge_for(&place, &certificate, host, URI, at(2026)), Ok(()), "{host}");
    }
    let refused = judge_for(&place, &certificate, "10.0.0.6", URI, at(2026)).unwrap_err();
    assert!(refused.contains("not for 10.0.0.6") && refused.contains("--host 10.0.0.6"), "{refused}");
    let thumbprint = place.pki.list()[0].thumbprint.clone();
    place.pki.approve(&thumbprint, &["10.0.0.6".into()]).unwrap();
    assert_eq!(judge_for(&place, &certificate, "10.0.0.6", URI, at(2026)), Ok(()));
    let refused = judge_for(&place, &certificate, "press.plant", "urn:another", at(2026)).unwrap_err();
    assert!(refused.contains("not for the application urn:another"), "{refused}");
}

#[test]
fn servers_of_a_trusted_authority_are_trusted_over_intermediates() {
    let place = place();
    let root = root();
    let between = CertifiedIssuer::signed_by(authority("Hall authority"), KeyPair::generate().unwrap(), &root).unwrap();
    let leaf = server("Press").signed_by(&KeyPair::generate().unwrap(), &between).unwrap();
    place.put("trusted/certs/root.der", root.der());
    assert!(judge(&place, leaf.der()).is_err(), "the way to the root is unknown");
    let shown: Vec<u8> = [leaf.der().as_ref(), between.der().as_ref()].concat();
    assert_eq!(judge(&place, &shown), Ok(()), "the server shows the way");
    place.put("issuers/certs/hall.pem", between.pem().as_bytes());
    assert_eq!(judge(&place, leaf.der()), Ok(()), "the folder knows the way");
}

#[test]
fn an_issuer_alone_makes_nobody_trusted() {
    let place = place();
    let root = root();
    place.put("issuers/certs/root.der", root.der());
    let leaf = server("Press").signed_by(&KeyPair::generate().unwrap(), &root).unwrap();
    assert!(judge(&place, leaf.der()).unwrap_err().contains("is not trusted"));
}

fn list_of(root: &CertifiedIssuer<'_, KeyPair>, revoked: &[u64], until_year: i32) -> Vec<u8> {
    let revoked = revoked.iter().map(|serial| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: date_time_ymd(2025, 6, 1),
        reason_code: None,
        invalidity_date: None,
    });
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2025, 6, 1),
        next_update: date_time_ymd(until_year, 1, 1),
        crl_number: SerialNumber::from(1u64),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(root).unwrap().der().to_vec()
}

#[test]
fn a_revoked_certificate_is_refused_and_so_is_one_whose_list_is_too_old_to_tell() {
    let place = place();
    let root = root();
    let leaf = server("Press").signed_by(&KeyPair::generate().unwrap(), &root).unwrap();
    place.put("trusted/certs/root.der", root.der());
    assert_eq!(judge(&place, leaf.der()), Ok(()));
    place.put("trusted/crl/root.crl", &list_of(&root, &[], 2030));
    assert_eq!(judge(&place, leaf.der()), Ok(()));
    place.put("trusted/crl/root.crl", &list_of(&root, &[77], 2030));
    assert!(judge(&place, leaf.der()).unwrap_err().contains("its authority has revoked it"));
    place.put("trusted/crl/root.crl", &list_of(&root, &[], 2026));
    let refused = judge_for(&place, leaf.der(), "press.plant", URI, at(2028)).unwrap_err();
    assert!(refused.contains("has expired"), "{refused}");
    place.put("trusted/crl/root.crl", b"no list");
    assert!(judge(&place, leaf.der()).unwrap_err().contains("root.crl is no revocation list"));
}

#[test]
fn garbage_is_no_certificate_and_no_panic() {
    let place = place();
    let certificate = self_signed("Press");
    for cut in 0..certificate.len() {
        assert!(judge(&place, &certificate[..cut]).is_err());
    }
    for length in [&[0x30, 0x82, 0xff, 0xff][..], &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], &[0x30, 0x80], &[0x04, 0x00], &[]] {
        assert!(judge(&place, length).unwrap_err().contains("no certificate that can be read"), "{length:?}");
    }
}

#[test]
fn the_rejected_are_bounded_and_the_oldest_goes_first() {
    let place = place();
    for number in 0..MOST_REJECTED {
        place.put(&format!("rejected/certs/old-{number:03}.der"), &self_signed(&format!("Old {number}")));
    }
    assert!(judge(&place, &self_signed("New")).is_err());
    let kept = place.pki.shelf(TrustList::Rejected);
    assert_eq!(kept.len(), MOST_REJECTED);
    assert!(kept.iter().any(|one| one.subject.contains("New")));
}

#[test]
fn our_own_certificate_is_made_once_renewed_with_overlap_and_never_readable_by_others() {
    use std::os::unix::fs::PermissionsExt;
    let place = place();
    let now = SystemTime::now();
    let first = place.pki.own_at(now).unwrap();
    let mode = fs::metadata(&first.key_path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    assert!(first.application_uri.starts_with("urn:") && first.application_uri.ends_with(":millrace"), "{}", first.application_uri);
    let thumbprint = |own: &Own| own.certificate.thumbprint().as_hex_string();
    assert_eq!(thumbprint(&place.pki.own_at(now).unwrap()), thumbprint(&first));

    assert_eq!(place.pki.shelf(TrustList::Own).len(), 1);

    let place = self::place();
    let short = place.pki.make_own(None, 50).unwrap();
    assert_eq!(thumbprint(&place.pki.own_at(now).unwrap()), short.thumbprint, "used on, while its successor becomes known");
    assert_eq!(place.pki.shelf(TrustList::Own).len(), 2);
    assert!(place.pki.own_at(now).unwrap().warning().is_some_and(|warning| warning.contains("ends in 49 days")));
    let successor = place.pki.own_at(now + DAY * 40).unwrap();
    assert_ne!(thumbprint(&successor), short.thumbprint, "taken over before the end");
    assert_eq!((place.pki.shelf(TrustList::Own).len(), successor.warning()), (2, None));
    assert_eq!(successor.application_uri, place.pki.own_at(now).unwrap().application_uri);
    let exported = place.pki.export(&place.pki.folder().join("out")).unwrap();
    assert_eq!(exported.len(), place.pki.shelf(TrustList::Own).len());
}

#[test]
fn a_certificate_put_there_by_hand_goes_before_one_made_here() {
    let place = place();
    let made = place.pki.own().unwrap();
    place.put("own/certs/plant.der", &fs::read(&made.certificate_path).unwrap());
    place.put("own/private/plant.pem", &fs::read(&made.key_path).unwrap());
    assert!(place.pki.own().unwrap().certificate_path.ends_with("plant.der"));
}

#[test]
fn what_is_not_there_can_not_be_approved() {
    let place = place();
    assert!(place.pki.approve("abc", &[]).unwrap_err().to_string().contains("too short"));
    assert!(place.pki.approve("abcdef012345", &[]).unwrap_err().to_string().contains("no certificate abcdef012345"));
}

#[test]
fn what_the_yaml_accepts_is_put_up_with_and_named_and_nothing_else() {
    let place = place();
    let mut params = CertificateParams::new(vec!["old.press".into()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "Old press");
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2021, 1, 1);
    let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
    let judge = |accept: &[Accept]| place.pki.judge_at(&certificate, "10.0.0.7", URI, accept, at(2026));

    // All that is wrong, and all that there is to do, in one message.
    let refused = judge(&[]).unwrap_err().to_string();
    for said in ["is valid from 2020", "names no application", "not for 10.0.0.7", "is not trusted", "accept: [expired, no_uri]"] {
        assert!(refused.contains(said), "{said}: {refused}");
    }
    assert!(refused.contains(" --host 10.0.0.7 --data "), "{refused}");
    let thumbprint = X509::from_der(&certificate).unwrap().thumbprint().as_hex_string();
    place.pki.approve(&thumbprint, &["10.0.0.7".into()]).unwrap();

    let refused = judge(&[Accept::Expired]).unwrap_err().to_string();
    assert!(refused.contains("accept: [no_uri]") && !refused.contains("2020"), "{refused}");
    let put_up_with = judge(&[Accept::Expired, Accept::NoUri]).unwrap();
    assert!(matches!(put_up_with[..], [Fault::Expired { .. }, Fault::NoUri { .. }]), "{put_up_with:?}");
}

#[test]
fn one_line_approves_a_server_under_a_host_that_its_certificate_does_not_have() {
    let place = place();
    let certificate = self_signed("Press");
    let refused = judge_for(&place, &certificate, "10.0.0.6", URI, at(2026)).unwrap_err();
    assert_eq!(refused.matches("type: ").count(), 1, "{refused}");
    let line: Vec<&str> = refused.split("type: millrace pki approve ").nth(1).unwrap().split(' ').collect();
    assert_eq!(line[1..3], ["--host", "10.0.0.6"]);
    place.pki.approve(line[0], &[line[2].into()]).unwrap();
    assert_eq!(judge_for(&place, &certificate, "10.0.0.6", URI, at(2026)), Ok(()));
}
