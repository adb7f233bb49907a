// The way into a guest and out again. A guest's exit is a return from `enter_guest`.

// x0 -> GuestRegisters; returns 0 synchronous, 1 IRQ, 2 FIQ, 3 SError.
.section .text.entry, "ax"
.global enter_guest
.balign 64
enter_guest:
    stp     x29, x30, [sp, #-112]!
    stp     x19, x20, [sp, #16]
    stp     x21, x22, [sp, #32]
    stp     x23, x24, [sp, #48]
    stp     x25, x26, [sp, #64]
    stp     x27, x28, [sp, #80]
    str     x0, [sp, #96]
    ldp     x2, x3, [x0, #16]
    ldp     x4, x5, [x0, #32]
    ldp     x6, x7, [x0, #48]
    ldp     x8, x9, [x0, #64]
    ldp     x10, x11, [x0, #80]
    ldp     x12, x13, [x0, #96]
    ldp     x14, x15, [x0, #112]
    ldp     x16, x17, [x0, #128]
    ldp     x18, x19, [x0, #144]
    ldp     x20, x21, [x0, #160]
    ldp     x22, x23, [x0, #176]
    ldp     x24, x25, [x0, #192]
    ldp     x26, x27, [x0, #208]
    ldp     x28, x29, [x0, #224]
    ldr     x30, [x0, #240]
    ldp     x0, x1, [x0]
    eret
    dsb     nsh                         // nothing is speculated past the ERET
    isb

// Saves what a call may clobber; x0 -> GuestRegisters then, and sp is as `enter_guest` left it.
.macro save_clobbered
    stp     x0, x1, [sp, #-16]!
    ldr     x0, [sp, #112]
    stp     x2, x3, [x0, #16]
    stp     x4, x5, [x0, #32]
    stp     x6, x7, [x0, #48]
    stp     x8, x9, [x0, #64]
    stp     x10, x11, [x0, #80]
    stp     x12, x13, [x0, #96]
    stp     x14, x15, [x0, #112]
.endm

// What is left of it; split, because a vector holds 32 instructions.
.macro save_clobbered_rest
    stp     x16, x17, [x0, #128]
    str     x18, [x0, #144]
    stp     x29, x30, [x0, #232]
    ldp     x2, x3, [sp], #16
    stp     x2, x3, [x0]
.endm

.macro leave_guest kind
    save_clobbered
    mov     x1, #\kind
    b       left_guest
.endm

.macro leave_guest_synchronous
    save_clobbered
    b       left_guest_synchronous
.endm

// Most synchronous exits are over in a few instructions that need neither the hypervisor's
// callee-saved registers nor the guest's out of theirs: `fast_exit` says whether this was one.
left_guest_synchronous:
    save_clobbered_rest
    bl      fast_exit
    mov     x1, x0
    ldr     x0, [sp, #96]
    cbz     x1, leave_whole
    ldp     x2, x3, [x0, #16]
    ldp     x4, x5, [x0, #32]
    ldp     x6, x7, [x0, #48]
    ldp     x8, x9, [x0, #64]
    ldp     x10, x11, [x0, #80]
    ldp     x12, x13, [x0, #96]
    ldp     x14, x15, [x0, #112]
    ldp     x16, x17, [x0, #128]
    ldr     x18, [x0, #144]
    ldp     x29, x30, [x0, #232]
    ldp     x0, x1, [x0]
    eret
    dsb     nsh
    isb

left_guest:
    mov     x4, x1
    save_clobbered_rest
    mov     x1, x4
leave_whole:                            // x0 -> GuestRegisters, x1 which vector
    stp     x19, x20, [x0, #152]
    stp     x21, x22, [x0, #168]
    stp     x23, x24, [x0, #184]
    stp     x25, x26, [x0, #200]
    stp     x27, x28, [x0, #216]
    mov     x0, x1
    ldp     x19, x20, [sp, #16]
    ldp     x21, x22, [sp, #32]
    ldp     x23, x24, [sp, #48]
    ldp     x25, x26, [sp, #64]
    ldp     x27, x28, [sp, #80]
    ldp     x29, x30, [sp], #112
    ret

// An exception at EL2 itself is always the end: there is no page fault, no interrupt (they stay
// masked) and no system call here. The stack may be what is broken, so a spare one is used, in
// which the registers are laid out as `panic::Registers`.
.macro own_fault kind
    msr     TPIDR_EL1, x0               // the guest is lost with us
    mov     x0, sp
    msr     SP_EL0, x0
    mrs     x0, TPIDR_EL2
    cbz     x0, 1f
    ldr     x0, [x0, #{emergency_stack}]
    mov     sp, x0
1:  mrs     x0, TPIDR_EL1
    sub     sp, sp, #288
    stp     x0, x1, [sp]
    mov     x0, #\kind
    b       own_fault_common
.endm

own_fault_common:
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    mrs     x1, SP_EL0
    stp     x30, x1, [sp, #240]
    mrs     x1, ELR_EL2
    mrs     x2, SPSR_EL2
    stp     x1, x2, [sp, #256]
    mrs     x1, ESR_EL2
    mrs     x2, FAR_EL2
    stp     x1, x2, [sp, #272]
    mov     x1, sp
    bl      own_fault
2:  wfe
    b       2b

.section .text.vectors, "ax"
.balign 2048
.global vectors
vectors:
    .balign 128
    own_fault 0                         // current EL, SP_EL0: synchronous
    .balign 128
    own_fault 1
    .balign 128
    own_fault 2
    .balign 128
    own_fault 3
    .balign 128
    own_fault 0                         // current EL, SP_EL2
    .balign 128
    own_fault 1
    .balign 128
    own_fault 2
    .balign 128
    own_fault 3
    .balign 128
    leave_guest_synchronous             // a guest in AArch64
    .balign 128
    leave_guest 1
    .balign 128
    leave_guest 2
    .balign 128
    leave_guest 3
    .balign 128
    leave_guest_synchronous             // a guest's EL0 in AArch32
    .balign 128
    leave_guest 1
    .balign 128
    leave_guest 2
    .balign 128
    leave_guest 3
    .balign 128
