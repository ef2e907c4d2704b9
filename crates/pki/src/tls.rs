//! TLS configurations and verifiers for servers and clients of the cluster.
//!
//! Everything names the aws-lc-rs provider itself, so nothing depends on a process-wide default.

use std::sync::{Arc, LazyLock};

use jiff::Timestamp;
use parking::Slot;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::cert::{Certificate, Identity};
use crate::{Error, Result};

static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));

/// The cryptography in use.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    PROVIDER.signature_verification_algorithms
}

fn tls(e: impl std::fmt::Display) -> Error {
    Error::Crypto(e.to_string())
}

/// A set of trusted authorities.
pub fn roots(certificates: impl IntoIterator<Item = CertificateDer<'static>>) -> Result<Arc<RootCertStore>> {
    let mut store = RootCertStore::empty();
    for certificate in certificates {
        store.add(certificate).map_err(|e| Error::malformed("CA certificate", e))?;
    }
    Ok(Arc::new(store))
}

/// A server's configuration. `authorities` follow the leaf on the wire, so that a joining node can pick the one
/// whose hash its token names. Client certificates are asked for; only the possession of their key is checked
/// in the handshake (see [`AnyClientCertificate`]), the rest is the authenticator's, which answers 401 and not a
/// broken connection.
pub fn server_config(identity: &Identity, authorities: &[Certificate]) -> Result<rustls::ServerConfig> {
    let mut chain = vec![identity.certificate.to_rustls()];
    chain.extend(authorities.iter().map(Certificate::to_rustls));
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(tls)?
        .with_client_cert_verifier(Arc::new(AnyClientCertificate))
        .with_single_cert(chain, identity.key.to_der())
        .map_err(tls)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// A client's configuration that trusts `roots` and shows `identity`, if any. ALPN is the caller's.
pub fn client_config(roots: Arc<RootCertStore>, identity: Option<&Identity>) -> Result<rustls::ClientConfig> {
    let builder = rustls::ClientConfig::builder_with_provider(provider());
    let builder = builder.with_safe_default_protocol_versions().map_err(tls)?;
    let builder = if roots.is_empty() {
        builder.with_root_certificates(roots)
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Authorities::new(roots)?))
    };
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some(i) => builder.with_client_auth_cert(vec![i.certificate.to_rustls()], i.key.to_der()).map_err(tls),
    }
}

/// Takes servers whose certificates lead to an authority, and those that show an authority's own, which `webpki` refuses
/// (`CaUsedAsEndEntity`) and Go takes (`x509.Certificate.Verify`): a certificate that was signed with its own key, as
/// `openssl req -x509` makes them, is both. Who has an authority's key could have made any other.
#[derive(Debug)]
struct Authorities {
    roots: Arc<RootCertStore>,
    chains: Arc<WebPkiServerVerifier>,
}

impl Authorities {
    fn new(roots: Arc<RootCertStore>) -> Result<Self> {
        let chains = WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), provider()).build();
        Ok(Authorities { roots, chains: chains.map_err(tls)? })
    }

    /// Whether a certificate is one of the authorities': of the same subject and key.
    fn include(&self, leaf: &CertificateDer<'_>) -> bool {
        let mut own = RootCertStore::empty();
        own.add(leaf.clone().into_owned()).is_ok() && own.roots.iter().all(|a| self.roots.roots.contains(a))
    }
}

/// What is asked of a certificate that needs nobody to vouch for it.
fn verify_own(leaf: &CertificateDer<'_>, server_name: &ServerName<'_>, now: UnixTime) -> Result<(), rustls::Error> {
    let bad = |why: CertificateError| Err(rustls::Error::InvalidCertificate(why));
    let Ok((_, x509)) = X509Certificate::from_der(leaf) else { return bad(CertificateError::BadEncoding) };
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < x509.validity().not_before.timestamp() {
        return bad(CertificateError::NotValidYet);
    }
    if now > x509.validity().not_after.timestamp() {
        return bad(CertificateError::Expired);
    }
    if let Ok(Some(usage)) = x509.extended_key_usage()
        && !usage.value.any
        && !usage.value.server_auth
    {
        return bad(CertificateError::InvalidPurpose);
    }
    rustls::client::verify_server_name(&ParsedCertificate::try_from(leaf)?, server_name)
}

