//! The connection: bytes pass untouched, callers who go away free their places, and strangers get nowhere.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use worker_core::contract::{ANSWER_TIMEOUT, TestEngine, TestWorker};
use worker_core::{DispatchResult, Value, WorkerErrorKind, WorkerId, WorkerLike};
use worker_pool::{WorkerThread, WorkerThreadConfig};
use worker_process::workerprocesscomm::{
    CommError, Down, FrameReader, InMemory, Request, Response, Token, Up, WorkerProcessComm,
};
use worker_process::{Words, WorkerProcess, WorkerProcessCommHttp2, serve_http2};

use crate::{TENANT, answer, config, echo, event, hold, start, until, value};

async fn thread() -> WorkerThread {
    let config = WorkerThreadConfig::new(|id, _| async move { Ok(TestEngine::new().worker(id)) });
    WorkerThread::start(WorkerId::new(1), worker_core::WorkerFilter::all(), &config).await.unwrap()
}

/// A service on a port of this process.
async fn serve() -> (std::net::SocketAddr, Token) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let (address, token) = (listener.local_addr().unwrap(), Token::random());
    let service = Arc::new(WorkerProcess::in_this_process(thread().await));
    tokio::spawn(serve_http2(listener, token.clone(), service));
    (address, token)
}

/// One event, through any connection.
async fn ask(comm: &impl WorkerProcessComm) -> Result<DispatchResult, CommError> {
    let mut bytes = BytesMut::new();
    Down::put_dispatch(&mut bytes, 1, true, TENANT, &echo("x"));
    let down = futures_util::stream::iter([Ok(bytes.freeze())]).chain(futures_util::stream::pending());
    let mut up = comm.dispatches(Box::pin(down)).await?;
    let mut frames = FrameReader::new();
    loop {
        frames.push(&up.next().await.unwrap()?);
        if let Some(Up::Answer { id: 1, answer }) = frames.next(Up::decode)? {
            return Ok(answer.unwrap());
        }
    }
}

#[tokio::test]
async fn both_connections_carry_the_same() {
    let in_memory = InMemory::new(WorkerProcess::in_this_process(thread().await));
    let (address, token) = serve().await;
    let http = WorkerProcessCommHttp2::connect(address, &token).await.unwrap();
    assert_eq!(ask(&in_memory).await.unwrap(), ask(&http).await.unwrap());
    for (request, is_right) in [
        (Request::Health, (|response| matches!(response, Response::Done)) as fn(&Response) -> bool),
        (Request::Stats, |response| matches!(response, Response::Stats(stats) if stats.events == 1)),
        (Request::Logs, |response| matches!(response, Response::Lines(_))),
        (Request::Reload { tenant: TENANT }, |response| matches!(response, Response::Done)),
        (Request::Drain { after: 1 }, |response| matches!(response, Response::Done)),
        (Request::Kill, |response| matches!(response, Response::Done)),
    ] {
        for response in [in_memory.call(request.clone()).await, http.call(request.clone()).await] {
            let response = response.unwrap();
            assert!(is_right(&response), "{request:?}: {response:?}");
        }
    }
}

#[tokio::test]
async fn words_wait_for_the_stream_in_bounds_and_arrive_once() {
    let words = Words::default();
    let service = WorkerProcess::in_this_process_with(thread().await, words.clone());
    let comm = InMemory::new(service);
    let word = |number: usize| Bytes::from([&number.to_le_bytes()[..], &vec![0; (1 << 20) - 8]].concat());
    let said = (0..100).take_while(|number| words.say(word(*number))).count();
    assert_eq!(said, Words::WAITING_BYTES_MAX >> 20, "a parent that does not listen costs so much and no more");
    let down = futures_util::stream::pending();
    let mut up = comm.dispatches(Box::pin(down)).await.unwrap();
    let mut frames = FrameReader::new();
    let mut heard = async || loop {
        match frames.next(Up::decode).unwrap() {
            Some(Up::Word(word)) => return word,
            Some(other) => panic!("{other:?}"),
            None => frames.push(&timeout(ANSWER_TIMEOUT, up.next()).await.unwrap().unwrap().unwrap()),
        }
    };
    for number in 0..said {
        assert_eq!(heard().await, word(number));
    }
    // Also while nothing else happens.
    let (heard, said) = tokio::join!(heard(), async { words.say(Bytes::from_static(b"hello")) });
    assert_eq!((&heard[..], said), (&b"hello"[..], true));
}

