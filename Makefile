# make quickstart   install, purify the digits, train on pairs, attack, print the table
# make test         install, run the test suite; SLOW=1: with the tests that kill and start processes
# make lint         ruff, and mypy: half a minute at first, then seconds
# make docs         the documentation as a site in build/site; warnings are errors
# make notebooks    execute docs/notebooks, and store them with what they print
# SHORT=1 makes the quickstart a check of a minute that writes to runs/short.

PYTHON ?= python3
VENV ?= .venv
CLI = $(VENV)/bin/lit-pursamere

# The digits' networks are so small that a second thread gains a third on an idle machine, and loses a factor of ten
# where another program wants the core.
export OMP_NUM_THREADS ?= 1

ifdef SHORT
RUNS := runs/short
EXPERIMENT := configs/digits/experiment_short.yaml
else
RUNS := runs/digits
EXPERIMENT := configs/digits/experiment.yaml
endif

.PHONY: quickstart test lint docs notebooks
quickstart: $(VENV)/.installed
	@$(CLI) experiment $(EXPERIMENT)
	@echo "Accuracy in % with 95 % intervals on the first test images; undefended beside PurSAMERE, same classifier."
	@echo "Pictures:    $(RUNS)/robustness/pictures.png and levels.png"
	@echo "Records:     $(RUNS)/robustness/records-0.jsonl (one line per image), report.csv"
	@echo "TensorBoard: $(VENV)/bin/tensorboard --logdir $(RUNS)"

test: $(VENV)/.installed
	$(VENV)/bin/python -m pytest -n 2 --dist worksteal $(if $(SLOW),-m "slow or not slow")

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

notebooks: $(VENV)/.installed
	$(VENV)/bin/python docs/execute.py

# An environment of its own: the API is read from the sources, so that neither torch nor the package is needed.
DOCS ?= build/docs-env
docs: $(DOCS)/.installed
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict
	@echo "build/site/index.html"

$(DOCS)/.installed: setup.cfg
	$(PYTHON) -m venv $(DOCS)
	$(PYTHON) -c 'import configparser; c = configparser.ConfigParser(); c.read("$<"); print(c["options.extras_require"]["docs"])' \
		| $(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check --requirement /dev/stdin
	@touch $@

$(VENV)/.installed: setup.cfg pyproject.toml
	@echo "Installing into $(VENV) (torch and its friends: about two minutes) ..."
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@
