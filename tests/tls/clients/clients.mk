# make tls-clients   builds the WebSocket clients of tests/tls/clients in other languages, into target/tls-clients
#
# The Makefile at the root of the repository includes this file, so paths begin there. The npm package `ws` and the Go
# module are installed below target, never for the whole machine. The browser needs no build.
#
# If the tools of a client are missing, make skips the client with a message, and removes its earlier build. With CI=true
# in the environment, missing tools are an error.

TLS_CLIENTS := tests/tls/clients
TLS_OUT     := target/tls-clients

.PHONY: tls-clients tls-client-node tls-client-go tls-client-java

tls-clients: tls-client-node tls-client-go tls-client-java

# $(call tls_client,CLIENT,TEST,TOOLS,FILE) builds the FILE of a client. TEST is a command that succeeds if the tools are
# installed. TOOLS are their names in the message.
define tls_client
	@skipped() { rm -rf $(TLS_OUT)/$(1); echo "SKIPPED: the TLS client $(1): $$1" >&2; [ "$$CI" != true ]; }; \
	if ! ($(2)) >/dev/null 2>&1; then skipped "it needs $(3)"; \
	elif ! $(MAKE) -s --no-print-directory $(TLS_OUT)/$(1)/$(4); then skipped "it cannot be built; the output above has the reason"; fi
endef

tls-client-node:
	$(call tls_client,node,node -e 'process.exitCode = Number(parseInt(process.versions.node) < 20)' && npm --version,node 20 or later with npm,client.mjs)

tls-client-go:
	$(call tls_client,go,go version | grep -E 'go1\.(2[6-9]|[3-9][0-9])',go 1.26 or later,client)

tls-client-java:
	$(call tls_client,java,java -version && javac -version 2>&1 | grep -E 'javac (1[7-9]|[2-9][0-9])',a JDK 17 or later,Client.class)

# The script is copied last, so its copy means that the package is installed.
$(TLS_OUT)/node/client.mjs: $(addprefix $(TLS_CLIENTS)/node/,client.mjs package.json package-lock.json)
	@mkdir -p $(@D)
	cp $(filter %.json,$^) $(@D)
	cd $(@D) && npm ci --ignore-scripts --no-audit --no-fund --silent
	cp $(TLS_CLIENTS)/node/client.mjs $(@D)

$(TLS_OUT)/go/client: $(addprefix $(TLS_CLIENTS)/go/,client.go go.mod go.sum)
	cd $(TLS_CLIENTS)/go && GOWORK=off GOMODCACHE=$(abspath $(@D))/modules go build -modcacherw -trimpath -o $(abspath $@) .

$(TLS_OUT)/java/Client.class: $(TLS_CLIENTS)/java/Client.java
	javac --release 17 -Xlint:all -Werror -d $(@D) $<
