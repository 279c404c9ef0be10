# make lobby      the lobby in every language, as components in target/lobby
# make lobby-go   in one of them; also lobby-rust, lobby-c, lobby-javascript, lobby-python, lobby-zig
#
# Included by the Makefile above; paths are from there. Tools are installed below target, never for the whole machine. A language
# whose toolchain is not to be had is skipped, loudly; where the environment says CI=true, that is an error.

CARGO  ?= cargo
GO     ?= go
NPM    ?= npm
PYTHON ?= python3

LOBBY     := plugins/lobby
LOBBY_OUT := target/lobby
LOBBY_BIN := target/tools/bin

# The generator, and what it generates for: one version of everything.
WIT_BINDGEN_VERSION := 0.61.1
WIT_ADAPTER_VERSION := 46.0.1
WASM_TOOLS_VERSION  := 1.263.0

LOBBY_WIT_BINDGEN := target/tools/.wit-bindgen-$(WIT_BINDGEN_VERSION)
LOBBY_WASM_TOOLS  := target/tools/.wasm-tools-$(WASM_TOOLS_VERSION)
LOBBY_GENERATOR   := $(LOBBY_WIT_BINDGEN) $(LOBBY_WASM_TOOLS)
LOBBY_ZIG         := target/tools/zig/.installed
LOBBY_NODE        := $(LOBBY_OUT)/javascript/.installed
LOBBY_VENV        := $(LOBBY_OUT)/python/.installed
LOBBY_WIT         := $(wildcard wit/*.wit)

.PHONY: lobby lobby-rust lobby-c lobby-go lobby-javascript lobby-python lobby-zig lobby-target

# One after another, since they share tools.
lobby:
	@for language in rust c go javascript python zig; do \
		$(MAKE) --no-print-directory -f $(LOBBY)/lobby.mk lobby-$$language || exit 1; \
	done

# $(call lobby_build,LANGUAGE,TEST,WHAT IT NEEDS,TOOLS)
define lobby_build
	@skipped() { echo "SKIPPED: lobby-$(1): $$1" >&2; [ "$$CI" != true ]; }; \
	make='$(MAKE) --no-print-directory -f $(LOBBY)/lobby.mk'; \
	if ! ($(2)) >/dev/null 2>&1; then skipped "it needs $(3)"; \
	elif ! $$make -s $(4); then skipped "its tools cannot be installed; what was said above tells why"; \
	else $$make $(LOBBY_OUT)/$(1).wasm; fi
endef

lobby-rust:
	$(call lobby_build,rust,$(CARGO) --version,cargo; see https://rustup.rs,lobby-target)

lobby-c:
	$(call lobby_build,c,$(CARGO) --version && $(PYTHON) -c 'import ensurepip',cargo and python3 with venv,$(LOBBY_GENERATOR) $(LOBBY_ZIG))

lobby-go:
	$(call lobby_build,go,$(CARGO) --version && cd $(LOBBY)/go && $(GO) version | grep -E 'go1\.(2[6-9]|[3-9][0-9])',cargo and go 1.26 or later,$(LOBBY_GENERATOR))

lobby-javascript:
	$(call lobby_build,javascript,$(NPM) --version && node -e 'process.exitCode = Number(parseInt(process.versions.node) < 20)',node 20 or later with npm,$(LOBBY_NODE))

lobby-python:
	$(call lobby_build,python,$(PYTHON) -c 'import ensurepip',python3 with venv,$(LOBBY_VENV))

lobby-zig:
	$(call lobby_build,zig,$(CARGO) --version && $(PYTHON) -c 'import ensurepip',cargo and python3 with venv,$(LOBBY_GENERATOR) $(LOBBY_ZIG))

# -- tools --

# Unoptimised: they are built faster, run for milliseconds, and what they write is the same.
lobby_install = CARGO_PROFILE_DEV_DEBUG=false $(CARGO) install --debug --locked --root target/tools --no-default-features

lobby_crates  = "$${CARGO_HOME:-$$HOME/.cargo}"/registry/src/*

# Go needs two more things, which came with the generator: the runtime of what it generates, and the adapter that makes of a
# module for WASI 0.1 a component.
$(LOBBY_WIT_BINDGEN):
	$(lobby_install) --features c,go --version $(WIT_BINDGEN_VERSION) wit-bindgen-cli
	rm -rf target/tools/wit-go
	set -- $(lobby_crates)/wit-bindgen-go-$(WIT_BINDGEN_VERSION)/src/pkg && cp -R "$$1" target/tools/wit-go
	set -- $(lobby_crates)/wasi-preview1-component-adapter-provider-$(WIT_ADAPTER_VERSION)/artefacts/wasi_snapshot_preview1.reactor.wasm && \
		cp "$$1" target/tools
	touch $@

$(LOBBY_WASM_TOOLS):
	$(lobby_install) --features component --version $(WASM_TOOLS_VERSION) wasm-tools
	touch $@

# Zig for Zig, and for C, too: it brings clang, a linker and a libc for WebAssembly.
$(LOBBY_ZIG): $(LOBBY)/c/requirements.txt
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/pip install -q --disable-pip-version-check -r $<
	touch $@

$(LOBBY_NODE): $(LOBBY)/javascript/package.json $(LOBBY)/javascript/package-lock.json
	mkdir -p $(@D)
	cp $^ $(@D)
	cd $(@D) && $(NPM) ci --ignore-scripts --no-audit --no-fund
	touch $@

$(LOBBY_VENV): $(LOBBY)/python/requirements.txt
	$(PYTHON) -m venv --clear $(@D)/venv
	$(@D)/venv/bin/pip install -q --disable-pip-version-check -r $<
	touch $@

lobby-target:
	@if command -v rustup >/dev/null; then rustup target list --installed | grep -qx wasm32-wasip2 || rustup target add wasm32-wasip2; fi

# -- components --

$(LOBBY_OUT)/rust.wasm: $(wildcard $(LOBBY)/rust/Cargo.toml $(LOBBY)/rust/src/*.rs plugin-sdk/Cargo.toml plugin-sdk/src/*.rs) Cargo.toml Cargo.lock $(LOBBY_WIT)
	$(CARGO) build --profile plugin --locked --target wasm32-wasip2 -p lobby
	@mkdir -p $(@D)
	cp target/wasm32-wasip2/plugin/lobby.wasm $@

$(LOBBY_OUT)/c.wasm: $(wildcard $(LOBBY)/c/*.[ch]) $(LOBBY_WIT) $(LOBBY_GENERATOR) $(LOBBY_ZIG)
	$(lobby_c_bindings) --out-dir $(@:.wasm=)
	$(lobby_zig) cc -target wasm32-wasi -mexec-model=reactor -std=c17 -Os -Wall -Wextra -Werror -I$(@:.wasm=) \
		$(LOBBY)/c/*.c $(@:.wasm=)/plugin.c $(@:.wasm=)/plugin_component_type.o -o $(@:.wasm=)/core.wasm
	$(LOBBY_BIN)/wasm-tools component new $(@:.wasm=)/core.wasm -o $@

# The names in the bindings are C's prefix of an export, and then the interface's, without its package.
lobby_c_bindings = $(LOBBY_BIN)/wit-bindgen c wit --rename gateway:policy/policy@0.1.0=policy --rename gateway:policy/log@0.1.0=log
lobby_zig        = target/tools/zig/bin/python -m ziglang

# Without stack protector, which would ask WASI for random numbers.
$(LOBBY_OUT)/zig.wasm: $(LOBBY)/zig/lobby.zig $(LOBBY_WIT) $(LOBBY_GENERATOR) $(LOBBY_ZIG)
	$(lobby_c_bindings) --out-dir $(@:.wasm=)
	$(lobby_zig) translate-c -lc -target wasm32-wasi $(@:.wasm=)/plugin.h > $(@:.wasm=)/plugin.zig
	$(lobby_zig) build-exe -mexec-model=reactor -fno-entry -fstrip -fno-stack-protector \
		-target wasm32-wasi -O ReleaseSafe -lc -I$(@:.wasm=) $(@:.wasm=)/plugin.c $(@:.wasm=)/plugin_component_type.o \
		--dep plugin -Mroot=$< -target wasm32-wasi -O ReleaseSafe -Mplugin=$(@:.wasm=)/plugin.zig -femit-bin=$(@:.wasm=)/core.wasm
	$(LOBBY_BIN)/wasm-tools component new $(@:.wasm=)/core.wasm -o $@

$(LOBBY_OUT)/go.wasm: $(wildcard $(LOBBY)/go/*.go $(LOBBY)/go/go.mod) $(LOBBY_WIT) $(LOBBY_GENERATOR)
	$(LOBBY_BIN)/wit-bindgen go wit --out-dir $(LOBBY_OUT)/go
	cd $(LOBBY_OUT)/go && $(GO) mod edit -go=1.26 -replace=go.bytecodealliance.org/pkg=../../tools/wit-go \
		-require=wit_component/export_gateway_policy_policy@v0.0.0 \
		-replace=wit_component/export_gateway_policy_policy=../../../$(LOBBY)/go
	cd $(LOBBY_OUT)/go && GOWORK=off GOOS=wasip1 GOARCH=wasm $(GO) build -buildmode=c-shared -trimpath \
		-ldflags='-s -w -checklinkname=0' -o core.wasm .
	$(LOBBY_BIN)/wasm-tools component embed wit $(LOBBY_OUT)/go/core.wasm -o $(LOBBY_OUT)/go/embedded.wasm
	$(LOBBY_BIN)/wasm-tools component new $(LOBBY_OUT)/go/embedded.wasm --adapt target/tools/wasi_snapshot_preview1.reactor.wasm -o $@

# What is left of the engine's features is there in a gateway: console, clock and random numbers.
$(LOBBY_OUT)/javascript.wasm: $(LOBBY)/javascript/lobby.js $(LOBBY_WIT) $(LOBBY_NODE)
	$(LOBBY_OUT)/javascript/node_modules/.bin/componentize-js $< --wit wit --world-name plugin \
		--disable http fetch-event --out $@

# The bindings are for editors; the component brings its own. A copy is built, since Python writes beside what it imports.
$(LOBBY_OUT)/python.wasm: $(LOBBY)/python/lobby.py $(LOBBY_WIT) $(LOBBY_VENV)
	rm -rf $(@:.wasm=)/bindings
	mkdir -p $(@:.wasm=)/source
	cp $< $(@:.wasm=)/source
	$(lobby_componentize_py) bindings $(@:.wasm=)/bindings
	$(lobby_componentize_py) componentize -p $(@:.wasm=)/source -o $@ lobby

lobby_componentize_py = $(LOBBY_OUT)/python/venv/bin/componentize-py -q -d wit -w plugin
