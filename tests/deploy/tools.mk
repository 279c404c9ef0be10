# make deploy-tools   installs the programs that the tests of deploy/ give its files to
#
# The Makefile at the root of the repository includes this file. If a program cannot be installed, make says so, and the
# tests skip what needs it. With CI=true in the environment, this is an error.

.PHONY: deploy-tools

# $(call deploy_tool,COMMAND APT DNF APK BREW) installs the package of a command, as tests/install does.
define deploy_tool
	@tests/install $(1) || { echo "SKIPPED: $(firstword $(1)) cannot be installed; the output above has the reason" >&2; [ "$$CI" != true ]; }
endef

# The package has promtool as well.
deploy-tools:
	$(call deploy_tool,prometheus prometheus golang-github-prometheus prometheus prometheus)
