# Two commands do everything: `make serve` and `make test`. Both set up what they need.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# One worker more than cores: many tests wait. What a worker ends with is taken from its neighbours.
PYTEST = $(BIN)/pytest --numprocesses $$(($$(nproc) + 1)) --dist worksteal
# On a terminal pip shows how far it is.
PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check $$([ -t 1 ] || echo --quiet)

# Prism with its calls compiled, built apart from the sources; `COMPILED` in setup.py names them.
COMPILED := build/compiled/site
WITH_COMPILED = PYTHONPATH=$(CURDIR)/$(COMPILED):$(CURDIR) PYTHONSAFEPATH=1
# The tests of what is compiled, and of what builds on it.
COMPILED_TESTS ?= tests/calls tests/channels tests/e2e tests/frontends tests/limits tests/observability tests/server \
	tests/streams tests/supervision tests/wire

.PHONY: help serve test test-fast test-compiled soak check services-up services-down bench format generate generate-matrix wheel clean

help:
	@echo "make serve      set up, and serve a demo namespace on SQLite (CONFIG=file, ARGS='--port 8080')"
	@echo "make serve DEMO=postgres  the same on PostgreSQL; or redis, kafka (ARGS='--server URL')"
	@echo "make test       set up everything, and run every check and test"
	@echo "make test-fast  the checks, and the tests that take less than two minutes together"
	@echo "make test-compiled  tests with the calls compiled by mypyc, as in a wheel"
	@echo "make soak       all of the matrices that make test runs by pairs, and what runs for long"
	@echo "make check      formatting, lint, types, and the direction of imports"
	@echo "make services-up    start the real servers that tests use, and say where they are"
	@echo "make services-down  end them"
	@echo "make bench      measure, side by side with peers; writes docs/performance.md"
	@echo "make generate   what is made from the types and the .proto; tests compare it"
	@echo "make wheel      wheels of the proxy, with the compiled parts, and of the plugins' SDK; tried"
	@echo "make clean      remove what the other targets made"

# Said before anything is installed.
ifneq ($(filter serve,$(MAKECMDGOALS)),)
ifneq ($(filter-out sqlite postgres redis kafka,$(DEMO)),)
$(error DEMO=$(DEMO) is not one of sqlite, postgres, redis, kafka)
endif
endif

serve: $(VENV)/.installed$(if $(DEMO),-$(DEMO))
	@exec $(BIN)/prism serve $(if $(CONFIG),--config $(CONFIG)) $(if $(DEMO),--demo $(DEMO)) $(ARGS)

test: $(VENV)/.installed-dev
	scripts/tools.sh $(VENV)
	$(MAKE) check
	$(PYTEST) $(PYTEST_ARGS)

test-fast: $(VENV)/.installed-dev
	$(MAKE) check
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-compiled: $(COMPILED)/.built
	scripts/tools.sh $(VENV)
	$(WITH_COMPILED) $(PYTEST) --override-ini pythonpath= --compiled $(COMPILED_TESTS) $(PYTEST_ARGS)

soak: $(VENV)/.installed-dev
	scripts/tools.sh $(VENV)
	$(PYTEST) --soak --timeout 7200 -m "soak or matrix" $(PYTEST_ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

services-up: $(VENV)/.installed-dev
	@echo "looking for the servers, and the programs that tests run; what is missing is installed, which takes minutes"
	scripts/tools.sh $(VENV)
	$(BIN)/python -m tests.services up

services-down: $(VENV)/.installed-dev
	$(BIN)/python -m tests.services down

bench: $(COMPILED)/.built
	scripts/tools.sh $(VENV)
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

generate-matrix: $(VENV)/.installed-dev
	$(BIN)/python scripts/generate_compliance_matrix.py

generate: $(VENV)/.installed-dev
	$(BIN)/python scripts/generate_config_docs.py
	$(BIN)/python scripts/generate_metrics_docs.py
	$(BIN)/python scripts/generate_conformance_rules.py
	$(BIN)/python -m grpc_tools.protoc -Ischemas --descriptor_set_out=prism/grpc/descriptors.binpb \
		prism/plugin.proto grpc/health/v1/health.proto \
		grpc/reflection/v1/reflection.proto grpc/reflection/v1alpha/reflection.proto

$(COMPILED)/.built: $(VENV)/.installed-dev $(shell find prism plugins -name '*.py')
	@echo "compiling the calls into $(COMPILED): about two minutes"
	@rm -rf $(COMPILED)
	@PRISM_COMPILE=1 $(PIP_INSTALL) --no-build-isolation --no-deps --target $(COMPILED) .
	@touch $@

wheel:
	PYTHON="$(PYTHON)" scripts/wheel.sh dist

clean:
	rm -rf $(VENV) build dist *.egg-info prism/server/http2/*.so prism/calls/*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The stamps depend on what they install, so that a pull that changes it is noticed.
NATIVE := $(wildcard native/*/*.[ch])
$(VENV)/.installed: pyproject.toml setup.py requirements/constraints.txt $(NATIVE)
	@PYTHON="$(PYTHON)" scripts/venv.sh $(VENV)
	@echo "installing Prism into $(VENV): about a minute, this once"
	@$(PIP_INSTALL) --constraint requirements/constraints.txt --editable .
	@touch $@

# With the driver of one plugin, which is an extra.
$(VENV)/.installed-%: $(VENV)/.installed
	@$(PIP_INSTALL) --constraint requirements/constraints.txt --editable '.[$*]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "installing what tests, checks and benchmarks need (the extras dev and bench): some minutes, this once"
	@$(PIP_INSTALL) --constraint requirements/constraints.txt --editable '.[dev,bench]'
	@touch $@
