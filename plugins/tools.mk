# Installs the tools that build plugins in languages other than Rust, and generates bindings for C, Zig and Go. Each
# tool has a fixed version and is installed below $(TOOLS), never for the whole machine. plugins/lobby/lobby.mk includes
# this file. `gateway plugin new` copies this file into the folders that it writes, except for Rust.

TOOLS  ?= .tools
CARGO  ?= cargo
GO     ?= go
NPM    ?= npm
PYTHON ?= python3

WIT_BINDGEN_VERSION     := 0.61.1
WIT_ADAPTER_VERSION     := 46.0.1
WASM_TOOLS_VERSION      := 1.263.0
ZIG_VERSION             := 0.17.1
COMPONENTIZE_PY_VERSION := 0.25.1

WIT_BINDGEN     := $(TOOLS)/bin/wit-bindgen
WIT_ADAPTER     := $(TOOLS)/wasi_snapshot_preview1.reactor.wasm
WASM_TOOLS      := $(TOOLS)/bin/wasm-tools
ZIG             := $(TOOLS)/zig/bin/python -m ziglang
NODE_BIN        := $(TOOLS)/node/node_modules/.bin
COMPONENTIZE_JS := $(NODE_BIN)/componentize-js
COMPONENTIZE_PY := $(TOOLS)/python/bin/componentize-py

# The folder of package.json and package-lock.json, which have the versions of the tools for JavaScript and TypeScript.
NODE_PACKAGE ?= .

# A build depends on these empty files. The name of each file contains the installed version of a tool. For JavaScript
# and TypeScript the name contains the checksum of package-lock.json instead.
GENERATOR      := $(TOOLS)/.wit-bindgen-$(WIT_BINDGEN_VERSION) $(TOOLS)/.wasm-tools-$(WASM_TOOLS_VERSION)
ZIG_TOOLS      := $(TOOLS)/.zig-$(ZIG_VERSION)
NODE_TOOLS     := $(TOOLS)/.node-$(firstword $(shell cksum $(NODE_PACKAGE)/package-lock.json 2>/dev/null))
PYTHON_TOOLS   := $(TOOLS)/.componentize-py-$(COMPONENTIZE_PY_VERSION)

# The tools are built without optimisation. The build is faster, the tools run only for milliseconds, and their output
# is the same.
cargo_install = CARGO_PROFILE_DEV_DEBUG=false $(CARGO) install --debug --locked --root $(TOOLS) --no-default-features
crates        = "$${CARGO_HOME:-$$HOME/.cargo}"/registry/src/*

# Go needs two more parts, which cargo downloads with wit-bindgen: the runtime of the generated code, and the adapter
# that turns a module for WASI 0.1 into a component.
$(TOOLS)/.wit-bindgen-$(WIT_BINDGEN_VERSION):
	$(cargo_install) --features c,go --version $(WIT_BINDGEN_VERSION) wit-bindgen-cli
	rm -rf $(TOOLS)/wit-go
	set -- $(crates)/wit-bindgen-go-$(WIT_BINDGEN_VERSION)/src/pkg && cp -R "$$1" $(TOOLS)/wit-go
	set -- $(crates)/wasi-preview1-component-adapter-provider-$(WIT_ADAPTER_VERSION)/artefacts/$(notdir $(WIT_ADAPTER)) && \
		cp "$$1" $(WIT_ADAPTER)
	touch $@

$(TOOLS)/.wasm-tools-$(WASM_TOOLS_VERSION):
	$(cargo_install) --features component --version $(WASM_TOOLS_VERSION) wasm-tools
	touch $@

# Zig builds the plugins in Zig and in C, since it includes clang, a linker and a libc for WebAssembly.
$(ZIG_TOOLS):
	$(PYTHON) -m venv --clear $(TOOLS)/zig
	$(TOOLS)/zig/bin/pip install -q --disable-pip-version-check ziglang==$(ZIG_VERSION)
	touch $@

$(NODE_TOOLS):
	mkdir -p $(TOOLS)/node
	cp $(NODE_PACKAGE)/package.json $(NODE_PACKAGE)/package-lock.json $(TOOLS)/node
	cd $(TOOLS)/node && $(NPM) ci --ignore-scripts --no-audit --no-fund
	touch $@

$(PYTHON_TOOLS):
	$(PYTHON) -m venv --clear $(TOOLS)/python
	$(TOOLS)/python/bin/pip install -q --disable-pip-version-check componentize-py==$(COMPONENTIZE_PY_VERSION)
	touch $@

# -- bindings --

# $(call c_bindings,WIT,WORLD,INTERFACES,FOLDER) generates plugin.h and plugin.c. INTERFACES are those that the world
# exports. The renames shorten the names in the bindings: the prefix of an interface becomes its name, without package
# and version, and the prefix of the world becomes `plugin`.
c_bindings = $(WIT_BINDGEN) c $(1) --world $(2) --rename-world plugin --out-dir $(4) \
	$(foreach interface,types log state attributes $(3),--rename gateway:policy/$(interface)@0.2.3=$(interface))

# $(call go_bindings,WIT,WORLD,FOLDER,POLICY) generates the Go module `wit_component` in FOLDER. POLICY is the path from
# there to the plugin's own module, which is named `policy`.
#
# The generated code imports one package for each exported interface. The edit puts the module `policy` in the place of
# all of them.
define go_bindings
	$(WIT_BINDGEN) go $(1) --world $(2) --out-dir $(3)
	sed -i.generated 's|"wit_component/\(export_[a-z_]*\)"|\1 "policy"|' $(3)/wit_exports.go
	cd $(3) && $(GO) mod edit -go=1.26 -replace=go.bytecodealliance.org/pkg=$(abspath $(TOOLS))/wit-go \
		-require=policy@v0.0.0 -replace=policy=$(4)
endef
