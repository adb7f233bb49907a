# Packages from Debian's archive without touching the system's own package configuration.
# Sourced by setup.sh. Every archive opened here has its sources, lists and downloads in
# the cache folder; signatures are checked against debian-archive-keyring, as always.
#
# The archive's address is DEBIAN_MIRROR, or the one that the system itself uses, or, on systems that have apt and are
# not Debian, the one that they have in their own list of archives (package python-apt-common).

debian_keyring=/usr/share/keyrings/debian-archive-keyring.gpg
debian_templates=/usr/share/python-apt/templates

# debian_mirror: prints the address of a Debian archive; nothing where none is known.
debian_mirror() {
    local own=''
    if [ -n "${DEBIAN_MIRROR:-}" ]; then
        echo "$DEBIAN_MIRROR"
        return
    fi
    if [ "$(. /etc/os-release && echo "${ID:-}")" = debian ]; then
        # shellcheck disable=SC2016 # these are apt's
        own=$(apt-get indextargets --format '$(RELEASE) $(SITE)' 2>/dev/null \
            | awk -v release="$(. /etc/os-release && echo "${VERSION_CODENAME:-sid}")" \
                '$1 == release { print $2; exit }')
    fi
    if [ -z "$own" ]; then
        # The file's name begins in lower case in newer versions.
        own=$(cat "$debian_templates"/[Dd]ebian.info 2>/dev/null \
            | awk '$1 == "BaseURI:" && $2 ~ /debian[/]?$/ && !found { sub("/$", "", $2); print $2; found = 1 }')
    fi
    echo "$own"
}

# debian_open <name> <architecture> <status file> <suite>...: makes `debian_apt` and
# `debian_cache` speak to a private view of the archive, of these suites.
debian_open() {
    local name=$1 architecture=$2 status=$3 mirror folder suite
    shift 3
    mirror=$(debian_mirror)
    [ -n "$mirror" ] || fail "apt knows no Debian archive; install python-apt-common, or set DEBIAN_MIRROR to its address"
    [ -e "$debian_keyring" ] || fail "missing $debian_keyring; install debian-archive-keyring"
    folder=$SLUICE_CACHE/apt/$name
    mkdir -p "$folder/state/lists/partial" "$folder/cache/archives/partial" "$folder/empty"
    for suite in "$@"; do
        echo "deb [signed-by=$debian_keyring] $mirror $suite main"
    done > "$folder/sources.list"
    debian_options=(
        -qq
        -o "Dir::Etc::SourceList=$folder/sources.list"
        -o "Dir::Etc::SourceParts=$folder/empty"
        -o "Dir::Etc::Preferences=$folder/none"
        -o "Dir::Etc::PreferencesParts=$folder/empty"
        -o "Dir::State=$folder/state"
        -o "Dir::State::status=$status"
        -o "Dir::Cache=$folder/cache"
        -o "APT::Architecture=$architecture"
        -o "APT::Architectures=$architecture"
        -o APT::Sandbox::User=
        -o Acquire::Languages=none
        -o Acquire::Retries=3
    )
    debian_apt update
}

debian_apt() { apt-get "${debian_options[@]}" "$@"; }

# debian_version <package> [pattern]: prints the newest version offered that matches.
debian_version() {
    apt-cache "${debian_options[@]}" madison "$1" \
        | awk -F' *[|] *' -v pattern="${2:-}" '$2 ~ pattern { print $2; exit }'
}

# debian_unpack <folder> <package[=version]>...: downloads packages and unpacks them.
debian_unpack() {
    local into=$1 file
    local downloads=$SLUICE_CACHE/debs.$$
    shift
    mkdir -p "$downloads" "$into"
    (cd "$downloads" && debian_apt download "$@")
    for file in "$downloads"/*.deb; do
        dpkg-deb --extract "$file" "$into"
    done
    rm -rf "$downloads"
}
