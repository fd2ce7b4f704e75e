# Everything that is done to this project.  Needs make, git and Debian's python3; `make setup` brings the rest.

PYTHON3 := $(firstword $(wildcard /usr/bin/python3) python3)
VENV    := .venv
PY      := $(VENV)/bin/python
STAMP   := $(VENV)/.setup-stamp
PIP     := $(PY) -m pip --disable-pip-version-check --no-input
ARGS    ?=
# Where `make install` installs, and below what the /sbin is that gets the helpers of mount(8).
PREFIX  ?= /usr/local
HELPER_PREFIX ?= /

.PHONY: help setup packages install uninstall demo test coverage kill check format man bench bench-peers campaign soak \
	acceptance fuzz audit clean
.DEFAULT_GOAL := help

help:
	@echo 'make setup      system packages, .venv, and .venv/bin/ossfs'
	@echo 'make install    ossfs into /usr/local, its systemd units, and the helpers of mount(8) into /sbin (as root)'
	@echo 'make uninstall  remove what make install has installed'
	@echo 'make demo       the whole product on an embedded server: mount, copy, edit, remount, compare'
	@echo 'make demo KEEP=1   the same, and the mount stays up until Ctrl-C'
	@echo 'make test       set-up, then all tests (ARGS="-k name" for some of them)'
	@echo 'make coverage   tests without a mount, and what of ossfs/ they run'
	@echo 'make kill       kill -9 in 200 write-back workloads (COUNT=n for another number)'
	@echo 'make check      lint, format, types, import contracts, bandit'
	@echo 'make audit      known vulnerabilities in the installed packages (asks an advisory service; ARGS="-s osv" another)'
	@echo 'make bench      the benchmarks, on the embedded server (ARGS="--latency 15ms --bandwidth 100MB/s --runs 3")'
	@echo 'make bench ENDPOINT=URL BUCKET=NAME   the same on a running service'
	@echo 'make bench-peers   s3fs beside ossfs (SERVER=PROGRAM: an osswire, which speaks its dialect)'
	@echo 'make campaign   every fault against a mount under load, and the bytes counted (ARGS="--seconds 60 --seed 7")'
	@echo 'make soak       an hour of mixed load, then each file compared (ARGS="--minutes 5 --plot soak.svg")'
	@echo 'make acceptance   docker-registry, restic, borg and PostgreSQL on a mount, and mounts in a Debian that boots (installs them; root)'
	@echo 'make man        man/ossfs.8 anew, after a change of commands or options'
	@echo 'make fuzz       a coverage-guided fuzzer on all that comes from outside (ARGS="--seconds 600 answer request")'
	@echo 'make clean      remove .venv and what tools left'

setup: packages $(STAMP)

# Looks every time, since the stamp may have come with a copied tree; installs only what is missing.
packages:
	@bash scripts/system-packages

# crcmod and oss2 come as source: without wheel and setuptools, crcmod would be built without its C
# extension, which is a hundred times slower.
$(STAMP): pyproject.toml | packages
	@echo 'installing ossfs and its Python packages into $(VENV) (a minute or so)'
	@test -x $(PY) || $(PYTHON3) -m venv $(VENV)
	@$(PIP) install -qq --upgrade pip setuptools wheel
	@$(PIP) install -qq -e '.[test,check]'
	@$(PY) -c 'import crcmod._crcfunext' || echo 'note: crcmod has no C extension here; oss2 works, slowly' >&2
	@touch $@

