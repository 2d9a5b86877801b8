# Everything here works on a machine that has Python 3.11, pip and make: uv, Kafka and Java are brought into folders.

UV    := sh deploy/uv.sh
RUN   := $(UV) run --frozen
KAFKA := $(UV) run --frozen --group kafka python deploy/kafka/local_kafka.py
SEEDS ?= 100
JOBS ?= 4
RUNS ?= 3

.NOTPARALLEL:
.PHONY: help setup demo test check lint sim chaos bench bench-curves bench-page kafka kafka-stop kafka-fetch clean

help: ## say what there is
	@grep -E '^[a-z-]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 14

setup: ## make the environment of a developer in .venv
	$(UV) sync --frozen --group kafka --group bench

demo: ## from two topics to a delivered notification, nothing to install; BROKER=host:port takes a Kafka
	$(RUN) --no-dev tocsin demo $(if $(BROKER),--broker $(BROKER))

test: lint kafka-fetch ## all checks and all tests, with real Kafkas: JOBS=n at a time, for tests mostly wait
	@mkdir -p build
	$(RUN) --group kafka --group bench python -Im pytest --numprocesses=$(JOBS) --dist=loadfile -rs --junitxml=build/junit.xml

check: lint ## all checks and the quick tests, for each change
	$(RUN) python -Im pytest -m "not kafka and not slow"

lint: ## layout, lint, types, and what may import what
	$(RUN) ruff format --check
	$(RUN) ruff check
	$(RUN) mypy schemas detectors config streams tests deploy
	$(RUN) lint-imports

sim: ## all stages under faults: SEEDS=n runs, from SEED=s on; results in build/sim.json
	@mkdir -p build
	$(RUN) python tests/simulation/run.py --seeds $(SEEDS) $(if $(SEED),--seed $(SEED))

chaos: kafka-fetch ## real processes on a real Kafka under faults: ROUNDS=n, from SEED=s on, NODES=1|3, OUTAGE=seconds; results in build/chaos.json
	@mkdir -p build
	$(RUN) --group kafka python tests/chaos/run.py $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SEED),--seed $(SEED)) $(if $(NODES),--nodes $(NODES)) $(if $(OUTAGE),--outage-s $(OUTAGE))

bench: kafka-fetch ## how fast, how large, on a real Kafka, on a quiet machine: RUNS=n each, ONLY="name …"; results in build/bench.json
	@mkdir -p build
	$(RUN) --group kafka python tests/benchmarks/run.py --runs $(RUNS) $(if $(ONLY),--only $(ONLY))

bench-curves: kafka-fetch ## how cost grows with what is pending, lanes, features, partitions, delay: RUNS=n each, ONLY="name …"; results in build/curves.json
	@mkdir -p build
	$(RUN) --group kafka python tests/benchmarks/curves.py --runs $(RUNS) $(if $(ONLY),--only $(ONLY))

bench-page: ## put the results of both into docs/performance.md and the README
	$(RUN) --group bench python tests/benchmarks/page.py

kafka: kafka-fetch ## start a real Kafka on loopback and print its address; PORT=n, NODES=1|3
	@$(KAFKA) start --data build/kafka --address-file build/kafka.address $(if $(PORT),--port $(PORT)) $(if $(NODES),--nodes $(NODES))

kafka-stop: ## stop it; its records stay in build/kafka
	@test ! -e build/kafka/cluster.json || $(KAFKA) stop --data build/kafka
	@rm -f build/kafka.address

kafka-fetch: ## download Kafka with its clients for the command line, and Java where there is none, once
	@$(KAFKA) fetch --tools

clean: kafka-stop ## remove all that was made here, except what was downloaded into the user's cache
	rm -rf build .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
