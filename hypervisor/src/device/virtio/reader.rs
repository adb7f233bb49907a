//! The readable part of a chain as one run of bytes: where the driver cut it into buffers means
//! nothing (virtio 1.2 §2.7.4).

use super::QueueFault;
use super::chain::{Buffer, Chain};
use crate::device::GuestMemory;

/// How many descriptors one call follows at most.
const DESCRIPTORS: u32 = 64;

/// A chain and how far its readable bytes have been read: a plain value, kept over calls.
#[derive(Copy, Clone, Debug)]
pub struct Reader {
    chain: Chain,
    /// What is left of the buffer that is being read.
    rest: Option<Buffer>,
    ended: bool,
}

impl Reader {
    /// Starts at the first readable byte of `chain`.
    pub fn new(chain: Chain) -> Self {
        Self { chain, rest: None, ended: false }
    }

    /// Returns the number by which the used ring names the chain.
    pub fn head(&self) -> u16 {
        self.chain.head()
    }

    /// Says whether there are no more readable bytes.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Reads on into `bytes` and returns how many bytes that were. Fewer than `bytes` has room for
    /// means the end, or that the work of one call was used up: [`Reader::ended`] tells.
    ///
    /// # Errors
    ///
    /// What is wrong with the chain or its buffers.
    pub fn fill<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        bytes: &mut [u8],
    ) -> Result<usize, QueueFault> {
        let mut filled = 0;
        let mut descriptors = DESCRIPTORS;
        while !self.ended {
            let Some(buffer) = self.rest.take() else {
                if descriptors == 0 {
                    break;
                }
                descriptors -= 1;
                // What is for the device to write comes behind all that is for it to read.
                let next = self.chain.next(memory)?.filter(|buffer| !buffer.writable);
                self.ended = next.is_none();
                self.rest = next.filter(|buffer| buffer.length != 0);
                continue;
            };
            let room = bytes.get_mut(filled..).unwrap_or_default();
            if room.is_empty() {
                self.rest = Some(buffer);
                break;
            }
            let length = room.len().min(buffer.length as usize);
            memory.read(buffer.address, room.get_mut(..length).unwrap_or_default())?;
            filled += length;
            self.rest = advance(buffer, length as u32);
        }
        Ok(filled)
    }
}

/// Returns what is left of `buffer` behind its first `bytes`.
fn advance(buffer: Buffer, bytes: u32) -> Option<Buffer> {
    let length = buffer.length.checked_sub(bytes).filter(|length| *length != 0)?;
    Some(Buffer { address: buffer.address.checked_add(bytes.into())?, length, ..buffer })
}
