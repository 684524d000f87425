# `make train` runs the main job, `make test` the tests; both build .venv when it is missing or stale.
#   make train ARGS="--data FOLDER --preset simsid-small"
# `make lint` checks style, formatting and types.
# `make nullcuda` tries the GPU path on a machine without a GPU: tests/nullcuda/README.md.
PYTHON ?= python3
ARGS ?=

.PHONY: train test lint nullcuda
train: .venv/ready
	.venv/bin/python -m fastsquid.train $(ARGS)

test: .venv/ready
	.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -p no:benchmark $(ARGS)

lint: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	rm -rf build/package && mkdir -p build/package/fastsquid  # as installed, with kernels inside
	ln -sfn $(CURDIR)/kernels $(CURDIR)/fastsquid/* build/package/fastsquid
	.venv/bin/basedpyright
	.venv/bin/python docs/options.py --check

.venv/ready: setup.py pyproject.toml constraints.txt Makefile
	$(PYTHON) -m venv --clear .venv
	.venv/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[test,lint,triton,dicom,export,shards,tensorboard]'
	touch $@

NULLCUDA = .venv-nullcuda
nullcuda: $(NULLCUDA)/nullcuda/libcuda.so.1
	$(NULLCUDA)/bin/python -m pytest -p no:cacheprovider tests/nullcuda $(ARGS)

$(NULLCUDA)/nullcuda/libcuda.so.1: $(NULLCUDA)/ready tests/nullcuda/nullcuda.c tests/nullcuda/blas.c
	mkdir -p $(@D)
	nvidia=$$($(NULLCUDA)/bin/python -c 'import nvidia.cudnn as c, pathlib as p; print(p.Path(list(c.__path__)[0]).parent)') && \
	$(CC) -O1 -fPIC -shared -w -Itests/nullcuda/include -I$$nvidia/cu13/include -I$$nvidia/cudnn/include \
		-o $@ tests/nullcuda/nullcuda.c tests/nullcuda/blas.c -ldl -lpthread -Wl,-soname,libcuda.so.1

$(NULLCUDA)/ready: setup.py tests/nullcuda/requirements.txt
	$(PYTHON) -m venv --clear $(NULLCUDA)
	$(NULLCUDA)/bin/python -m pip install --quiet --requirement tests/nullcuda/requirements.txt
	$(NULLCUDA)/bin/python -m pip install --quiet --no-deps --editable .
	touch $@
