# `make help` lists what there is. Every target first makes .venv from requirements.txt, if it is
# missing or older; tests and linters add requirements-dev.txt, the app requirements-app.txt.
PYTHON ?= python3
WORKERS ?= 2
VENV = .venv/installed
DEV = .venv/installed-dev
APP = .venv/installed-app
INSTALL = .ci/install
PYTEST = python -m pytest --numprocesses $(WORKERS) --dist worksteal
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help demo repro report app experiments test test-fast lint types bench lock
.DEFAULT_GOAL := help

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(VENV)  ## the whole pipeline on a small synthetic corpus, in a temporary work tree (minutes, offline)
	@python -m commands.demo

repro: $(VENV)  ## the pipeline on RAVDESS: runs what is out of date, a branch that fails does not stop the other
	@dvc repro --keep-going; code=$$?; python -m commands.results; exit $$code

report: $(VENV)  ## the page report/index.html, of the models that have run; ARGS=--no-audio leaves the audio out
	@dvc repro --quiet --single-item sounds && python -m stages.report $(ARGS)

app: $(VENV) $(APP)  ## a page in the browser to try one's own voice; ARGS="--model svm": with that model alone
	@python -m commands.app $(ARGS)

experiments: $(VENV)  ## the experiments on this commit: each model's accuracy, and which parameters differ
	@dvc exp show --md --only-changed --hide-workspace \
	  --drop 'Created|(data|ser|stages|configs|results)|.*(_low|_high|macro_f1|ece|uar|mean|csv|txt)'

test: $(DEV) $(APP)  ## all tests, offline; WORKERS=8: on eight processes instead of two
	@$(PYTEST)

test-fast: $(DEV)  ## the tests that take seconds and need no corpus: under a minute
	@$(PYTEST) -m "not slow and not real"

lint: $(DEV)  ## style and common mistakes
	@ruff check . && ruff format --check .

types: $(DEV)  ## the types of ser/ and commands/, by mypy
	@mypy

bench: $(VENV)  ## the speed and memory claims, measured on this machine
	@for name in mfcc resample train; do echo "== $$name"; python -m benchmarks.$$name || exit 1; done

lock: $(VENV)  ## pin requirements.in, requirements-dev.in and requirements-app.in anew
	@python -m pip install --quiet uv
	@for list in requirements requirements-dev; do \
	  python -m uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate \
	    $$(for name in $$(sed -n 's/^# left out: //p' requirements.in); do echo --no-emit-package $$name; done) \
	    --output-file $$list.txt $$list.in || exit 1; \
	done
	@python -m uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate \
	  --override requirements.txt --output-file requirements-app.txt requirements-app.in

$(VENV): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(INSTALL) --requirement requirements.txt
	@touch $@

$(DEV): requirements-dev.txt $(VENV)
	$(INSTALL) --requirement requirements-dev.txt
	@touch $@

$(APP): requirements-app.txt $(VENV)
	$(INSTALL) --no-deps --requirement requirements-app.txt
	@touch $@
