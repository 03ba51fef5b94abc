//! What a worker process that has shards of its own tells the program that started it.

use bytes::{BufMut, Bytes, BytesMut};
use worker_core::{Event, TenantId};
use worker_process::workerprocesscomm::{Down, FrameError};

use super::end::GatewayEnd;

/// Something that a worker process says.
#[derive(Debug)]
pub enum Word {
    /// An event of a tenant that is not this worker's: an interaction of a user's own installation comes by the shard of the
    /// guild, or by the first.
    Stray {
        /// Whose it is.
        tenant: TenantId,
        /// What happened.
        event: Event,
    },
    /// Discord will not have its shards back.
    Ended(GatewayEnd),
}

/// Why bytes are no word.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WordError {
    /// Not a word of this version.
    #[error("it begins with {0:?}")]
    Unknown(Option<u8>),
    /// An event that is none.
    #[error("no event")]
    Event(#[from] FrameError),
    /// Not what a stray event is sent as.
    #[error("not an event")]
    NotAnEvent,
    /// An end that is none.
    #[error("no end")]
    End(#[from] serde_json::Error),
}

const STRAY: u8 = 1;
const ENDED: u8 = 2;
/// The length that frames begin with.
const FRAME_LEN_BYTES: usize = 4;

impl Word {
    /// The word as bytes; nothing for an event that is too large to be sent.
    pub fn encode(&self) -> Option<Bytes> {
        let mut bytes = BytesMut::new();
        match self {
            Self::Stray { event, .. } if !Down::fits(event) => return None,
            Self::Stray { tenant, event } => {
                bytes.put_u8(STRAY);
                Down::put_dispatch(&mut bytes, 0, false, *tenant, event);
            }
            Self::Ended(end) => {
                bytes.put_u8(ENDED);
                bytes.extend_from_slice(&serde_json::to_vec(end).expect("because text has a JSON form"));
            }
        }
        Some(bytes.freeze())
    }

    /// The word in the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, WordError> {
        match bytes.split_first() {
            Some((&STRAY, frame)) => match Down::decode(frame.get(FRAME_LEN_BYTES..).unwrap_or_default())? {
                Down::Dispatch { tenant, event, .. } => Ok(Self::Stray { tenant, event }),
                _ => Err(WordError::NotAnEvent),
            },
            Some((&ENDED, json)) => Ok(Self::Ended(serde_json::from_slice(json)?)),
            other => Err(WordError::Unknown(other.map(|(first, _)| *first))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::Intents;

    #[test]
    fn words_are_understood_as_they_were_said() {
        let event = Event::discord("INTERACTION_CREATE", Bytes::from_static(br#"{"id":"1"}"#));
        let word = Word::Stray { tenant: TenantId::user(7), event };
        match Word::decode(&word.encode().unwrap()).unwrap() {
            Word::Stray { tenant, event } => {
                assert_eq!((tenant, event.name().as_str()), (TenantId::user(7), "INTERACTION_CREATE"));
                assert_eq!(&event.data()[..], br#"{"id":"1"}"#);
            }
            other => panic!("{other:?}"),
        }
        let end = GatewayEnd::of_close(Some(4004), Intents::GUILDS);
        match Word::decode(&Word::Ended(end.clone()).encode().unwrap()).unwrap() {
            Word::Ended(heard) => assert_eq!(heard, end),
            other => panic!("{other:?}"),
        }
        for nonsense in [&b""[..], b"\x09", b"\x01", b"\x01\0\0\0\0", b"\x02{"] {
            assert!(Word::decode(nonsense).is_err(), "{nonsense:?}");
        }
    }
}
