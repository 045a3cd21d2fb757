# make demo         convert, train, score and report scikit-learn's digits (about a minute after the install)
# make test         lint and all tests
# make test-matrix  all tests on the oldest and on the newest releases that setup.py allows; ENDS=oldest: on these alone
# make lint         ruff, and mypy over the package
# make clean        remove the environments and what the demo wrote
# make tables       write the measured tables of README and docs from the rows in benchmarks/results/
# make docs         the pages as a site, in build/site
# The first call sets up .venv; PYTHON=python3.12 make ... chooses the interpreter.

PYTHON ?= python3
BIN := .venv/bin
RUN := runs/digits
PYTEST = -m pytest -n auto --maxprocesses 4 --dist loadfile
ENDS ?= oldest newest

.PHONY: demo test test-matrix lint tables docs clean

demo: .venv/.installed
	@rm -rf $(RUN) runs/digits-images
	$(BIN)/python -m fastvarcon.data_prep.digits runs/digits-images
	$(BIN)/fastvarcon convert runs/digits-images/train runs/digits-train.beton --mode raw
	$(BIN)/fastvarcon convert runs/digits-images/val runs/digits-val.beton --mode raw
	$(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
		recipes/digits.py --out $(RUN)
	$(BIN)/fastvarcon eval linear $(RUN) --data.train runs/digits-train.beton --data.val runs/digits-val.beton
	$(BIN)/fastvarcon eval knn $(RUN) --data.train runs/digits-train.beton --data.val runs/digits-val.beton
	$(BIN)/fastvarcon eval knn $(RUN) --data.train runs/digits-train.beton --data.val runs/digits-val.beton --features pixels
	@$(BIN)/fastvarcon report $(RUN)

test: lint .venv/.ffcv .venv/.dali
	$(BIN)/python $(PYTEST)

# One environment for each end; pip's cache keeps what they and .venv share. The constraints are the floors of setup.py.
test-matrix: $(ENDS:%=test-%)

test-oldest test-newest: test-%: .matrix/%/.installed
	.matrix/$*/bin/python $(PYTEST)

.matrix/oldest/.installed: setup.py pyproject.toml tests/ends.py
	@python=$${PYTHON_OLDEST:-$$($(PYTHON) tests/ends.py python oldest)} && $$python -m venv --clear $(@D)
	@$(PYTHON) tests/ends.py constraints > $(@D)/constraints.txt
	$(@D)/bin/python -m pip install --quiet --constraint $(@D)/constraints.txt --editable '.[dev]'
	@touch $@

.PHONY: .matrix/newest/.installed
.matrix/newest/.installed:
	@test -x $(@D)/bin/python || { python=$${PYTHON_NEWEST:-$$($(PYTHON) tests/ends.py python newest)} && $$python -m venv $(@D); }
	$(@D)/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable '.[dev]'

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

tables: .venv/.installed
	$(BIN)/python benchmarks/tables.py

docs: .venv/.installed
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo build/site/index.html

clean:
	rm -rf .venv .matrix runs build *.egg-info

.venv/.installed: setup.py pyproject.toml
	@$(PYTHON) tests/ends.py supported || { echo "error: $(PYTHON) is not Python 3.10-3.13: call PYTHON=python3.12 make ..."; exit 2; }
	@$(PYTHON) -m venv .venv || { echo "error: cannot make .venv: install the venv module (Debian: apt install python3-venv)"; exit 2; }
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

# The ffcv package has no wheels. Where its headers are, its interop tests run; elsewhere they skip and say so.
.venv/.ffcv: .venv/.installed
	@if pkg-config --exists opencv4 libturbojpeg 2>/dev/null; then \
		$(BIN)/python -m pip install --quiet --editable '.[dev,ffcv]' && touch $@ \
			|| echo "ffcv is left out: its package did not build here, see above"; \
	else echo "ffcv is left out: it needs libturbojpeg0-dev, libopencv-dev and pkg-config"; fi

# DALI has wheels for Linux alone; it decodes on the CPU where there is no GPU. Elsewhere its tests skip and say so.
.venv/.dali: .venv/.installed
	@case "$$(uname -s)-$$(uname -m)" in \
	Linux-x86_64 | Linux-aarch64) \
		$(BIN)/python -m pip install --quiet --editable '.[dev,dali]' && touch $@ \
			|| echo "dali is left out: its package could not be installed, see above" ;; \
	*) echo "dali is left out: it has packages for Linux on x86_64 and aarch64 alone" ;; \
	esac
