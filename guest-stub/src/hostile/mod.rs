//! What a guest may try against its hypervisor. It passes when the guest lives and the devices still answer.
