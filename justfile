# Recipes for people and for CI. `just --list` shows them; tools/dev installs just.

tool := "cargo run -q --release -p penumbra --"
suites := "cargo run -q --release -p penumbra-suites --"
target := "aarch64-unknown-none-softfloat"
metal := "-p penumbra-hal -p penumbra-platform -p penumbra-qemu-virt -p penumbra-rpi4 -p penumbra-payloads -p penumbra-periodic"

# Show the recipes.
default:
    @just --list

# Build the bootable image for QEMU virt.
build:
    {{ tool }} build

# Boot a scenario on QEMU (tools/dev run also fetches what it needs).
run *ARGS:
    {{ tool }} run {{ ARGS }}

# Check the scenarios in guest-configs/ without looking at their files.
scenarios:
    for scenario in guest-configs/*.toml; do {{ tool }} check --no-files "$scenario" || exit 1; done

# Everything that needs no QEMU: format, lints, host tests, documentation, layers, panics, EL2's stack and size.
check: fmt clippy unit doc layer-check panic-check stack-check size-check scenarios

# Formatting.
fmt:
    cargo fmt --all --check

# Lints, for the host and for the board.
clippy:
    cargo clippy -q --all-targets -- -D warnings
    cargo clippy -q -p penumbra-qemu-plugin -p penumbra-eventscope -p penumbra-walkscope-plugin -- -D warnings
    # The manager apart: it has a heap, and built together its dependencies would ask EL2 for one.
    PENUMBRA_MANAGER=/dev/null cargo clippy -q {{ metal }} --target {{ target }} -- -D warnings
    cargo clippy -q -p penumbra-hal --features mitigations --target {{ target }} -- -D warnings
    cargo clippy -q -p penumbra-manager --target {{ target }} -- -D warnings

# Tests on the host.
unit:
    cargo test -q
    cargo test -q -p penumbra-qemu-plugin -p penumbra-eventscope -p penumbra-walkscope-plugin

# The compound page table against its oracle, for so many random steps: `just oracle 1000000`; stage 2 against its own.
oracle STEPS:
    PROPTEST_CASES=$(( {{ STEPS }} / 1000 )) cargo test -q --profile oracle -p penumbra-oracle --test stage2
    PENUMBRA_ORACLE_STEPS={{ STEPS }} cargo test -q --profile oracle -p penumbra-oracle --test compound -- --nocapture

# Documentation of the crates.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc -q --no-deps

# The dependency arrows between the crates.
layer-check:
    cargo run -q -p penumbra-layer-check

# No panic in EL2 but the allowed ones (tools/panic-allow.txt).
panic-check:
    {{ tool }} panic-check
    {{ tool }} panic-check --platform rpi4

# EL2's deepest path of calls fits its stack.
stack-check:
    {{ tool }} stack-check
    {{ tool }} stack-check --platform rpi4

# EL2's part of the image has not grown: 2.5 % above what docs/performance.md says.
size-check:
    {{ tool }} size --at-most "196 KiB"
    {{ tool }} size --at-most "200 KiB" --platform rpi4

# What `tools/dev test` runs: the checks and the quick suites.
test: check
    {{ suites }} quick

# The checks, a million steps of the oracle and the full matrix.
test-full: check (oracle "1000000")
    {{ suites }} full

# More words are for the bench: paging takes churn, trials, gain, reserved, thin, shadow and a number of rounds; walks what docs/walkscope.md says.
# Figures for programs go to target/bench/NAME.json. reset is the first part of boot.
# Measure: `just bench NAME` with events, floods, boot, reset, paging, paging-events, wakeups or walks.
bench NAME *ARGS:
    {{ if NAME == "walks" { "cargo run -q --release -p penumbra-walkscope -- bench" } else { suites + " bench-" + NAME } }} {{ ARGS }}

# Sizes of the image and its sections.
size:
    {{ tool }} size

# Restart a guest and kill the manager so often beside a running Linux; then storm on address spaces in compound mode.
test-soak RESTARTS="1000" KILLS="100" MINUTES="60":
    tools/fetch-arm64 linux
    {{ suites }} soak {{ RESTARTS }} {{ KILLS }}
    {{ suites }} soak-paging {{ MINUTES }}
