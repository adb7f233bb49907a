//! Loads and stores to a guest's devices.

use super::interrupts;
use super::syndrome::Access;
use crate::addr::{Ipa, IpaRange};
use crate::console;
use crate::device::Width;
use crate::device::gic::Place;
use crate::device::virtio::mmio::read_empty_slot;
use crate::guest::layout;
use crate::sched::Loaded;
use crate::system::System;

fn offset(range: &IpaRange, ipa: Ipa) -> Option<u64> {
    if range.contains(&ipa) { ipa.checked_sub(range.start) } else { None }
}

/// Carries out an access to the device at `ipa`. `false`: there is none.
pub fn access(
    system: &'static System,
    loaded: &mut Loaded,
    ipa: Ipa,
    access: Access,
    write: bool,
) -> bool {
    let width = match access.size {
        1 => Width::Byte,
        2 => Width::Half,
        4 => Width::Word,
        _ => Width::Double,
    };
    let registers = &mut loaded.own.registers.x;
    if write {
        // Register 31 is the zero register here.
        let value = registers.get(usize::from(access.register)).copied().unwrap_or(0);
        return store(system, loaded, ipa, width, width.truncate(value));
    }
    let Some(value) = load(system, loaded, ipa, width) else { return false };
    if let Some(register) = loaded.own.registers.x.get_mut(usize::from(access.register)) {
        *register = access.extend(value);
    }
    true
}

fn load(system: &'static System, loaded: &mut Loaded, ipa: Ipa, width: Width) -> Option<u64> {
    if let Some(place) = gic_place(loaded, ipa) {
        if place.shows_live_state() {
            interrupts::fold(system, loaded);
            let kick = loaded.guest.gic.refresh(loaded.vcpu.index, place);
            loaded.guest.kick(system, kick);
        }
        return Some(loaded.guest.gic.read(place, width));
    }
    let guest = &loaded.guest;
    if let Some(offset) = offset(&layout::UART, ipa) {
        let value = guest.read_uart(system, offset, width);
        console::room_again();
        return Some(value);
    }
    if layout::FLASH.contains(&ipa) {
        return Some(0);
    }
    let offset = offset(&layout::VIRTIO, ipa)?;
    let register = offset % layout::VIRTIO_SLOT_SIZE;
    let slot = (offset / layout::VIRTIO_SLOT_SIZE) as usize;
    let value = guest.read_slot(system, slot, register, width);
    Some(value.unwrap_or_else(|| read_empty_slot(register, width)))
}

fn store(system: &'static System, loaded: &mut Loaded, ipa: Ipa, width: Width, value: u64) -> bool {
    let guest = &loaded.guest;
    if let Some(place) = gic_place(loaded, ipa) {
        let kick = guest.gic.write(loaded.vcpu.index, place, width, value);
        guest.kick(system, kick);
        return true;
    }
    if let Some(offset) = offset(&layout::UART, ipa) {
        if let Some(byte) = guest.write_uart(system, offset, width, value) {
            console::guest_output(guest, byte);
        }
        return true;
    }
    let Some(offset) = offset(&layout::VIRTIO, ipa) else { return layout::FLASH.contains(&ipa) };
    let register = offset % layout::VIRTIO_SLOT_SIZE;
    let slot = (offset / layout::VIRTIO_SLOT_SIZE) as usize;
    guest.write_slot(system, slot, register, width, value);
    true
}

fn gic_place(loaded: &Loaded, ipa: Ipa) -> Option<Place> {
    let version = loaded.guest.gic.version();
    if let Some(offset) = offset(&layout::DISTRIBUTOR, ipa) {
        return Place::of_distributor(version, loaded.vcpu.index, offset);
    }
    let offset = offset(&layout::REDISTRIBUTORS, ipa)?;
    let vcpus = loaded.guest.vcpus.len() as u64;
    if offset / crate::device::gic::REDISTRIBUTOR_BYTES < vcpus {
        Place::of_redistributors(version, offset)
    } else {
        None
    }
}
