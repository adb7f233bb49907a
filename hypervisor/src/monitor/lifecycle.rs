//! `create`, `start`, `stop`, `reset`, `destroy`: guests that come and go. Each is asked for and goes on by itself; an
//! event tells when it is done.

use super::report::{Report, Value};
use crate::guest::{Guest, State, Stop};
use crate::system::System;
use alloc::sync::Arc;

/// Makes the guest that the bundle's manifest calls `name`, to be called `alias`.
pub(super) fn create(
    system: &'static System,
    name: &str,
    alias: &str,
    report: &mut Report<'_>,
) -> Option<Arc<Guest>> {
    match system.create(name, alias) {
        Ok(guest) => {
            report.value("created", Value::Text(guest.name()));
            report.value("number", Value::Number(guest.id.index() as u64));
            Some(guest)
        }
        Err(error) => {
            report.error(format_args!("guest {alias}: {}", error.0), None);
            None
        }
    }
}

/// Says whether a guest may be promised `more` bytes than it is; tells why not.
pub(super) fn may_have(
    system: &'static System,
    guest: &Guest,
    more: u64,
    report: &mut Report<'_>,
) -> bool {
    let admitted = system.admits(guest, guest.entitlement().saturating_add(more));
    if let Err(why) = &admitted {
        report.error(format_args!("guest {} cannot have that: {why}", guest.name()), None);
    }
    admitted.is_ok()
}

/// Has a guest started.
pub(super) fn start(system: &'static System, guest: &Guest, report: &mut Report<'_>) {
    match guest.start(system) {
        Ok(()) => report.value("started", Value::Text(guest.name())),
        Err(error) => report.error(format_args!("guest {}: {error}", guest.name()), None),
    }
}

/// Has a guest stopped, and what `stop` says be done then.
pub(super) fn stop(system: &'static System, guest: &Guest, stop: Stop, report: &mut Report<'_>) {
    if guest.state() == State::Off && stop != Stop::Destroy {
        let name = guest.name();
        return report.error(format_args!("guest {name} is off; 'start' starts it"), None);
    }
    guest.request_stop(system, stop);
    report.value("asked", Value::Flag(true));
}
