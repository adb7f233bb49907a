//! Requests and responses (virtio 1.2 §5.15.6).

use super::super::QueueFault;
use super::super::chain::Chain;
use super::super::reader::Reader;
use crate::addr::Ipa;
use crate::device::GuestMemory;

/// The size of a request in bytes: type, padding, address, number of blocks, padding.
pub(super) const REQUEST_BYTES: usize = 24;
/// The size of a response in bytes: type, padding, state.
const RESPONSE_BYTES: usize = 10;

/// What the driver asks for.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Plug,
    Unplug,
    UnplugAll,
    State,
}

/// A request as it was read.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// `None` of a type that does not exist.
    pub(super) kind: Option<Kind>,
    pub(super) address: Ipa,
    pub(super) blocks: u16,
}

/// The answer to a request.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Answer {
    /// Done.
    Ack = 0,
    /// Not now: more than the host wants the guest to have.
    Nack = 1,
    /// Not now: try again later.
    Busy = 2,
    /// The request is wrong.
    Error = 3,
}

/// What the blocks of a state request are.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum State {
    Plugged = 0,
    Unplugged = 1,
    Mixed = 2,
}

impl Request {
    /// Reads the request of `chain`; `None` where it is too short for one.
    pub(super) fn read<M: GuestMemory + ?Sized>(
        chain: Chain,
        memory: &M,
    ) -> Result<Option<Self>, QueueFault> {
        let mut bytes = [0; REQUEST_BYTES];
        let read = Reader::new(chain).fill(memory, &mut bytes)?;
        let half = |at: usize| {
            let half = bytes.get(at..).and_then(|rest| rest.first_chunk());
            half.map_or(0, |half| u16::from_le_bytes(*half))
        };
        let kind = match half(0) {
            0 => Some(Kind::Plug),
            1 => Some(Kind::Unplug),
            2 => Some(Kind::UnplugAll),
            3 => Some(Kind::State),
            _ => None,
        };
        // What has no arguments may come without room for them.
        let needed = if kind == Some(Kind::UnplugAll) { 8 } else { REQUEST_BYTES };
        let address = bytes.get(8..).and_then(|rest| rest.first_chunk());
        let address = Ipa::new(address.map_or(0, |address| u64::from_le_bytes(*address)));
        Ok((read >= needed).then_some(Self { kind, address, blocks: half(16) }))
    }
}

/// Writes the response into what of `chain` is for the device to write, and returns how many bytes that were.
pub(super) fn respond<M: GuestMemory + ?Sized>(
    mut chain: Chain,
    memory: &M,
    answer: Answer,
    state: Option<State>,
) -> Result<u32, QueueFault> {
    let mut bytes = [0; RESPONSE_BYTES];
    let [t0, t1] = (answer as u16).to_le_bytes();
    let [s0, s1] = state.map_or(0, |state| state as u16).to_le_bytes();
    let [type0, type1, .., state0, state1] = &mut bytes;
    (*type0, *type1, *state0, *state1) = (t0, t1, s0, s1);
    let mut rest = bytes.as_slice();
    // The chain was followed before, when the request was read: it is of bounded length.
    while !rest.is_empty() {
        let Some(buffer) = chain.next(memory)? else { break };
        if buffer.writable {
            let (part, after) = rest.split_at(rest.len().min(buffer.length as usize));
            memory.write(buffer.address, part)?;
            rest = after;
        }
    }
    Ok((RESPONSE_BYTES - rest.len()) as u32)
}
