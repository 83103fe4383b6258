# `make demo` shows a drop turn into a result; `make test` runs all tests. Both set up what they
# need in .venv first, with nothing but Python 3.11 or later, its venv module, and make.

PYTHON ?= python3
BIN := .venv/bin
# More arguments for pytest, such as `-k name`.
PYTEST_ARGS ?=

.PHONY: help setup setup-dev demo check test lint bench soak torture lock clean install-systemd \
  uninstall-systemd k8s-apply k8s-clean

help:
	@echo 'make demo   set up, then show a real drop turn into a result'
	@echo 'make check  set up, then run the linters, type and import checks, and the unit tests'
	@echo 'make test   set up, then run the linters and all tests'
	@echo 'make bench  set up, then measure'
	@echo 'make soak   set up, then run 10,000 jobs, a third of them hostile, and see what they leave'
	@echo 'make torture  set up, then kill the daemon 200 times among 50,000 jobs, and cut its power'
	@echo 'make install-systemd, make uninstall-systemd   the service of this host; see docs/deploy/systemd.md'
	@echo 'make k8s-apply, make k8s-clean   the daemon in the cluster that kubectl talks to'
	@echo 'make lock   pin the newest versions of all dependencies'
	@echo 'make clean  remove what the above made'

setup: .venv/installed
setup-dev: .venv/installed-dev

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "wasmdrop needs Python 3.11 or later")'
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python requirements.lock pyproject.toml
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

.venv/installed-dev: .venv/installed requirements-dev.lock
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-dev.lock
	touch $@

demo: setup
	$(BIN)/python scripts/demo.py

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

soak: setup-dev
	$(BIN)/python -m tests.security.soak

torture: setup-dev
	$(BIN)/python -m tests.support.durability.storm
	WASMDROP_TORTURE=long $(BIN)/python -m pytest -n 2 -rP tests/durability

# DESTDIR, PREFIX, INSTANCE and PURGE as systemd/install.sh says.
export DESTDIR PREFIX INSTANCE PURGE
install-systemd uninstall-systemd:
	PYTHON='$(PYTHON)' systemd/install.sh $(@:-systemd=)

k8s-apply:
	kubectl apply --kustomize k8s
	kubectl --namespace wasmdrop rollout status deployment/wasmdrop --timeout=120s

# With the namespace go the claims, and with them results and journal.
k8s-clean:
	kubectl delete --kustomize k8s --ignore-not-found

export CUSTOM_COMPILE_COMMAND = make lock
lock: .venv/bin/python
	$(BIN)/python -m pip install --quiet pip-tools
	$(BIN)/pip-compile --quiet --allow-unsafe --generate-hashes --no-emit-index-url --no-emit-find-links \
	  --no-emit-trusted-host --strip-extras --build-deps-for editable -o requirements.lock pyproject.toml
	$(BIN)/pip-compile --quiet --allow-unsafe --generate-hashes --no-emit-index-url --no-emit-find-links \
	  --no-emit-trusted-host --strip-extras --extra dev -c requirements.lock -o requirements-dev.lock pyproject.toml

clean:
	rm -rf .venv build examples/build host/state .mypy_cache .ruff_cache .pytest_cache .hypothesis
