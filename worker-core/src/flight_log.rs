//! What a worker process leaves behind when it dies: which tenants' code its threads were running, and how far it had
//! taken events in.
//!
//! It is a small file that both processes know: the worker writes into it (through a shared mapping, so that a store is
//! all it costs), the master reads it when the worker is dead. Only the layout is here.

use crate::{Snowflake, TenantId};

/// The layout of the file. Numbers are little-endian.
///
/// A header of [`HEADER_BYTES`](Self::HEADER_BYTES) begins with the number of the last dispatch that the worker gave to
/// its engine; then comes a slot for each thread.
#[derive(Clone, Copy, Debug)]
pub struct FlightLog;

/// What a thread was running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Whose code.
    pub tenant: TenantId,
    /// The event's name, cut to [`FlightLog::NAME_BYTES_MAX`]; empty if it is not known.
    pub event: String,
    /// The template's name, likewise.
    pub template: String,
}

impl FlightLog {
    /// Bytes before the first slot.
    pub const HEADER_BYTES: usize = 64;
    /// Bytes of a slot.
    pub const SLOT_BYTES: usize = 256;
    /// Threads that have a slot. More of them run unseen.
    pub const SLOTS: usize = 64;
    /// Bytes of the whole file.
    pub const BYTES: usize = Self::HEADER_BYTES + Self::SLOTS * Self::SLOT_BYTES;
    /// Bytes of a name; more is cut off.
    pub const NAME_BYTES_MAX: usize = 96;

    /// Within a slot: who runs (0 nobody, 1 a guild, 2 a user).
    pub const KIND_AT: usize = 0;
    /// Within a slot: the length of the event's name; the name is at [`EVENT_AT`](Self::EVENT_AT).
    pub const EVENT_LEN_AT: usize = 1;
    /// Within a slot: the length of the template's name; the name is at [`TEMPLATE_AT`](Self::TEMPLATE_AT).
    pub const TEMPLATE_LEN_AT: usize = 2;
    /// Within a slot: the tenant's Discord id.
    pub const ID_AT: usize = 8;
    /// Within a slot: the event's name.
    pub const EVENT_AT: usize = 16;
    /// Within a slot: the template's name.
    pub const TEMPLATE_AT: usize = Self::EVENT_AT + Self::NAME_BYTES_MAX;

    /// The number that stands for the kind of tenant.
    pub const fn kind(tenant: TenantId) -> u8 {
        match tenant {
            TenantId::Guild(_) => 1,
            TenantId::User(_) => 2,
        }
    }

    /// The number of the last dispatch that was given to the engine; 0 if none was.
    pub fn taken_up_to(file: &[u8]) -> u64 {
        number(file, 0).unwrap_or(0)
    }

    /// What was running, from the bytes of the file. Slots that make no sense are passed over: a process that died may
    /// have written anything.
    pub fn running(file: &[u8]) -> Vec<Running> {
        let slots = file.get(Self::HEADER_BYTES..).unwrap_or_default().chunks_exact(Self::SLOT_BYTES);
        slots.take(Self::SLOTS).filter_map(Self::slot).collect()
    }

    /// The bytes of a slot, for writers without a mapping.
    pub fn slot_bytes(running: &Running) -> [u8; Self::SLOT_BYTES] {
        let mut slot = [0; Self::SLOT_BYTES];
        slot[Self::KIND_AT] = Self::kind(running.tenant);
        slot[Self::ID_AT..Self::ID_AT + 8].copy_from_slice(&running.tenant.snowflake().get().to_le_bytes());
        for (name, len_at, at) in [
            (&running.event, Self::EVENT_LEN_AT, Self::EVENT_AT),
            (&running.template, Self::TEMPLATE_LEN_AT, Self::TEMPLATE_AT),
        ] {
            let len = name.len().min(Self::NAME_BYTES_MAX);
            slot[len_at] = len as u8;
            slot[at..at + len].copy_from_slice(&name.as_bytes()[..len]);
        }
        slot
    }

    fn slot(slot: &[u8]) -> Option<Running> {
        let id = Snowflake::new(number(slot, Self::ID_AT).filter(|id| *id != 0)?);
        let tenant = match slot[Self::KIND_AT] {
            1 => TenantId::Guild(id),
            2 => TenantId::User(id),
            _ => return None,
        };
        let name = |len_at: usize, at: usize| {
            let len = (slot[len_at] as usize).min(Self::NAME_BYTES_MAX);
            String::from_utf8_lossy(&slot[at..at + len]).into_owned()
        };
        Some(Running {
            tenant,
            event: name(Self::EVENT_LEN_AT, Self::EVENT_AT),
            template: name(Self::TEMPLATE_LEN_AT, Self::TEMPLATE_AT),
        })
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let running = Running { tenant: TenantId::user(7), event: "MESSAGE".into(), template: "x".repeat(200) };
        let mut file = vec![0; FlightLog::BYTES];
        file[..8].copy_from_slice(&42u64.to_le_bytes());
        let at = FlightLog::HEADER_BYTES + 3 * FlightLog::SLOT_BYTES;
        file[at..at + FlightLog::SLOT_BYTES].copy_from_slice(&FlightLog::slot_bytes(&running));
        assert_eq!(FlightLog::taken_up_to(&file), 42);
        let read = FlightLog::running(&file);
        let cut = Running { template: "x".repeat(FlightLog::NAME_BYTES_MAX), ..running };
        assert_eq!(read, [cut]);
    }

    proptest! {
        #[test]
        fn rubbish_is_no_panic(file in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            FlightLog::running(&file);
            FlightLog::taken_up_to(&file);
        }
    }
}
