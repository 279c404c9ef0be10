# make lobby      builds the lobby in every language, into target/lobby
# make lobby-go   builds the lobby in Go
#
# The other targets are lobby-rust, lobby-c, lobby-javascript, lobby-python and lobby-zig.
#
# The Makefile at the root of the repository includes this file, so paths begin there. Tools are installed below target,
# never for the whole machine.
#
# If the toolchain of a language is missing, make skips the language with a message, and removes its component of an
# earlier build. With CI=true in the environment, a missing toolchain is an error.

LOBBY     := plugins/lobby
LOBBY_OUT := target/lobby
LOBBY_WIT := wit/0.2/policy.wit

# The interfaces that the world `game` exports.
LOBBY_INTERFACES := plugin policy hearing sessions timers

TOOLS        ?= target/tools
NODE_PACKAGE := $(LOBBY)/javascript

.PHONY: lobby lobby-rust lobby-c lobby-go lobby-javascript lobby-python lobby-zig lobby-target

# The languages are built one after another, since they share tools.
lobby:
	@for language in rust c go javascript python zig; do \
		$(MAKE) --no-print-directory -f $(LOBBY)/lobby.mk lobby-$$language || exit 1; \
	done

# $(call lobby_build,LANGUAGE,TEST,TOOLCHAIN,TOOLS) builds the lobby in a language. TEST is a command that succeeds if
# the toolchain is installed. TOOLCHAIN is the toolchain's name in the message. TOOLS are the make targets that install
# the other tools.
define lobby_build
	@skipped() { rm -f $(LOBBY_OUT)/$(1).wasm; echo "SKIPPED: lobby-$(1): $$1" >&2; [ "$$CI" != true ]; }; \
	make='$(MAKE) --no-print-directory -f $(LOBBY)/lobby.mk'; \
	if ! ($(2)) >/dev/null 2>&1; then skipped "it needs $(3)"; \
	elif ! $$make -s $(4); then skipped "its tools cannot be installed; the output above has the reason"; \
	else $$make $(LOBBY_OUT)/$(1).wasm; fi
endef

