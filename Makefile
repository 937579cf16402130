# `make` alone explains the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete
TYPES := build/types
BENCH := build/bench-venv
# Tests of faults wait for a third of their time, so three keep two cores busy; each has a broker of its own. With three
# of the others, a page or a command may take longer than a user would wait. Not `--dist loadfile`: it loses tests that
# have the same name, as those that schemathesis makes.
SIDE_BY_SIDE := --dist worksteal --numprocesses
DOCKER_HINT := or, for all but the tests, run a broker with Docker (docker compose -f deploy/compose.yaml up -d kafka) and name it under [kafka] brokers in the file given to livejobs --config

.DEFAULT_GOAL := help
.PHONY: help screenshots demo test soak bench check lint types lock clean need-python need-broker
.DELETE_ON_ERROR:

help: ## print this
	@echo 'livejobs: live jobs of simulation and build farms, over Kafka'
	@echo
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: need-broker $(STAMP) ## broker, topics, worker and a simulated farm on this machine; Ctrl-C ends it
	$(BIN)/livejobs demo

test: need-broker $(STAMP) ## all tests; they start a real Kafka
	$(BIN)/pytest -q $(SIDE_BY_SIDE) 3 tests/recovery
	$(BIN)/pytest -q $(SIDE_BY_SIDE) 2 --ignore tests/recovery

soak: need-broker $(STAMP) ## the tests of faults in their long form: more faults, longer outages
	$(BIN)/pytest -q --soak tests/recovery

bench: need-broker $(STAMP) $(BENCH)/.complete ## measure, beside Kafka Streams; ARGS='catch_up --runs 5' for a part of it
	PYTHONPATH=tests $(BENCH)/bin/python -m bench $(ARGS)

screenshots: need-broker $(STAMP) ## make the README's pictures of the page anew
	PYTHONPATH=tests $(BIN)/python -m screenshots

check: lint types ## what needs no broker: ruff, mypy

lint: $(STAMP)
	$(BIN)/ruff check .

# Folders import under other names than they have on disk; mypy finds them through a tree of links.
types: $(STAMP)
	@mkdir -p $(TYPES)/livejobs
	@for part in deploy streams tables; do ln -sfn "$(CURDIR)/$$part" $(TYPES)/livejobs/$$part; done
	MYPYPATH=$(TYPES) $(BIN)/mypy --cache-dir build/mypy -p livejobs.deploy -p livejobs.streams -p livejobs.tables

lock: need-python ## resolve the dependencies anew into deploy/*.lock; with UPGRADE=1 to the newest allowed
	@test -x $(BIN)/uv || { $(PYTHON) -m venv $(VENV) && mkdir -p build && \
		sed -n '/^uv==/,/[^\\]$$/p' deploy/requirements.lock > build/uv.lock && \
		$(BIN)/pip install --quiet --require-hashes -r build/uv.lock; }
	$(BIN)/uv pip compile $(UV_FLAGS) --all-extras --output-file deploy/requirements.lock pyproject.toml
	$(BIN)/uv pip compile $(UV_FLAGS) --extra worker --extra web --constraint deploy/requirements.lock \
		--output-file deploy/worker.lock pyproject.toml
	$(BIN)/uv pip compile $(UV_FLAGS) --extra worker --group bench --constraint deploy/requirements.lock \
		--output-file deploy/bench.lock pyproject.toml
	@if grep -n '://' deploy/*.lock; then echo 'a lock names an address' >&2; exit 1; fi
	cd deploy/page && npm install --package-lock-only --ignore-scripts --no-audit --no-fund
	$(PYTHON) -c "import json, pathlib; p = pathlib.Path('deploy/page/package-lock.json'); d = json.loads(p.read_text()); \
		[e.pop('funding', None) for e in d['packages'].values()]; p.write_text(json.dumps(d, indent=2) + '\n')"
	@if grep -n '"resolved"\|://' deploy/page/package-lock.json; then echo 'a lock names an address' >&2; exit 1; fi
UV_FLAGS = --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url \
	--no-emit-find-links --custom-compile-command 'make lock' $(if $(UPGRADE),--upgrade)

clean: ## remove what make made; the broker's jars stay in ~/.cache/livejobs
	rm -rf $(VENV) build dist *.egg-info streams/static/vendor .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(STAMP): pyproject.toml tables/_native.pyx deploy/requirements.lock deploy/page/package-lock.json deploy/build_backend.py \
		| need-python
	@echo 'preparing $(VENV)'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r deploy/requirements.lock
	@$(BIN)/python deploy/build_backend.py
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -c 'import livejobs.tables._native' 2>/dev/null || \
		echo 'no C compiler or no Python headers: livejobs works without its compiled part, at a third of the speed' >&2
	@touch $@

$(BENCH)/.complete: deploy/bench.lock | need-python
	@echo 'preparing $(BENCH)'
	@$(PYTHON) -m venv $(BENCH)
	@$(BENCH)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r deploy/bench.lock
	@touch $@

need-python:
	@command -v $(PYTHON) >/dev/null || \
		{ echo 'no $(PYTHON): install Python 3.11 or newer, or name it: make PYTHON=...' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is $$($(PYTHON) --version): install Python 3.11 or newer, or name it: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo '$(PYTHON) has no venv module: install it (on Debian: python3-venv)' >&2; exit 1; }

need-broker:
	@java=$${JAVA_HOME:+$$JAVA_HOME/bin/}java; \
	command -v "$$java" >/dev/null || \
		{ echo 'no java: install Java 17 or newer (it runs Kafka), $(DOCKER_HINT)' >&2; exit 1; }; \
	version=$$("$$java" -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -n 1); \
	test "$${version:-0}" -ge 17 || \
		{ echo "java is version $${version:-unknown}: install Java 17 or newer (it runs Kafka), $(DOCKER_HINT)" >&2; exit 1; }
	@command -v mvn >/dev/null || \
		{ echo 'no mvn: install Maven 3.6 or newer (it fetches Kafka, once), $(DOCKER_HINT)' >&2; exit 1; }
