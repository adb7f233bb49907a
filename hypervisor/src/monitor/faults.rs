//! For tests only: allocations that fail, and ends of Sluice, on command.
//!
//! | command | |
//! |---|---|
//! | `fail after <n>` | of the next allocations (blocks, tables, the hypervisor's frames) `n` succeed and one fails |
//! | `fail from <n>` | of the next allocations `n` succeed, and all after them fail |
//! | `fail one-in <n> <seed>` | one in `n` fails, at random |
//! | `fail never` | none fails any more; `failed` says how many have since the command before |
//! | `crash panic`, `crash fault`, `crash stack` | Sluice ends |
#![expect(unsafe_code, reason = "does what must not be done")]

use super::report::{Report, Value};
use crate::system::System;

/// Does what `line` says, if it is one of these commands. Says whether it was.
pub(super) fn obey(system: &System, line: &str, report: &mut Report<'_>) -> bool {
    let mut words = line.split_ascii_whitespace();
    let (verb, kind) = (words.next(), words.next());
    let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
    match (verb, kind) {
        (Some("fail"), Some("after")) => {
            system.memory().fail_once_after(number().unwrap_or(0));
            report.value("armed", Value::Flag(true));
        }
        (Some("fail"), Some("from")) => {
            system.memory().fail_after(number().unwrap_or(0));
            report.value("armed", Value::Flag(true));
        }
        (Some("fail"), Some("one-in")) => {
            let (one_in, seed) = (number().unwrap_or(2), number().unwrap_or(1));
            system.memory().fail_at_random(one_in, seed);
            report.value("armed", Value::Flag(true));
        }
        (Some("fail"), Some("never")) => {
            report.value("failed", Value::Number(system.memory().fail_never()));
        }
        (Some("crash"), Some("panic")) => panic!("asked for by the monitor"),
        (Some("crash"), Some("fault")) => {
            // SAFETY: none: nothing is mapped there, which is what is wanted.
            unsafe { core::ptr::without_provenance_mut::<u64>(0x10).write_volatile(1) };
        }
        (Some("crash"), Some("stack")) => _ = deeper(0),
        _ => return false,
    }
    true
}

#[inline(never)]
#[expect(unconditional_recursion, reason = "runs off the stack's end")]
fn deeper(depth: u64) -> u64 {
    let here = core::hint::black_box([depth; 32]);
    deeper(depth + 1) + here[31]
}
