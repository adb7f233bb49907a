// The exception vectors of EL1, and the routines that may fault (`probe.rs`).

.macro vector target
    .balign 128
    b       \target
.endm

.macro unexpected kind
    .balign 128
    sub     sp, sp, #272
    stp     x0, x1, [sp]
    mov     x1, #\kind
    b       fatal
.endm

.section .text.vectors, "ax"
.balign 2048
.global vectors
vectors:
    unexpected 0
    unexpected 1
    unexpected 2
    unexpected 3
    vector  synchronous
    vector  interrupt
    unexpected 6
    vector  system_error
    .irp kind, 8, 9, 10, 11, 12, 13, 14, 15
    unexpected \kind
    .endr

// A fault of an instruction between PROBE_START and PROBE_END is an answer: the routine there
// returns to its caller at once, with x9 = ESR_EL1 and x10 = FAR_EL1.
synchronous:
    stp     x16, x17, [sp, #-16]!
    mrs     x16, ELR_EL1
    adrp    x17, PROBE_START
    add     x17, x17, :lo12:PROBE_START
    cmp     x16, x17
    b.lo    1f
    adrp    x17, PROBE_END
    add     x17, x17, :lo12:PROBE_END
    cmp     x16, x17
    b.hs    1f
0:  ldp     x16, x17, [sp], #16
    mrs     x9, ESR_EL1
    mrs     x10, FAR_EL1
    msr     ELR_EL1, x30
    eret
1:  mrs     x16, ESR_EL1                // or a jump of `probe_execute` to where nothing can be fetched
    lsr     x16, x16, #26
    cmp     x16, #0x21
    mov     x17, #{execute_mark}
    ccmp    x11, x17, #0, eq
    b.eq    0b
    ldp     x16, x17, [sp], #16
    sub     sp, sp, #272
    stp     x0, x1, [sp]
    mov     x1, #4
    b       fatal

fatal:
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
    str     x30, [sp, #240]
    mov     x0, sp
    b       fatal_exception

.macro save_and_call handler
    sub     sp, sp, #192
    stp     x0, x1, [sp]
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x29, [sp, #144]
    mrs     x0, ELR_EL1
    mrs     x1, SPSR_EL1
    stp     x30, x0, [sp, #160]
    str     x1, [sp, #176]
    bl      \handler
    ldp     x30, x0, [sp, #160]
    ldr     x1, [sp, #176]
    msr     ELR_EL1, x0
    msr     SPSR_EL1, x1
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldp     x8, x9, [sp, #64]
    ldp     x10, x11, [sp, #80]
    ldp     x12, x13, [sp, #96]
    ldp     x14, x15, [sp, #112]
    ldp     x16, x17, [sp, #128]
    ldp     x18, x29, [sp, #144]
    ldp     x0, x1, [sp]
    add     sp, sp, #192
    eret
.endm

interrupt:
    save_and_call interrupt_main

system_error:
    save_and_call system_error_main

// The routines that may fault. They keep x30, use no stack and set x9 = 0 where all went well.
.macro probe name, instruction:vararg
.global \name
\name:
    \instruction
    mov     x9, xzr
    ret
.endm

.section .text.probe, "awx"
    probe   probe_read_8, ldrb w0, [x0]
    probe   probe_read_16, ldrh w0, [x0]
    probe   probe_read_32, ldr w0, [x0]
    probe   probe_read_64, ldr x0, [x0]
    probe   probe_write_8, strb w1, [x0]
    probe   probe_write_16, strh w1, [x0]
    probe   probe_write_32, str w1, [x0]
    probe   probe_write_64, str x1, [x0]
    probe   probe_read_pair, ldp x0, x1, [x0]
    probe   probe_write_pair, stp x1, x1, [x0]
    probe   probe_read_indexed, ldr x2, [x0], #8
    probe   probe_exclusive, ldxr x0, [x0]
    probe   probe_zero_line, dc zva, x0
    probe   probe_clean_line, dc civac, x0
    probe   probe_fetch_line, ic ivau, x0
    probe   probe_translate, at s1e1r, x0
    probe   probe_hvc, hvc #0
    probe   probe_hvc_other, hvc #0x4b
    probe   probe_smc, smc #0

// Fills x4 to x8 and x11 to x17 (x9 and x10 tell of faults), calls the function in x0 and returns the
// mask of those that changed.
.macro keeps name, instruction:vararg
.global \name
\name:
    .irp number, 4, 5, 6, 7, 8, 11, 12, 13, 14, 15, 16, 17
    mov     x\number, #(0x5a00 + \number)
    .endr
    \instruction
    mov     x0, xzr
    .irp number, 4, 5, 6, 7, 8, 11, 12, 13, 14, 15, 16, 17
    mov     x1, #(0x5a00 + \number)
    cmp     x\number, x1
    cset    x1, ne
    orr     x0, x0, x1, lsl #\number
    .endr
    mov     x9, xzr
    ret
.endm
    keeps   probe_hvc_keeps, hvc #0
    keeps   probe_smc_keeps, smc #0

// Jumps to an address; the code there has to be a `ret`.
.global probe_execute
probe_execute:
    mov     x9, xzr
    mov     x11, #{execute_mark}
    br      x0

// A place for one instruction that is not known before (`probe::instruction`).
.balign 64
.global probe_any
probe_any:
    nop
    mov     x9, xzr
    ret
.balign 64
