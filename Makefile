# `make demo` and `make test` set everything up by themselves, in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export OMP_NUM_THREADS ?= 2
export TOKENIZERS_PARALLELISM := false

.PHONY: demo install docs screenshots test cases coverage browser-test parallel reliability families devices fuzz audit lowest newest wheel check format tensorboard clean

demo: $(STAMP)
	$(BIN)/rlhf demo

install: $(STAMP)

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -m "not processes"

# Lines that the quick tests run; commands that tests start as processes of their own count not.
coverage: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -m "not slow" --cov=rlhf --cov-report=term:skip-covered

# The ranking page in headless Chromium; installs both, the browser as root by apt.
browser-test: $(STAMP)
	command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-liberation; }
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[annotate,browser]'
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/browser

# One run on 1, 2 and 4 processes, every critic, estimator and storage; then processes killed, told
# to stop, and ending, 45 minutes: docs/pages/guides/parallel.md
parallel: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest tests -m processes
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.reliability.table process_kills process_signals process_exits

# Every promise at full count, hours: docs/pages/results/reliability.md. One of them: ONLY=kills
# The last, outbox, needs what browser-test installs.
reliability: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.reliability.table $(ONLY)

# Every input of tests/cases through the command line, as a table. One of them: ONLY=27_paths
cases: $(STAMP)
	COLUMNS=180 $(BIN)/python -m tests.cases.table $(ONLY)

# Tiny LLaVAs of 51 configurations against transformers and peft, 2 minutes: docs/pages/results/families.md.
# Some of them: ONLY="Gemma Phi"
families: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.families.table $(ONLY)

# Every PPO run and family of LLaVA on GPUs in disguise, some minutes: tests/support/disguised_gpu.py
devices: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/devices/*.py

# Command lines that nobody means, 10,000 take 10 minutes and more: make fuzz COUNT=500 SEED=3
COUNT ?= 10000
SEED ?= 0
fuzz: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz.table $(COUNT) $(SEED)

# Known holes in what is installed; fails also where it cannot ask about a package. A build such as
# 2.13.0+cpu is asked about as 2.13.0.
audit: $(STAMP)
	$(BIN)/python -m pip install --quiet pip-audit
	mkdir -p build
	$(BIN)/python -m pip list --format=freeze --exclude-editable | sed 's/+.*//' >build/installed.txt
	$(BIN)/pip-audit --strict --disable-pip --no-deps --progress-spinner off -r build/installed.txt

# The quick tests with the lowest versions that pyproject.toml allows, and with the newest there are,
# each in an environment of its own; torch is that of constraints.txt.
lowest newest: $(STAMP)
	$(PYTHON) -m venv build/$@
	build/$@/bin/python -m pip install --quiet $$(grep '^torch==' constraints.txt)
	$(BIN)/python -m tests.support.bounds $@ >build/$@.txt
	build/$@/bin/python -m pip install --quiet -c build/$@.txt -e '.[test]'
	OMP_NUM_THREADS=1 build/$@/bin/pytest -n 2 --dist loadfile -m "not slow and not processes" --ignore tests/browser

# The wheel in an environment of its own, outside the checkout: install, compose, a short demo.
SHORT_DEMO := demo.sft_images=40 demo.preference_images=20 demo.evaluation_images=8 demo.tower_steps=5 \
	sft.epochs=1 reward.epochs=1 ppo.iterations=2 ppo.critic_warmup_iterations=1 \
	ppo.rollout_batch_size=8 ppo.minibatch_size=4 ppo.ppo_epochs=1
WHEEL_TEST = $(CURDIR)/build/wheel
wheel: $(STAMP)
	rm -rf dist $(WHEEL_TEST)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(PYTHON) -m venv $(WHEEL_TEST)
	$(WHEEL_TEST)/bin/python -m pip install --quiet $$(grep '^torch==' constraints.txt)
	$(WHEEL_TEST)/bin/python -m pip install --quiet -c constraints.txt dist/rlhf_llava-*.whl
	cd $$(mktemp -d) && $(WHEEL_TEST)/bin/rlhf --version && $(WHEEL_TEST)/bin/rlhf ppo --cfg job >/dev/null \
		&& $(WHEEL_TEST)/bin/rlhf demo $(SHORT_DEMO)

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The documentation, in build/site; a broken link or reference fails.
docs: $(STAMP)
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet --config-file docs/mkdocs.yml

# The documentation's pictures of pages, from the newest `make demo`.
screenshots: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[annotate,browser]'
	$(BIN)/python docs/screenshots.py

tensorboard: $(STAMP)
	$(BIN)/tensorboard --logdir runs

# torch goes first: a CPU build at hand satisfies the pin, and nothing later replaces it.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("rlhf needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $$(grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
