# make run    set up, build and start the gateway on the embedded bus
# make test   set up and run every test
# make lint   what has to be clean
# make plugins   build plugins/ into plugins/dist, where a running gateway picks them up
# make build  the gateway, its client and the plugins
# make languages   what the same plugin costs in each language, measured here
# make chaos  hostile clients, plugins and files, reloads and outages of Redis at once, while every message is counted; for minutes
# make bench  measure the gateway beside gateways written by hand (BENCH.md)

PLUGINS ?= chat demo-chat system
CARGO   ?= cargo
BENCH_ROUNDS  ?= 3
BENCH_SECONDS ?= 3
CHAOS_SECONDS ?= 180
CHAOS_SEED    ?= $(shell date +%s)
DIST    := plugins/dist
WASM    := target/wasm32-wasip2/plugin

.PHONY: run build plugins test guests chaos bench lint setup redis openssl languages

run: build
	@echo
	@echo "The gateway starts on ws://127.0.0.1:8080/ws, its admin side on http://127.0.0.1:8081. In two other terminals:"
	@echo "    target/release/gateway-client chat --user 1"
	@echo "    target/release/gateway-client chat --user 2"
	@echo "Type a line into each, which is how the gateway learns whose session it is, then '@2 hello' into the first. Ctrl-C stops the gateway."
	@echo
	@exec target/release/gateway run --config gateway.yaml

# The whole workspace is chosen, for its features: tests and benchmark then find every library, wasmtime above all, built as they want it.
build: plugins
	$(CARGO) build --release --locked --workspace --bins

# Each file is moved into place when it is whole, so that a running gateway never sees half of one.
plugins: setup
	$(CARGO) build --profile plugin --locked --target wasm32-wasip2 $(addprefix -p ,$(PLUGINS))
	@mkdir -p $(DIST)
	@for plugin in $(PLUGINS); do \
		file=$$(echo $$plugin | tr - _).wasm; \
		cmp -s $(WASM)/$$file $(DIST)/$$plugin.wasm && continue; \
		cp $(WASM)/$$file $(DIST)/.$$plugin.wasm.new && mv $(DIST)/.$$plugin.wasm.new $(DIST)/$$plugin.wasm || exit 1; \
		echo "$(DIST)/$$plugin.wasm"; \
	done

test: build guests lobby redis openssl
	$(CARGO) test --release --locked --workspace

# Plugins for the tests alone, used where they are built.
guests: setup
	$(CARGO) build --profile plugin --locked --target wasm32-wasip2 -p guest-chat-next -p guest-first -p guest-hostile -p guest-variant

# The seed that it prints replays it. The storm's ten thousand connections need as many descriptors.
chaos: build guests redis
	ulimit -n $$(ulimit -Hn) && CHAOS_SECONDS=$(CHAOS_SECONDS) CHAOS_SEED=$(CHAOS_SEED) \
		$(CARGO) test --release --locked --workspace --test chaos -- --include-ignored --nocapture --test-threads 1

bench: build redis
	@target/release/gateway-bench --rounds $(BENCH_ROUNDS) --seconds $(BENCH_SECONDS) $(BENCH_FLAGS)

lint: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings

# What rust-toolchain.toml asks for: the compiler, clippy, rustfmt and the WebAssembly target.
setup:
	@rustup show active-toolchain >/dev/null 2>&1 || rustup toolchain install
	@rustup target list --installed | grep -qx wasm32-wasip2 || rustup target add wasm32-wasip2

redis:
	@tests/install redis-server redis-server redis redis redis

# It makes the certificates of the tests.
openssl:
	@tests/install openssl

# The example policy in each language.
include plugins/lobby/lobby.mk

languages: build lobby
	@plugins/lobby/measure
