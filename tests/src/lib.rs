//! The host side: runs QEMU, drives the monitor, holds the models and checkers.
