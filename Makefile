# `make help` lists what there is. Every target first makes .venv from requirements.txt, if it is
# missing or older.
PYTHON ?= python3
WORKERS ?= 2
VENV = .venv/installed
PYTEST = python -m pytest --numprocesses $(WORKERS) --dist loadfile
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help demo repro report experiments test test-fast lint types bench lock
.DEFAULT_GOAL := help

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: $(VENV)  ## the whole pipeline on a small synthetic corpus, in a temporary work tree (minutes, offline)
	@python -m commands.demo

repro: $(VENV)  ## the pipeline on RAVDESS: runs what is out of date, a branch that fails does not stop the other
	@dvc repro --keep-going; code=$$?; python -m commands.results; exit $$code

report: $(VENV)  ## the page report/index.html, of the models that have run; ARGS=--no-audio leaves the audio out
	@python -m stages.report $(ARGS)

experiments: $(VENV)  ## the experiments on this commit: the models' scores, and which parameters differ
	@python -m commands.experiments

test: $(VENV)  ## all tests, offline; WORKERS=8: on eight processes instead of two
	@$(PYTEST)

test-fast: $(VENV)  ## the tests that take seconds and need no corpus: under a minute
	@$(PYTEST) -m "not slow and not real"

lint: $(VENV)  ## style and common mistakes
	@ruff check . && ruff format --check .

types: $(VENV)  ## the types of ser/ and commands/, by mypy
	@mypy

bench: $(VENV)  ## the speed and memory claims, measured on this machine
	@for name in mfcc search train; do echo "== $$name"; python -m benchmarks.$$name || exit 1; done

lock: $(VENV)  ## pin requirements.in anew, in requirements.txt
	@python -m pip install --quiet uv && python -m uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate \
	  $$(for name in $$(sed -n 's/^# left out: //p' requirements.in); do echo --no-emit-package $$name; done) \
	  --output-file requirements.txt requirements.in

$(VENV): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	@# Not compiled, since most of it is never imported: Python does what it needs.
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --requirement requirements.txt
	@# For `dvc plots`, see .dvc/plots.html.
	@.venv/bin/python -c 'import vl_convert; print(vl_convert.javascript_bundle(vl_version="5.21"))' > .venv/vega.js
	@touch $@
