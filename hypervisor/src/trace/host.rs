//! On the host the trace is kept until the test that began it takes it.

use super::record::{Kind, Record, Register};
use crate::arch::cpu;
use std::sync::{Mutex, PoisonError};

/// What was recorded, while something is.
static RECORDS: Mutex<Option<Vec<Record>>> = Mutex::new(None);

/// Begins to record, what all threads do.
pub fn begin() {
    *RECORDS.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
    emit(Kind::Begin, 0, 0, 0, 0);
    for cpu in 0..cpu::MAX_CPUS {
        emit_of(cpu as u8, Kind::Register, Register::Vtcr as u16, 0, VTCR, 0);
    }
}

/// VTCR_EL2 of the machine that the host stands for: 39 bits of IPA, walks start at level 1.
const VTCR: u64 = 1 << 31 | 1 << 6 | 25;

/// Records an event, if anything is recorded.
pub fn emit(kind: Kind, what: u16, count: u32, a: u64, b: u64) {
    emit_of(cpu::current().index() as u8, kind, what, count, a, b);
}

fn emit_of(cpu: u8, kind: Kind, what: u16, count: u32, a: u64, b: u64) {
    let mut records = RECORDS.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(records) = records.as_mut() else { return };
    let is_its_pin = |last: &Record| last.kind == Kind::Pin as u8 && last.cpu == cpu;
    if kind == Kind::Unpin && records.last().is_some_and(is_its_pin) {
        // Of a pin in which nothing happened nothing can be told; there are millions of them.
        records.pop();
        return;
    }
    let order = records.len() as u64;
    records.push(Record { order, kind: kind as u8, cpu, what, count, a, b });
}

/// Ends recording, and returns what was recorded as it stands in a file.
pub fn end() -> Vec<u8> {
    emit(Kind::End, 0, 0, 0, 0);
    let records = RECORDS.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
    let mut bytes = Vec::new();
    for record in records {
        bytes.extend(record.order.to_le_bytes());
        bytes.extend([record.kind, record.cpu]);
        bytes.extend(record.what.to_le_bytes());
        bytes.extend(record.count.to_le_bytes());
        bytes.extend(record.a.to_le_bytes());
        bytes.extend(record.b.to_le_bytes());
    }
    bytes
}
