# make demo | demo-galera | test | test-all | build | campaign | fuzz | chaos | chaos-galera | replace | workers | bench | bench-udp | bench-tls | bench-workers | bench-galera | lint | man | docs | pictures | site | clean
# Everything goes into a virtual environment of its own (.venv); nothing else is needed than Python 3.10 or newer. Where
# a C compiler is, what of gpen can be compiled is, and PURE=1 (or GPEN_PURE=1) does without: make test PURE=1

PYTHON ?= python3
VENV ?= .venv
PY = $(VENV)/bin/python

ifneq ($(filter-out 0,$(PURE)),)
export GPEN_PURE = 1
endif
CORE = $(if $(filter-out 0,$(GPEN_PURE)),,$(VENV)/.built)
BUILD_NEEDS = $$(sed -n 's/^requires = \[\(.*\)\]/\1/p' pyproject.toml | tr -d '",')
TYPED = $(wildcard gpen/*/*.pxd)
C_SOURCES = setup.py gpen/core.py $(TYPED) $(wildcard gpen/*/*.pyx) $(TYPED:.pxd=.py)

.PHONY: demo demo-galera test test-all build campaign fuzz chaos chaos-galera replace workers bench bench-udp bench-tls bench-workers bench-galera lint man docs pictures site clean

demo: $(VENV)/.base $(CORE)
	$(PY) contrib/demo.py $$(test -t 0 && echo --stay)

# the same before a real Galera cluster, where MariaDB is installed: a minute
demo-galera: $(VENV)/.galera $(CORE)
	$(PY) contrib/demo_galera.py

# the compiled modules, beside their sources
build: $(VENV)/.built

# WORKERS run side by side, four to a processor, for most tests wait most of their time; 0 runs one test after the other.
# Where Python may not keep compiled sources each start of a gpen takes 0.2 s of a processor instead of 0.13 s.
WORKERS ?= auto

# Without TESTS: all but those marked long (real clusters, installations, fuzzing), which `make test-all` runs too.
test: $(VENV)/.test $(CORE)
	PYTHONDONTWRITEBYTECODE= $(PY) -m pytest -n $(WORKERS) $(or $(TESTS),-m "not long")

test-all:
	$(MAKE) test TESTS=tests

# what make test tries with a hundred examples each, for as long as it takes to try a hundred times as many
campaign: $(VENV)/.test $(CORE)
	PYTHONDONTWRITEBYTECODE= TURMOIL=$${TURMOIL:-150000} LEAKS=$${LEAKS:-100000} $(PY) -m pytest -n $(WORKERS) -m 'hypothesis or turmoil' --hypothesis-profile=campaign --timeout=7200 $(TESTS)

# an hour of random input, or FUZZ_SECONDS (but a round of each kind at least, a minute); FUZZ_SEED makes the same again. FUZZ=--help tells more
fuzz: $(VENV)/.test $(CORE)
	$(PY) -m tests.fuzz $(FUZZ)

# 5,000 hashed transfers without TLS, and 5,000 with it, while gpen is stopped, reloaded and moved. CHAOS=--help tells more
chaos: $(VENV)/.test $(CORE)
	$(PY) -m tests.chaos $(CHAOS)

# twelve writers through two gpens and two watchers, while things happen to a real cluster. CHAOS=--help tells more
chaos-galera: $(VENV)/.test $(CORE)
	$(PY) -m tests.galera.chaos $(CHAOS)

# 100 times another gpen takes the place of the one that runs, under 500 new connections and 1,000 queries a second and
# 200 sessions that are kept: nobody may notice. REPLACE=--help tells more
replace: $(VENV)/.test $(CORE)
	$(PY) -m tests.replacements $(REPLACE)

# 10,000 clients at once for servers that take 12, a minute in which a worker is killed each second, and one in which all
# kinds of things happen. LOAD=--help tells more
workers: $(VENV)/.test $(CORE)
	$(PY) -m tests.workers $(LOAD)

bench: $(VENV)/.base $(CORE)
	$(PY) -m tests.bench $(BENCH)

bench-udp: $(VENV)/.test $(CORE)
	$(PY) -m tests.bench.dns $(BENCH)

bench-tls: $(VENV)/.base $(CORE)
	$(PY) -m tests.bench.tls $(BENCH)

# what workers cost, and what they bring, by CPU time: two minutes
bench-workers: $(VENV)/.base $(CORE)
	$(PY) -m tests.bench.workers $(BENCH)

