# One word for each act, the same by hand and in CI. Needs Python 3.11 or later, a C compiler, make.

PYTHON ?= python3
BIN := .venv/bin
# One more than cores, 8 at most: many tests wait for a process or a disk.
WORKERS := $(shell n=$$(nproc); echo $$((n < 8 ? n + 1 : 8)))
SOURCES := $(shell find ledger -name '*.pyx' -o -name '*.px[di]' -o -name '*.h') setup.py pyproject.toml

.PHONY: demo test verify-build dist chaos chaos-long mutants lint bench bench-full bench-scale budget docs site clean

# The package is installed in place: what is tested and served is this tree.
.venv/built: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test,lint,chaos,docs]'
	touch $@

demo: .venv/built  ## a server, ten seconds of load, kill -9 in the middle, the books verified
	$(BIN)/python tools/demo.py

test: .venv/built  ## the whole suite
	$(BIN)/python -m pytest --numprocesses $(WORKERS)

verify-build: .venv/built  ## the core's tests and seeds with every verify() checked; two minutes
	$(BIN)/python tools/verify_build.py

dist:  ## the source distribution and a wheel, installed where nothing else is; four minutes
	$(PYTHON) -m tools.dist

chaos: .venv/built  ## the quick scenarios of every tier; about five minutes
	$(BIN)/python -m chaos run fast --jobs 2 --coverage --out build/chaos

chaos-long: .venv/built  ## an hour of new seeds on every tier, then the sale's scenarios
	$(BIN)/python -m chaos run fast slow --jobs 2 --minutes 60 --coverage --out build/chaos
	$(BIN)/python -m chaos run sale --out build/chaos

mutants: .venv/built  ## faults put into the ledger on purpose: each must be caught
	$(BIN)/python -m chaos.mutants --jobs 2

lint: .venv/built  ## types, style, the order of the rooms
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/ruff check .
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/cython-lint $(filter %.pyx %.pxi %.pxd,$(SOURCES))
	$(BIN)/python -m tools.tidy

bench: .venv/built  ## core, journal, codec and socket path; about a minute
	$(BIN)/python -m pytest bench --benchmark-enable --benchmark-only --benchmark-sort=fullname \
		--benchmark-columns=min,median,max,iqr,rounds

bench-full: .venv/built  ## all of it into build/bench and docs/measure.md; each part says how long
	mkdir -p build/bench
	$(BIN)/python -m pytest bench --benchmark-enable --benchmark-only --benchmark-sort=fullname \
		--benchmark-columns=min,median,max,iqr,rounds --benchmark-json=build/bench/parts.json
	$(BIN)/python -m bench.ceiling
	$(BIN)/python -m bench.curve
	$(BIN)/python -m bench.peers
	$(BIN)/python -m bench.report

bench-scale: .venv/built  ## a long history, then many accounts; says what it takes of time and disk
	$(BIN)/python -m bench.scale --transfers 100_000_000 --accounts 10_000
	$(BIN)/python -m bench.scale --transfers 10_000_000 --accounts 10_000_000
	$(BIN)/python -m bench.report

budget: .venv/built  ## instructions for each payment, counted by callgrind, against their budgets
	$(BIN)/python -m bench.instructions

docs: .venv/built  ## write what is generated from the C lists
	$(BIN)/python tools/docs.py
	$(BIN)/python tools/stubs.py

site: .venv/built  ## the pages as a site in build/site; a link that leads nowhere fails
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -q docs build/site

clean:
	rm -rf .venv build dist *.egg-info ledger/*.so ledger/_*.c demo
