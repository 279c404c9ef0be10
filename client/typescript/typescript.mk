# make typescript   builds the client for browsers and Node, into target/typescript
#
# target/typescript is the package for npm. Its file gateway-client.min.js is the whole client as one ES module. The
# compiler and the bundler are installed below target, never for the whole machine.
#
# The Makefile at the root of the repository includes this file, so paths begin there. If Node is missing, make skips the
# client with a message, and removes its earlier build. With CI=true in the environment, a missing Node is an error.

TYPESCRIPT     := client/typescript
TYPESCRIPT_OUT := target/typescript

.PHONY: typescript

typescript:
	@skipped() { rm -rf $(TYPESCRIPT_OUT); echo "SKIPPED: the TypeScript client: $$1" >&2; [ "$$CI" != true ]; }; \
	if ! (node -e 'process.exitCode = Number(parseInt(process.versions.node) < 20)' && npm --version) >/dev/null 2>&1; then \
		skipped "it needs node 20 or later with npm"; \
	elif ! $(MAKE) -s --no-print-directory $(TYPESCRIPT_OUT)/node_modules; then \
		skipped "its compiler cannot be installed; the output above has the reason"; \
	else \
		$(MAKE) -s --no-print-directory $(TYPESCRIPT_OUT)/gateway-client.min.js; \
	fi

$(TYPESCRIPT_OUT)/node_modules: $(TYPESCRIPT)/package.json $(TYPESCRIPT)/package-lock.json
	@mkdir -p $(@D)
	cp $^ $(@D)
	cd $(@D) && npm ci --ignore-scripts --no-audit --no-fund --silent
	@touch $@

$(TYPESCRIPT_OUT)/gateway-client.min.js: $(TYPESCRIPT_OUT)/node_modules $(TYPESCRIPT)/tsconfig.json $(TYPESCRIPT)/README.md $(wildcard $(TYPESCRIPT)/src/*.ts $(TYPESCRIPT)/test/*)
	rm -rf $(@D)/dist $(@D)/test
	$</.bin/tsc -p $(TYPESCRIPT) --outDir $(@D)/dist
	$</.bin/tsc -p $(TYPESCRIPT)/test
	cp -r $(TYPESCRIPT)/test $(TYPESCRIPT)/README.md LICENSE $(@D)
	$</.bin/esbuild $(TYPESCRIPT)/src/index.ts --bundle --minify --format=esm --target=es2022 --log-level=warning --outfile=$@
