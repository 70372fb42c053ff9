# Everything a person or CI runs. `make help` lists it; each target sets up what it needs.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV   := .venv
AGL    := .venv-agl
SUPPLY := .venv-supply-chain
BIN    := $(VENV)/bin
SAY    := tests/tools/say
COMPILE = $(BIN)/python proxy_image/compile_llmproxy.py
# For a command that is to run compiled what is: empty where nothing is.
COMPILED = PYTHONPATH="$$($(COMPILE) 2>/dev/null || true)"

include tests/cluster/cluster.mk
-include tests/bench/bench.mk
-include examples/demo/demo.mk

.PHONY: help venv venv-agl compiled lock check quick kustomize sbom audit release test test-unit test-integration chaos soak test-agl test-otlp test-long test-chart test-argocd test-e2e crds clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  \033[1m%-18s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.ready: requirements/dev.txt pyproject.toml
	@$(SAY) "Installing Python packages for operator, gateway and tests (about 110 MB to fetch)" \
	  tests/tools/venv $(PYTHON) $(VENV) requirements/dev.txt

$(AGL)/.ready: requirements/agl.txt pyproject.toml
	@$(SAY) "Installing Agent-Lightning and LiteLLM in an environment of their own (about 400 MB to fetch)" \
	  tests/tools/venv $(PYTHON) $(AGL) requirements/agl.txt

venv: $(VENV)/.ready ## Python environment for operator, gateway, shipper, command line and tests
venv-agl: $(AGL)/.ready ## Python environment for the translator and Agent-Lightning's store

$(SUPPLY)/.ready: requirements/supply-chain.txt
	@$(SAY) "Installing the tools for SBOM and audit in an environment of their own" \
	  tests/tools/venv $(PYTHON) $(SUPPLY) requirements/supply-chain.txt

compiled: venv ## The gateway's request path as extension modules, as in the image; without a C compiler it stays pure Python
	@$(COMPILE) >/dev/null

lock: ## Write requirements/*.txt anew from pyproject.toml
	@tests/tools/lock

crds: venv ## Write crds/, the chart's copy and docs/api.md anew from the API models
	@$(BIN)/python -m llmproxy_api.crd --write
	@$(BIN)/python -m llmproxy_api.docs --write

kustomize: venv helm ## Write gitops/kustomize/operator.yaml anew from the chart
	@LLMPROXY_E2E_HELM="$$($(CLUSTER) tool helm)" $(BIN)/python tests/tools/kustomize.py

quick: venv ## Linters and unit tests of the files that Git reports as touched: under 30 s
	@$(BIN)/python tests/tools/quick.py

sbom: $(SUPPLY)/.ready ## Python packages of each image as CycloneDX, in build/sbom
	@tests/tools/sbom $(SUPPLY)

audit: $(SUPPLY)/.ready ## Known vulnerabilities of the locked packages; exit code 3 where the data cannot be reached
	@$(SUPPLY)/bin/python tests/tools/audit.py

release: venv helm $(SUPPLY)/.ready ## Build what a release publishes, in build/release: images, chart, CRD, SBOM, sums; RELEASE_ARGS="--key FILE"
	@LLMPROXY_E2E_HELM="$$($(CLUSTER) tool helm)" $(BIN)/python tests/tools/release.py --environment $(SUPPLY) $(RELEASE_ARGS)

check: venv ## Format, lint, types and layers
	@$(SAY) "ruff format" $(BIN)/ruff format --check .
	@$(SAY) "ruff check" $(BIN)/ruff check .
	@$(SAY) "mypy --strict" $(BIN)/mypy
	@$(SAY) "layers" $(BIN)/lint-imports --no-cache

test-unit: venv compiled ## Pure parts, seconds: all from the sources, then those of the gateway compiled
	$(BIN)/pytest -q -n 2 --dist loadfile tests/unit tests/crds tests/cluster -m "not cluster and not e2e"
	$(COMPILED) $(BIN)/pytest -q tests/unit/gateway tests/unit/limits tests/unit/test_compiled.py tests/unit/shipper/test_agent_lightning.py tests/unit/shipper/test_otel_genai.py

test-integration: venv venv-agl compiled ## Real processes on loopback: gateway (compiled), shipper, translator, a real LightningStore
	@PYTHONPATH=tests:tests/support $(BIN)/python -m redisd
	@$(COMPILED) tests/tools/pytest-twice integration $(BIN)/pytest -q -n 3 --dist loadfile tests/integration tests/zoo tests/chaos tests/soak -m "not cluster and not e2e and not long"

chaos: venv ## Traffic while shippers and gateways are killed and the store breaks: minutes, and a ledger at the end
	@$(BIN)/python tests/chaos/chaos.py --seconds $(or $(SECONDS_OF_CHAOS),180)

soak: venv compiled ## Mixed traffic for 10 minutes: memory, open files and hung calls, with a table as it goes
	@$(COMPILED) $(BIN)/python tests/soak/soak.py --seconds $(or $(SECONDS_OF_SOAK),600)

test-agl: venv-agl ## Agent-Lightning's own store and adapters on our spans
	@tests/tools/pytest-twice agl $(AGL)/bin/pytest -q -n 2 --dist loadfile tests/agl -m "not long"

test-otlp: venv ## A real OpenTelemetry Collector (built once from Go modules) as a destination of spans
	@$(CLUSTER) build collector
	$(BIN)/pytest -q tests/collector

test-long: venv venv-agl ## What `make test` leaves out because it takes long: more of the same, faults around the operator, Argo CD, chaos for three minutes
	$(AGL)/bin/pytest -q tests/agl -p no:cacheprovider -m long
	@PYTHONPATH=tests:tests/support $(BIN)/python -m redisd
	$(BIN)/pytest -q tests/integration -m "long and not cluster"
	@$(MAKE) --no-print-directory chaos
	@tests/tools/test-e2e long

test-chart: venv helm ## The chart: lint, what it renders, which values it refuses
	@LLMPROXY_E2E_HELM="$$($(CLUSTER) tool helm)" $(BIN)/pytest -q tests/charts tests/unit/gitops/test_kustomize.py -m "not cluster"

test-argocd: venv argocd ## A real Argo CD keeps LLMProxies on a real cluster as a Git repository has them
	@tests/tools/test-e2e argocd

test-e2e: venv venv-agl ## On a real cluster: the cluster itself, API server, operator, pods end to end; removes it if it started it
	@tests/tools/test-e2e

test: ## Everything: lint, types, layers, unit, integration, chart, and e2e on a real cluster
	@tests/tools/test-all

clean: ## Remove environments, reports and caches of tools
	rm -rf $(VENV) $(AGL) $(SUPPLY) build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
