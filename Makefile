# `make help` lists the targets. Everything is installed under .venv. Outside the clone, only caches are written: pip's,
# and otpr's of compiled programs (docs/run-directory.md).
SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The first interpreter that fits. 3.14 does not: there is no wheel of the pinned MuJoCo for it.
FITS := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	if $$python -c '$(FITS)' >/dev/null 2>&1; then echo $$python; break; fi; done)
BIN := .venv/bin
# More arguments for `make quickstart`, e.g. ARGS="--seed 1", or for pytest, e.g. ARGS="-k replay".
ARGS ?=
# What `make setup` installs beside the lock, at the locked version of JAX.
EXTRA ?=

.PHONY: help setup setup-libero quickstart test coverage test-long test-slow test-serving test-onnx test-storage test-wheel faults interop \
	bench results tasks docs wheel lint format types lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

setup: .venv/.package ## prepare .venv with the locked versions; EXTRA=cuda12 or cuda13 adds JAX's GPU packages
	@test -z "$(EXTRA)" || $(BIN)/python -m pip install --quiet --disable-pip-version-check \
		"jax[$(EXTRA)]==$$($(BIN)/python -c 'import jax; print(jax.__version__)')"

setup-libero: .venv-libero/.package ## an environment of its own with LIBERO (1 GB), .venv-libero, then its tests (half an hour)
	.venv-libero/bin/python -m pytest -m "" tests/envs/test_libero.py tests/envs/test_libero_expert.py -rP $(ARGS)

quickstart: setup ## set up, then demonstrations, imitation, OTPR and evaluation on a Meta-World task
	$(BIN)/otpr quickstart $(ARGS)

test: setup ## set up, then the fast tests, in two processes
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m "not slow and not faults and not long and not interop" $(ARGS)

# Not in `test` itself: before Python 3.12 it makes the tests a quarter to a half slower.
coverage: setup ## the same and those that take long, counting the lines of src that they run; fails under 90%
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --cov --cov-report term $(ARGS)

test-long: setup ## set up, then the tests that take long: algorithms learn, processes are killed
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m long $(ARGS)

test-slow: setup ## set up, then the tests marked slow
	$(BIN)/python -m pytest -m slow $(ARGS)

test-serving: setup .venv-openpi/.requirements ## set up, then openpi's own client against `otpr serve`
	$(BIN)/python -m pytest tests/serving -rA $(ARGS)

# openpi-client asks for numpy<2, otpr for numpy>=2: so it has an environment of its own, without otpr.
.venv-openpi/.requirements: requirements/openpi.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] > (3, 12))' || { echo "openpi-client needs Python" \
		"3.11 or 3.12: make test-serving PYTHON=/path/to/python3.12" >&2; exit 1; }
	@"$(PYTHON)" -m venv --clear .venv-openpi
	@.venv-openpi/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
		--only-binary :all: --requirement requirements/openpi.txt
	@touch $@

test-onnx: setup ## set up, add the packages of the extra `onnx` to .venv, then export policies and run them
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary :all: \
		--requirement requirements/onnx.txt
	$(BIN)/python -m pytest tests/policies/test_onnx_export.py -m "slow or not slow" $(ARGS)

test-storage: setup .venv-moto/.requirements ## set up, then `otpr bench --storage` on an emulated object store
	$(BIN)/python -m pytest tests/bench/test_object_store.py -rA $(ARGS)

faults: setup ## set up, then kill, fill disks and break things for 10 to 30 minutes: docs/reliability.md
	$(BIN)/python -m pytest tests/faults -m "faults or not slow" -rP $(ARGS)

# Of diffusion_policy and DPPO it needs checkouts: OTPR_DIFFUSION_POLICY, OTPR_DPPO (docs/other-policies.md).
interop: setup .venv-interop/.requirements ## set up, then compare with LeRobot itself (several GB): docs/lerobot.md
	$(BIN)/python -m pytest tests/interop tests/diffusion/test_diffusers.py -m "interop or not slow" $(ARGS)

bench: setup ## set up, then measure: a table, benchmarks/latest.json and the table in docs/performance.md
	$(BIN)/python -m benchmarks $(ARGS)

results: setup ## the tables and figures of docs/results.md, from the raw results in results/bench
	$(BIN)/python -m benchmarks.arena $(ARGS)

tasks: setup ## set up, then measure every task's expert and take its picture: docs/tasks.md
	$(BIN)/python -m benchmarks.tasks $(ARGS)

