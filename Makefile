# `make train` runs the main job, `make test` the tests; both build .venv when it is missing or stale.
#   make train ARGS="--data FOLDER --preset simsid-small"
PYTHON ?= python3
ARGS ?=

.PHONY: train test
train: .venv/ready
	.venv/bin/python -m fastsquid.train $(ARGS)

test: .venv/ready
	.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -p no:benchmark $(ARGS)

.venv/ready: setup.py pyproject.toml constraints.txt Makefile
	$(PYTHON) -m venv --clear .venv
	.venv/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[test,triton,dicom,export,shards]'
	touch $@
