# Sluice's commands; `make help` lists them. What is missing is set up first, once.

export SLUICE_CACHE ?= $(CURDIR)/build/cache

# The emulator of every command: a program, or `newer`, which is the one that the set-up unpacks.
QEMU ?= qemu-system-aarch64
NEWER_QEMU := $(SLUICE_CACHE)/qemu-newer/qemu-system-aarch64
ifeq ($(QEMU),newer)
override QEMU := $(NEWER_QEMU)
endif
export QEMU

# The machine that `make run` starts.
CPU ?= cortex-a72
SMP ?= 2
MEM ?= $(if $(filter 1 2,$(GUESTS)),4G,$(shell expr $(GUESTS) '*' 2)G)
APPEND ?=

# The guest in it: one Linux guest of these files, or what a manifest of your own says.
LINUX ?= 6.12
KERNEL ?= $(SLUICE_CACHE)/kernels/$(LINUX)/Image
INITRD ?= build/guests/initramfs-$(LINUX).cpio
GUESTS ?= 1
VCPUS ?= 2
GUEST_MEM ?= 1G
GUEST_MAX ?= 2G
GUEST_APPEND ?= console=ttyAMA0 memhp_default_state=online_movable
GUEST ?=
GUEST_FILES ?=

comma := ,

TARGET := aarch64-unknown-none-softfloat
CARGO_TARGET = $(TARGET_ENV) cargo
PACK := target/release/pack
CONTROL_PORT = $(if $(CONTROL),-global virtio-mmio.force-legacy=false -device virtio-serial-device \
	-chardev socket$(comma)id=control$(comma)path=$(CONTROL)$(comma)server=on$(comma)wait=off \
	-device virtconsole$(comma)chardev=control)
MACHINE = -machine virt,virtualization=on,gic-version=3 -cpu $(CPU) -smp $(SMP) -m $(MEM) \
	-nographic -nic none $(CONTROL_PORT)

.PHONY: help doctor ci run demo test mutations litmus soak replay fuzz attack matrix check bench trace build setup clean FORCE

help:
	@echo 'make run      boot a Linux guest and give its console; Ctrl-] switches to the monitor'
	@echo 'make demo     the same without a person: memory moves, and is accounted for'
	@echo 'make test     every test there is'
	@echo 'make check    formatting, clippy for host and target, documentation'
	@echo 'make bench    what things cost, in instructions'
	@echo 'make trace    a whole run with all that was done to tables and TLBs: recorded, checked, rendered'
	@echo 'make soak     all at once at random (SEED= OPS=), and memory that comes and goes 100,000 times (CYCLES=)'
	@echo 'make replay   what of a soak run concerns the core, on the host: SEED= OPS='
	@echo 'make fuzz     data of guests and loaders at random, by libFuzzer: FUZZ_TIME=60 seconds a target, FUZZ_TARGETS='
	@echo 'make attack   a guest that asks for everything at random, beside one that must not notice: REQUESTS=10000000 SEED='
	@echo 'make matrix   boards, CPUs, sizes and kernels, each cell with all that a guest does with memory: CELLS="<words>"'
	@echo 'make mutations  leave out each order, step and lock, and table what notices: docs/mutations.md'
	@echo 'make litmus   the protocol against the memory model of AArch64, by herd7: in PATH, or HERD7=<it>'
	@echo 'make doctor   what is here, what is missing, and which of these commands will work'
	@echo 'make ci       what CI runs: check, test, and under KVM what an arm64 host can run there'
	@echo 'make build    the image and the default guest bundle, in build/'
	@echo 'make clean    remove what was built, not what was downloaded'
	@echo
	@echo 'make run takes: QEMU=$(QEMU)|newer CPU=$(CPU) SMP=$(SMP) MEM=$(MEM) APPEND=<options of Sluice>'
	@echo '  LINUX=6.1|6.12, or KERNEL=<Image> INITRD=<archive>'
	@echo '  GUESTS=$(GUESTS) VCPUS=$(VCPUS) GUEST_MEM=$(GUEST_MEM) GUEST_MAX=$(GUEST_MAX) GUEST_APPEND="$(GUEST_APPEND)"'
	@echo '  CONTROL=<path>: a socket for the control port, on which programs give commands'
	@echo '  or GUEST=<manifest.dts> GUEST_FILES="<the files that it names>"'