impl ServerCertVerifier for Authorities {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.include(leaf) {
            return verify_own(leaf, server_name, now).map(|()| ServerCertVerified::assertion());
        }
        self.chains.verify_server_cert(leaf, intermediates, server_name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// A client's configuration that takes any server certificate: for backends whose certificates nobody in the cluster
/// vouches for (`services/proxy` with `https:`). Nothing secret may be sent over it.
pub fn unverified_client_config() -> Result<rustls::ClientConfig> {
    Ok(rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(tls)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServerCertificate))
        .with_no_client_auth())
}

/// Takes any server whose key it proves to hold.
#[derive(Debug)]
struct AnyServerCertificate;

impl ServerCertVerifier for AnyServerCertificate {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

/// Asks clients for a certificate and takes any whose key they prove to hold, also none.
#[derive(Debug)]
pub struct AnyClientCertificate;

impl ClientCertVerifier for AnyClientCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

/// Checks client certificates after the handshake: chain, client usage and time.
#[derive(Debug, Clone)]
pub struct ClientVerifier {
    inner: Arc<dyn ClientCertVerifier>,
}

impl ClientVerifier {
    /// A verifier that trusts these authorities.
    pub fn new(roots: Arc<RootCertStore>) -> Result<Self> {
        let inner = WebPkiClientVerifier::builder_with_provider(roots, provider()).build().map_err(tls)?;
        Ok(ClientVerifier { inner })
    }

    /// Checks a chain, leaf first, at a time.
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<()> {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return Err(Error::malformed("certificate chain", "it is empty"));
        };
        self.inner.verify_client_cert(leaf, intermediates, unix(now)).map_err(tls)?;
        Ok(())
    }
}

/// The time as rustls wants it.
pub fn unix(now: Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(now.as_second()).unwrap_or(0)))
}

/// Trusts a server whose chain leads to the authority with a known public-key hash: how a node meets its cluster
/// for the first time. The authority it found is remembered for later connections.
#[derive(Debug)]
pub struct PinnedCa {
    hash: String,
    found: Slot<Certificate>,
}

impl PinnedCa {
    /// A verifier for the hash of a join token (SHA-256 of the authority's `SubjectPublicKeyInfo`, hex).
    pub fn new(hash: &str) -> Arc<Self> {
        Arc::new(PinnedCa { hash: hash.to_ascii_lowercase(), found: Slot::default() })
    }

    /// The authority, after a handshake that succeeded.
    pub fn authority(&self) -> Option<Certificate> {
        self.found.get()
    }

    /// A client configuration that trusts by this verifier.
    pub fn client_config(self: &Arc<Self>) -> Result<rustls::ClientConfig> {
        let verifier: Arc<dyn ServerCertVerifier> = Arc::<Self>::clone(self);
        Ok(rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(tls)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth())
    }
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let unknown = || rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let authority = intermediates
            .iter()
            .filter_map(|der| Certificate::from_der(der).ok())
            .find(|c| c.is_ca && c.public_key_hash() == self.hash)
            .ok_or_else(unknown)?;
        let roots = roots([authority.to_rustls()]).map_err(|_| unknown())?;
        let parsed = ParsedCertificate::try_from(leaf)?;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &roots,
            intermediates,
            now,
            algorithms().all,
        )?;
        rustls::client::verify_server_name(&parsed, server_name)?;
        self.found.set(authority);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

/// A value set once and read by others.
mod parking {
    use std::sync::{Mutex, PoisonError};

    #[derive(Debug)]
    pub(super) struct Slot<T>(Mutex<Option<T>>);

    impl<T> Default for Slot<T> {
        fn default() -> Self {
            Slot(Mutex::new(None))
        }
    }

    impl<T: Clone> Slot<T> {
        pub(super) fn get(&self) -> Option<T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
        }

        pub(super) fn set(&self, value: T) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Authority;
    use crate::cert::Profile;

