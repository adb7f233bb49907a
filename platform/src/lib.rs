//! What machine this is: device tree, UART, GIC, timers, CPUs, memory. Knows nothing of guests.
#![cfg_attr(not(test), no_std)]