# Set-up ends with build/toolchain.mk, which says how to build for the target; including
# it makes every goal that builds set up first. These need nothing.
ifneq ($(filter-out help doctor ci clean setup litmus,$(MAKECMDGOALS)),)
include build/toolchain.mk
endif

build/toolchain.mk: scripts/setup.sh scripts/host.sh scripts/debian.sh rust-toolchain.toml \
		$(if $(filter $(NEWER_QEMU),$(QEMU)),| $(NEWER_QEMU))
	@scripts/setup.sh
	@touch $@

$(NEWER_QEMU):
	@scripts/setup.sh

setup:
	@scripts/setup.sh

# RECORD=<file> writes down what the host answered (tests/hosts).
RECORD ?=
doctor:
	@SLUICE_RECORD=$(RECORD) scripts/doctor.sh

ci:
	@scripts/ci.sh

build: build/sluice.img build/bundle.cpio

# Cargo knows better than make what is out of date. All builds share its folder, so that the
# core library is compiled once, and one image is made at a time.
.NOTPARALLEL:
# $(1): the image's name, $(2): package, $(3): features.
define IMAGE
build/$(1).img: $(PACK) FORCE
	@$$(CARGO_TARGET) build --quiet --release --package $(2) --bin $(2) --features "$(3)" \
		--target $$(TARGET) $$(TARGET_FLAGS)
	@$$(PACK) flat target/$$(TARGET)/release/$(2) $$@
endef
$(eval $(call IMAGE,sluice,sluice,target))
$(eval $(call IMAGE,guest-stub,guest-stub,))
# Sluice with a mistake in it, which the tests must notice.
$(eval $(call IMAGE,sluice-no-grace,sluice,target$(comma)no-grace))
$(eval $(call IMAGE,sluice-no-tlbi,sluice,target$(comma)no-tlbi$(comma)fault-injection))
$(eval $(call IMAGE,sluice-no-scrub,sluice,target$(comma)no-scrub))
# Sluice of which allocations can be made to fail.
$(eval $(call IMAGE,sluice-faults,sluice,target$(comma)fault-injection))

# Sluice that measures its epoch scheme, and one that does without pins.
$(eval $(call IMAGE,sluice-scheme,sluice,target$(comma)scheme))
$(eval $(call IMAGE,sluice-no-pin,sluice,target$(comma)no-pin))

# Sluice that counts what it does to tables and TLBs, for the benchmarks.
$(eval $(call IMAGE,sluice-tally,sluice,target$(comma)tally))

# Sluice that records what it does to tables, TLBs and frames (docs/trace.md).
$(eval $(call IMAGE,sluice-trace,sluice,target$(comma)trace))
# The same with three mistakes in it, each of which the trace must tell of.
$(eval $(call IMAGE,sluice-trace-wrong,sluice,target$(comma)trace$(comma)no-grace$(comma)no-tlbi$(comma)no-scrub))

# Sluice that compares guests' tables with the executable specification; and with a difference in it.
$(eval $(call IMAGE,sluice-checking,sluice,target$(comma)checking))
$(eval $(call IMAGE,sluice-seeded-difference,sluice,target$(comma)seeded-difference))

$(PACK): FORCE
	@cargo build --locked --quiet --release --package sluice-tests --bins

# What the set-up fetches, should another cache folder be named than the last time.
KERNELS := $(SLUICE_CACHE)/kernels/6.1/Image $(SLUICE_CACHE)/kernels/6.12/Image
$(KERNELS) $(SLUICE_CACHE)/busybox:
	@scripts/setup.sh

# What only the matrix boots.
MORE_KERNELS := $(addprefix $(SLUICE_CACHE)/kernels/,newest/Image full/Image 16k/Image)
$(MORE_KERNELS) $(SLUICE_CACHE)/u-boot.bin:
	@scripts/setup.sh matrix

