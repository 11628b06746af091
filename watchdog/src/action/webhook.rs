//! A hook that is a signed HTTPS request to another host.
//!
//! The signature is that of Standard Webhooks (`webhook-id`, `webhook-timestamp`, `webhook-signature`), so that receivers
//! have a library for it. The key never leaves this module, and of the address nothing but host and port is told.

mod exchange;
mod signature;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, Uri, header};
use rustls::ClientConfig;
use tokio::time::{Instant, timeout};

use self::exchange::{Answer, Exchange, tls_config};
use self::signature::Key;
use super::attempt::milliseconds;
use super::command::HookRequest;
use super::process::identify;
use super::{HookOutcome, HookRun};
use crate::config::trust;
use crate::config::{HookUrl, WebhookConfig};
use crate::incident::HookProcess;

/// Redirects that are followed, all of them to the same host.
const MAX_REDIRECTS: u32 = 3;

/// A request that is ready to be sent.
pub(super) struct Call {
    url: HookUrl,
    tls: Arc<ClientConfig>,
    key: Key,
    id: String,
    body: Bytes,
    pub(super) process: HookProcess,
}

/// Why an endpoint did not confirm, and whether another attempt may help.
#[derive(Debug)]
struct Refusal {
    why: String,
    again: bool,
}

impl Refusal {
    fn again(why: String) -> Self {
        Self { why, again: true }
    }

    fn for_good(why: String) -> Self {
        Self { why, again: false }
    }
}

/// Reads the key and the trusted certificates off the agent's loop; both files are looked at anew for each attempt.
pub(super) async fn prepare(config: &WebhookConfig, request: &HookRequest) -> Result<Call, String> {
    let (url, id) = (config.url.clone(), request.idempotency_key());
    let body = request.json().map_err(|error| error.to_string())?.into();
    let process =
        identify(std::process::id()).ok_or_else(|| "/proc does not show the agent itself".to_owned())?;
    let config = config.clone();
    let read = move || {
        let bytes = trust::secret(&config.secret_file).map_err(|why| format!("not sent: {why}"))?;
        let key = Key::parse(&bytes).map_err(|why| format!("{}: {why}", config.secret_file.display()))?;
        Ok::<_, String>((key, tls_config(config.ca_file.as_deref())?))
    };
    let (key, tls) = tokio::task::spawn_blocking(read).await.map_err(|error| error.to_string())??;
    Ok(Call { url, tls, key, id, body, process })
}

impl Call {
    /// Sends it, and waits for the whole answer, for at most `limit`.
    pub(super) async fn finish(self, limit: Duration) -> HookRun {
        let started = Instant::now();
        let mut heard = Answer::default();
        let outcome = match timeout(limit, self.deliver(&mut heard)).await {
            Ok(Ok(())) => HookOutcome::Done,
            Ok(Err(refusal)) => HookOutcome::NotConfirmed { why: refusal.why, again: refusal.again },
            Err(_) => HookOutcome::NotConfirmed {
                why: format!("{} did not answer within {} ms", self.url, milliseconds(limit)),
                again: true,
            },
        };
        let mut notes = Vec::new();
        if heard.is_cut {
            notes.push("the answer was longer than 64 KiB; the rest was not read".to_owned());
        }
        HookRun {
            outcome,
            stdout: heard.text(),
            stderr: String::new(),
            took_ms: milliseconds(started.elapsed()),
            notes,
        }
    }

    async fn deliver(&self, heard: &mut Answer) -> Result<(), Refusal> {
        let mut uri = self.url.uri().clone();
        let mut redirects = 0;
        loop {
            let exchange = Exchange { url: &self.url, tls: &self.tls, uri: &uri };
            let timestamp = crate::clock::unix_ms().div_euclid(1000);
            let signature = self.key.sign(&self.id, timestamp, &self.body);
            *heard = Answer::default();
            exchange.run(&self.id, timestamp, &signature, &self.body, heard).await?;
            let status = heard.status;
            if status.is_success() {
                return Ok(());
            }
            if !matches!(status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT) {
                return Err(self.refused(status));
            }
            redirects += 1;
            if redirects > MAX_REDIRECTS {
                let why = format!("{} redirects again and again ({MAX_REDIRECTS} times)", self.url);
                return Err(Refusal::for_good(why));
            }
            uri = self.redirected(heard)?;
        }
    }

    fn refused(&self, status: StatusCode) -> Refusal {
        let why = if status.is_redirection() {
            format!(
                "{} redirects with {status}, which would make another request of it; correct `url`",
                self.url
            )
        } else {
            format!("{} answered {status}", self.url)
        };
        let passing = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
        Refusal { why, again: status.is_server_error() || passing.contains(&status) }
    }

    /// Where a redirect leads, when that is the same host and port: the request holds what others must not see.
    fn redirected(&self, heard: &Answer) -> Result<Uri, Refusal> {
        let location = heard.headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
        let location = location.unwrap_or_default();
        let own = self.url.uri().authority().map_or("", |authority| authority.as_str());
        let absolute = if location.starts_with('/') && !location.starts_with("//") {
            format!("https://{own}{location}")
        } else {
            location.to_owned()
        };
        let target = HookUrl::parse(&absolute).map_err(|why| {
            Refusal::for_good(format!("{} redirects to what cannot be followed: {why}", self.url))
        })?;
        if !target.host().eq_ignore_ascii_case(self.url.host()) || target.port() != self.url.port() {
            let why = format!("{} redirects to another host, {target}; correct `url`", self.url);
            return Err(Refusal::for_good(why));
        }
        Ok(target.uri().clone())
    }
}
