//! Frames: what is written is read, and what is not a message is a typed error.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use worker_core::{
    DispatchResult, Event, EventName, Snowflake, TemplateError, TemplateName, TemplateResult, TenantId, Value,
    WorkerError, WorkerErrorKind,
};
use worker_process::workerprocesscomm::{Down, FrameError, FrameReader, Up};

fn one<T>(bytes: &[u8], decode: fn(&[u8]) -> Result<T, FrameError>) -> Result<Option<T>, FrameError> {
    let mut frames = FrameReader::new();
    frames.push(bytes);
    frames.next(decode)
}

proptest! {
    #[test]
    fn dispatches_round_trip(
        id: u64, is_wanted: bool, guild: bool, tenant: u64, author in 0u64..3,
        name in ".{0,40}", scopes in prop::collection::vec(".{0,9}", 0..3),
        data in prop::collection::vec(any::<u8>(), 0..3_000), cut in 0usize..64,
    ) {
        let tenant = if guild { TenantId::guild(tenant) } else { TenantId::user(tenant) };
        let mut event = Event::antiraid(EventName::new(&name), data.into()).with_scopes(scopes);
        if author > 0 {
            event = event.with_author(Snowflake::new(author));
        }
        let mut bytes = BytesMut::new();
        Down::put_dispatch(&mut bytes, id, is_wanted, tenant, &event);
        // In two pieces.
        let mut frames = FrameReader::new();
        let cut = cut.min(bytes.len());
        frames.push(&bytes[..cut]);
        if cut < bytes.len() {
            prop_assert!(frames.next(Down::decode).unwrap().is_none());
        }
        frames.push(&bytes[cut..]);
        let Some(Down::Dispatch { id: read_id, is_wanted: read_wanted, tenant: read_tenant, event: read }) =
            frames.next(Down::decode).unwrap() else { panic!("no dispatch") };
        prop_assert_eq!((read_id, read_wanted, read_tenant), (id, is_wanted, tenant));
        prop_assert_eq!(read.data(), event.data());
        prop_assert_eq!((read.name(), read.author(), read.scopes()), (event.name(), event.author(), event.scopes()));
    }

    #[test]
    fn rubbish_is_an_error_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        let mut frames = FrameReader::new();
        frames.push(&bytes);
        while let Ok(Some(_)) = frames.next(Down::decode) {}
        let mut frames = FrameReader::new();
        frames.push(&bytes);
        while let Ok(Some(_)) = frames.next(Up::decode) {}
        let _ = (Down::decode(&bytes), Up::decode(&bytes));
    }

    #[test]
    fn a_message_with_one_byte_changed_is_an_error_or_another_message(at in 0usize..200, to: u8) {
        let mut bytes = BytesMut::new();
        let event = Event::discord("MESSAGE_CREATE", Bytes::from_static(b"{\"id\":\"1\"}")).with_scopes(["a", "b"]);
        Down::put_dispatch(&mut bytes, 7, true, TenantId::guild(9), &event);
        let at = at % bytes.len();
        bytes[at] = to;
        let _ = one(&bytes, Down::decode);
        let mut bytes = BytesMut::new();
        Up::Answer { id: 1, answer: Ok(result()) }.put(&mut bytes);
        let at = at % bytes.len();
        bytes[at] = to;
        let _ = one(&bytes, Up::decode);
    }
}

fn result() -> DispatchResult {
    let result = |outcome| TemplateResult { template: TemplateName::new("t").unwrap(), outcome };
    let values =
        Value::List(vec![1i64.into(), Value::Float(0.5), Value::Buffer(Bytes::from_static(b"\0\xff")), Value::Null]);
    DispatchResult { templates: vec![result(Ok(values)), result(Err(TemplateError::new("init.luau:3: no")))] }
}

#[test]
fn answers_round_trip() {
    let mut bytes = BytesMut::new();
    Up::Answer { id: 1, answer: Ok(result()) }.put(&mut bytes);
    Up::Answer { id: 2, answer: Ok(DispatchResult::default()) }.put(&mut bytes);
    let cause = WorkerError::new(WorkerErrorKind::Internal, "the cause");
    let error = WorkerError::new(WorkerErrorKind::Storage, "the error").with_source(cause);
    Up::Answer { id: 3, answer: Err(error) }.put(&mut bytes);
    Up::Done { id: 4 }.put(&mut bytes);
    Up::HandedBack { id: 5 }.put(&mut bytes);
    let mut frames = FrameReader::new();
    frames.push(&bytes);
    let mut next = || frames.next(Up::decode).unwrap();
    assert!(matches!(next(), Some(Up::Answer { id: 1, answer: Ok(read) }) if read == result()));
    assert!(matches!(next(), Some(Up::Answer { id: 2, answer: Ok(read) }) if read.templates.is_empty()));
    let Some(Up::Answer { id: 3, answer: Err(error) }) = next() else { panic!("no error") };
    assert_eq!(error.kind(), WorkerErrorKind::Storage);
    assert_eq!(error.to_string(), "storage: the error: internal: the cause");
    assert!(matches!(next(), Some(Up::Done { id: 4 })));
    assert!(matches!(next(), Some(Up::HandedBack { id: 5 })));
    assert!(next().is_none());
}

#[test]
fn what_is_unknown_is_refused_by_name() {
    let refused = |frame: &[u8]| Down::decode(frame).unwrap_err().to_string();
    assert_eq!(refused(&[]), "a frame that ends within `message`");
    assert_eq!(refused(&[9]), "message 9 is unknown");
    assert_eq!(refused(&[2, 0]), "a frame that ends within `id`");
    assert_eq!(refused(&[2, 0, 0, 0, 0, 0, 0, 0, 0, 1]), "a frame with 1 bytes too many");
    let too_long = one(&u32::MAX.to_le_bytes(), Down::decode);
    assert!(matches!(too_long, Err(FrameError::TooLong { .. })), "before any of it is waited for");
}
