# What this host is. Sourced by setup.sh, doctor.sh and ci.sh, from the repository's folder.
#
# Every question to the host goes through `ask`, which can write the answers down (SLUICE_RECORD=<file>), or have them
# from such a file instead of the host (SLUICE_HOST=<file>). So what is concluded can be tested for hosts that nobody
# here has: tests/hosts.

# shellcheck disable=SC2034 # who sources it uses what it sets
SLUICE_CACHE=${SLUICE_CACHE:-$PWD/build/cache}
newer_qemu=$SLUICE_CACHE/qemu-newer/qemu-system-aarch64
QEMU=${QEMU:-qemu-system-aarch64}
[ "$QEMU" != newer ] || QEMU=$newer_qemu
# Until set-up has fetched that one, the system's answers.
wanted_qemu=$QEMU
[ "$QEMU" != "$newer_qemu" ] || [ -e "$newer_qemu" ] || QEMU=qemu-system-aarch64
export QEMU
target=aarch64-unknown-none-softfloat

have() { command -v "$1" >/dev/null 2>&1; }

# ask <name> <command>...: prints what the command says, on both streams, and returns its status.
ask() {
    local name=$1 answer status=0
    shift
    if [ -n "${SLUICE_HOST:-}" ]; then
        replay "$name"
        return
    fi
    answer=$("$@" 2>&1 </dev/null) || status=$?
    if [ -n "${SLUICE_RECORD:-}" ] && ! grep -qs "^== $name " "$SLUICE_RECORD"; then
        printf '== %s %s\n%s%s' "$name" "$status" "$answer" "${answer:+$'\n'}" >>"$SLUICE_RECORD"
    fi
    [ -z "$answer" ] || printf '%s\n' "$answer"
    return "$status"
}

replay() {
    awk -v name="$1" '
        $1 == "==" { wanted = $2 == name; if (wanted) { known = 1; status = $3 }; next }
        wanted && !/^#/ { print }
        END {
            if (!known) { print "the record has no answer to: " name >"/dev/stderr"; exit 125 }
            exit status
        }' "$SLUICE_HOST"
}

# Of what distribution this is, what is of use.
list_os() { grep -E '^(PRETTY_NAME|ID|ID_LIKE|VERSION_CODENAME)=' /etc/os-release; }

# One line a CPU: its number and what kind it is.
list_cpus() {
    awk -F'[ \t]*:[ \t]*' '
        $1 == "processor" { if (seen) print number, kind; seen = 1; number = $2; kind = "" }
        $1 == "model name" { kind = $2 }
        $1 == "CPU implementer" { kind = $2 }
        $1 == "CPU part" { kind = kind " " $2 }
        END { if (seen) print number, kind }' /proc/cpuinfo
}

# /dev/kvm: absent, closed to this user (and the group that may use it), or open.
look_at_kvm() {
    if [ ! -e /dev/kvm ]; then
        echo absent
    elif [ -r /dev/kvm ] && [ -w /dev/kvm ]; then
        echo open
    else
        echo "closed $(stat -c %G /dev/kvm)"
    fi
}

# try_kvm <options of the machine>: does QEMU get such a machine of KVM? It starts none of its code, and ends at once.
try_kvm() {
    local pinned=()
    [ -z "$kvm_cpus" ] || pinned=(taskset -c "$kvm_cpus")
    # shellcheck disable=SC2069 # what it prints is its monitor; only what it complains of is wanted
    echo quit | "${pinned[@]}" timeout 60 "$QEMU" -accel kvm -machine "virt,$1" -cpu host -S -display none -nic none \
        -monitor stdio 2>&1 >/dev/null
}

# Programs that are needed, and c++ and herd7, of which each is for one command; those that are there.
list_programs() {
    local program
    for program in dtc cc xz make flock setpriv cargo rustup apt-get dpkg-deb c++ herd7; do
        ! have "$program" || echo "$program"
    done
}

# The C library's start files come in a package of their own in many places.
can_link() { echo 'int main(void) { return 0; }' | cc -x c -o /dev/null -; }

has_certificates() { compgen -G '/etc/ssl/certs/*' >/dev/null || compgen -G '/etc/pki/tls/certs/*' >/dev/null; }

# Asking must not make rustup download anything.
rust_version() { RUSTUP_AUTO_INSTALL=0 rustc --version; }
rust_tools() { RUSTUP_AUTO_INSTALL=0 cargo fmt --version && RUSTUP_AUTO_INSTALL=0 cargo clippy --version; }

