# make deploy-tools   installs the programs that the tests of deploy/ give its files to
#
# The Makefile at the root of the repository includes this file. If a program cannot be installed, make says so, and the tests skip what needs it. With CI=true in the
# environment, this is an error.


.PHONY: deploy-tools

# $(call deploy_tool,PROGRAM,COMMAND) runs the command that installs the program.
define deploy_tool
	@($(2)) || { echo "SKIPPED: $(1) cannot be installed; the output above has the reason" >&2; [ "$$CI" != true ]; }
endef

# The package of Prometheus has promtool as well.
deploy-tools:
	$(call deploy_tool,prometheus,tests/install prometheus prometheus golang-github-prometheus prometheus prometheus)
	$(call deploy_tool,systemd-analyze,tests/install systemd-analyze systemd)
	$(call deploy_tool,mandoc,tests/install mandoc)
	$(call deploy_tool,fish,tests/install fish)
	$(call deploy_tool,zsh,tests/install zsh)