# CPU time of sysbench's transactions through a balancer, before three real nodes: five minutes
bench-galera: $(VENV)/.test $(CORE)
	$(PY) -m tests.bench.galera $(BENCH)

lint: $(VENV)/.test
	$(PY) -m ruff check .
	$(PY) -m mypy

# what is made from the tables: man pages, the reference, the list of metrics and shell completion
man: $(VENV)/.base
	$(PY) -m gpen.docs.manual gpen > man/gpen.1
	$(PY) -m gpen.docs.manual gpenctl > man/gpenctl.1
	$(PY) -m gpen.discover.manual > man/gpen-discover.1
	$(PY) -m gpen.galera.manual > man/gpen-galera.1
	$(PY) -m gpen.netlog.manual gpenlog > man/gpenlog.1
	$(PY) -m gpen.netlog.manual gpenlogd > man/gpenlogd.1
	$(PY) -m gpen.docs.reference > docs/REFERENCE.md
	$(PY) -m gpen.docs.metrics > docs/METRICS.md
	$(PY) -m gpen.galera.manual metrics >> docs/METRICS.md
	$(PY) -m gpen.docs.completion bash > contrib/completion/gpen.bash
	$(PY) -m gpen.docs.completion zsh > contrib/completion/_gpen
	$(PY) -m gpen.discover.completion bash > contrib/completion/gpen-discover.bash
	$(PY) -m gpen.discover.completion zsh > contrib/completion/_gpen-discover
	$(PY) -m gpen.galera.completion bash > contrib/completion/gpen-galera.bash
	$(PY) -m gpen.galera.completion zsh > contrib/completion/_gpen-galera
	for name in gpenlog gpenlogd; do \
	    $(PY) -m gpen.netlog.completion $$name bash > contrib/completion/$$name.bash && \
	    $(PY) -m gpen.netlog.completion $$name zsh > contrib/completion/_$$name || exit 1; done

# the pictures of docs/ARCHITECTURE.md, with graphviz
docs:
	dot -Tsvg docs/rooms.dot -o docs/rooms.svg
	dot -Tsvg docs/connection.dot -o docs/connection.svg
	dot -Tsvg docs/listeners.dot -o docs/listeners.svg
	dot -Tsvg docs/two-machines.dot -o docs/two-machines.svg
	dot -Tsvg docs/dsr.dot -o docs/dsr.svg

# the pictures of terminals and of the page, of real runs: the demos, gpenctl top, a browser (three minutes; demo-galera
# needs MariaDB, the page Chromium)
pictures: $(VENV)/.docs $(VENV)/.galera $(VENV)/.test $(CORE)
	$(PY) docs/tools/terminal.py "make demo" 100 docs/demo.svg $(PY) contrib/demo.py
	$(PY) docs/tools/terminal.py "make demo-galera" 132 docs/demo-galera.svg $(PY) contrib/demo_galera.py
	$(PY) docs/tools/top.py docs/top.svg
	$(PY) -m tests.web.pictures

# the documents as a site, in build/site/html; a link that leads nowhere is an error
site: $(VENV)/.docs
	$(PY) docs/tools/pages.py

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "gpen needs Python 3.10 or newer: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "no virtual environment: apt-get install python3-venv"; exit 1; }

$(VENV)/.base: setup.cfg pyproject.toml $(VENV)/bin/python
	GPEN_PURE=1 $(PY) -m pip install --quiet --disable-pip-version-check --editable . $(BUILD_NEEDS)
	@touch $@

# Where a C compiler and Python's headers are, what can't be compiled is an error; elsewhere gpen runs as pure Python.
$(VENV)/.built: $(VENV)/.base $(C_SOURCES)
	@if echo '#include <Python.h>' | $${CC:-cc} -E -I"$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("include"))')" - >/dev/null 2>&1; \
	then echo "gpen is compiled: a minute or two, please ..."; GPEN_PURE=0 $(PY) setup.py --quiet build_ext --inplace && touch $@; \
	else $(PY) setup.py --quiet build_ext --inplace; fi

$(VENV)/.galera: $(VENV)/.base
	GPEN_PURE=1 $(PY) -m pip install --quiet --disable-pip-version-check --editable '.[galera]'
	@touch $@

$(VENV)/.docs: $(VENV)/.base
	GPEN_PURE=1 $(PY) -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

$(VENV)/.test: $(VENV)/.base
	GPEN_PURE=1 $(PY) -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
	find gpen \( -name '*.so' -o -name '*.c' \) -delete
