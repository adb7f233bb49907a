//! Who sent a vCPU its SGIs, which a GICv2 tells (IHI 0048, §2.2.1): one of each INTID from each sender can wait.

use super::bank::Word;

/// The senders of a vCPU's SGIs. Changed under the vCPU's lock, read freely.
#[derive(Debug, Default)]
pub(super) struct Sgis([Senders; 16]);

#[derive(Debug, Default)]
struct Senders {
    /// Those whose SGI waits, a bit each, without the one that is lent.
    waiting: Word,
    /// The number of the one whose SGI is in a list register, or is active.
    lent: Word,
}

impl Sgis {
    fn senders(&self, intid: u32) -> Option<&Senders> {
        self.0.get(intid as usize)
    }

    /// Notes that `senders`, a bit each, have sent SGI `intid`. Returns those whose did not wait already.
    pub(super) fn send(&self, intid: u32, senders: u32) -> u32 {
        let Some(of) = self.senders(intid) else { return 0 };
        let news = senders & !of.waiting.get();
        of.waiting.insert(news);
        news
    }

    /// Forgets SGI `intid` of `senders`, a bit each. Says whether others still wait.
    pub(super) fn withdraw(&self, intid: u32, senders: u32) -> bool {
        let Some(of) = self.senders(intid) else { return false };
        of.waiting.remove(senders);
        of.waiting.get() != 0
    }

    /// Returns the senders whose SGI `intid` waits, a bit each, without the one that is lent.
    pub(super) fn waiting(&self, intid: u32) -> u32 {
        self.senders(intid).map_or(0, |of| of.waiting.get())
    }

    /// Puts the first sender's SGI `intid` into a list register. Says whether others wait.
    pub(super) fn lend(&self, intid: u32) -> bool {
        let Some(of) = self.senders(intid) else { return false };
        let waiting = of.waiting.get();
        if waiting != 0 {
            of.lent.set(waiting.trailing_zeros());
            of.waiting.set(waiting & (waiting - 1));
        }
        of.waiting.get() != 0
    }

    /// Returns whose SGI `intid` is in a list register or active.
    pub(super) fn lent(&self, intid: u32) -> u32 {
        self.senders(intid).map_or(0, |of| of.lent.get())
    }

    /// Has the SGI `intid` that was lent wait again.
    pub(super) fn come_back(&self, intid: u32) {
        if let Some(of) = self.senders(intid) {
            of.waiting.insert(1 << of.lent.get());
        }
    }

    /// Forgets all.
    pub(super) fn reset(&self) {
        for of in &self.0 {
            of.waiting.set(0);
            of.lent.set(0);
        }
    }
}
