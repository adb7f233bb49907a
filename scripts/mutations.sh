#!/bin/bash
# Puts the table of mutants together, from the rows that the checkers have left in build/mutants, and sees whether
# each has one: scripts/mutations.sh <file>
set -euo pipefail
cd "$(dirname "$0")/.."

edges() { sed -n 's/^| `\([A-Za-z]*\)` .*/\1/p' "$1" | sort -u; }
all() { sed -n '/^edges! {/,/^}/s/^    \([A-Z][A-Za-z]*\),$/\1/p' hypervisor/src/sync/edge.rs | sort; }

{
    cat <<'END'
# What is left out, and what notices

Each order, step and lock that Sluice's memory core relies on has a name, in `hypervisor/src/sync/edge.rs`. A checker
takes it away and runs the code that ships, until something fails. *loom* tries every order of a few threads and every
value that a load may return; *shuttle* tries whole scenes on the host's fake of the machine, in schedules made from a
seed. `make test` runs both and fails if one of these is not noticed; `make mutations` writes this file.

| left out | noticed by | in schedule | because |
|---|---|---|---|
END
    cat build/mutants/*
    cat <<'END'

Three builds with a mistake are run as a whole, on the machine: without the grace period (`no-grace`,
`tests/tests/walkers.rs`), without the TLB maintenance (`no-tlbi`, `tests/tests/stub.rs` and `service.rs`) and without
scrubbing (`no-scrub`, `tests/tests/service.rs`). What orders the hardware's walks (DSB, TLBI, ISB) no model on the host
can take away: the litmus tests do.

The four orders of virtqueues have models of their own, each also without it: `device/virtio/model.rs`. Locks whose want
is noticed by a schedule that comes to no end have broken the list that it walks.

Not in the table, for its want is harmless: that a block's record names the guest before a descriptor leads to the
block. Whoever looks at both looks between two edits.
END
} >"$1"

missing=$(comm -23 <(all) <(edges "$1"))
if [ -n "$missing" ]; then
    echo "not noticed, or not tried: $missing" >&2
    exit 1
fi
# What is noticed by what, without the numbers of schedules, which move with each edit of the code.
rows() { sed -n 's/^| `\([A-Za-z]*\)` | \([^|]*\) |.*/\1: \2/p' "$1" | sort; }
if ! diff <(rows docs/mutations.md) <(rows "$1"); then
    echo 'docs/mutations.md is of other mutants: run make mutations' >&2
    exit 1
fi
echo "mutants: $(all | wc -l), each noticed; see $1"
