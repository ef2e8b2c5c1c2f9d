# Everything here works as an ordinary user on a fresh machine with Python >= 3.10, git, network.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help venv runtime demo test test-slow test-pythons test-wheel test-stress check audit-search fuzz release-check image-check gpu-memory-check schema docs clean

help:
	@echo "make demo       set up everything and train the digits on real Caffe; ENGINE=pytorch: with PyTorch"
	@echo "make test       set up everything and run the tests"
	@echo "make test-slow  the tests that take minutes, and fresh examples for the property tests"
	@echo "make test-pythons      the tests on the oldest and the newest Python that are here"
	@echo "make test-wheel        the tests on the installed wheel"
	@echo "make test-stress       the tests with runs ten times shorter and longer, and on a busy machine"
	@echo "make check      ruff, mypy --strict, import-linter, documentation checks"
	@echo "make audit-search      20,000 random trainings: is the audit's \"the same\" true on real Caffe"
	@echo "make fuzz       10,000 hostile job directories, 20,000 nets, 5,000 command lines: no traceback, no hang"
	@echo "make release-check     build sdist and wheel, install them afresh and try them"
	@echo "make image-check       build the container images and try them (root, buildah)"
	@echo "make gpu-memory-check  the GPU image's memory beside the prediction, without a GPU"
	@echo "make docs       the documentation as a site, in build/site"
	@echo "make runtime    install the pycaffe runtime only"
	@echo "make clean      remove what was built here (not the runtime)"

# The environment, made again when the requirements change.
$(VENV)/.installed: pyproject.toml setup.py tools/make-venv
	tools/make-venv $(PYTHON) $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

venv: $(VENV)/.installed

runtime: venv
	$(BIN)/caffe-batch runtime install

# ENGINE=pytorch trains without Caffe; if nothing is said, so it does where no pycaffe can be had.
demo: venv
	$(BIN)/python tools/demo.py $(ENGINE)

test: runtime
	tools/run-tests $(BIN)/python -m "not slow"

test-slow: runtime
	tools/run-tests $(BIN)/python -m "slow or hypothesis" --hypothesis-profile=fresh

# A version that can't be found is left out, and the output says so.
test-pythons: runtime
	tools/test-pythons

test-wheel: runtime
	tools/test-wheel $(PYTHON)

# Three whole runs of each kind: hours.
test-stress: runtime
	benchmarks/stress_tests.sh

check: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/check_docs.py
	$(BIN)/hadolint Dockerfile

# Continues where it was interrupted; some hours on one core.
audit-search: runtime
	$(BIN)/python tools/audit_search/search.py

# Goes on where it was interrupted; an hour on one core.
fuzz: venv
	$(BIN)/python tools/fuzz/fuzz.py

# What a release consists of, as the last commit has it; leaves it in dist/.
release-check: venv
	$(BIN)/python tools/release_check.py dist

# As root, with Debian's packages buildah and mmdebstrap; half an hour on two cores.
image-check: venv
	$(BIN)/python tools/image/build.py
	$(BIN)/python tools/image/check.py

gpu-memory-check: venv
	$(BIN)/python tools/image/build.py gpu
	$(BIN)/python tools/count_gpu_memory/check.py
	$(BIN)/python tools/count_gpu_memory/recovery.py
	$(BIN)/python tools/count_gpu_memory/rehearse.py

# The documentation as a site in build/site; a link that leads nowhere fails it. (The variable silences
# an advertisement of the theme's authors.)
docs: venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# Needs grpcio-tools and mypy-protobuf in the Python that runs it.
schema:
	$(PYTHON) tools/generate_schema.py

clean:
	rm -rf $(VENV) build dist demo *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
