//! The program for the machine: the library, which `arch::boot` enters.
#![no_std]
#![no_main]

use sluice as _;
