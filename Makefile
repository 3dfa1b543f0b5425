# make demo and make test do all their own set-up: Python 3.11 or later and pip are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
JOBS ?= 2

.PHONY: setup demo test test-slow test-docs test-gpu test-lowest check docs pictures licences house bench bench-gpu study-quick builtin-weights fuzz killtest clean
.DEFAULT_GOAL := test

setup: $(VENV)/ready

$(VENV)/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mdtnet needs Python 3.11 or later; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "torch>=2.7,<3" "torchvision>=0.22,<1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@

demo: setup        ## render, train, test, predict and report on a laptop
	$(BIN)/mdtnet demo

test: setup        ## the quick tests, files of them side by side in JOBS processes
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile

test-slow: setup   ## the slow ones
	$(BIN)/python -m pytest -m slow

test-docs: setup   ## what the pages of the documentation say to do, on small data; minutes
	$(BIN)/python -m pytest -m docs

test-gpu: setup    ## those that need a CUDA device
	$(BIN)/python -m pytest -m gpu

test-lowest:       ## the quick tests with the oldest packages that pyproject.toml allows, in an environment of their own
	$(PYTHON) -m venv --clear $(LOWEST)
	$(PYTHON) tests/lowest.py > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(LOWEST)/constraints.txt --editable ".[dev]"
	$(LOWEST)/bin/python -m pytest --numprocesses $(JOBS) --dist loadfile

check: setup       ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup        ## the documentation site, offline, into build/docs; a warning is an error
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[docs]"
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --fresh-env --quiet --conf-dir docs . build/docs

pictures: setup    ## the pictures of the documentation, drawn again
	$(BIN)/python tools/pictures.py

licences: setup    ## the licence of every package that mdtnet needs, as installed
	$(BIN)/python tools/licences.py

house: setup       ## how quick the command line is, how well typed the package, how its files depend on each other
	$(BIN)/python tests/house.py

bench: setup       ## speed, as ratios from one interleaved run; decoding too where VIDEOS=folder is given
	$(BIN)/mdtnet bench --trunks resnet50,mobilenet_v2 --out runs/bench
	$(BIN)/mdtnet bench --models tsn,mdtnet2 --trunks mobilenet_v2,mobilenet_v4_small,mobilenet_v4_medium,efficientnet_lite0,efficientnet_lite1,efficientnet_lite2 --repeats 9
	$(BIN)/mdtnet bench --trunks resnet50,mobilenet_v2 --size 112 --repeats 9
	$(BIN)/mdtnet bench --models tsn,mdtnet2 --trunks mobilenet_v2,resnet50 --formats eager,onnx,openvino --repeats 9
	$(BIN)/mdtnet bench --models tsn,tsm,tea,tdn,mdtnet2 --peers
	$(BIN)/mdtnet bench --trunks resnet50 --training --repeats 5 --out runs/bench_training
	$(BIN)/mdtnet bench --models mdtnet2 --trunks resnet50,mobilenet_v2 --components
	$(BIN)/python benchmarks/deform.py
	$(if $(VIDEOS),$(BIN)/python benchmarks/decode.py --videos $(VIDEOS))

bench-gpu: setup   ## on a CUDA device: systems beside TSN, eager, compiled, as CUDA graphs, in training; a profile; 8 minutes
	$(BIN)/python benchmarks/gpu.py --out runs/bench_gpu

study-quick: setup  ## a small study: three systems, two seeds, tables with intervals
	$(BIN)/mdtnet study quick --jobs 2

builtin-weights: setup  ## the small network that the package brings: rendered, trained, tested, written with its card
	$(BIN)/python tools/builtin_weights.py

fuzz: setup        ## N mutated files, each read right or refused in one line; those that are not stay in runs/fuzz
	$(BIN)/python tests/fuzz.py --inputs $(or $(N),2000) --seed $(or $(SEED),0) --keep runs/fuzz

killtest: setup    ## N kills of training, test, predict, export and cache writing: nothing is lost, nothing hangs
	$(BIN)/python tests/killtest.py --kills $(or $(N),100) --seed $(or $(SEED),0)

clean:
	rm -rf $(VENV) $(LOWEST) build *.egg-info
