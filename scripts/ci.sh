#!/bin/bash
# What CI runs, and `make ci`: sees what this host can do, says it, and does all of it.
#
#   scripts/ci.sh          set up, see, run, and say at the end what ran how
#   scripts/ci.sh plan     only say what would be run
#
# Every machine runs under QEMU's emulation, on any host. Where an arm64 host's KVM can run the code as well, so do those
# tests that make sense there: Sluice where KVM gives its guests an EL2, the guest stub and a bare Linux where it does
# not need to. The models and the unit tests are the host's own programs, so an arm64 host runs them on its own CPUs.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

# plan: one step a line: what it is, a colon, and the command.
plan() {
    local tests='cargo test --locked --package sluice-tests --no-fail-fast'
    echo 'formatting, clippy, documentation: make check'
    echo "unit tests and models on this $architecture, all machines emulated: make test"
    if [ "$el1" = kvm ]; then
        echo "guest stub and bare Linux under KVM: SLUICE_EL1=kvm $kept$tests --test plain --test harness"
        echo "what the peer costs, KVM: SLUICE_EL1=kvm ${kept}target/release/bench peer"
    fi
    if [ "$el2" = kvm ]; then
        # Those that leave out what the emulator does not forgive stay with it: what the hardware forgives is no test.
        echo "Sluice under KVM: SLUICE_EL2=kvm $kept$tests -- --skip without_the"
    fi
}

# What is not in the plan, and why.
left_out() {
    if [ "$el1" != kvm ]; then
        echo "nothing under KVM: $reason"
    elif [ "$el2" != kvm ]; then
        echo "Sluice under KVM: $reason"
    fi
    [ "$architecture" = aarch64 ] || echo "nothing on real arm64 CPUs: this host is $architecture"
}

if [ "${1:-}" != plan ]; then
    scripts/setup.sh || exit
    scripts/doctor.sh
    echo
fi

# Not before: set-up may have fetched the QEMU that is to be used.
. scripts/host.sh
. scripts/debian.sh

know_host
kept=${kvm_cpus:+taskset -c $kvm_cpus }

if [ "${1:-}" = plan ]; then
    plan | sed 's/^/to run    /'
    left_out | sed 's/^/left out  /'
    exit
fi

results=() status=0
while IFS= read -r step; do
    echo "ci: ${step%%: *}: ${step#*: }"
    if bash -c "${step#*: }" </dev/null; then
        results+=("passed    ${step%%: *}")
    else
        results+=("FAILED    ${step%%: *}")
        status=1
    fi
done < <(plan)

echo
printf '%s\n' "${results[@]}"
left_out | sed 's/^/not run   /'
exit "$status"