    /// Runs a handshake in memory and gives back what each side said.
    fn handshake(client: rustls::ClientConfig, server: rustls::ServerConfig) -> Result<(), rustls::Error> {
        let name = ServerName::try_from("localhost").expect("name");
        let mut client = rustls::ClientConnection::new(Arc::new(client), name).expect("client");
        let mut server = rustls::ServerConnection::new(Arc::new(server)).expect("server");
        for _ in 0..10 {
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).expect("memory");
            }
            let mut from = wire.as_slice();
            while !from.is_empty() {
                server.read_tls(&mut from).expect("memory");
                server.process_new_packets()?;
            }
            let mut wire = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut wire).expect("memory");
            }
            let mut from = wire.as_slice();
            while !from.is_empty() {
                client.read_tls(&mut from).expect("memory");
                client.process_new_packets()?;
            }
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        Ok(())
    }

    #[test]
    fn a_pin_accepts_only_the_authority_of_the_token() {
        let now = Timestamp::now();
        let ca = Authority::create("ca", now).expect("ca");
        let server = ca.issue(&Profile::server("s", vec!["localhost".into()], vec![]), now).expect("leaf");
        let config = || server_config(&server, &[ca.certificate().clone()]).expect("server config");
        let pin = PinnedCa::new(&ca.certificate().public_key_hash());
        handshake(pin.client_config().expect("client"), config()).expect("trusted");
        assert_eq!(pin.authority().as_ref(), Some(ca.certificate()));

        let wrong = PinnedCa::new(&"0".repeat(64));
        assert!(handshake(wrong.client_config().expect("client"), config()).is_err());
        assert_eq!(wrong.authority(), None);

        // A man in the middle may send the right authority along, but has no leaf of it.
        let evil = Authority::create("ca", now).expect("ca");
        let leaf = evil.issue(&Profile::server("s", vec!["localhost".into()], vec![]), now).expect("leaf");
        let middle = server_config(&leaf, &[evil.certificate().clone(), ca.certificate().clone()]).expect("config");
        let pin = PinnedCa::new(&ca.certificate().public_key_hash());
        assert!(handshake(pin.client_config().expect("client"), middle).is_err());
        assert_eq!(pin.authority(), None);
    }

    /// A certificate signed with its own key, which is an authority's or not.
    fn own(name: &str, is_ca: bool, change: impl FnOnce(&mut rcgen::CertificateParams)) -> Identity {
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("params");
        if is_ca {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        }
        change(&mut params);
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        Identity::from_pem(&certificate.pem(), &key.serialize_pem()).expect("an identity")
    }

    #[test]
    fn a_server_may_show_what_is_trusted_itself() {
        let roots_of = |i: &Identity| roots([i.certificate.to_rustls()]).expect("roots");
        let check = |server: &Identity, trusted: &Identity, expected: Result<(), CertificateError>| {
            let client = client_config(roots_of(trusted), None).expect("client");
            let got = handshake(client, server_config(server, &[]).expect("server"));
            assert_eq!(got, expected.map_err(rustls::Error::InvalidCertificate));
        };
        let (plain, ca) = (own("localhost", false, |_| {}), own("localhost", true, |_| {}));
        check(&plain, &plain, Ok(()));
        check(&ca, &ca, Ok(()));
        let other = own("localhost", true, |p| p.distinguished_name.push(rcgen::DnType::CommonName, "other"));
        check(&plain, &other, Err(CertificateError::UnknownIssuer));
        let config = client_config(roots_of(&other), None).expect("client");
        handshake(config, server_config(&ca, &[]).expect("server")).expect_err("another authority's own");
        let past = own("localhost", true, |p| p.not_after = rcgen::date_time_ymd(2001, 1, 1));
        check(&past, &past, Err(CertificateError::Expired));
        let client = rcgen::ExtendedKeyUsagePurpose::ClientAuth;
        let client = own("localhost", true, |p| p.extended_key_usages = vec![client]);
        check(&client, &client, Err(CertificateError::InvalidPurpose));
        let elsewhere = own("elsewhere", true, |_| {});
        let config = client_config(roots_of(&elsewhere), None).expect("client");
        let refused = handshake(config, server_config(&elsewhere, &[]).expect("server")).expect_err("another name");
        let text = format!("{refused:?}");
        assert!(text.contains("NotValidForName"), "{text}");
    }

    #[test]
    fn an_expired_client_certificate_does_not_break_the_handshake() {
        let now = Timestamp::now();
        let ca = Authority::create("ca", now).expect("ca");
        let server = ca.issue(&Profile::server("s", vec!["localhost".into()], vec![]), now).expect("leaf");
        let profile = Profile { lifetime: jiff::SignedDuration::from_mins(-1), ..Profile::client("a", &[]) };
        let client = ca.issue(&profile, now).expect("leaf");
        let trusted = roots([ca.certificate().to_rustls()]).expect("roots");
        let config = client_config(Arc::clone(&trusted), Some(&client)).expect("client");
        handshake(config, server_config(&server, &[]).expect("server")).expect("handshake");
        let verifier = ClientVerifier::new(trusted).expect("verifier");
        assert!(verifier.verify(&[client.certificate.to_rustls()], now).is_err());
    }
}
