#!/bin/bash
# Says what this host is, what is there, what is missing, and which commands will work. It changes and downloads nothing.
#
#   scripts/doctor.sh          all of it; status 1 if something is missing that the set-up cannot get
#   scripts/doctor.sh host     only what the host can do
#
# Environment: SLUICE_RECORD=<file>  write down what the host answered, for tests/hosts
#              SLUICE_HOST=<file>    draw conclusions from such a record instead of this host
set -uo pipefail
cd "$(dirname "$0")/.." || exit

. scripts/host.sh
. scripts/debian.sh

row() { printf '  %-12s %s\n' "$1" "$2"; }

show_host() {
    local system kinds
    system=$(os PRETTY_NAME)
    echo 'host'
    row system "${system:-unknown}; $kernel on $architecture"
    mapfile -t kinds < <(cut -d' ' -f2- <<<"$cpus" | sort | uniq -c | sed 's/^ *\([0-9]*\) *\(.*\)/\1 of \2/')
    row CPUs "$(join "${kinds[@]}")"
    row KVM "$(show_kvm)"
    [ -z "$kvm_cpus" ] || row '' "CPUs of several kinds: machines under KVM are kept to $kvm_cpus"
    if [ "$architecture" = aarch64 ]; then
        row natively 'unit tests, models, schedules: on CPUs that order memory as weakly as the target'
    else
        row natively "unit tests, models, schedules; $architecture orders memory more strongly than the target"
    fi
}

show_kvm() {
    if [ "$el2" = kvm ]; then
        echo 'with EL2 for guests: Sluice itself, the stub and a bare Linux can run under it'
    elif [ "$el1" = kvm ]; then
        echo "without EL2 for guests ($reason): the stub and a bare Linux can run under it, Sluice is emulated"
    else
        echo "not for this: $reason; every machine is emulated"
    fi
}

# blocked: what stands in the way and set-up cannot mend. fetched: what it will get.
blocked=() fetched=()

# set-up installs packages where it may.
lacks() {
    local missing=$1 package
    package=$(package "$family" "$missing")
    # Older releases have no rustup.
    if [ "$missing" = cargo ] && [ "$family" = apt ] && ! ask offers-rustup offered rustup; then
        package=''
    fi
    if [ "$family" = apt ] && [ "$user" = 0 ] && [ -n "$package" ]; then
        row missing "$missing, which set-up installs: $package"
        fetched+=("$package")
    else
        row missing "$missing${package:+, in the package $package}"
        blocked+=("$missing")
        [ -z "$package" ] || packages+=("$package")
    fi
}

show_programs() {
    local name version missing
    version=$(qemu_version)
    missing=$(missing_programs)
    echo 'programs'
    if [ -n "$version" ]; then
        if at_least "$version" 7 2; then
            row ok "QEMU $version"
        else
            row 'too old' "QEMU $version; 7.2 or newer is needed, and can be given by QEMU="
            blocked+=("QEMU 7.2")
        fi
    fi
    for name in qemu-system-aarch64 dtc cc libc xz make flock setpriv certificates cargo; do
        if grep -qx "$name" <<<"$missing"; then
            lacks "$name"
        elif [ "$name" != qemu-system-aarch64 ]; then
            row ok "$name"
        fi
    done
}

show_rust() {
    local wanted said core
    wanted=$(rust_wanted)
    echo "Rust"
    if [[ " ${fetched[*]} " == *' rustup '* ]]; then
        row 'to fetch' "$wanted, by rustup"
        return
    elif grep -qx cargo <<<"$(missing_programs)"; then
        row missing "$(rust_advice)"
        return
    fi
    if ! said=$(ask rust rust_version) && [[ " $programs " == *' rustup '* ]]; then
        row 'to fetch' "$wanted, by rustup"
        fetched+=("Rust $wanted")
        return
    elif [ -z "$said" ] || [[ $said != rustc* ]]; then
        row missing "the toolchain $wanted; $(rust_advice)"
        blocked+=("Rust $wanted")
        return
    fi
    said=$(awk '{ print $2 }' <<<"$said")
    if [ "$said" = "$wanted" ]; then
        row ok "$said"
    else
        row other "$said, where $wanted is what is tested"
    fi
    if ask rust-tools rust_tools >/dev/null; then
        row ok 'rustfmt, clippy'
    else
        row missing 'rustfmt or clippy: rustup component add rustfmt clippy'
        blocked+=('rustfmt, clippy')
    fi
    core=$(ask core find_core)
    case $core in
        target) row ok "the core library for $target" ;;
        source | cache) row ok "the core library's source, to be built for $target" ;;
        *)
            if [[ " $programs " == *' rustup '* ]] || [ -z "$archive" ]; then
                row 'to fetch' "the core library for $target"
                fetched+=('the core library')
            else
                row missing "the core library for $target: rustup target add $target"
                blocked+=('the core library')
            fi ;;
    esac
}

show_guests() {
    local file missing lack
    missing=$(missing_guests)
    echo 'guests'
    for file in kernels/6.1/Image kernels/6.12/Image busybox; do
        if ! grep -qx "$file" <<<"$missing"; then
            row ok "$file"
        elif [ -z "$archive" ]; then
            row 'to fetch' "$file"
            fetched+=("$file")
        else
            row missing "$file"
        fi
    done
    if ask cache list_cache | grep '^qemu-newer/' >/dev/null; then
        row ok 'a newer QEMU beside the system'"'"'s'
    else
        row absent 'a newer QEMU beside the system'"'"'s, which the tests can do without'
    fi
    if [ -n "$missing" ] && [ -n "$archive" ]; then
        if [[ $archive == *apt* ]]; then
            blocked+=("the guests' files")
            guest_advice
        else
            for lack in $archive; do
                lacks "$lack"
            done
        fi
    fi
}

show_commands() {
    # Not by name: a new command is to need nothing here.
    local all='every command of `make help` that is not named below'
    echo 'commands'
    if [ ${#blocked[@]} -gt 0 ]; then
        row no "$all"
        row '' "until there is: $(join "${blocked[@]}")"
        if [ ${#packages[@]} -gt 0 ] && [ "$family" != other ]; then
            row '' "as root: $(install_command "$family") $(printf '%s\n' "${packages[@]}" | sort -u | paste -sd ' ')"
        fi
    elif [ ${#fetched[@]} -gt 0 ]; then
        row 'will work' "$all"
        row '' "each gets what is missing first: $(join "${fetched[@]}")"
    else
        row 'will work' "$all"
    fi
    show_with c++ fuzz 'a C++ compiler, which libFuzzer is built with'
    show_with herd7 litmus 'herd7 (of herdtools7), in PATH or as HERD7='
}

# show_with <program> <command> <what the program is>: a command that needs one program more than the others.
show_with() {
    if [[ " $programs " != *" $1 "* ]]; then
        row no "make $2, until there is $3"
    elif [ ${#blocked[@]} -eq 0 ]; then
        row 'will work' "make $2"
    else
        row no "make $2, for the same reason"
    fi
}

# join <word>...: the words with commas between.
join() {
    printf '%s' "$1"
    shift
    [ $# -eq 0 ] || printf ', %s' "$@"
}

[ -z "${SLUICE_RECORD:-}" ] || : >"$SLUICE_RECORD"
know_host
show_host
[ "${1:-}" != host ] || exit 0

packages=()
family=$(family)
user=$(ask user id -u)
programs=$(ask programs list_programs | tr '\n' ' ')
archive=$(ask archive try_archive)
show_programs
show_rust
show_guests
show_commands
[ ${#blocked[@]} -eq 0 ]