# Where Rust's core library for the target can be had from without a network: target, source, cache, nowhere.
find_core() {
    local sysroot version
    export RUSTUP_AUTO_INSTALL=0
    version=$(rustc --version | awk '{ print $2 }')
    sysroot=$(rustc --print sysroot)
    if compgen -G "$(rustc --print target-libdir --target "$target")/libcore-*.rlib" >/dev/null; then
        echo target
    elif [ -e "$sysroot/lib/rustlib/src/rust/library/Cargo.lock" ]; then
        echo source
    elif [ -e "$SLUICE_CACHE/rust-library/$version/library/Cargo.lock" ]; then
        echo cache
    else
        echo nowhere
    fi
}

# What has been fetched before, or was provided by hand.
list_cache() {
    local file
    for file in kernels/6.1/Image kernels/6.12/Image busybox qemu-newer/qemu-system-aarch64; do
        [ ! -e "$SLUICE_CACHE/$file" ] || echo "$file"
    done
}

# What keeps apt from fetching Debian's packages: nothing, or one line for each reason.
try_archive() {
    if ! have apt-get || ! have dpkg-deb; then
        echo apt
        return
    fi
    [ -n "$(debian_mirror)" ] || echo mirror
    [ -e "$debian_keyring" ] || echo keyring
}

# offered <package>: does apt have it to offer? Where apt has no lists yet, as in a fresh container, that is hoped for.
offered() { has_candidate "$1" || ! has_candidate make; }
has_candidate() { have apt-cache && apt-cache policy "$1" 2>/dev/null | grep 'Candidate: [0-9]' >/dev/null; }

# ---- What follows from the answers.

# os <key>: a value of os-release.
os() { ask os list_os | sed -n "s/^$1=\"\{0,1\}\([^\"]*\)\"\{0,1\}$/\1/p"; }

# Whose packages this system has: apt, dnf, pacman, zypper, apk, or other.
family() {
    case " $(os ID) $(os ID_LIKE) " in
        *' debian '* | *' ubuntu '*) echo apt ;;
        *' fedora '* | *' rhel '*) echo dnf ;;
        *' arch '*) echo pacman ;;
        *' suse '* | *' opensuse '*) echo zypper ;;
        *' alpine '*) echo apk ;;
        *) echo other ;;
    esac
}

# package <family> <program>: the package that holds the program; nothing where that is not known.
package() {
    awk -v family="$1" -v program="$2" '
        /^#/ { for (i = 2; i <= NF; i++) if ($i == family) column = i; next }
        $1 == program && column { print $column }' <<'END'
#                    apt                  dnf                  pacman               zypper          apk
qemu-system-aarch64  qemu-system-arm      qemu-system-aarch64  qemu-system-aarch64  qemu-arm        qemu-system-aarch64
dtc                  device-tree-compiler dtc                  dtc                  dtc             dtc
cc                   gcc                  gcc                  gcc                  gcc             gcc
libc                 libc6-dev            glibc-devel          glibc                glibc-devel     musl-dev
xz                   xz-utils             xz                   xz                   xz              xz
make                 make                 make                 make                 make            make
flock                util-linux           util-linux           util-linux           util-linux      flock
setpriv              util-linux           util-linux           util-linux           util-linux      setpriv
certificates         ca-certificates      ca-certificates      ca-certificates      ca-certificates ca-certificates
cargo                rustup               rustup               rustup               rustup          rustup
keyring              debian-archive-keyring
mirror               python-apt-common
END
}

# install_command <family>: the words before the packages' names.
install_command() {
    case $1 in
        apt) echo 'apt-get install --no-install-recommends' ;;
        dnf) echo 'dnf install' ;;
        pacman) echo 'pacman -S --needed' ;;
        zypper) echo 'zypper install' ;;
        apk) echo 'apk add' ;;
    esac
}

rust_wanted() { sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml; }

# How to come by Rust.
rust_advice() {
    echo "get rustup, from this system's packages or Rust's own site, and by it: rustup toolchain install $(rust_wanted)"
}

