# `make train` runs the main job, `make test` the tests; both build .venv when it is missing or stale.
#   make train ARGS="--data FOLDER --preset simsid-small"
# `make lint` checks style, formatting and types. `make oldest` runs tests with the oldest versions that setup.py allows.
# `make lock` writes the lock files of CI again; LOCK=.ci/requirements.txt makes .venv of exactly those files.
# `make nullcuda` tries the GPU path on a machine without a GPU: tests/nullcuda/README.md.
PYTHON ?= python3
ARGS ?=
LOCK ?=

.PHONY: train test lint oldest lock nullcuda compiled step-cost
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

comma = ,
EXTRAS = test,cluster,dicom,export,parquet,shards,tensorboard
.venv/ready: setup.py pyproject.toml constraints.txt Makefile $(LOCK)
	$(PYTHON) -m venv --clear .venv
ifdef LOCK
	.venv/bin/python -m pip install --quiet --require-hashes --requirement $(LOCK)
	.venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
else
	.venv/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[lint,triton,$(EXTRAS)]'
endif
	touch $@

# Where other versions can change what is read, drawn or written. Their deprecation warnings are no errors.
oldest: .venv-oldest/ready
	.venv-oldest/bin/python -m pytest -n 2 --dist loadfile -p no:benchmark -o filterwarnings=default \
		tests/test_attacks*.py $(addprefix tests/test_,$(addsuffix .py,data_dicom data_digits data_folder data_images data_list \
		data_rsna data_shards data_tables cluster estimator evaluate export figures maps metrics perturb report score)) $(ARGS)

.venv-oldest/ready: .ci/oldest.txt Makefile
	$(PYTHON) -m venv --clear .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --require-hashes --requirement .ci/oldest.txt
	.venv-oldest/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# Needs uv. Both are for Python 3.11 on Linux, x86-64, with PyTorch for CPUs from WHEELS: a folder, or the index
# https://download.pytorch.org/whl/cpu. PyTorch's oldest is tried by hand: the registry has it with CUDA only.
WHEELS ?= https://download.pytorch.org/whl/cpu
UV = uv pip compile setup.py --quiet --generate-hashes --no-annotate --find-links $(WHEELS) \
	--python-version 3.11 --python-platform x86_64-manylinux_2_28 --custom-compile-command "make lock" \
	$(foreach extra,$(subst $(comma), ,$(EXTRAS)),--extra $(extra))
lock:
	$(UV) --extra lint --extra triton --constraint constraints.txt --output-file .ci/requirements.txt
	grep '^torch==' .ci/requirements.txt | tr -d ' \\' | \
		$(UV) --resolution lowest-direct --constraint - --output-file .ci/oldest.txt

NULLCUDA = .venv-nullcuda
nullcuda: $(NULLCUDA)/nullcuda/libcuda.so.1
	$(NULLCUDA)/bin/python -m pytest -p no:cacheprovider tests/nullcuda $(ARGS)

# What torch.compile makes, for bench/gpu.sh on a GPU of this name: docs/gpu.md.
GPU = NVIDIA H200
PHASES = step fastsquid simsid squid
ON_NULLCUDA = LD_PRELOAD=$(CURDIR)/$< LD_LIBRARY_PATH=$(CURDIR)/$(<D) TRITON_LIBCUDA_PATH=$(CURDIR)/$(<D)
compiled: $(NULLCUDA)/nullcuda/libcuda.so.1
	NULLCUDA_NAME="$(GPU)" $(ON_NULLCUDA) $(NULLCUDA)/bin/python tests/nullcuda/compile_cache.py runs/compiled.tar.xz $(PHASES)

# How many nodes a captured training cycle has, and bytes its compiled graphs move: docs/kernels.md.
step-cost: $(NULLCUDA)/nullcuda/libcuda.so.1
	$(ON_NULLCUDA) OMP_NUM_THREADS=1 $(NULLCUDA)/bin/python tests/nullcuda/step_cost.py bench/results/captured-step.csv simsid squid

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
