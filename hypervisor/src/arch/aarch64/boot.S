// Entry from a loader: the arm64 boot protocol (Documentation/arch/arm64/booting.rst in Linux).
// The image is linked at 0, so the address it was loaded at is its relocation bias.

.section .head, "ax"
.global image_head
image_head:
    b       primary_entry
    .long   0
    .quad   0                           // text_offset
    .quad   IMAGE_SIZE                  // effective size, .bss included
    .quad   0xa                         // flags: little endian, 4 KiB pages, anywhere in memory
    .quad   0
    .quad   0
    .quad   0
    .ascii  "ARM\x64"
    .long   0

.section .text.boot, "ax"
primary_entry:
    mov     x19, x0                     // the device tree
    mrs     x20, CurrentEL
    lsr     x20, x20, #2
    msr     DAIFSet, #0xf
    adrp    x21, image_head             // the bias

    // Lines of .bss that the caches may hold from before would hide what is written below.
    adrp    x0, BSS_START
    add     x0, x0, :lo12:BSS_START
    adrp    x1, IMAGE_END
    add     x1, x1, :lo12:IMAGE_END
    mrs     x2, CTR_EL0
    ubfx    x2, x2, #16, #4
    mov     x3, #4
    lsl     x2, x3, x2                  // DminLine in bytes
0:  dc      ivac, x0
    add     x0, x0, x2
    cmp     x0, x1
    b.lo    0b
    dsb     sy

    adrp    x0, BSS_START
    add     x0, x0, :lo12:BSS_START
1:  stp     xzr, xzr, [x0], #16
    cmp     x0, x1
    b.lo    1b

    // Apply R_AARCH64_RELATIVE relocations; a link for this image produces no others.
    adrp    x0, RELA_START
    add     x0, x0, :lo12:RELA_START
    adrp    x1, RELA_END
    add     x1, x1, :lo12:RELA_END
2:  cmp     x0, x1
    b.hs    3f
    ldp     x2, x3, [x0], #16
    ldr     x4, [x0], #8
    cmp     w3, #1027
    b.ne    2b
    add     x4, x4, x21
    str     x4, [x2, x21]
    b       2b

3:  adrp    x0, {stack}
    add     x0, x0, :lo12:{stack}
    mov     x1, #{stack_end}
    add     x0, x0, x1
    msr     SPSel, #1
    mov     sp, x0
    cmp     x20, #2
    b.ne    4f
    bl      install_vectors
4:  mov     x29, xzr
    mov     x30, xzr
    mov     x0, x19
    mov     x1, x20
    mov     x2, x21
    bl      primary_main
5:  wfe
    b       5b

// A secondary CPU, from a spin table, with nothing in its registers.
.global spin_entry
spin_entry:
    adrp    x0, SPIN_START
    ldr     x0, [x0, :lo12:SPIN_START]

// A secondary CPU, from PSCI CPU_ON: x0 is the address of its `SecondaryStart`.
.global secondary_entry
secondary_entry:
    msr     DAIFSet, #0xf
    msr     SPSel, #1
    mov     x19, x0
    mrs     x20, CurrentEL
    cmp     x20, #8
    b.ne    5b
    bl      install_vectors
    ldp     x1, x2, [x19]               // root table, translation control
    ldp     x3, x4, [x19, #16]          // memory attributes, system control
    ldp     x5, x6, [x19, #32]          // stack, per-CPU block
    bl      enable_mmu
    mov     sp, x5
    msr     TPIDR_EL2, x6
    mov     x29, xzr
    mov     x30, xzr
    mov     x0, x6
    bl      secondary_main
    b       5b

// Turns on stage 1 of EL2: x1 TTBR0_EL2, x2 TCR_EL2, x3 MAIR_EL2, x4 SCTLR_EL2.
// The image is mapped at the addresses that it runs at, so nothing moves.
.global enable_mmu
enable_mmu:
    tlbi    alle2
    dsb     nsh
    msr     MAIR_EL2, x3
    msr     TCR_EL2, x2
    msr     TTBR0_EL2, x1
    isb
    ic      iallu
    dsb     nsh
    isb
    msr     SCTLR_EL2, x4
    isb
    ret

install_vectors:
    mov     x0, #(1 << 31)              // HCR_EL2.RW; E2H and everything else off
    msr     HCR_EL2, x0
    isb
    adrp    x0, vectors
    add     x0, x0, :lo12:vectors
    msr     VBAR_EL2, x0
    isb
    ret
