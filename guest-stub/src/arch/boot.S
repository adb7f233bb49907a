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

3:  adrp    x0, {stacks}                // CPU 0's is the first
    add     x0, x0, :lo12:{stacks}
    mov     x1, #{stack_end}
    add     x0, x0, x1
    mov     sp, x0
    bl      settle_at_el1
    mov     x29, xzr
    mov     x30, xzr
    mov     x0, x19
    mov     x1, x20
    bl      primary_main
4:  wfe
    b       4b

// A secondary CPU, from PSCI CPU_ON: x0 is the address of its `Start`.
.global secondary_entry
secondary_entry:
    msr     DAIFSet, #0xf
    mov     x19, x0
    ldr     x0, [x19, #32]
    mov     sp, x0
    bl      settle_at_el1
    ldp     x0, x1, [x19]
    ldp     x2, x3, [x19, #16]
    bl      enable_mmu
    ldr     x0, [x19, #40]
    mov     x29, xzr
    mov     x30, xzr
    bl      secondary_main
    b       4b

// Goes on at EL1 with stage 1 off, vectors in place, FP and SIMD on. Left from EL2, nothing that EL1
// does traps there, and HVC is undefined, for there is nobody to call.
settle_at_el1:
    mrs     x9, CurrentEL
    cmp     x9, #8
    b.ne    5f
    mov     x10, #(1 << 31)             // HCR_EL2: RW, HCD, API and APK
    orr     x10, x10, #(1 << 29)
    orr     x10, x10, #(3 << 40)
    msr     HCR_EL2, x10
    mov     x10, #3
    msr     CNTHCTL_EL2, x10
    msr     CNTVOFF_EL2, xzr
    mov     x10, #0x33ff
    msr     CPTR_EL2, x10
    msr     HSTR_EL2, xzr
    msr     VTTBR_EL2, xzr
    mrs     x10, MIDR_EL1
    msr     VPIDR_EL2, x10
    mrs     x10, MPIDR_EL1
    msr     VMPIDR_EL2, x10
    mrs     x10, S3_4_C12_C9_5          // ICC_SRE_EL2: SRE, Enable
    mov     x11, #9
    orr     x10, x10, x11
    msr     S3_4_C12_C9_5, x10
    isb
    msr     S3_4_C12_C11_0, xzr         // ICH_HCR_EL2
    mov     x10, sp
    msr     SP_EL1, x10
    mov     x10, #0x3c5                 // EL1h, all masked
    msr     SPSR_EL2, x10
5:  ldr     x10, ={sctlr_off}
    msr     SCTLR_EL1, x10
    isb
    cmp     x9, #8
    b.ne    6f
    adr     x10, 6f
    msr     ELR_EL2, x10
    eret
6:  msr     SPSel, #1
    mov     x10, #(3 << 20)             // CPACR_EL1.FPEN
    msr     CPACR_EL1, x10
    adrp    x10, vectors
    add     x10, x10, :lo12:vectors
    msr     VBAR_EL1, x10
    isb
    ret

// Turns on stage 1 of EL1: x0 TTBR0_EL1, x1 TCR_EL1, x2 MAIR_EL1, x3 SCTLR_EL1. Addresses stay.
.global enable_mmu
enable_mmu:
    tlbi    vmalle1
    dsb     nsh
    msr     MAIR_EL1, x2
    msr     TCR_EL1, x1
    msr     TTBR0_EL1, x0
    isb
    ic      iallu
    dsb     nsh
    isb
    msr     SCTLR_EL1, x3
    isb
    ret
