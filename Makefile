# Everything that is done with this project. `make` alone lists it.
#
# Each target sets the environment up first, from the lock files; an environment that is up to date costs 0.1 s.
# PYTHON=/path/to/python3.11 names the Python to make it with.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

DATA ?= ../shared/data/kuairand
CONFIG ?= conf/kuairand.yaml
RECIPE ?= multi_value
DEMO ?= # sizes of its feed, such as --events 40000
# All tests but those of `make gpu-test` are of the processor: several ranks would need a GPU each.
PYTEST ?= CUDA_VISIBLE_DEVICES=-1 .venv/bin/python -m pytest
SIDE_BY_SIDE ?= -n 2 --dist loadfile --no-loadscope-reorder # tests/conftest.py has them in groups and in order
JOBS := build_samples train evaluate score_items index_items

with_java = JAVA_HOME=$$(scripts/java_home.sh) && export JAVA_HOME &&

# $(call run_jobs,ARGUMENTS): the pipeline, one job after the other.
define run_jobs
@for job in $(JOBS); do ./spark-submit.sh "$$job" $(1); done
endef

of_download = the public download is run by: make kuairand CONFIG=conf/kuairand_full.yaml DATA=KuaiRand-Pure/data.

example_user = .venv/bin/python -c 'import glob, json; print(json.load(open(max(glob.glob("runs/demo/*/examples.json"))))["users"][0]["user"])'

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## .venv of the lock files, Horovod built; every target does it first
	@scripts/setup_env.sh

.PHONY: demo
demo: setup ## a small made-up feed through the whole pipeline
	@.venv/bin/python -m dssm.demo --config conf/demo.yaml $(DEMO)
	$(call run_jobs,--config conf/demo.yaml)
	@./spark-submit.sh recommend demo --user "$$($(example_user))"
	@./spark-submit.sh versions demo
	@echo "report: $$(ls -d runs/demo/*/report.html | tail -n 1)"

.PHONY: recipe
recipe: setup ## a model of conf/recipes on the demo's feed: make recipe RECIPE=senet
	@.venv/bin/python -m dssm.demo --config conf/demo.yaml $(DEMO)
	$(call run_jobs,--config 'conf/recipes/$(RECIPE).yaml')

.PHONY: kuairand
kuairand: | has-data setup ## the pipeline on KuaiRand, of DATA=folder
	$(call run_jobs,--config '$(CONFIG)' --set data='$(DATA)')

.PHONY: has-data
has-data:
	@[[ -d '$(DATA)' ]] || { echo "kuairand: '$(DATA)' is no folder; $(of_download)" >&2; exit 2; }
	@for file in $$(sed -n 's|.*path: "{data}/\([^"{}*]*\)".*|\1|p' '$(CONFIG)'); do \
	  [[ -e '$(DATA)'/$$file ]] || { echo "kuairand: '$(DATA)' has no $$file, which $(CONFIG) reads; $(of_download)" >&2; exit 2; }; \
	done

.PHONY: test
test: setup ## every test but those of a cluster, of KuaiRand, of Airflow and of a GPU
	@$(MAKE) --no-print-directory test-one-process
	@$(MAKE) --no-print-directory test-ranks

.PHONY: test-one-process
test-one-process: setup ## of these, all but those of several ranks
	@$(with_java) $(PYTEST) $(SIDE_BY_SIDE) -m "not (horovod or cluster or hosts or kuairand or airflow or gpu)"

.PHONY: test-ranks
test-ranks: setup ## of these, training on several ranks
	@$(with_java) $(PYTEST) $(SIDE_BY_SIDE) -m "horovod" tests/train

.PHONY: test-unit
test-unit: setup ## the fast tests: no Spark, Horovod, browser, whole training or service
	@$(PYTEST) $(SIDE_BY_SIDE) -m "not (slow or spark or horovod or cluster or hosts or airflow or kuairand or gpu)"

.PHONY: cluster-test
cluster-test: setup ## the tests on standalone Spark clusters, started here: on loopback, and over network hosts
	@$(with_java) $(PYTEST) -m "cluster or hosts" tests/cluster

.PHONY: kuairand-test
kuairand-test: setup ## the pipeline on KuaiRand against every baseline, where ../shared/data/kuairand is
	@$(with_java) $(PYTEST) -m kuairand -rs tests/test_kuairand.py

.PHONY: gpu-test
gpu-test: setup ## the tests of a machine with a GPU; of NCCL where Horovod was built with it
	@.venv/bin/python -m pytest -m gpu -rs tests/gpu

.PHONY: hosts-test
hosts-test: setup ## of these, jobs over two network hosts, one of which is cut off; needs root
	@$(with_java) $(PYTEST) -m hosts tests/cluster

.PHONY: airflow-test
airflow-test: setup ## the tests of the DAGs, in an environment with Airflow
	@scripts/setup_env.sh airflow
	@$(with_java) .venv-airflow/bin/python -m pytest --confcutdir=tests/airflow tests/airflow

.PHONY: check
check: setup ## lint, format, types, import walls
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

.PHONY: format
format: setup ## rewrites the code in the project's format
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

.PHONY: reference
reference: setup ## docs/{configuration,api,scale}.md and conf/schema.json anew from the code
	@.venv/bin/python -m dssm.reference
	@.venv/bin/python -m dssm.plan.scale

.PHONY: lock
lock: setup ## requirements/*.lock anew from requirements/*.in
	@.venv/bin/python scripts/lock.py

.PHONY: bench-train
bench-train: setup ## samples a second of a training, against DeepMatch and between its own settings
	@scripts/setup_env.sh deepmatch
	@$(with_java) TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/python -m benchmarks.train

.PHONY: bench-quality
bench-quality: | has-data setup ## recall of the recipe on KuaiRand and of all baselines, three seeds, of DATA=folder
	@$(with_java) TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/python -m benchmarks.quality --set data='$(DATA)' --keep

.PHONY: bench-ablation
bench-ablation: | has-data setup ## what each part of that recipe is worth, three seeds, of DATA=folder; goes on where it was broken off
	@$(with_java) TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/python -m benchmarks.ablation --set data='$(DATA)' --docs

.PHONY: bench-engines
bench-engines: setup ## recall and speed of the engines that a run is indexed in, as README.md shows them, of RUN=folder
	@.venv/bin/python -m benchmarks.engines '$(RUN)' --keep

bench-%: setup ## runs benchmarks/NAME.py: make bench-NAME
	@$(with_java) TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/python -m benchmarks.$(subst -,_,$*)

.PHONY: clean
clean: ## removes runs, caches and build output; leaves .venv
	@rm -rf runs build dist *.egg-info metastore_db derby.log spark-warehouse
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -path './.venv*' -prune -o -name __pycache__ -prune -exec rm -rf {} +
