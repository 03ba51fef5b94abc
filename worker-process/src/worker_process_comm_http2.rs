//! The connection as HTTP/2 with prior knowledge, on the loopback interface.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, BodyStream, Full, Limited, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper::header::AUTHORIZATION;
use hyper::service::service_fn;
use hyper::{Method, Request as HttpRequest, Response as HttpResponse, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::workerprocesscomm::{
    Chunks, CommError, REQUEST_BYTES_MAX, Request, Response, Token, WorkerProcessComm, WorkerProcessService,
};

/// The version is in the paths: a worker of another version has not got them.
const DISPATCHES: &str = "/v2/dispatches";
const CALLS: &str = "/v2/calls";

const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
const FRAME_BYTES: u32 = 256 << 10;
const SEND_BUFFER_BYTES: usize = 1 << 20;
/// Connections that a worker serves at once. Its master has one; others on the host may try the port.
const CONNECTIONS_MAX: usize = 16;
/// How long a connection may take to speak HTTP/2: an idle stranger must not hold a place for ever.
const STRANGER_TIMEOUT: Duration = Duration::from_secs(2);

type AnyBody = UnsyncBoxBody<Bytes, CommError>;

/// A connection to a worker process on a port of this host.
#[derive(Clone)]
pub struct WorkerProcessCommHttp2 {
    sender: SendRequest<AnyBody>,
    authorization: String,
}

impl WorkerProcessCommHttp2 {
    /// Connects. The connection is driven by a task of the runtime that this is called in, and ends with the last clone.
    pub async fn connect(address: SocketAddr, token: &Token) -> Result<Self, CommError> {
        let stream = TcpStream::connect(address).await.map_err(|error| CommError::Connect(error.into()))?;
        stream.set_nodelay(true).map_err(|error| CommError::Connect(error.into()))?;
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| CommError::Connect(error.into()))?;
        // What breaks it is seen by who uses it.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, authorization: format!("Bearer {}", token.expose()) })
    }

    fn post(&self, path: &'static str, body: AnyBody) -> BoxFuture<'static, Result<Incoming, CommError>> {
        let (mut sender, authorization) = (self.sender.clone(), self.authorization.clone());
        Box::pin(async move {
            let request = HttpRequest::builder()
                .method(Method::POST)
                .uri(format!("http://worker{path}"))
                .header(AUTHORIZATION, authorization)
                .body(body)
                .map_err(|error| CommError::Broken(error.into()))?;
            sender.ready().await.map_err(|error| CommError::Broken(error.into()))?;
            let response = sender.send_request(request).await.map_err(|error| CommError::Broken(error.into()))?;
            match response.status() {
                StatusCode::OK => Ok(response.into_body()),
                status => Err(CommError::Refused(status.as_u16())),
            }
        })
    }
}

impl WorkerProcessComm for WorkerProcessCommHttp2 {
    fn dispatches(&self, down: Chunks) -> BoxFuture<'static, Result<Chunks, CommError>> {
        let response = self.post(DISPATCHES, body_of(down));
        Box::pin(async move { Ok(chunks_of(response.await?)) })
    }

    fn call(&self, request: Request) -> BoxFuture<'static, Result<Response, CommError>> {
        let response = match serde_json::to_vec(&request) {
            Ok(json) => self.post(CALLS, whole(json)),
            Err(error) => return Box::pin(async move { Err(CommError::Call(error)) }),
        };
        Box::pin(async move {
            let json = collect(response.await?).await?;
            serde_json::from_slice(&json).map_err(CommError::Call)
        })
    }
}

impl fmt::Debug for WorkerProcessCommHttp2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerProcessCommHttp2").finish_non_exhaustive()
    }
}

