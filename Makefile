# make run         set up, build and start the gateway on the embedded bus
# make build       build the gateway, its client and the plugins
# make plugins     build plugins/ into plugins/dist, where a running gateway loads them
# make test        set up and run every test
# make lint        check the format, and run clippy with warnings as errors
# make chaos       count every message during minutes of hostile clients, plugins and files, reloads and Redis outages
# make fuzz        send random input to the parsers of packets, frames, upgrades, deliveries and files
# make deny        check the licenses, sources and known vulnerabilities of all dependencies
# make bench       measure the gateway and, for comparison, gateways written by hand (BENCH.md)
# make typescript  build the client for browsers and Node into target/typescript
# make csharp      compile the client for Unity, in C#, and its tests into target/csharp
# make languages   measure the same plugin in each language on this machine
# make help        print this list

PLUGINS ?= arena chat control demo-chat system
GUESTS  := chat-next fifth first fourth hostile probe second third variant
CARGO   ?= cargo
BENCH_ROUNDS  ?= 3
BENCH_SECONDS ?= 3
CHAOS_SECONDS ?= 180
# Most tests wait for timers and other processes, so three of them share a processor.
TEST_THREADS  ?= $(shell echo $$((3 * $$(getconf _NPROCESSORS_ONLN))))
CARGO_DENY    := 0.20.2
FUZZ_SECONDS  ?= 60
CHAOS_SEED    ?= $(shell date +%s)
# With LLVM's default, the code that releases a list of actions is not inlined, because two exports use it. Then a
# heartbeat takes 7 % more instructions.
export CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS ?= -C llvm-args=-inline-threshold=600
DIST    := plugins/dist
WASM    := target/wasm32-wasip2/plugin

.PHONY: run help build plugins test build-tests guests chaos fuzz deny bench lint setup redis openssl pyjwt languages

# The demonstration resumes sessions, unless gateway.yaml or the environment says how.
ifeq ($(shell grep -c '^resume:' gateway.yaml),0)
run: export GATEWAY_RESUME ?= {}
endif
run: build
	@echo
	@echo "When the plugins are loaded, open http://127.0.0.1:8081/playground in two windows and play, and"
	@echo "http://127.0.0.1:8081/ to watch the gateway. In a terminal, target/release/gateway-client arena plays as well."
	@echo "Clients connect to ws://127.0.0.1:8080/ws. Ctrl-C stops the gateway."
	@echo
	@exec target/release/gateway run --config gateway.yaml

# The list at the top of this file ends at the first empty line.
help:
	@sed '/^$$/,$$d; s/^# //' Makefile

# The build covers the whole workspace, so that cargo resolves the same features as for the tests and the benchmark.
# The tests and the benchmark then reuse the compiled libraries, above all wasmtime.
build: plugins
	$(CARGO) build --release --locked --workspace --bins

# Each file is copied to a hidden name and then renamed, so that a running gateway never reads a partial file.
plugins: setup
	$(CARGO) build --profile plugin --locked --target wasm32-wasip2 $(addprefix -p ,$(PLUGINS))
	@mkdir -p $(DIST)
	@for plugin in $(PLUGINS); do \
		file=$$(echo $$plugin | tr - _).wasm; \
		cmp -s $(WASM)/$$file $(DIST)/$$plugin.wasm && continue; \
		cp $(WASM)/$$file $(DIST)/.$$plugin.wasm.new && mv $(DIST)/.$$plugin.wasm.new $(DIST)/$$plugin.wasm || exit 1; \
		echo "$(DIST)/$$plugin.wasm"; \
	done

test: build-tests lobby redis openssl pyjwt tls-clients typescript csharp deploy-tools backends
	RUST_TEST_THREADS=$(TEST_THREADS) $(CARGO) test --release --locked --workspace

# One command builds the programs and the tests, so that all processors have work while the largest crates compile.
build-tests: plugins guests
	$(CARGO) build --release --locked --workspace --bins --tests

# Builds the plugins that only the tests use. The tests read them from the build directory.
guests: setup
	$(CARGO) build --profile plugin --locked --target wasm32-wasip2 $(addprefix -p guest-,$(GUESTS))

# The test prints its seed, and CHAOS_SEED repeats a run. The limit of file descriptors is raised, since one phase of
# the test opens ten thousand connections.
chaos: build guests redis
	ulimit -n $$(ulimit -Hn) && CHAOS_SECONDS=$(CHAOS_SECONDS) CHAOS_SEED=$(CHAOS_SEED) \
		$(CARGO) test --release --locked --workspace --test chaos -- --include-ignored --nocapture --test-threads 1

# Each target gets random input for FUZZ_SECONDS.
fuzz: plugins
	BOLERO_RANDOM_TEST_TIME_MS=$$(( $(FUZZ_SECONDS) * 1000 )) $(CARGO) test --release --locked --workspace --test fuzz -- --nocapture

# cargo-deny is built below target/tools, which takes minutes once. The database of vulnerabilities is on GitHub.
deny: setup
	@test -x target/tools/bin/cargo-deny || $(CARGO) install -q --debug --locked --root target/tools cargo-deny@$(CARGO_DENY)
	target/tools/bin/cargo-deny check licenses bans sources
	@if timeout 20 git ls-remote -q https://github.com/RustSec/advisory-db HEAD >/dev/null 2>&1; then \
		target/tools/bin/cargo-deny check advisories; \
	else \
		echo "SKIPPED: known vulnerabilities are not checked, because github.com/RustSec/advisory-db cannot be reached"; \
	fi

bench: build guests redis openssl
	@target/release/gateway-bench --rounds $(BENCH_ROUNDS) --seconds $(BENCH_SECONDS) $(BENCH_FLAGS)

lint: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings

# Installs the toolchain of rust-toolchain.toml: the compiler, clippy, rustfmt and the WebAssembly target.
setup:
	@rustup show active-toolchain >/dev/null 2>&1 || rustup toolchain install
	@rustup target list --installed | grep -qx wasm32-wasip2 || rustup target add wasm32-wasip2

redis:
	@tests/install redis-server redis-server redis redis redis

# The tests and the benchmark make their certificates with openssl.
openssl:
	@tests/install openssl

# The tests make their tokens with PyJWT.
pyjwt:
	@tests/install-pyjwt

# The targets that build the lobby, the example policy, in each language.
include plugins/lobby/lobby.mk

# The targets that build the clients in other languages that the tests of TLS run.
include tests/tls/clients/clients.mk

# The client for browsers and Node.
include client/typescript/typescript.mk

# The client for Unity.
include client/csharp/csharp.mk

# The targets that install the programs that the tests of deploy/ run.
include tests/deploy/tools.mk

# The targets that build the sample backends.
include tests/backends/samples.mk

languages: build lobby
	@plugins/lobby/measure
