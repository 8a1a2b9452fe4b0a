//! TLS as a client, for checks and scripts: rustls with ring, and certificates that are verified unless somebody
//! says otherwise.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Whose certificates are good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust<'a> {
    /// Those that this host trusts.
    Host,
    /// Those of a file in PEM; read each time, so that it may be replaced.
    File(&'a str),
    /// Anyone's; only what the server signs with it must be right.
    Anyone,
}

/// What a client presents and accepts. Reads files: not for the thread of a loop.
pub(crate) fn client(trust: Trust<'_>) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let roots = match trust {
        Trust::Anyone => {
            let anyone = Arc::new(Anyone(provider));
            return Ok(builder.dangerous().with_custom_certificate_verifier(anyone).with_no_client_auth());
        }
        Trust::File(file) => Arc::new(read(file)?),
        Trust::Host => {
            trusted().ok_or("this host trusts no certificates: install ca-certificates, or set `ca_file`")?
        }
    };
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// The name as TLS knows names.
pub(crate) fn server_name(name: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(name.to_owned())
        .map_err(|_| format!("\"{name}\" is no name that a certificate can have"))
}

/// Speaks TLS over a connection to a server of this name.
pub(crate) async fn wrap<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    name: &str,
    client: Arc<ClientConfig>,
) -> Result<TlsStream<S>, String> {
    let server = server_name(name)?;
    let connected = TlsConnector::from(client).connect(server, stream).await;
    connected.map_err(|error| format!("no TLS with {name}: {error}"))
}

/// The certificates that this host trusts, read once; none where there are none.
fn trusted() -> Option<Arc<RootCertStore>> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(roots) = ROOTS.get() {
        return Some(Arc::clone(roots));
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    // Certificates may be installed later.
    (!roots.is_empty()).then(|| Arc::clone(ROOTS.get_or_init(|| Arc::new(roots))))
}

fn read(file: &str) -> Result<RootCertStore, String> {
    let refused = |error: &dyn std::fmt::Display| format!("cannot use the certificates of {file}: {error}");
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| refused(&error))? {
        let certificate = certificate.map_err(|error| refused(&error))?;
        roots.add(certificate).map_err(|error| refused(&error))?;
    }
    if roots.is_empty() {
        return Err(refused(&"there is none"));
    }
    Ok(roots)
}

/// Takes any certificate; only what the server signs with it must be right.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
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
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