/// Serves whoever connects and shows the token, until the future is dropped.
pub async fn serve_http2(listener: TcpListener, token: Token, service: Arc<dyn WorkerProcessService>) {
    let token = Arc::new(token);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Tasks of connections end with this future.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, or a connection that was gone before it was accepted.
                tracing::warn!("no connection was accepted: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let (token, service) = (Arc::clone(&token), Arc::clone(&service));
        connections.spawn(async move {
            let _place = place;
            serve_connection(stream, token, service).await;
        });
    }
}

async fn serve_connection(stream: TcpStream, token: Arc<Token>, service: Arc<dyn WorkerProcessService>) {
    // Only a matter of speed.
    let _ = stream.set_nodelay(true);
    let known = Arc::new(tokio::sync::Notify::new());
    let met = Arc::clone(&known);
    let answer = service_fn(move |request| {
        let (token, service, met) = (Arc::clone(&token), Arc::clone(&service), Arc::clone(&met));
        async move { Ok::<_, Infallible>(respond(request, &token, &*service, &met).await) }
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_concurrent_streams(1_024)
        .max_header_list_size(4 << 10)
        .serve_connection(TokioIo::new(stream), answer);
    let mut connection = std::pin::pin!(connection);
    let is_known = async { tokio::time::timeout(STRANGER_TIMEOUT, known.notified()).await.is_ok() };
    tokio::select! {
        ended = &mut connection => return log_end(ended),
        is_known = is_known => if !is_known { return },
    }
    log_end(connection.await);
}

fn log_end(ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        tracing::debug!("a connection ended: {error}");
    }
}

async fn respond(
    request: HttpRequest<Incoming>,
    token: &Token,
    service: &dyn WorkerProcessService,
    met: &tokio::sync::Notify,
) -> HttpResponse<AnyBody> {
    let shown = request.headers().get(AUTHORIZATION).map(|value| value.as_bytes());
    if !shown.and_then(|shown| shown.strip_prefix(b"Bearer ")).is_some_and(|shown| token.is(shown)) {
        return status(StatusCode::UNAUTHORIZED);
    }
    met.notify_one();
    match (request.method(), request.uri().path()) {
        (&Method::POST, DISPATCHES) => HttpResponse::new(body_of(service.dispatches(chunks_of(request.into_body())))),
        (&Method::POST, CALLS) => {
            let Ok(json) = collect(request.into_body()).await else { return status(StatusCode::PAYLOAD_TOO_LARGE) };
            let Ok(request) = serde_json::from_slice(&json) else { return status(StatusCode::BAD_REQUEST) };
            match serde_json::to_vec(&service.call(request).await) {
                Ok(json) => HttpResponse::new(whole(json)),
                Err(_) => status(StatusCode::INTERNAL_SERVER_ERROR),
            }
        }
        _ => status(StatusCode::NOT_FOUND),
    }
}

fn status(status: StatusCode) -> HttpResponse<AnyBody> {
    let mut response = HttpResponse::new(whole(Vec::new()));
    *response.status_mut() = status;
    response
}

fn whole(bytes: Vec<u8>) -> AnyBody {
    Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync()
}

fn body_of(chunks: Chunks) -> AnyBody {
    StreamBody::new(chunks.map(|chunk| chunk.map(Frame::data))).boxed_unsync()
}

fn chunks_of(body: impl Body<Data = Bytes, Error = hyper::Error> + Send + 'static) -> Chunks {
    let frames = BodyStream::new(body);
    Box::pin(frames.filter_map(|frame| {
        // Trailers, of which there are none, say nothing to us.
        let chunk = match frame {
            Ok(frame) => frame.into_data().ok().map(Ok),
            Err(error) => Some(Err(CommError::Broken(error.into()))),
        };
        std::future::ready(chunk)
    }))
}

async fn collect(body: Incoming) -> Result<Bytes, CommError> {
    match Limited::new(body, REQUEST_BYTES_MAX).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(CommError::CallTooLarge { max: REQUEST_BYTES_MAX })
        }
        Err(error) => Err(CommError::Broken(error)),
    }
}
