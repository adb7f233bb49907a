# What `make matrix` boots beside the kernels of all tests: sourced by setup.sh, and done when that is asked for `matrix`.

# Debian's newest kernel, its kernel for all machines, the one with 16 KiB pages (it has none with 64), and U-Boot.
fetch_matrix() {
    step=matrix
    local kernel name suite package unpacked=$SLUICE_CACHE/u-boot.$$
    for kernel in newest:sid:linux-image-cloud-arm64 full:trixie:linux-image-arm64 16k:trixie:linux-image-arm64-16k; do
        IFS=: read -r name suite package <<< "$kernel"
        if [ "$name" = full ] && [ ! -e "$SLUICE_CACHE/kernels/full/dtbs" ]; then
            rm -rf "$SLUICE_CACHE/kernels/full"
        fi
        [ -e "$SLUICE_CACHE/kernels/$name/Image" ] || fetch_kernel "$name" "$suite" "$package"
    done
    if [ ! -e "$SLUICE_CACHE/u-boot.bin" ]; then
        debian_open guests-trixie arm64 /dev/null trixie
        say "downloading U-Boot"
        debian_unpack "$unpacked" u-boot-qemu
        mv "$unpacked/usr/lib/u-boot/qemu_arm64/u-boot.bin" "$SLUICE_CACHE/u-boot.bin"
        rm -rf "$unpacked"
    fi
}
