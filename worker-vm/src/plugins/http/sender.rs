//! The HTTP client of the process.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::HeaderMap;
use reqwest::{Client, Response, StatusCode, redirect, retry};
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::addresses::AddressRange;
use super::hosts::{CheckedResolver, HostResolver, Refusal, SystemResolver};
use super::url::Address;
use crate::error::ApiError;
use crate::services::Home;

/// The one host that needs no capability and is always on the list.
pub(super) const CDN: &str = "cdn.discordapp.com";

/// Requests of all tenants that are under way; more wait, within their time.
const REQUESTS_AT_ONCE_MAX: usize = 1_024;
/// Headers of an answer.
const ANSWER_HEADERS_MAX: usize = 100;
/// Bytes of the headers of an answer by HTTP/2.
const ANSWER_HEADER_BYTES_MAX: u32 = 64 << 10;
/// Connections to a host that are kept for the next request, and for how long.
const IDLE_CONNECTIONS_MAX: usize = 16;
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Where templates may send requests.
#[derive(Clone)]
pub struct HttpConfig {
    /// Hosts beside `cdn.discordapp.com`.
    pub allowed_hosts: Vec<String>,
    /// Hosts that are refused though they are allowed.
    pub denied_hosts: Vec<String>,
    /// Addresses that may be connected to though they are not public: for tests, and for services of the operator's own.
    pub addresses_allowed: Vec<AddressRange>,
    /// Certificates (DER) of authorities that are trusted beside Mozilla's: for tests, and for services of the operator's
    /// own. What is no certificate is left out.
    pub authorities: Vec<Vec<u8>>,
    /// Who knows the addresses of hosts.
    pub resolver: Arc<dyn HostResolver>,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            allowed_hosts: Vec::new(),
            denied_hosts: Vec::new(),
            addresses_allowed: Vec::new(),
            authorities: Vec::new(),
            resolver: Arc::new(SystemResolver),
        }
    }
}

impl fmt::Debug for HttpConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpConfig")
            .field("allowed_hosts", &self.allowed_hosts)
            .field("denied_hosts", &self.denied_hosts)
            .field("addresses_allowed", &self.addresses_allowed)
            .finish_non_exhaustive()
    }
}

/// Sends what templates ask for, if it goes where they may send it.
pub(crate) struct HttpSender {
    client: Client,
    permits: Arc<Semaphore>,
    allowed_hosts: Vec<String>,
    denied_hosts: Vec<String>,
}

/// Why a request failed, in the words of the reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Blocked,
    Resolve,
    Connect,
    Timeout,
    Body,
}

impl From<Fault> for ApiError {
    fn from(fault: Fault) -> Self {
        Self::http(match fault {
            Fault::Blocked => "blocked (the host has an address that is not public)",
            Fault::Resolve => "resolve (the host has no address)",
            Fault::Connect => "connect (no answer came)",
            Fault::Timeout => "timeout (the time of a request covers the body of its answer)",
            Fault::Body => "body (it broke off, or could not be decoded)",
        })
    }
}

impl Fault {
    fn of(error: &reqwest::Error) -> Self {
        let mut cause: Option<&dyn Error> = Some(error);
        while let Some(error) = cause {
            match error.downcast_ref::<Refusal>() {
                Some(Refusal::Unknown) => return Self::Resolve,
                Some(Refusal::Forbidden) => return Self::Blocked,
                None => cause = error.source(),
            }
        }
        if error.is_timeout() {
            Self::Timeout
        } else if error.is_body() || error.is_decode() {
            Self::Body
        } else {
            Self::Connect
        }
    }
}

/// The beginning of an answer, and the way to its body.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) content_length: Option<u64>,
    pub(super) body: Body,
}

/// The body of an answer while it comes in, decoded. Dropped, it ends the request.
pub(super) struct Body {
    /// `None` is the end; without it the body broke off.
    pieces: mpsc::Receiver<Result<Option<Bytes>, Fault>>,
    deadline: Instant,
}

impl Body {
    /// One that has come in already.
    pub(super) fn whole(bytes: Bytes) -> Self {
        let (sender, pieces) = mpsc::channel(2);
        // There is room for both.
        for piece in [Some(bytes), None] {
            let _ = sender.try_send(Ok(piece));
        }
        Self { pieces, deadline: Instant::now() }
    }

    /// The next bytes, or the end.
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>, Fault> {
        match self.pieces.recv().await {
            Some(piece) => piece,
            None if Instant::now() >= self.deadline => Err(Fault::Timeout),
            None => Err(Fault::Body),
        }
    }
}

