//! What the frames of a stream of dispatches say. The bytes of an event are copied, and never looked at.

use bytes::{BufMut, Bytes, BytesMut};
use worker_core::{BaseName, DispatchResult, Event, Snowflake, TenantId, WorkerError, WorkerErrorKind};

use super::frame::{self, FRAME_BYTES_MAX, Fields, FrameError};
use super::request::WireError;

/// From the master to the worker.
#[derive(Debug)]
#[non_exhaustive]
pub enum Down {
    /// Run the subscribers of an event.
    Dispatch {
        /// Numbers of a stream grow.
        id: u64,
        /// Whether the answer is wanted, or only the end.
        is_wanted: bool,
        /// Whose templates.
        tenant: TenantId,
        /// What happened.
        event: Event,
    },
    /// Nobody waits for this dispatch any more.
    Cancel {
        /// Its number.
        id: u64,
    },
}

/// From the worker to the master. Each dispatch gets one of the first three.
#[derive(Debug)]
#[non_exhaustive]
pub enum Up {
    /// The answer.
    Answer {
        /// The dispatch.
        id: u64,
        /// What came of it.
        answer: Result<DispatchResult, WorkerError>,
    },
    /// The end of a dispatch whose answer was not wanted.
    Done {
        /// The dispatch.
        id: u64,
    },
    /// The worker is ending and has not started it.
    HandedBack {
        /// The dispatch.
        id: u64,
    },
    /// What the program that the worker runs in tells the program that started it. The bytes are theirs.
    Word(Bytes),
}

const DISPATCH: u8 = 1;
const CANCEL: u8 = 2;

const RESULT: u8 = 1;
const ERROR: u8 = 2;
const DONE: u8 = 3;
const HANDED_BACK: u8 = 4;
const WORD: u8 = 5;

/// Bytes of a dispatch beside its texts, its scopes and its data, with room to spare.
const HEADER_BYTES: usize = 64;

impl Down {
    /// How many bytes a dispatch of the event may take.
    pub fn dispatch_bytes(event: &Event) -> usize {
        let scopes: usize = event.scopes().iter().map(|scope| scope.len() + 2).sum();
        HEADER_BYTES + event.name().as_str().len() + scopes + event.data().len()
    }

    /// Whether a dispatch of the event fits into a frame.
    pub fn fits(event: &Event) -> bool {
        let mut texts = event.scopes().iter().map(|scope| &**scope).chain([event.name().as_str()]);
        texts.all(|text| text.len() <= usize::from(u16::MAX))
            && event.scopes().len() <= usize::from(u16::MAX)
            && Self::dispatch_bytes(event) <= FRAME_BYTES_MAX
    }

    /// Appends a dispatch as a frame. The event must [fit](Self::fits).
    pub fn put_dispatch(buffer: &mut BytesMut, id: u64, is_wanted: bool, tenant: TenantId, event: &Event) {
        debug_assert!(Self::fits(event));
        buffer.reserve(Self::dispatch_bytes(event));
        frame::write(buffer, |buffer| {
            buffer.put_u8(DISPATCH);
            buffer.put_u64_le(id);
            buffer.put_u8(u8::from(is_wanted));
            buffer.put_u8(match tenant {
                TenantId::Guild(_) => 1,
                TenantId::User(_) => 2,
            });
            buffer.put_u64_le(tenant.snowflake().get());
            buffer.put_u8(match event.base_name() {
                BaseName::Discord => 1,
                BaseName::AntiRaid => 2,
            });
            // No object has the id 0.
            buffer.put_u64_le(event.author().map_or(0, Snowflake::get));
            put_text(buffer, event.name().as_str());
            buffer.put_u16_le(event.scopes().len() as u16);
            for scope in event.scopes() {
                put_text(buffer, scope);
            }
            buffer.extend_from_slice(event.data());
        });
    }

    /// Appends a cancellation as a frame.
    pub fn put_cancel(buffer: &mut BytesMut, id: u64) {
        frame::write(buffer, |buffer| {
            buffer.put_u8(CANCEL);
            buffer.put_u64_le(id);
        });
    }

