# Set-up is a prerequisite of each target: `make up` and `make test` work on a fresh Debian 12.
.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV := .venv
PLAYBOOK := $(VENV)/bin/ansible-playbook
# Another inventory or more variables: make up ARGS='-i inventories/other --limit busan,localhost'
ARGS ?=

.PHONY: help
help: ## Show all targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.ready: requirements.txt
	@/usr/bin/python3 -c 'import venv, ensurepip' || { echo 'python3-venv is missing: apt install python3-venv'; exit 1; }
	/usr/bin/python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.PHONY: venv bundle up upgrade verify demo lock patch test test-long fuzz soak lint unit bench bench-events bench-peers bench-site bench-nfv bench-detector train docs reset
venv: $(VENV)/.ready ## Make the virtual environment, Go toolchain included

bundle: venv ## Build what hosts need, unless the cache has it; ARGS='-e bundle_archive_to=FILE' writes one archive, '-e bundle_publish_to=DIR' fills a mirror
	$(PLAYBOOK) playbooks/bundle.yml $(ARGS)

up: venv ## Stand up the site, or bring it to what the inventory says
	$(PLAYBOOK) site.yml $(ARGS)

upgrade: venv ## Bring the running site to the bundle's Kubernetes, a node at a time, and then to what the inventory says
	$(PLAYBOOK) playbooks/upgrade.yml $(ARGS)

verify: venv ## Check the running site: nodes, versions, network, metrics
	$(PLAYBOOK) playbooks/verify.yml $(ARGS)

demo: venv ## Play an accident through the running site
	$(PLAYBOOK) playbooks/demo.yml $(ARGS)

lint: venv ## Check style and types
	tests/run lint

unit: venv ## Run the unit tests; they need no site
	tests/run unit

test: venv ## Run linters, unit tests, scenarios and a site of its own; skips what passed before with the same inputs, except the site
	tests/run

test-long: venv ## Run all of that, whatever passed before; then upgrade, faults, lost hosts and a soak of a site, and fuzzing; takes hours
	KOREN_TEST_ALL=1 KOREN_TEST_DEADLINE_S= tests/run all long fuzz

fuzz: venv ## Run the fuzz tests for a long time
	tests/run fuzz

soak: venv ## Load the running site with mixed traffic and faults for an hour; the last line is JSON
	tests/run soak

bench: bench-events ## Measure the running site: the way of an event, and the idle load
	$(VENV)/bin/python -m pytest -q -o python_files='bench_idle.py' tests/e2e

bench-events: venv ## Measure the way of an event: from zero, warm, under load; the last line is JSON
	KOREN_BENCH_OUT=.state/bench-events.json $(VENV)/bin/python -m pytest -q -o python_files='bench_events.py' tests/e2e
	@cat .state/bench-events.json

bench-peers: venv ## Measure Knative Serving beside koren.faas in the running site's cluster; the last line is JSON
	tests/run bench-peers

bench-site: venv ## Measure a site of its own: set-up, further runs, a worker removed and added, idle load
	tests/run bench-site

bench-nfv: venv ## Measure the gateways on hosts of their own: events beside a full link, rule changes under traffic
	tests/run bench-nfv

# The simulator that films the scenes is not in the virtual environment, and torch is the host's.
SCENES := .state/scenes
$(SCENES)/.ready: bundle/clips/requirements.txt
	/usr/bin/python3 -m venv $(SCENES)
	$(SCENES)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	touch $@

DETECTOR := PYTHONPATH=apps/detector/src:apps/events/src:$(VENV)/lib/python3.11/site-packages /usr/bin/python3
TRAINING := apps/detector/training
OBSERVED := .state/bench-detector/observed
TRACKS = .state/bench-detector/$(shell cat apps/scenes/src/koren_scenes/*.py $(TRAINING)/simulate.py | sha256sum | cut -c-16)
bench-detector: bundle $(SCENES)/.ready ## Measure the detector on tracks, clips, pans, and footage that KOREN_FOOTAGE names; the last line is JSON
	@/usr/bin/python3 -c 'import cv2, numpy, torch' || { echo 'apt install python3-numpy python3-opencv python3-torch'; exit 1; }
	PYTHONPATH=apps/scenes/src $(SCENES)/bin/python $(TRAINING)/simulate.py $(TRACKS) test
	rm -rf $(OBSERVED)
	$(DETECTOR) $(TRAINING)/observe.py $(TRACKS) $(OBSERVED) test-40 --hours 1 & \
	  $(DETECTOR) $(TRAINING)/observe.py $(TRACKS) $(OBSERVED) test-41 test-c test-m --hours 1 && wait $$!
	@$(DETECTOR) $(TRAINING)/bench.py --tracks $(OBSERVED) --model .state/bundle/models/nanodet.json \
	  --renders .state/bundle/clips $(if $(KOREN_FOOTAGE),--real '$(KOREN_FOOTAGE)')

# Less than two hours on two cores from nothing. What a run that was cut has made is there for the next one.
TRAINING_DATA ?= $(HOME)/.cache/koren-faas/training
train: venv $(SCENES)/.ready ## Train the detector's accident score on simulated junctions, or go on where a run was cut
	@/usr/bin/python3 -c 'import numpy, torch' || { echo 'apt install python3-numpy python3-torch'; exit 1; }
	$(DETECTOR) $(TRAINING)/pipeline.py $(TRAINING_DATA) apps/detector/src/koren_detector/accident.npz \
	  --simulator $(SCENES)/bin/python

docs: venv ## Write the roles' arguments into docs/roles.md
	$(VENV)/bin/python docs/roles.py

lock: venv ## Pin the Debian packages that the mirror has now, and show what that changes
	PYTHONPATH=.collections $(VENV)/bin/python bundle/lock.py $(ARGS)

patch: bundle ## Bring the running hosts the Debian packages that are pinned, one host at a time; ARGS=--check shows which
	$(PLAYBOOK) playbooks/patch.yml $(ARGS)

reset: venv ## Remove the site: hosts, networks, volumes and its state
	$(PLAYBOOK) playbooks/reset.yml -e reset_confirm=yes $(ARGS)