impl HttpSender {
    pub(crate) fn new(config: HttpConfig) -> Self {
        let resolver =
            CheckedResolver { resolver: config.resolver, addresses_allowed: config.addresses_allowed.into() };
        let client = plain_client(tls(config.authorities))
            .dns_resolver(resolver)
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .referer(false)
            .user_agent(concat!("AntiRaid/", env!("CARGO_PKG_VERSION")))
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .http1_max_headers(ANSWER_HEADERS_MAX)
            .http2_max_header_list_size(ANSWER_HEADER_BYTES_MAX)
            .build()
            .expect("because the client's settings are the same everywhere");
        let lower = |hosts: Vec<String>| hosts.into_iter().map(|host| host.to_lowercase()).collect();
        Self {
            client,
            permits: Arc::new(Semaphore::new(REQUESTS_AT_ONCE_MAX)),
            allowed_hosts: lower(config.allowed_hosts),
            denied_hosts: lower(config.denied_hosts),
        }
    }

    /// Whether a request may go there, as far as the URL tells.
    pub(super) fn check(&self, address: &Address) -> Result<(), ApiError> {
        let host = address.domain().map_err(|reason| ApiError::http(format_args!("blocked ({reason})")))?;
        let is_in = |hosts: &[String]| hosts.iter().any(|listed| listed == host);
        if is_in(&self.denied_hosts) || !(host == CDN || is_in(&self.allowed_hosts)) {
            return Err(ApiError::http(format_args!("blocked (the operator does not allow {host})")));
        }
        Ok(())
    }

    /// A request in the client's own form.
    pub(super) fn request(&self, method: reqwest::Method, address: &Address) -> reqwest::RequestBuilder {
        self.client.request(method, address.url().clone())
    }

    /// Sends a request and waits for the beginning of the answer. All of it, to the end of the body, must be done in time.
    pub(super) fn send(
        &self,
        home: &Home,
        request: reqwest::Request,
        timeout: Duration,
    ) -> impl Future<Output = Result<Answer, ApiError>> + use<> {
        let (client, permits, home) = (self.client.clone(), self.permits.clone(), home.clone());
        async move {
            let (sender, answer) = oneshot::channel();
            home.begin(exchange(client, permits, request, Instant::now() + timeout, sender))?;
            let answer = answer.await.map_err(|_| ApiError::from(Fault::Connect))?;
            Ok(answer?)
        }
    }
}

/// A client with nothing from the environment, and this TLS.
pub(crate) fn plain_client(tls: ClientConfig) -> reqwest::ClientBuilder {
    Client::builder().tls_backend_preconfigured(tls).no_proxy()
}

/// TLS by ring, with Mozilla's roots and these.
pub(crate) fn tls(authorities: Vec<Vec<u8>>) -> ClientConfig {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    roots.add_parsable_certificates(authorities.into_iter().map(Into::into));
    let mut tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("because ring has the ciphers of TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    tls
}

async fn exchange(
    client: Client,
    permits: Arc<Semaphore>,
    request: reqwest::Request,
    deadline: Instant,
    mut sender: oneshot::Sender<Result<Answer, Fault>>,
) {
    let answer = async {
        // The semaphore is never closed. The permit is kept to the end of the body.
        let permit = permits.acquire_owned().await;
        Ok((client.execute(request).await.map_err(|error| Fault::of(&error))?, permit))
    };
    let answer = tokio::select! {
        // Nobody waits any more.
        () = sender.closed() => return,
        answer = timeout_at(deadline, answer) => answer.unwrap_or(Err(Fault::Timeout)),
    };
    match answer {
        Err(fault) => drop(sender.send(Err(fault))),
        Ok((mut response, _permit)) => {
            let (pieces, body) = mpsc::channel(1);
            let answer = Answer {
                status: response.status(),
                headers: std::mem::take(response.headers_mut()),
                content_length: response.content_length(),
                body: Body { pieces: body, deadline },
            };
            if sender.send(Ok(answer)).is_ok() {
                // Whoever reads too late finds that it broke off after its time.
                let _ = timeout_at(deadline, stream(response, pieces)).await;
            }
        }
    }
}

async fn stream(mut response: Response, pieces: mpsc::Sender<Result<Option<Bytes>, Fault>>) {
    loop {
        let piece = tokio::select! {
            () = pieces.closed() => return,
            piece = response.chunk() => piece.map_err(|error| Fault::of(&error)),
        };
        let is_last = !matches!(piece, Ok(Some(_)));
        if pieces.send(piece).await.is_err() || is_last {
            return;
        }
    }
}
