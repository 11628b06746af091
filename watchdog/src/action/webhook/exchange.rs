//! One request over one TLS connection, and its answer.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Refusal;
use crate::config::HookUrl;
use crate::config::trust;

/// Of an answer, so much is kept and no more is read.
const MAX_ANSWER: usize = 64 * 1024;
const USER_AGENT: &str = concat!("load-watchdog/", env!("CARGO_PKG_VERSION"));

/// What is known of an answer so far.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    body: Vec<u8>,
    pub(super) is_cut: bool,
}

impl Answer {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).replace('\0', "\u{fffd}")
    }
}

/// What to trust: the certificates of a file alone, or the system's.
pub(super) fn tls_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = ca_file {
        trust::settings(file).map_err(|why| format!("not sent: {why}"))?;
        let unread = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
        for certificate in CertificateDer::pem_file_iter(file).map_err(|error| unread(&error))? {
            let certificate = certificate.map_err(|error| unread(&error))?;
            roots.add(certificate).map_err(|error| unread(&error))?;
        }
        if roots.is_empty() {
            return Err(unread(&"there is no certificate in it; it must be PEM"));
        }
    } else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let why = found.errors.first().map_or_else(String::new, |error| format!(" ({error})"));
            return Err(format!(
                "the system has no trusted certificates{why}; install ca-certificates, or set `ca_file`"
            ));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Where a request goes.
pub(super) struct Exchange<'a> {
    /// Host and port, and what they are called in messages.
    pub(super) url: &'a HookUrl,
    pub(super) tls: &'a Arc<ClientConfig>,
    /// Whose path is asked for.
    pub(super) uri: &'a Uri,
}

impl Exchange<'_> {
    /// Dropping the future closes the connection.
    pub(super) async fn run(
        &self,
        id: &str,
        timestamp: i64,
        signature: &str,
        body: &Bytes,
        heard: &mut Answer,
    ) -> Result<(), Refusal> {
        let url = self.url;
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let host = url.uri().authority().map_or("", |authority| authority.as_str());
        let request = Request::post(path)
            .header(header::HOST, host)
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "close")
            .header("idempotency-key", id)
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature)
            .body(Full::new(body.clone()))
            .map_err(|error| Refusal::for_good(format!("no request can be made for {url}: {error}")))?;
        let stream = self.connect().await?;
        let broken = |error: hyper::Error| Refusal::again(format!("{url} broke the exchange off: {error}"));
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(broken)?;
            heard.status = response.status();
            heard.headers = response.headers().clone();
            let mut body = response.into_body();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| {
                    Refusal::again(format!(
                        "{url} answered {} and closed the connection in the middle of its answer: {error}",
                        heard.status
                    ))
                })?;
                let data = frame.into_data().unwrap_or_default();
                let room = MAX_ANSWER - heard.body.len();
                heard.body.extend_from_slice(&data[..data.len().min(room)]);
                if data.len() > room {
                    heard.is_cut = true;
                    break;
                }
            }
            Ok(())
        };
        let mut exchange = pin!(exchange);
        let mut connection = pin!(connection);
        tokio::select! {
            result = &mut exchange => return result,
            // Its error reaches the exchange as well.
            _ = &mut connection => {}
        }
        exchange.await
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>, Refusal> {
        let url = self.url;
        let name = ServerName::try_from(url.host().to_owned())
            .map_err(|error| Refusal::for_good(format!("{url} names no host: {error}")))?;
        let stream = TcpStream::connect((url.host(), url.port()))
            .await
            .map_err(|error| Refusal::again(format!("{url} cannot be reached: {error}")))?;
        TlsConnector::from(Arc::clone(self.tls)).connect(name, stream).await.map_err(|error| {
            let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
            match cause {
                Some(rustls::Error::InvalidCertificate(why)) => {
                    Refusal::for_good(format!("the certificate of {url} is not trusted: {why}"))
                }
                _ => Refusal::again(format!("no TLS with {url}: {error}")),
            }
        })
    }
}