# Of its own, so that a mount does not depend on this clone.
install: packages
	@$(PYTHON3) -m venv $(PREFIX)/lib/ossfs
	@$(PREFIX)/lib/ossfs/bin/python -m pip --disable-pip-version-check --no-input install -qq --upgrade pip setuptools wheel
	@$(PREFIX)/lib/ossfs/bin/python -m pip --disable-pip-version-check --no-input install -qq '.[credentials,metrics]'
	@mkdir -p $(PREFIX)/bin $(PREFIX)/lib/systemd/system $(PREFIX)/lib/systemd/user
	@ln -sf ../lib/ossfs/bin/ossfs $(PREFIX)/bin/ossfs
	@install -m 644 systemd/ossfs@.service $(PREFIX)/lib/systemd/system
	@install -m 644 systemd/ossfs-user@.service $(PREFIX)/lib/systemd/user
	@mkdir -p $(PREFIX)/share/doc $(PREFIX)/share/man/man8
	@install -m 644 man/*.8 $(PREFIX)/share/man/man8
	@rm -rf $(PREFIX)/share/doc/ossfs
	@cp -r $(PREFIX)/lib/ossfs/share/doc/ossfs $(PREFIX)/share/doc
	@$(PREFIX)/lib/ossfs/bin/ossfs install-helper --prefix $(HELPER_PREFIX)
	@test ! -d /run/systemd/system || systemctl daemon-reload
	@echo 'installed $(PREFIX)/bin/ossfs; documents and examples are in $(PREFIX)/share/doc/ossfs'

uninstall:
	@test ! -x $(PREFIX)/lib/ossfs/bin/ossfs || $(PREFIX)/lib/ossfs/bin/ossfs install-helper --remove --prefix $(HELPER_PREFIX)
	@rm -rf $(PREFIX)/lib/ossfs $(PREFIX)/share/doc/ossfs
	@rm -f $(PREFIX)/bin/ossfs $(PREFIX)/lib/systemd/system/ossfs@.service $(PREFIX)/lib/systemd/user/ossfs-user@.service
	@rm -f $(PREFIX)/share/man/man8/ossfs.8 $(PREFIX)/share/man/man8/mount.ossfs.8
	@test ! -d /run/systemd/system || systemctl daemon-reload
	@echo 'removed; /etc/ossfs and what mounts left in /var/lib/ossfs are still there'

demo: setup
	@$(PY) scripts/demo.py $(if $(filter-out 0 no,$(KEEP)),--keep)

test: setup
	$(PY) -m pytest $(ARGS)

coverage: setup
	$(PY) -m pytest -m 'not mount' --cov=ossfs --cov-report=term-missing:skip-covered $(ARGS)

campaign: setup
	$(PY) -m tests.campaign $(ARGS)
	$(PY) -m tests.campaign.corruption
	$(PY) -m tests.campaign.deadlines
	$(PY) -m tests.model.distrust
	OSSFS_TEST_KILLS=60 $(PY) -m pytest tests/mount/test_rename_crash.py

soak: setup
	$(PY) -m tests.campaign.soak $(ARGS)

acceptance: setup
	@bash scripts/system-packages acceptance
	$(PY) -m pytest tests/acceptance $(ARGS)

kill: setup
	$(PY) -m tests.mount.test_writeback_kill $(if $(COUNT),$(COUNT),200)

check: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/bandit -q -c pyproject.toml -r ossfs scripts

fuzz: setup
	@$(PIP) install -q -e '.[fuzz]'
	$(PY) -m tests.fuzz $(ARGS)

# Strict: a package of which the service knows nothing is a failure, not a "no known vulnerabilities".
audit: setup
	@$(PIP) install -q -e '.[audit]'
	$(VENV)/bin/pip-audit --strict --skip-editable --progress-spinner off $(ARGS)

format: setup
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

man: setup
	$(PY) -m scripts.manpage

BENCH := $(PY) -m benchmarks $(if $(ENDPOINT),--endpoint '$(ENDPOINT)') $(if $(BUCKET),--bucket '$(BUCKET)') \
	$(if $(REGION),--region '$(REGION)') $(if $(SERVER),--server '$(SERVER)')

bench: setup
	$(BENCH) $(ARGS)

bench-peers: setup
	$(BENCH) --peers $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .coverage .hypothesis .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