#[tokio::test]
async fn a_wrong_token_is_refused() {
    let (address, _) = serve().await;
    let stranger = WorkerProcessCommHttp2::connect(address, &Token::random()).await.unwrap();
    assert!(matches!(stranger.call(Request::Health).await, Err(CommError::Refused(401))));
    assert!(matches!(ask(&stranger).await, Err(CommError::Refused(401))));
}

#[tokio::test]
async fn frames_that_are_none_end_their_stream_and_nothing_else() {
    let (address, token) = serve().await;
    let comm = WorkerProcessCommHttp2::connect(address, &token).await.unwrap();
    for bytes in [&b"\xff\xff\xff\xff"[..], b"\x01\0\0\0\x63", b"\x02\0\0\0\x01\0"] {
        let down = futures_util::stream::iter([Ok(Bytes::from_static(bytes))]).chain(futures_util::stream::pending());
        let ended = async {
            match comm.dispatches(Box::pin(down)).await {
                Err(error) => Some(error),
                Ok(mut up) => up.next().await.and_then(Result::err),
            }
        };
        assert!(timeout(ANSWER_TIMEOUT, ended).await.unwrap().is_some());
        assert!(ask(&comm).await.is_ok(), "the same connection still works");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// Whatever a stranger sends to the port, the worker goes on.
    #[test]
    fn garbage_on_the_port_does_no_harm(garbage in prop::collection::vec(any::<u8>(), 1..4_000), preface: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (address, token) = serve().await;
            let mut stranger = TcpStream::connect(address).await.unwrap();
            if preface {
                stranger.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
            }
            // It may be refused before it has said all.
            let _ = stranger.write_all(&garbage).await;
            let _ = stranger.shutdown().await;
            let mut rest = Vec::new();
            let _ = timeout(ANSWER_TIMEOUT, stranger.read_to_end(&mut rest)).await.expect("because strangers are let go");
            let comm = WorkerProcessCommHttp2::connect(address, &token).await.unwrap();
            ask(&comm).await.unwrap();
        });
    }
}

#[tokio::test]
async fn the_bytes_of_an_event_arrive_as_they_were_sent() {
    let worker = start(&config(1)).await;
    // Not JSON, not UTF-8, and larger than any window or chunk.
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n ^ (n >> 8)) as u8).collect();
    for len in [0, 1, 1_500, 65_536, bytes.len()] {
        let sent = Bytes::copy_from_slice(&bytes[..len]);
        assert_eq!(value(worker.dispatch(TENANT, event("BYTES", sent.clone()))).await, Value::Buffer(sent));
    }
    let too_large = vec![0; 33 << 20];
    let refused = answer(worker.dispatch(TENANT, event("BYTES", too_large))).await.unwrap_err();
    assert_eq!(refused.kind(), WorkerErrorKind::BadRequest);
    // An answer that is too large in its JSON form is an error too, and not the end of the process.
    let refused = answer(worker.dispatch(TENANT, event("BYTES", vec![0; 28 << 20]))).await.unwrap_err();
    assert_eq!(refused.kind(), WorkerErrorKind::BadRequest);
    assert_eq!(answer(worker.stats()).await.unwrap().restarts, 0);
}

#[tokio::test]
async fn who_goes_away_frees_the_place() {
    // All the places that there are.
    let worker = start(&config(1).with_in_flight_max(TestWorker::HELD_MAX)).await;
    let held: Vec<_> = (0..TestWorker::HELD_MAX).map(|_| worker.dispatch(TENANT, hold())).collect();
    let waiting = worker.dispatch(TENANT, echo("no place yet"));
    drop(held);
    assert_eq!(value(waiting).await, Value::Text("no place yet".into()));
}

#[tokio::test]
async fn who_never_gets_an_answer_is_told_in_time() {
    use worker_process::Timeouts;
    let timeouts = Timeouts { answer: std::time::Duration::from_millis(200), ..Timeouts::default() };
    let worker = start(&config(1).with_timeouts(timeouts)).await;
    let late = answer(worker.dispatch(TENANT, hold())).await.unwrap_err();
    assert_eq!(late.kind(), WorkerErrorKind::TimedOut);
    let pid = worker.pid();
    value(worker.dispatch(TENANT, echo("the process goes on"))).await;
    until("no other process", || worker.pid() == pid).await;
}
