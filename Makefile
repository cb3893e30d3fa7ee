# Targets for working on docrow. `make demo` and `make test` work on a bare Debian or Ubuntu with a Rust toolchain.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

# Outside the clone, so that a fresh one finds its dependencies compiled.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/docrow/target

# RocksDB, compiled once for all clones and profiles: see .ci/rocksdb.
export ROCKSDB_LIB_DIR ?= $(shell .ci/rocksdb folder)
export ROCKSDB_STATIC ?= 1

# Tests mostly wait for servers.
export RUST_TEST_THREADS ?= 4

.PHONY: setup demo check test quick matrix chaos golden bench bench-check fuzz fuzz-live screenshots lint release

setup:
	@.ci/setup
	@.ci/rocksdb

# In the profile of the tests, which compiles faster than a release, and shares its dependencies with them.
demo:
	@.ci/setup demo
	@.ci/rocksdb
	@cargo build
	@"$(CARGO_TARGET_DIR)/debug/docrow" demo

# Cargo says a result for each binary; the last line here is their sum.
SUM = awk '{ print; fflush() } /^test result:/ { passed += $$4; failed += $$6 } \
    END { printf "%d passed, %d failed\n", passed, failed; exit passed == 0 }'

# What an edit can break without running anything: format, types, and what crates/tidy holds.
check: setup
	@cargo fmt --all --check
	@cargo run --quiet --package tidy
	@cargo check --quiet --workspace --features failpoints

# With the places where tests end the process, which no other build has. T=faults::spool runs those whose names hold that.
T ?=
test: setup
	@cargo test --workspace --features failpoints --no-fail-fast -- $(T) 2>&1 | $(SUM)

# Tests that need no servers: unit tests, and the simulation with 200 schedules of each kind; `make test` plays 1,000, and
# plants bugs, which the simulation must find. docrow is not optimised here, which saves more time than it takes.
QUICK = --config profile.dev.package.docrow.opt-level=0 --workspace --features failpoints --no-fail-fast --lib
quick: setup
	@DOCROW_SIM_SCHEDULES=$${DOCROW_SIM_SCHEDULES:-200} cargo test $(QUICK) -- --skip planted_bugs:: $(T) 2>&1 | $(SUM)

# The tests that meet servers, on pairs of their versions (.ci/matrix): a few hours. MONGO=4.4 PG=18 is one pair, T=walk:: some tests.
MONGO ?=
PG ?=
matrix: setup
	@.ci/setup matrix
	@.ci/matrix "$(MONGO)" "$(PG)" $(T)

# Kills docrow, mongod and PostgreSQL in turn under live writes, and compares after each round. The same seed makes the
# same schedule: which fault hits which process after which time; what the programs are doing then always differs.
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

# The same, and fails if a bar is missed by more than the measured noise.
bench-check: setup
	@cargo bench -p docrow-mapping --bench mapping -- --quick
	@cargo bench --bench end_to_end -- --check $(WORKLOADS)

# Fuzzes the mapping; needs `cargo install cargo-fuzz`, and compiles its own dependencies (a few minutes, once). Its findings
# are in fuzz/artifacts, its corpus is in fuzz/corpus.
SECONDS ?= 600
fuzz:
	@cargo fuzz run --sanitizer none mapping -- -max_total_time=$(SECONDS) -max_len=65536 -timeout=10 -rss_limit_mb=2048

# Random operations on real servers, by seeds: SEEDS of them starting at FROM, JOBS at once. Each ends with three checks of all
# rows; a run that neither makes progress nor ends has failed. A failing seed is shrunk. The operations depend only on the seed;
# docrow's progress at each moment does not, so a seed may fail one time and not the next.
SEEDS ?= 20
FROM ?= 0
JOBS ?= 3
fuzz-live: setup
	@cargo test --release --features failpoints --test fuzz_live -- $(SEEDS) $(FROM) $(JOBS)

# Screenshots of the dashboard in its five states, and of 63 collections, three of them in trouble, for docs/screenshots: of a
# docrow and servers that really are in these states, in about six minutes.
screenshots: setup
	@cargo test --features failpoints --test screenshots

# Licences and sources of the dependencies are checked offline; known vulnerabilities require RustSec's database, which is not
# available everywhere: then this is reported, and is no failure.
lint: setup
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets --features failpoints -- -D warnings
	@cargo clippy --features failpoints --test chaos --test fuzz_live --test screenshots -- -D warnings
	@.ci/audit

# The release in dist/: the binary, manual pages, completions, a tarball of them, a .deb, and checksums.
release: setup
	@packaging/release
