# What people do with docrow's source. `make demo` and `make test` work on a bare Debian or Ubuntu with a Rust toolchain.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

# Outside the clone, so that a fresh one finds its dependencies compiled.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/docrow/target

# RocksDB, compiled once for all clones and profiles: see .ci/rocksdb.
export ROCKSDB_LIB_DIR ?= $(shell .ci/rocksdb folder)
export ROCKSDB_STATIC ?= 1

# Tests mostly wait for servers.
export RUST_TEST_THREADS ?= 4

.PHONY: setup demo test quick chaos golden bench bench-check fuzz fuzz-live screenshots lint release

setup:
	@.ci/setup
	@.ci/rocksdb

demo: setup
	@cargo build --release
	@"$(CARGO_TARGET_DIR)/release/docrow" demo

# Cargo says a result for each binary; the last line here is their sum.
SUM = awk '{ print; fflush() } /^test result:/ { passed += $$4; failed += $$6 } \
    END { printf "%d passed, %d failed\n", passed, failed; exit passed == 0 }'

# With the places where tests end the process, which no other build has. T=faults::spool runs those whose names hold that.
T ?=
test: setup
	@cargo test --workspace --features failpoints --no-fail-fast -- $(T) 2>&1 | $(SUM)

# What needs no server: unit tests, and the simulation.
quick: setup
	@cargo test --workspace --features failpoints --no-fail-fast --lib -- $(T) 2>&1 | $(SUM)

# Kills docrow, mongod and PostgreSQL by turns under live writes, and compares after each round. The same seed makes the
# same schedule: what happens, to whom, and after which time; what the programs are just doing then is never the same.
ROUNDS ?= 30
SEED ?= 1
chaos: setup
	@cargo test --release --features failpoints --test chaos -- $(ROUNDS) $(SEED)

# Rewrites what docrow makes of the cases in testdata/mapping, and what docs take from the code, to be read as a diff.
golden: setup
	@DOCROW_GOLDEN=rewrite cargo test --features failpoints --test it -- golden:: errors:: configuration::the_readme mapping::types metrics::files::the_documentation
	@git diff --stat -- testdata docs README.md

# The mapping alone, in a few seconds (`cargo bench -p docrow-mapping` takes its time), then everything end to end, in about
# a quarter of an hour during which the machine should have nothing else to do. WORKLOADS="users stream" picks some of them.
WORKLOADS ?=
bench: setup
	@cargo bench -p docrow-mapping --bench mapping -- --quick
	@cargo bench --bench end_to_end -- $(WORKLOADS)

# The same, and fails if a bar is missed by more than the noise that was measured.
bench-check: setup
	@cargo bench -p docrow-mapping --bench mapping -- --quick
	@cargo bench --bench end_to_end -- --check $(WORKLOADS)

# Fuzzes the mapping; needs `cargo install cargo-fuzz`, and compiles what it needs for itself (a few minutes, once). What it
# finds is in fuzz/artifacts, what it goes on with the next time in fuzz/corpus.
SECONDS ?= 600
fuzz:
	@cargo fuzz run --sanitizer none mapping -- -max_total_time=$(SECONDS) -max_len=65536 -timeout=10 -rss_limit_mb=2048

# Random operations on real servers, by seeds: SEEDS of them from FROM on, JOBS at once. Each ends in three judgements of all
# rows; one that neither moves nor ends has failed. A seed that fails is made shorter. What happens follows from the seed alone;
# how far docrow is at that moment does not, so a seed may fail one time and not the next.
SEEDS ?= 20
FROM ?= 0
JOBS ?= 3
fuzz-live: setup
	@cargo test --release --features failpoints --test fuzz_live -- $(SEEDS) $(FROM) $(JOBS)

# Pictures of the dashboard in its five states, and of 63 collections with three in trouble, for docs/screenshots: of a docrow
# and servers that really are in them, in about six minutes.
screenshots: setup
	@cargo test --features failpoints --test screenshots

# Licences and sources of the dependencies are looked at without the internet; what is known against them needs RustSec's
# database, which is not to be had everywhere: then it says so, and does not fail.
lint: setup
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets --features failpoints -- -D warnings
	@cargo clippy --features failpoints --test chaos --test fuzz_live --test screenshots -- -D warnings
	@.ci/audit

# What is shipped, in dist/: the binary, manual pages, completions, a tarball of them, a .deb, and checksums.
release: setup
	@packaging/release
