//! The balloon under a driver that does what Linux's `virtio_balloon.c` does, and under others.

mod pages;
mod reports;
mod statistics;

use super::super::driver::{DriverQueue, Machine};
use super::super::feature as common;
use super::feature;

const ALL: u64 = common::COMMON | feature::OFFERED;
const PAGE: u32 = 0x40100;

/// Offers page numbers in one buffer and notifies.
fn tell(machine: &mut Machine, queue: &mut DriverQueue, pages: &[u32]) {
    let buffer = machine.put_pages(0, pages);
    queue.add(&machine.memory, &[buffer]);
    queue.kick(machine);
}

fn run(pages: core::ops::Range<u32>) -> Vec<u32> {
    pages.map(|page| PAGE + page).collect()
}