lobby-rust:
	$(call lobby_build,rust,$(CARGO) --version,cargo; see https://rustup.rs,lobby-target)

lobby-c:
	$(call lobby_build,c,$(CARGO) --version && $(PYTHON) -c 'import ensurepip',cargo and python3 with venv,$(GENERATOR) $(ZIG_TOOLS))

lobby-go:
	$(call lobby_build,go,$(CARGO) --version && cd $(LOBBY)/go && $(GO) version | grep -E 'go1\.(2[6-9]|[3-9][0-9])',cargo and go 1.26 or later,$(GENERATOR))

lobby-javascript:
	$(call lobby_build,javascript,$(NPM) --version && node -e 'process.exitCode = Number(parseInt(process.versions.node) < 20)',node 20 or later with npm,$(NODE_TOOLS))

lobby-python:
	$(call lobby_build,python,$(PYTHON) -c 'import ensurepip',python3 with venv,$(PYTHON_TOOLS))

lobby-zig:
	$(call lobby_build,zig,$(CARGO) --version && $(PYTHON) -c 'import ensurepip',cargo and python3 with venv,$(GENERATOR) $(ZIG_TOOLS))

include plugins/tools.mk

lobby-target:
	@if command -v rustup >/dev/null; then rustup target list --installed | grep -qx wasm32-wasip2 || rustup target add wasm32-wasip2; fi

# -- components --

$(LOBBY_OUT)/rust.wasm: $(wildcard $(LOBBY)/rust/Cargo.toml $(LOBBY)/rust/src/*.rs plugin-sdk/Cargo.toml plugin-sdk/src/*.rs) Cargo.toml Cargo.lock $(LOBBY_WIT)
	$(CARGO) build --profile plugin --locked --target wasm32-wasip2 -p lobby
	@mkdir -p $(@D)
	cp target/wasm32-wasip2/plugin/lobby.wasm $@

$(LOBBY_OUT)/c.wasm: $(wildcard $(LOBBY)/c/*.[ch]) $(LOBBY_WIT) $(GENERATOR) $(ZIG_TOOLS)
	$(call c_bindings,$(LOBBY_WIT),game,$(LOBBY_INTERFACES),$(@:.wasm=))
	$(ZIG) cc -target wasm32-wasi -mexec-model=reactor -std=c17 -Os -Wall -Wextra -Werror -I$(@:.wasm=) \
		$(LOBBY)/c/*.c $(@:.wasm=)/plugin.c $(@:.wasm=)/plugin_component_type.o -o $(@:.wasm=)/core.wasm
	$(WASM_TOOLS) component new $(@:.wasm=)/core.wasm -o $@

# The stack protector is off, since it would import random numbers from WASI.
$(LOBBY_OUT)/zig.wasm: $(LOBBY)/zig/lobby.zig $(LOBBY_WIT) $(GENERATOR) $(ZIG_TOOLS)
	$(call c_bindings,$(LOBBY_WIT),game,$(LOBBY_INTERFACES),$(@:.wasm=))
	$(ZIG) translate-c -lc -target wasm32-wasi $(@:.wasm=)/plugin.h > $(@:.wasm=)/plugin.zig
	$(ZIG) build-exe -mexec-model=reactor -fno-entry -fstrip -fno-stack-protector \
		-target wasm32-wasi -O ReleaseSafe -lc -I$(@:.wasm=) $(@:.wasm=)/plugin.c $(@:.wasm=)/plugin_component_type.o \
		--dep plugin -Mroot=$< -target wasm32-wasi -O ReleaseSafe -Mplugin=$(@:.wasm=)/plugin.zig -femit-bin=$(@:.wasm=)/core.wasm
	$(WASM_TOOLS) component new $(@:.wasm=)/core.wasm -o $@

$(LOBBY_OUT)/go.wasm: $(wildcard $(LOBBY)/go/*.go $(LOBBY)/go/go.mod) $(LOBBY_WIT) $(GENERATOR)
	$(call go_bindings,$(LOBBY_WIT),game,$(LOBBY_OUT)/go,../../../$(LOBBY)/go)
	cd $(LOBBY_OUT)/go && GOWORK=off GOOS=wasip1 GOARCH=wasm $(GO) build -buildmode=c-shared -trimpath \
		-ldflags='-s -w -checklinkname=0' -o core.wasm .
	$(WASM_TOOLS) component embed $(LOBBY_WIT) --world game $(LOBBY_OUT)/go/core.wasm \
		-o $(LOBBY_OUT)/go/embedded.wasm
	$(WASM_TOOLS) component new $(LOBBY_OUT)/go/embedded.wasm --adapt $(WIT_ADAPTER) -o $@

# A gateway has no HTTP. The engine's other features work in a gateway: console, clocks and random numbers.
$(LOBBY_OUT)/javascript.wasm: $(LOBBY)/javascript/lobby.js $(LOBBY_WIT) $(NODE_TOOLS)
	$(COMPONENTIZE_JS) $< --wit $(LOBBY_WIT) --world-name game --disable http fetch-event --out $@

# The bindings are for editors, and the component contains bindings of its own. The script is copied, since Python
# writes its cache into the folder of an imported script.
$(LOBBY_OUT)/python.wasm: $(LOBBY)/python/lobby.py $(LOBBY_WIT) $(PYTHON_TOOLS)
	rm -rf $(@:.wasm=)/bindings
	mkdir -p $(@:.wasm=)/source
	cp $< $(@:.wasm=)/source
	$(COMPONENTIZE_PY) -q -d $(LOBBY_WIT) -w game bindings $(@:.wasm=)/bindings
	$(COMPONENTIZE_PY) -q -d $(LOBBY_WIT) -w game componentize -p $(@:.wasm=)/source -o $@ lobby
