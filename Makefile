# lafsfs: everything a developer or a curious stranger runs. `make help` lists the targets.

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOCK := contrib/requirements.lock

# A real Tahoe-LAFS 1.20 to work with: one that is there already, else one of our own.
TAHOE_PREINSTALLED := $(wildcard /opt/tahoe/bin/tahoe)
LAFSFS_TAHOE_VENV ?= $(if $(TAHOE_PREINSTALLED),/opt/tahoe,$(CURDIR)/.tahoe-venv)
TAHOE := $(LAFSFS_TAHOE_VENV)/bin/tahoe

# PYTEST_ARGS adds to the command line of any test target. Compiled tests are kept also where
# PYTHONDONTWRITEBYTECODE is set: compiling all of them takes each process of a run ten seconds.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest
PYTEST_ARGS ?=
SEED ?= 1
ROUNDS ?= 200
SECONDS ?= 600
BENCH_OUT ?= build/bench

.PHONY: help install lock check format test interop scenario vectors crash contention soak posix pjdfstest bench scale plots demo stop clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

# Where PYTHONDONTWRITEBYTECODE is set, each process would compile all modules again: half a second.
install: $(STAMP) ## install what is missing and make .venv (nothing the second time)
	@$(BIN)/python -m compileall -q lafsfs storage_server

$(STAMP): $(LOCK) pyproject.toml
	@sh contrib/install/system.sh
	@sh contrib/install/venv.sh $(VENV) $(LOCK)
	@touch $@

lock: install ## resolve the dependencies of pyproject.toml again
	cd contrib && CUSTOM_COMPILE_COMMAND="make lock" ../$(BIN)/pip-compile --upgrade --quiet --generate-hashes --extra dev --strip-extras \
	    --allow-unsafe --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	    --output-file requirements.lock ../pyproject.toml
	cd contrib && CUSTOM_COMPILE_COMMAND="make lock" ../$(BIN)/pip-compile --upgrade --quiet --generate-hashes --extra bench --strip-extras \
	    --constraint requirements.lock --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	    --output-file requirements-bench.lock ../pyproject.toml

check: install ## formatting, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict
	$(PYTEST) -q tests/test_layers.py

format: install ## let ruff format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: install ## the tests that need nothing but this machine
	$(PYTEST) -q -n 3 --dist loadgroup $(PYTEST_ARGS)

interop: install $(TAHOE) ## with a real Tahoe-LAFS 1.20
	LAFSFS_TAHOE_VENV=$(LAFSFS_TAHOE_VENV) $(PYTEST) -q -n 2 --dist loadgroup -m tahoe $(PYTEST_ARGS)

scenario: install ## a source tree, git and a 300 MB file through a mount, measured
	$(PYTEST) -q -m slow -s tests/scenario $(PYTEST_ARGS)

$(TAHOE):
	@sh contrib/install/tahoe.sh $(LAFSFS_TAHOE_VENV)

vectors: install ## every check the golden vectors in LAFSFS_VECTORS (default tests/vectors) allow
	$(PYTEST) -q -m vectors $(PYTEST_ARGS)

crash: install ## crashes, faults, power failures under load: SEED=1 ROUNDS=200, or with MINUTES=10 seed after seed
	$(BIN)/python -m tests.crash --seed $(SEED) --rounds $(ROUNDS) $(if $(MINUTES),--minutes $(MINUTES))

soak: install ## a long load with a server that comes and goes; nothing may grow: MINUTES=60
	$(BIN)/python -m tests.crash.soak --minutes $(or $(MINUTES),60)

contention: install $(TAHOE) ## five mounts and a Tahoe node at random work on one tree: SEED=1 SECONDS=600 FAULTS=0.1 FORGETFUL=1
	LAFSFS_TAHOE_VENV=$(LAFSFS_TAHOE_VENV) $(BIN)/python -m tests.contention --seed $(SEED) --seconds $(SECONDS) $(if $(FAULTS),--faults $(FAULTS)) $(if $(FORGETFUL),--forgetful)

posix: install ## POSIX semantics and ordinary programs on real mounts, then on 3-of-10 with three servers stopped
	@sh contrib/install/posix.sh
	$(PYTEST) -q tests/fuse -m "not tahoe" $(PYTEST_ARGS)
	LAFSFS_TEST_GRID=3-of-10 $(PYTEST) -q tests/fuse -m "not tahoe" -k "not test_load and not test_names" $(PYTEST_ARGS)

pjdfstest: install ## a built checkout of pjdfstest, as root: PJDFSTEST=DIR
	@test -n "$(PJDFSTEST)" || { echo 'usage: make pjdfstest PJDFSTEST=DIR (a built checkout of github.com/pjd/pjdfstest)' >&2; exit 2; }
	$(BIN)/python -m tests.suites.pjdfstest "$(PJDFSTEST)" $(PJDFSTEST_ARGS)

bench: install ## speed against a floor and against others: BENCH_ARGS="--quick", "--help"
	$(BIN)/python -m tests.bench --out $(BENCH_OUT) $(BENCH_ARGS)

scale: install ## the cost of a file in trees of 2,000 and of 200,000, and of a directory of 100,000: SCALE_ARGS="--help"
	$(BIN)/python -m tests.bench.scale --out $(BENCH_OUT) $(SCALE_ARGS)

plots: install ## pictures of the last `make bench` (installs matplotlib into .venv)
	$(BIN)/pip install --quiet --require-hashes -r contrib/requirements-bench.lock
	$(BIN)/python -m tests.bench.plots $(BENCH_OUT)

demo: install ## a mounted tree at ./mnt to play with
	@sh contrib/demo/demo.sh

stop: ## drain and unmount the demo, stop its server
	@sh contrib/demo/stop.sh

clean: stop ## remove what the targets above made (the demo's data too)
	rm -rf $(VENV) .tahoe-venv .demo build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find lafsfs storage_server tests -name __pycache__ -type d -prune -exec rm -rf {} +
	rmdir mnt 2>/dev/null || true