# What set-up would have fetched for guests, for those who must bring it themselves.
guest_advice() {
    cat <<END
this system cannot fetch Debian's packages; bring the guests' files yourself, into $SLUICE_CACHE:
    kernels/6.1/Image, kernels/6.12/Image   Linux for arm64, as in Debian's linux-image-*-cloud-arm64
    kernels/*/modules/<name>.ko             virtio virtio_ring virtio_mmio virtio_balloon virtio_mem, unless built in
    kernels/*/modules/order                 the names of those, in this order, one a line
    busybox                                 for arm64, linked statically, as in Debian's busybox-static
  or copy the cache of a Debian machine or container on which scripts/setup.sh has run
END
}

# The version of QEMU, or nothing.
qemu_version() {
    ask qemu "$QEMU" --version | sed -n 's/^QEMU emulator version \([0-9]*\.[0-9]*[.0-9]*\).*/\1/p'
}

# at_least <version> <major> <minor>
at_least() {
    local major minor
    IFS=. read -r major minor _ <<<"$1"
    [ "${major:-0}" -gt "$2" ] || { [ "${major:-0}" -eq "$2" ] && [ "${minor:-0}" -ge "$3" ]; }
}

# missing_programs: what is needed and not there, by the names that `package` knows.
missing_programs() {
    local programs program
    [ -n "$(qemu_version)" ] || echo qemu-system-aarch64
    programs=" $(ask programs list_programs | tr '\n' ' ')"
    for program in dtc cc xz make flock setpriv; do
        [[ $programs == *" $program "* ]] || echo "$program"
    done
    if [[ $programs == *' cc '* ]]; then
        ask link can_link >/dev/null || echo libc
    else
        echo libc
    fi
    ask certificates has_certificates >/dev/null || echo certificates
    [[ $programs == *' cargo '* ]] || echo cargo
}

# missing_guests: what no guest can be without and the cache does not have.
missing_guests() {
    local cache file
    cache=" $(ask cache list_cache | tr '\n' ' ')"
    for file in kernels/6.1/Image kernels/6.12/Image busybox; do
        [[ $cache == *" $file "* ]] || echo "$file"
    done
}

# find_accelerator: sets `el1` and `el2`, what runs code for those levels (kvm, or tcg, which is QEMU's emulation),
# `reason`, why not KVM where it is not, and `kvm_cpus`, those that a machine under KVM must be kept to, if any.
find_accelerator() {
    local device said
    el1=tcg el2=tcg reason='' kvm_cpus=''
    if [ "$architecture" != aarch64 ]; then
        reason="KVM runs code for $architecture here, and the machines are arm64"
        return
    fi
    device=$(ask kvm look_at_kvm)
    case $device in
        absent)
            reason='there is no /dev/kvm: the kernel was not started at EL2, or is a guest itself, or has no KVM'
            return ;;
        closed*)
            reason="/dev/kvm is closed to this user, who should be of the group ${device#closed }"
            return ;;
    esac
    if [ -z "$(qemu_version)" ]; then
        reason='there is no QEMU to ask'
        return
    fi
    find_like_cpus
    if ! said=$(ask kvm-gic3 try_kvm gic-version=3); then
        reason=$(first_words "$said")
        if ask kvm-gic2 try_kvm gic-version=2 >/dev/null; then
            reason='KVM offers a GICv2 only, and what is to run under it is tested with a GICv3'
        fi
        return
    fi
    el1=kvm
    if ! said=$(ask kvm-el2 try_kvm gic-version=3,virtualization=on); then
        reason=$(first_words "$said")
        return
    fi
    el2=kvm
}

# What QEMU said, without its own name.
first_words() {
    sed -n '1 s/^[^ ]*qemu-system-aarch64[^ ]*: //p; 1 q' <<<"$1"
}

# find_like_cpus: with CPUs of several kinds, a machine under KVM must stay on one kind: those of the last CPU, as the
# fast ones come last.
find_like_cpus() {
    kvm_cpus=$(awk '
        { number = $1; sub(/^[^ ]* */, ""); kind[NR] = $0; id[NR] = number; if (!($0 in seen)) { seen[$0]; kinds++ } }
        END {
            if (kinds < 2) exit
            for (i = 1; i <= NR; i++) if (kind[i] == kind[NR]) list = list (list == "" ? "" : ",") id[i]
            print list
        }' <<<"$cpus")
}

# know_host: asks what all conclusions are drawn from: sets `architecture`, `kernel`, `cpus` and what find_accelerator
# does.
know_host() {
    local words
    words=$(ask machine uname -srm)
    architecture=${words##* }
    kernel=${words% *}
    cpus=$(ask cpus list_cpus)
    find_accelerator
}
