#!/bin/bash
# Gets what building and running Sluice needs, each thing once: a second run downloads
# nothing. Needs root only to install packages, and does so where there is apt; else the missing ones are named.
#
#   scripts/setup.sh         everything
#   scripts/setup.sh tools   only what needs root: so that the rest can be done without
#   scripts/setup.sh matrix  everything, and what only `make matrix` needs
#
# Environment: SLUICE_CACHE   where downloads are kept (build/cache); clones can share it
#              DEBIAN_MIRROR  the Debian archive to fetch guests from, should apt know none or another be better
set -euo pipefail
cd "$(dirname "$0")/.."

step=setup

say() { echo "set-up: $*"; }
fail() { echo "set-up: $step: $*" >&2; exit 1; }

. scripts/host.sh
. scripts/debian.sh
. scripts/matrix.sh

# Programs of the host, where this system's packages have them.
install_tools() {
    step=tools
    local family missing=() packages=() unknown=() name package version
    family=$(family)
    mapfile -t missing < <(missing_programs)
    # Debian's archive is needed for as long as there are no guests.
    if [ "$family" = apt ] && [ -n "$(missing_guests)" ]; then
        mapfile -t -O "${#missing[@]}" missing < <(try_archive)
    fi
    if [ ${#missing[@]} -gt 0 ] && [ "$family" = apt ] && [ "$(id -u)" = 0 ]; then
        # A broken third-party source must not keep us from what Debian has.
        apt-get -qq update || say "apt-get update had errors; going on"
    fi
    for name in "${missing[@]}"; do
        package=$(package "$family" "$name")
        if [ "$name" = cargo ] && [ "$family" = apt ] && ! ask offers-rustup offered rustup; then
            # Older releases have none. prepare_rust says what to do.
            continue
        elif [ -n "$package" ]; then
            packages+=("$package")
        else
            unknown+=("$name")
        fi
    done
    [ ${#unknown[@]} -eq 0 ] || fail "missing, by whatever name this system has them: ${unknown[*]}"
    if [ ${#packages[@]} -gt 0 ]; then
        if [ "$family" != apt ] || [ "$(id -u)" != 0 ]; then
            fail "run this as root, then try again: $(install_command "$family") ${packages[*]}"
        fi
        say "installing ${packages[*]}"
        DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends \
            "${packages[@]}" >/dev/null </dev/null || fail "apt-get could not install ${packages[*]}"
    fi
    version=$(qemu_version)
    at_least "$version" 7 2 || fail "QEMU 7.2 or newer is needed, and $QEMU is ${version:-none}; give another by QEMU="
}

# The compiler, and the core library for the target: as rustup offers it, or else from
# source, which rustup or Debian may have. The answer stands in build/toolchain.mk.
prepare_rust() {
    step=rust
    have cargo || fail "no cargo; $(rust_advice)"
    local version library='' sysroot
    if ! rustc --version >/dev/null 2>&1 && have rustup; then
        say "installing Rust $(rust_wanted) by rustup"
        rustup toolchain install "$(rust_wanted)" --profile minimal --component rustfmt --component clippy \
            >/dev/null 2>&1 || fail "rustup could not install Rust $(rust_wanted)"
    fi
    version=$(rustc --version | awk '{ print $2 }') || fail "rustc does not start; $(rust_advice)"
    cargo fmt --version >/dev/null 2>&1 || fail "no rustfmt; run: rustup component add rustfmt"
    cargo clippy --version >/dev/null 2>&1 || fail "no clippy; run: rustup component add clippy"
    sysroot=$(rustc --print sysroot)

    if ! target_installed && [ ! -e "$sysroot/lib/rustlib/src/rust/library/Cargo.lock" ] \
        && [ ! -e "$SLUICE_CACHE/rust-library/$version/library/Cargo.lock" ] && have rustup; then
        say "adding the target $target"
        rustup target add "$target" >/dev/null 2>&1 || rustup component add rust-src >/dev/null 2>&1 \
            || say "rustup cannot download here; building the core library from Debian's source"
    fi
    if target_installed; then
        write_toolchain '' ''
        return
    fi
    if [ -e "$sysroot/lib/rustlib/src/rust/library/Cargo.lock" ]; then
        library=''
    else
        library=$SLUICE_CACHE/rust-library/$version
        [ -e "$library/library/Cargo.lock" ] || fetch_library "$version" "$library"
    fi
    write_toolchain "RUSTC_BOOTSTRAP=1${library:+ __CARGO_TESTS_ONLY_SRC_ROOT=$library/library}" \
        "-Zbuild-std=core,alloc,compiler_builtins -Zbuild-std-features=compiler-builtins-mem"
}

target_installed() {
    compgen -G "$(rustc --print target-libdir --target "$target")/libcore-*.rlib" >/dev/null
}

# fetch_library <version> <folder>: Rust's library source of exactly this version.
fetch_library() {
    local version=$1 into=$2 suite found unpacked=$SLUICE_CACHE/rust-src.$$
    have apt-get || fail "needs the target $target or rust-src of $version; rustup could not get them"
    for suite in trixie-backports bookworm-backports trixie forky sid; do
        debian_open "rust-$suite" "$(dpkg --print-architecture)" /dev/null "$suite" || continue
        found=$(debian_version rust-src "^${version//./[.]}[+]")
        [ -z "$found" ] || break
    done
    [ -n "$found" ] || fail "needs the target $target (rustup target add $target) or rust-src of $version, and Debian has another version"
    say "downloading rust-src $found"
    debian_unpack "$unpacked" "rust-src=$found"
    mkdir -p "$into"
    mv "$unpacked/usr/src/rustc-$version/library" "$into/library"
    rm -rf "$unpacked"
}

write_toolchain() {
    printf '# Written by scripts/setup.sh.\nTARGET_ENV := %s\nTARGET_FLAGS := %s\n' "$1" "$2" \
        > build/toolchain.mk.new
    # Keeping an equal file keeps its age, and make need not build again.
    if cmp -s build/toolchain.mk.new build/toolchain.mk; then
        rm build/toolchain.mk.new
    else
        mv build/toolchain.mk.new build/toolchain.mk
    fi
}

# Debian's kernels of two releases, the few modules that a guest of ours needs, and busybox.
guest_modules="virtio virtio_ring virtio_mmio virtio_balloon virtio_mem"

fetch_guests() {
    step=guests
    local kernel suite
    [ -n "$(missing_guests)" ] || return 0
    if [ -n "$(try_archive)" ]; then
        fail "$(guest_advice)"
    fi
    for kernel in 6.1:bookworm 6.12:trixie; do
        suite=${kernel#*:}
        kernel=${kernel%%:*}
        [ -e "$SLUICE_CACHE/kernels/$kernel/Image" ] || fetch_kernel "$kernel" "$suite"
    done
    if [ ! -e "$SLUICE_CACHE/busybox" ]; then
        debian_open guests-trixie arm64 /dev/null trixie
        say "downloading busybox for the guest"
        debian_unpack "$SLUICE_CACHE/busybox.$$" busybox-static
        mv "$SLUICE_CACHE/busybox.$$/usr/bin/busybox" "$SLUICE_CACHE/busybox"
        rm -rf "$SLUICE_CACHE/busybox.$$"
    fi
}

# fetch_kernel <name> <suite> [package]: the newest kernel that this package stands for, with its modules.
fetch_kernel() {
    local kernel=$1 suite=$2 package unpacked=$SLUICE_CACHE/kernel.$$ into=$SLUICE_CACHE/kernels/$1
    local module file parts
    debian_open "guests-$suite" arm64 /dev/null "$suite"
    package=$(depends "${3:-linux-image-cloud-arm64}" '^linux-image-[0-9]')
    # Newer ones have the kernel and its modules in packages of their own.
    parts=$(depends "$package" '^linux-(binary|modules)-[0-9]')
    say "downloading ${package:-no kernel found}"
    debian_unpack "$unpacked" ${parts:-"$package"}
    mkdir -p "$into.new/modules"
    for module in $guest_modules; do
        # A part that is built into this kernel has no file.
        file=$(find "$unpacked" -name "$module.ko*" -print -quit)
        case $file in
            *.xz) xz --decompress --stdout "$file" > "$into.new/modules/$module.ko" ;;
            *.ko) cp "$file" "$into.new/modules/$module.ko" ;;
        esac
        [ -z "$file" ] || echo "$module" >> "$into.new/modules/order"
    done
    cp "$(find "$unpacked" -name 'vmlinuz*' -type f -print -quit)" "$into.new/Image"
    # The kernel for all machines comes with the device trees of those that the matrix has.
    for file in $(find "$unpacked" -name zynqmp-zcu102-rev1.0.dtb -o -name bcm2711-rpi-4-b.dtb); do
        mkdir -p "$into.new/dtbs"
        cp "$file" "$into.new/dtbs/"
    done
    echo "$package" > "$into.new/package"
    rm -rf "$unpacked" "$into"
    mv "$into.new" "$into"
}

# depends <package> <pattern>: prints which packages like that it depends on.
depends() {
    apt-cache "${debian_options[@]}" depends "$1" | awk -v pattern="$2" '$1 == "Depends:" && $2 ~ pattern { print $2 }'
}

# A newer emulator beside the system's, for the tests that can use it and for QEMU=newer: unpacked, never installed, with
# all that it needs down to the C library, so that it starts on any system that has apt. It is a nicety: where it cannot
# be had, the tests say so and go on.
fetch_newer_qemu() {
    step=qemu
    local into=$SLUICE_CACHE/qemu-newer suites=(trixie) file
    [ ! -e "$newer_qemu" ] && [ ! -e "$into/unavailable" ] && [ -z "$(try_archive)" ] || return 0
    # Debian 13 has 10.0 itself.
    ! at_least "$(qemu_version)" 10 0 || suites+=(trixie-backports)
    mkdir -p "$into"
    say "unpacking a newer QEMU for the tests"
    if ! (debian_open qemu "$(dpkg --print-architecture)" /dev/null "${suites[@]}" \
          && debian_apt install --yes --download-only --no-install-recommends \
              --target-release "${suites[-1]}" qemu-system-arm </dev/null >/dev/null); then
        say "no newer QEMU here; tests use the system's alone"
        touch "$into/unavailable"
        return 0
    fi
    for file in "$SLUICE_CACHE"/apt/qemu/cache/archives/*.deb; do
        dpkg-deb --extract "$file" "$into/root"
    done
    rm -rf "$SLUICE_CACHE/apt/qemu/cache/archives"
    cat > "$newer_qemu.new" <<'WRAPPER'
#!/bin/sh
# Starts the QEMU unpacked beside this file, with the C library unpacked there.
here=$(dirname "$(readlink -f "$0")")/root/usr
for folder in "$here"/lib/*-linux-gnu; do
    libraries=$folder
done
export QEMU_MODULE_DIR="$libraries/qemu"
exec "$libraries"/ld-linux-*.so.* --library-path "$libraries" "$here/bin/qemu-system-aarch64" -L "$here/share/qemu" "$@"
WRAPPER
    chmod +x "$newer_qemu.new"
    if "$newer_qemu.new" --version >/dev/null 2>&1; then
        mv "$newer_qemu.new" "$newer_qemu"
    else
        say "the newer QEMU does not start here; tests use the system's alone"
        touch "$into/unavailable"
    fi
}

mkdir -p build
case ${1:-} in
    '' | matrix) install_tools ;;
    tools)
        install_tools
        exit ;;
    *) fail "what is '$1'? There is: scripts/setup.sh [tools | matrix]" ;;
esac
mkdir -p "$SLUICE_CACHE"
exec 9>"$SLUICE_CACHE/lock"
flock 9 || fail "cannot lock $SLUICE_CACHE"
prepare_rust
fetch_guests
fetch_newer_qemu
have "$wanted_qemu" || fail "no newer QEMU can be had for this system; give one by QEMU="
[ "${1:-}" != matrix ] || fetch_matrix
say "everything is there"
