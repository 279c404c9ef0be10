# make csharp   compiles the client in C# with its tests, into target/csharp
#
# A game copies the sources, so nothing here is for games. The Makefile at the root of the repository includes this
# file, so paths begin there. If Mono's compiler is missing, make skips the client with a message, and removes its
# earlier build. With CI=true in the environment, a missing compiler is an error.

CSHARP     := client/csharp
CSHARP_OUT := target/csharp

.PHONY: csharp

csharp:
	@skipped() { rm -rf $(CSHARP_OUT); echo "SKIPPED: the C# client: $$1" >&2; [ "$$CI" != true ]; }; \
	if ! (mcs --version && mono --version) >/dev/null 2>&1; then skipped "it needs Mono with its compiler mcs"; \
	else $(MAKE) -s --no-print-directory $(CSHARP_OUT)/client-tests.exe; fi

# Unity has later versions of the language, and takes this one too.
$(CSHARP_OUT)/client-tests.exe: $(wildcard $(CSHARP)/Runtime/*.cs $(CSHARP)/Tests~/*.cs $(CSHARP)/Samples~/*/*.cs)
	@mkdir -p $(@D)
	mcs -langversion:7.2 -warnaserror -out:$@ $^
