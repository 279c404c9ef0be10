# make backends   builds the sample backends of deploy/backends, as their README.md says, into target/backends
#
# The Makefile at the root of the repository includes this file, so paths begin there. Each sample is copied below
# target, and its packages are installed there, never for the whole machine.
#
# If the tools of a language are missing, make skips its sample with a message, and removes the earlier build. With
# CI=true in the environment, missing tools are an error.

BACKENDS     := deploy/backends
BACKENDS_OUT := target/backends
CHAT_PROTO   := proto/chat/proto
CHAT_FILES   := $(addprefix $(CHAT_PROTO)/,chat.proto common.proto)

.PHONY: backends backend-python backend-node backend-go protoc

backends: backend-python backend-node backend-go

# $(call backend,LANGUAGE,TEST,TOOLS,FILE) builds the FILE of a sample. TEST is a command that succeeds if the tools are
# installed. TOOLS are their names in the message.
define backend
	@skipped() { rm -rf $(BACKENDS_OUT)/$(1); echo "SKIPPED: the backend in $(1): $$1" >&2; [ "$$CI" != true ]; }; \
	if ! ($(2)) >/dev/null 2>&1; then skipped "it needs $(3)"; \
	elif ! $(MAKE) -s --no-print-directory $(BACKENDS_OUT)/$(1)/$(4); then skipped "it cannot be built; the output above has the reason"; fi
endef

backend-python:
	$(call backend,python,python3 -c 'import ensurepip' && python3 --version | grep -E ' 3\.([1-9][0-9])',python 3.10 or later with venv,backend.py)

backend-node:
	$(call backend,node,node -e 'process.exitCode = Number(parseInt(process.versions.node) < 20)' && npm --version,node 20 or later with npm,backend.mjs)

backend-go: protoc
	$(call backend,go,protoc --version && go version | grep -E 'go1\.(2[6-9]|[3-9][0-9])',protoc and go 1.26 or later,backend)

protoc:
	@tests/install protoc protobuf-compiler protobuf-compiler protoc protobuf

# The program is copied last, so its copy means that its packages are installed.
$(BACKENDS_OUT)/python/backend.py: $(addprefix $(BACKENDS)/python/,backend.py requirements.txt) $(CHAT_FILES)
	@mkdir -p $(@D)
	python3 -m venv $(@D)/venv
	$(@D)/venv/bin/pip install -q --disable-pip-version-check -r $(BACKENDS)/python/requirements.txt
	$(@D)/venv/bin/python -m grpc_tools.protoc -I $(CHAT_PROTO) --python_out=$(@D) chat.proto common.proto
	cp $< $@

$(BACKENDS_OUT)/node/backend.mjs: $(addprefix $(BACKENDS)/node/,backend.mjs package.json package-lock.json)
	@mkdir -p $(@D)
	cp $(filter %.json,$^) $(@D)
	cd $(@D) && npm ci --ignore-scripts --no-audit --no-fund --silent
	cp $< $@

$(BACKENDS_OUT)/go/backend: export GOMODCACHE := $(abspath $(BACKENDS_OUT)/go/modules)
$(BACKENDS_OUT)/go/backend: export GOBIN := $(abspath $(BACKENDS_OUT)/go/bin)
$(BACKENDS_OUT)/go/backend: export GOWORK := off
$(BACKENDS_OUT)/go/backend: export GOFLAGS := -modcacherw
$(BACKENDS_OUT)/go/backend: $(addprefix $(BACKENDS)/go/,backend.go go.mod go.sum) $(CHAT_FILES)
	@mkdir -p $(@D)
	cp $(filter $(BACKENDS)/%,$^) $(@D)
	cd $(@D) && go install tool
	protoc -I $(CHAT_PROTO) --plugin=$(@D)/bin/protoc-gen-go --go_out=$(@D) --go_opt=module=backend \
		--go_opt=Mchat.proto=backend/chat --go_opt=Mcommon.proto=backend/common chat.proto common.proto
	cd $(@D) && go build .
