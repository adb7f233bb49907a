# Sluice's commands; `make help` lists them. What is missing is set up first, once.

# The machine that `make run` starts.
QEMU ?= qemu-system-aarch64
CPU ?= cortex-a72
SMP ?= 2
MEM ?= 2G
APPEND ?=

# The guest in it: one Linux guest of these files, or what a manifest of your own says.
LINUX ?= 6.12
KERNEL ?= $(SLUICE_CACHE)/kernels/$(LINUX)/Image
INITRD ?= build/guests/initramfs-$(LINUX).cpio
VCPUS ?= 2
GUEST_MEM ?= 1G
GUEST_APPEND ?= console=ttyAMA0
GUEST ?=
GUEST_FILES ?=

export SLUICE_CACHE ?= $(CURDIR)/build/cache
export QEMU

TARGET := aarch64-unknown-none-softfloat
CARGO_TARGET = $(TARGET_ENV) cargo --locked
PACK := target/release/pack
MACHINE = -machine virt,virtualization=on,gic-version=3 -cpu $(CPU) -smp $(SMP) -m $(MEM) \
	-nographic -nic none

.PHONY: help run demo test check bench build setup clean bundle FORCE

help:
	@echo 'make run      boot a Linux guest and give its console; Ctrl-] switches to the monitor'
	@echo 'make demo     the same without a person: memory moves, and is accounted for'
	@echo 'make test     every test there is'
	@echo 'make check    formatting, clippy for host and target, documentation'
	@echo 'make bench    what things cost, in instructions'
	@echo 'make build    the image and the default guest bundle, in build/'
	@echo 'make clean    remove what was built, not what was downloaded'
	@echo
	@echo 'make run takes: QEMU=$(QEMU) CPU=$(CPU) SMP=$(SMP) MEM=$(MEM) APPEND=<options of Sluice>'
	@echo '  LINUX=6.1|6.12, or KERNEL=<Image> INITRD=<archive>'
	@echo '  VCPUS=$(VCPUS) GUEST_MEM=$(GUEST_MEM) GUEST_APPEND="$(GUEST_APPEND)"'
	@echo '  or GUEST=<manifest.dts> GUEST_FILES="<the files that it names>"'

# Set-up ends with build/toolchain.mk, which says how to build for the target; including
# it makes every goal that builds set up first. These three need nothing.
ifneq ($(filter-out help clean setup,$(MAKECMDGOALS)),)
include build/toolchain.mk
endif

build/toolchain.mk: scripts/setup.sh scripts/debian.sh rust-toolchain.toml
	@scripts/setup.sh
	@touch $@

setup:
	@scripts/setup.sh

build: build/sluice.img build/bundle.cpio

# Cargo knows better than make what is out of date; the copy is touched only on change.
# $(1): the name of the image, $(2): features, $(3): folder for what is compiled.
define IMAGE
build/$(1).img: $(PACK) FORCE
	@$$(CARGO_TARGET) build --quiet --release --package sluice --bin sluice --features $(2) \
		--target $$(TARGET) $$(TARGET_FLAGS) --target-dir target/$(3)
	@$$(PACK) flat target/$(3)/$$(TARGET)/release/sluice $$@
endef
$(eval $(call IMAGE,sluice,target,plain))

build/guest-stub.img: $(PACK) FORCE
	@$(CARGO_TARGET) build --quiet --release --package guest-stub --target $(TARGET) \
		$(TARGET_FLAGS) --target-dir target/plain
	@$(PACK) flat target/plain/$(TARGET)/release/guest-stub $@

$(PACK): FORCE
	@cargo build --locked --quiet --release --package sluice-tests --bins

build/guests/initramfs-%.cpio: $(PACK) $(wildcard tests/initramfs/*)
	@$(PACK) initramfs tests/initramfs $(SLUICE_CACHE)/busybox $(SLUICE_CACHE)/kernels/$*/modules $@

build/bundle.cpio: $(PACK) build/guests/initramfs-6.1.cpio build/guests/initramfs-6.12.cpio FORCE
ifeq ($(GUEST),)
	@$(PACK) bundle $@ kernel=$(KERNEL) initrd=$(INITRD) vcpus=$(VCPUS) memory=$(GUEST_MEM) \
		command-line="$(GUEST_APPEND)"
else
	@$(PACK) bundle $@ $(GUEST) $(GUEST_FILES)
endif

run: build
	@command -v $(QEMU) >/dev/null || { echo 'QEMU=$(QEMU): no such program' >&2; exit 1; }
	@exec $(QEMU) $(MACHINE) -kernel build/sluice.img -initrd build/bundle.cpio -append '$(APPEND)'

clean:
	rm -rf target build/*.img build/*.cpio build/guests build/logs build/toolchain.mk build/demo.svg