INITRAMFS := build/guests/initramfs-6.1.cpio build/guests/initramfs-6.12.cpio
MORE_INITRAMFS := $(patsubst $(SLUICE_CACHE)/kernels/%/Image,build/guests/initramfs-%.cpio,$(MORE_KERNELS))
$(INITRAMFS) $(MORE_INITRAMFS): build/guests/initramfs-%.cpio: $(wildcard tests/initramfs/*) $(SLUICE_CACHE)/busybox \
		| $(PACK) $(SLUICE_CACHE)/kernels/%/Image
	@$(PACK) initramfs tests/initramfs $(SLUICE_CACHE)/busybox $(SLUICE_CACHE)/kernels/$*/modules $@

build/bundle.cpio: $(PACK) $(INITRAMFS) FORCE
ifeq ($(GUEST),)
	@$(PACK) bundle $@ kernel="$(KERNEL)" initrd="$(INITRD)" guests="$(GUESTS)" vcpus="$(VCPUS)" \
		memory="$(GUEST_MEM)" maximum-memory="$(GUEST_MAX)" command-line="$(GUEST_APPEND)"
else
	@$(PACK) bundle $@ "$(GUEST)" $(GUEST_FILES)
endif

build/count-%.so: tests/plugin/count.c
	@mkdir -p build
	@cc -O2 -shared -fPIC -Wall -Wextra -DPLUGIN_API=$* -o $@ $<

run: build
	@command -v "$(QEMU)" >/dev/null || { echo 'QEMU=$(QEMU): no such program' >&2; exit 1; }
	@exec "$(QEMU)" $(MACHINE) -kernel build/sluice.img -initrd build/bundle.cpio -append '$(APPEND)'

demo: build
	@target/release/demo

bench: build build/guest-stub.img build/sluice-tally.img build/sluice-scheme.img build/sluice-no-pin.img \
		build/count-1.so build/count-2.so
	@target/release/bench

IMAGES := build/sluice.img build/guest-stub.img build/sluice-no-grace.img build/sluice-no-tlbi.img \
	build/sluice-no-scrub.img build/sluice-faults.img build/sluice-trace.img build/sluice-trace-wrong.img \
	build/sluice-checking.img build/sluice-seeded-difference.img

# A whole run of Linux: its trace, checked, and rendered for others to check. TRACE_CPU=max has range TLBIs.
# CASEMATE=<its offline checker, where there is one> is asked as well.
TRACE_CPU ?= cortex-a72
CASEMATE ?=
TRACE := build/trace/$(TRACE_CPU)
trace: build build/sluice-trace.img
	@target/release/trace run $(TRACE).trace $(TRACE_CPU)
	@target/release/trace check $(TRACE).trace
	@target/release/trace text $(TRACE).trace $(TRACE).txt
	@target/release/trace casemate $(TRACE).trace $(TRACE).casemate
	@[ -z "$(CASEMATE)" ] || "$(CASEMATE)" -T -S $(TRACE).casemate

LOOM := RUSTFLAGS="--cfg loom" cargo test --locked --release --package sluice --lib --target-dir target/loom model
SHUTTLE := RUSTFLAGS="--cfg shuttle" cargo test --locked --release --package sluice --lib --target-dir target/shuttle schedules

# Host first: what fails there need not be looked for on a machine. The models are compiled
# apart, as they replace the atomics; and two builds with a mistake must be caught.
test: $(IMAGES) $(INITRAMFS)
	cargo test --locked --workspace --exclude guest-stub --exclude sluice-tests
	cargo test --locked --package sluice --features no-grace
	cargo test --locked --package sluice --features no-tlbi
	SLUICE_TRACES=$(CURDIR)/build/trace cargo test --locked --package sluice --lib --features trace traced -- \
		--test-threads=1
	@rm -rf build/mutants
	$(LOOM)
	$(SHUTTLE)
	@scripts/mutations.sh build/mutations.md
	cargo test --locked --package sluice-tests --no-fail-fast

# The long ones: guests and memory that come and go in any order, and a guest that has memory come and go 100,000 times.
SEED ?= $(shell date +%s)
OPS ?= 5000
CYCLES ?= 100000
soak: $(IMAGES) $(INITRAMFS)
	SEED=$(SEED) OPS=$(OPS) CYCLES=$(CYCLES) cargo test --locked --package sluice-tests --no-fail-fast \
		--test soak --test faults -- --include-ignored --nocapture

# What of such a run concerns the core, from the same seed, without a machine.
replay:
	SEED=$(SEED) OPS=$(OPS) cargo test --locked --package sluice --lib cores_part -- --nocapture

# Coverage is what libFuzzer goes by; the compiler has it, and nothing else is needed but a C++ compiler. What is found
# stays in build/fuzz/, where the next run begins; a failure's input is build/fuzz/<target>-crash-*.
FUZZ_TIME ?= 60
FUZZ_TARGETS ?= $(notdir $(basename $(wildcard fuzz/fuzz_targets/*.rs)))
FUZZ_HOST = $(shell rustc -vV | sed -n 's/^host: //p')
FUZZ_FLAGS := -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
	-Cllvm-args=-sanitizer-coverage-trace-compares
fuzz:
	@command -v c++ >/dev/null || { echo 'libFuzzer wants a C++ compiler: apt install g++' >&2; exit 1; }
	RUSTFLAGS="$(FUZZ_FLAGS)" cargo build --locked --quiet --package sluice-fuzz --features libfuzzer --bins \
		--profile fuzz --target $(FUZZ_HOST)
	@for target in $(FUZZ_TARGETS); do \
		mkdir -p build/fuzz/$$target; \
		echo "fuzz: $$target, $(FUZZ_TIME) s"; \
		target/$(FUZZ_HOST)/fuzz/fuzz-$$target -max_total_time=$(FUZZ_TIME) -timeout=20 -max_len=8192 -verbosity=0 -print_final_stats=1 \
			-artifact_prefix=build/fuzz/$$target- build/fuzz/$$target fuzz/corpus/$$target >build/fuzz/$$target.log 2>&1 \
			|| { tail -n 60 build/fuzz/$$target.log; exit 1; }; \
		sed -n 's/^stat::/  /p' build/fuzz/$$target.log | head -n 3; \
	done

# The same against the machine: calls, registers, devices, queues and memory at random, on four vCPUs.
REQUESTS ?= 10000000
attack: build build/guest-stub.img
	SEED=$(SEED) REQUESTS=$(REQUESTS) cargo test --locked --package sluice-tests --test attack -- --nocapture

# Machines and guests of many kinds; CELLS picks those whose names have all of these words.
CELLS ?=
matrix: build build/guest-stub.img $(INITRAMFS) $(MORE_INITRAMFS) $(SLUICE_CACHE)/u-boot.bin
	@target/release/matrix $(CELLS)

# What the two checkers catch, as a table.
mutations:
	@rm -rf build/mutants
	$(LOOM)
	$(SHUTTLE)
	@scripts/mutations.sh docs/mutations.md

# HERD7 may have options: HERD7='herd7 -I <its library>'.
litmus:
	@HERD7="$(HERD7)" scripts/litmus.sh

check:
	cargo fmt --all --check
	cargo clippy --locked --workspace --exclude guest-stub --all-targets --quiet -- -D warnings
	$(CARGO_TARGET) clippy --package sluice --bin sluice --lib --features target --quiet \
		--target $(TARGET) $(TARGET_FLAGS) -- -D warnings
	$(CARGO_TARGET) clippy --package guest-stub --quiet \
		--target $(TARGET) $(TARGET_FLAGS) -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --exclude guest-stub --no-deps \
		--document-private-items --quiet
	RUSTDOCFLAGS="-D warnings" $(CARGO_TARGET) doc --package sluice --package guest-stub --no-deps \
		--features sluice/target --document-private-items --quiet \
		--target $(TARGET) $(TARGET_FLAGS)
	@echo 'check: all is well'

clean:
	rm -rf target build/*.img build/*.cpio build/*.so build/guests build/logs build/trace build/demo.svg
