# `make demo` runs a drop, `make check` the checks before a commit, `make test` all tests. Each sets up
# .venv first and needs only Python 3.11 or later, its venv module, and make. With a C compiler (CC,
# CFLAGS) it builds the native program, too.

PYTHON ?= python3
BIN := .venv/bin
NATIVE := daemon/wasmdrop/sandbox/guest/native
# More arguments for pytest, such as `-k name`.
PYTEST_ARGS ?=

.PHONY: help setup setup-dev demo demo-fleet check test lint bench soak torture torture-fleet lock man dist \
  release-check clean install-systemd uninstall-systemd k8s-apply k8s-clean

help:
	@echo 'make setup, make setup-dev   make .venv with the daemon; with the tools of developers, too'
	@echo 'make demo     run a drop and show its result'
	@echo 'make demo-fleet   run 200 jobs on two workers, and kill one in the middle'
	@echo 'make check    run linters, type and import checks, and the unit tests'
	@echo 'make test     run linters and all tests'
	@echo 'make bench    run the benchmarks'
	@echo 'make soak     run 10,000 jobs, a third of them hostile, and check what they leave behind'
	@echo 'make torture  kill the daemon 200 times during 50,000 jobs, and simulate power cuts'
	@echo 'make torture-fleet  the same for a fleet: 20,000 jobs, servers wiped, machines cut off; as root'
	@echo 'make install-systemd, make uninstall-systemd   the service on this host; see docs/deploy/systemd.md'
	@echo 'make k8s-apply, make k8s-clean   the daemon in the current cluster of kubectl'
	@echo 'make man      make the man pages in docs/man from the commands'
	@echo 'make dist     build the source distribution, the wheel and the bill of materials'
	@echo 'make release-check   do what the release workflow does, and check the result'
	@echo 'make lock     pin the newest versions of all dependencies'
	@echo 'make clean    remove the virtual environment, builds and caches'

setup: .venv/installed
setup-dev: .venv/installed-dev

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "wasmdrop needs Python 3.11 or later")'
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python requirements.lock pyproject.toml setup.py $(wildcard $(NATIVE)/*.[ch])
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@test -x $(NATIVE)/zygote || echo 'The native program was not built: jobs run in the slower Python guest.' \
	  'Install a C compiler, then run: make clean setup'
	touch $@

.venv/installed-dev: .venv/installed requirements-dev.lock
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-dev.lock
	touch $@

demo: setup
	$(BIN)/python scripts/demo.py

# The server is one of the developers' tools.
demo-fleet: setup-dev
	$(BIN)/python scripts/demo_fleet.py

lint: setup-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/unit $(PYTEST_ARGS)

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

bench: setup-dev
	$(BIN)/python benchmarks/results.py

man: setup-dev
	$(BIN)/python -m scripts.man_pages

soak: setup-dev
	$(BIN)/python -m tests.security.soak

torture: setup-dev
	$(BIN)/python -m tests.support.durability.storm
	$(BIN)/python -m tests.support.durability.storm --controls --kills 50 --jobs 5000
	@[ "$$(id -u)" != 0 ] || $(BIN)/python -m tests.support.durability.storm --full-disks --kills 20 --jobs 2000
	WASMDROP_TORTURE=long $(BIN)/python -m pytest -n 2 -rP tests/durability
	$(BIN)/python -m pytest -n 2 -rP -m slow

torture-fleet: setup-dev
	$(BIN)/python -m tests.support.fleet.storm

# systemd/install.sh documents these variables.
export DESTDIR PREFIX INSTANCE PURGE
install-systemd uninstall-systemd:
	PYTHON='$(PYTHON)' systemd/install.sh $(@:-systemd=)

k8s-apply:
	kubectl apply --kustomize k8s
	kubectl --namespace wasmdrop rollout status deployment/wasmdrop --timeout=120s

# Deletes the namespace with its volume claims, and so all results and the journal.
k8s-clean:
	kubectl delete --kustomize k8s --ignore-not-found

export CUSTOM_COMPILE_COMMAND = make lock
PIP_COMPILE := $(BIN)/pip-compile --quiet --allow-unsafe --generate-hashes --no-emit-index-url \
  --no-emit-find-links --no-emit-trusted-host --strip-extras
lock: .venv/bin/python
	$(BIN)/python -m pip install --quiet pip-tools
	$(PIP_COMPILE) --build-deps-for editable -o requirements.lock pyproject.toml
	$(PIP_COMPILE) --extra receipts --extra fleet --build-deps-for editable -c requirements.lock \
	  -o requirements-extras.lock pyproject.toml
	$(PIP_COMPILE) --extra dev --extra receipts --extra fleet -c requirements-extras.lock -o requirements-dev.lock pyproject.toml
	$(PIP_COMPILE) -o requirements-release.lock requirements-release.in

# The files of a release, and the checks of its workflow. docs/releasing.md documents VERSION.
.venv-release/installed: requirements-release.lock
	$(PYTHON) -m venv .venv-release
	.venv-release/bin/python -m pip install --quiet --require-hashes -r requirements-release.lock
	touch $@

dist: .venv-release/installed
	.venv-release/bin/python -m scripts.release.distribution

export VERSION
release-check: .venv-release/installed
	.venv-release/bin/python -m scripts.release.check

clean:
	rm -rf .venv .venv-release build dist $(NATIVE)/zygote examples/build host/state .coverage .hypothesis .import_linter_cache \
	  .mypy_cache .pytest_cache .ruff_cache