# The pages are written by .venv, which knows commands and settings, and built by .venv-docs.
docs: setup .venv-docs/.requirements ## the documentation as a site with search, in site/; warnings and dead links are errors
	$(BIN)/python -m tools.site stage
	.venv-docs/bin/zensical build --clean --strict
	$(BIN)/python -m tools.site check

wheel: .venv-docs/.requirements ## build the package, dist/*.whl and dist/*.tar.gz, and check its metadata
	rm -rf dist
	.venv-docs/bin/python -m build --no-isolation --outdir dist .
	.venv-docs/bin/twine check --strict dist/*

test-wheel: setup wheel ## install dist/*.whl and its core dependencies, without a simulator, and run the toy notebook there
	OTPR_WHEEL="$$(ls "$$PWD"/dist/*.whl)" $(BIN)/python -m pytest tests/test_wheel.py -m slow -rA $(ARGS)

lint: setup ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup ## mend style and format where that can be done by machine
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

types: setup ## check types
	$(BIN)/basedpyright

# `fewest`: one version of each package for all Pythons, so that results do not depend on which one is there.
# Pins already in the lock are kept unless ARGS="--upgrade" or ARGS="--upgrade-package NAME".
lock: ## resolve pyproject.toml again into requirements/dev.txt (needs uv)
	@command -v uv >/dev/null || { echo "make lock needs uv: python3 -m pip install uv" >&2; exit 1; }
	uv pip compile pyproject.toml --extra metaworld --extra ogbench --extra robosuite --extra robotics --extra lerobot --extra dppo --extra serve --extra video --extra cluster --group robosuite --group dev \
		--output-file requirements/dev.txt \
		--quiet --universal --fork-strategy fewest --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" $(ARGS)
	uv pip compile requirements/openpi.in --no-config --output-file requirements/openpi.txt \
		--quiet --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" $(ARGS)
	uv pip compile pyproject.toml requirements/libero.in --extra cluster --extra bench --no-config --output-file requirements/libero.txt \
		--quiet --universal --fork-strategy fewest --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" $(ARGS)
	uv pip compile requirements/onnx.in --constraint requirements/dev.txt --no-config \
		--output-file requirements/onnx.txt --quiet --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" $(ARGS)
	uv pip compile requirements/docs.in --no-config --output-file requirements/docs.txt \
		--quiet --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" $(ARGS)

clean: ## remove .venv, what was built, and the caches
	rm -rf .venv .venv-docs build dist site .venv-interop .venv-libero .venv-moto .venv-openpi .coverage .coverage.* .pytest_cache .ruff_cache .hypothesis

# From nothing each time (--clear): a package dropped from the lock must not linger and hide a missing dependency.
# Wheels only: with hashes checked, a source build would still fetch its build dependencies unchecked.
.venv/.requirements: requirements/dev.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11, 3.12 or 3.13 with venv found. Install one (Debian:" \
		"apt-get install python3-venv), or name it: make setup PYTHON=/path/to/python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c '$(FITS)' || { echo "$(PYTHON) is not Python 3.11, 3.12 or 3.13 with venv." >&2; exit 1; }
	@echo "Installing the locked packages into .venv (about a minute)"
	@"$(PYTHON)" -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary :all: \
		--requirement requirements/dev.txt
	@touch $@

# Of its own, since what builds pages and packages is no part of what runs.
.venv-docs/.requirements: requirements/docs.txt
	@"$(PYTHON)" -m venv --clear .venv-docs
	@.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
		--only-binary :all: --requirement requirements/docs.txt
	@touch $@

# Of its own, since LeRobot's pins are not ours.
.venv-interop/.requirements: requirements/interop.txt
	@echo "Installing LeRobot into .venv-interop (minutes)"
	@"$(PYTHON)" -m venv --clear .venv-interop
	@.venv-interop/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements/interop.txt
	@.venv-interop/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--editable . --editable plugins/lerobot_policy_otpr
	@touch $@

# Of its own: it only answers over HTTP.
.venv-moto/.requirements: requirements/moto.txt
	@"$(PYTHON)" -m venv --clear .venv-moto
	@.venv-moto/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements/moto.txt
	@touch $@

# Of its own, since LIBERO needs robosuite 1.4. There is no wheel of bddl, so it is built.
.venv-libero/.requirements: requirements/libero.txt
	@echo "Installing LIBERO into .venv-libero (minutes)"
	@"$(PYTHON)" -m venv --clear .venv-libero
	@.venv-libero/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
		--only-binary :all: --no-binary bddl --requirement requirements/libero.txt
	@touch $@

.venv-libero/.package: pyproject.toml .venv-libero/.requirements
	@.venv-libero/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.venv/.package: pyproject.toml .venv/.requirements
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