    /// The message in the frame.
    pub fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        let mut fields = Fields(frame);
        match fields.u8("message")? {
            DISPATCH => {
                let id = fields.u64("id")?;
                let is_wanted = match fields.u8("flags")? {
                    0 => false,
                    1 => true,
                    value => return Err(FrameError::Unknown { field: "flags", value }),
                };
                let kind = fields.u8("tenant")?;
                let tenant_id = Snowflake::new(fields.u64("tenant")?);
                let tenant = match kind {
                    1 => TenantId::Guild(tenant_id),
                    2 => TenantId::User(tenant_id),
                    value => return Err(FrameError::Unknown { field: "tenant", value }),
                };
                let base_name = match fields.u8("base name")? {
                    1 => BaseName::Discord,
                    2 => BaseName::AntiRaid,
                    value => return Err(FrameError::Unknown { field: "base name", value }),
                };
                let author = fields.u64("author")?;
                let name = worker_core::EventName::new(fields.text("event")?);
                let scopes: Vec<_> =
                    (0..fields.u16("scopes")?).map(|_| fields.text("scope")).collect::<Result<_, _>>()?;
                let mut event = Event::named(base_name, name, Bytes::copy_from_slice(fields.rest()));
                if !scopes.is_empty() {
                    event = event.with_scopes(scopes);
                }
                if author != 0 {
                    event = event.with_author(Snowflake::new(author));
                }
                Ok(Self::Dispatch { id, is_wanted, tenant, event })
            }
            CANCEL => {
                let id = fields.u64("id")?;
                fields.end()?;
                Ok(Self::Cancel { id })
            }
            value => Err(FrameError::Unknown { field: "message", value }),
        }
    }
}

impl Up {
    /// Appends the message as a frame. An answer that is too large for one becomes an error.
    pub fn put(&self, buffer: &mut BytesMut) {
        let start = buffer.len();
        frame::write(buffer, |buffer| match self {
            Self::Answer { id, answer: Ok(result) } => {
                buffer.put_u8(RESULT);
                buffer.put_u64_le(*id);
                // Most events have no subscriber.
                if !result.templates.is_empty() {
                    let text = buffer.len();
                    if let Err(error) = serde_json::to_writer((&mut *buffer).writer(), result) {
                        // A value that has no JSON form, which no template can return.
                        buffer.truncate(text - 9);
                        put_error(
                            buffer,
                            *id,
                            &WorkerError::new(WorkerErrorKind::Internal, "the result cannot be sent")
                                .with_source(error),
                        );
                    }
                }
            }
            Self::Answer { id, answer: Err(error) } => put_error(buffer, *id, error),
            Self::Done { id } => {
                buffer.put_u8(DONE);
                buffer.put_u64_le(*id);
            }
            Self::HandedBack { id } => {
                buffer.put_u8(HANDED_BACK);
                buffer.put_u64_le(*id);
            }
            Self::Word(word) => {
                buffer.put_u8(WORD);
                buffer.extend_from_slice(word);
            }
        });
        if buffer.len() - start > FRAME_BYTES_MAX
            && let Self::Answer { id, .. } = self
        {
            buffer.truncate(start);
            let context = format!("the result takes more than {FRAME_BYTES_MAX} bytes");
            let error = WorkerError::new(WorkerErrorKind::BadRequest, context);
            frame::write(buffer, |buffer| put_error(buffer, *id, &error));
        }
    }

    /// The message in the frame.
    pub fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        let mut fields = Fields(frame);
        let kind = fields.u8("message")?;
        if kind == WORD {
            return Ok(Self::Word(Bytes::copy_from_slice(fields.rest())));
        }
        let id = fields.u64("id")?;
        let message = match kind {
            RESULT => {
                let answer = match fields.rest() {
                    [] => DispatchResult::default(),
                    json => serde_json::from_slice(json)?,
                };
                Self::Answer { id, answer: Ok(answer) }
            }
            ERROR => {
                let error: WireError = serde_json::from_slice(fields.rest())?;
                Self::Answer { id, answer: Err(error.into()) }
            }
            DONE => Self::Done { id },
            HANDED_BACK => Self::HandedBack { id },
            value => return Err(FrameError::Unknown { field: "message", value }),
        };
        fields.end()?;
        Ok(message)
    }
}

fn put_text(buffer: &mut BytesMut, text: &str) {
    buffer.put_u16_le(text.len() as u16);
    buffer.extend_from_slice(text.as_bytes());
}

fn put_error(buffer: &mut BytesMut, id: u64, error: &WorkerError) {
    buffer.put_u8(ERROR);
    buffer.put_u64_le(id);
    let json = serde_json::to_vec(&WireError::from(error)).expect("because a kind and a text have a JSON form");
    buffer.extend_from_slice(&json);
}
