//! On the host the trace is kept until the test that began it takes it.

use super::record::{Kind, Record};
use crate::arch::cpu;
use std::sync::{Mutex, PoisonError};

/// What was recorded, while something is.
static RECORDS: Mutex<Option<Vec<Record>>> = Mutex::new(None);

/// Begins to record, what all threads do.
pub fn begin() {
    *RECORDS.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
    emit(Kind::Begin, 0, 0, 0, 0);
}

/// Records an event, if anything is recorded.
pub fn emit(kind: Kind, what: u16, count: u32, a: u64, b: u64) {
    let mut records = RECORDS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(records) = records.as_mut() {
        let (order, cpu) = (records.len() as u64, cpu::current().index() as u8);
        records.push(Record { order, kind: kind as u8, cpu, what, count, a, b });
    }
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
