# make deploy-tools   installs the programs that the tests of deploy/ give its files to
#
# The Makefile at the root of the repository includes this file. Programs that distributions do not have are installed
# below target/tools. If a program cannot be installed, make says so, and the tests skip what needs it. With CI=true in the
# environment, this is an error.

COMPOSE_GO          := v2.16.2
DOCKERFILE_UTILS    := 0.16.3
KUBERNETES_VALIDATE := 1.37.0

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
	$(call deploy_tool,kubernetes-validate,$(MAKE) -s target/tools/kubernetes-validate/$(KUBERNETES_VALIDATE))
	$(call deploy_tool,compose-go,$(MAKE) -s target/tools/compose-go/$(COMPOSE_GO))
	$(call deploy_tool,dockerfile-utils,$(MAKE) -s target/tools/dockerfile-utils/$(DOCKERFILE_UTILS))

# A file with the version says that this version is installed. The schemas are in the package, so nothing is fetched later.
target/tools/kubernetes-validate/$(KUBERNETES_VALIDATE):
	rm -rf $(@D)
	python3 -m venv $(@D)
	$(@D)/bin/pip install -q --disable-pip-version-check kubernetes-validate==$(KUBERNETES_VALIDATE)
	touch $@

# The reference implementation of the specification of Compose.
target/tools/compose-go/$(COMPOSE_GO):
	rm -rf $(@D)
	mkdir -p $(@D)
	GOBIN=$(abspath $(@D)) GOWORK=off go install -trimpath github.com/compose-spec/compose-go/v2/cmd@$(COMPOSE_GO)
	mv $(@D)/cmd $(@D)/compose-go
	touch $@

target/tools/dockerfile-utils/$(DOCKERFILE_UTILS):
	rm -rf $(@D)
	npm install --prefix $(@D) --ignore-scripts --no-audit --no-fund --silent dockerfile-utils@$(DOCKERFILE_UTILS)
	touch $@
