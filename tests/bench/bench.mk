# Speed, side by side with other gateways. See docs/performance.md.
.PHONY: bench bench-quick bench-mapping bench-sharing bench-spans bench-operator

BENCH = PYTHONPATH=tests:tests/support $(BIN)/python -m bench

bench: venv venv-agl compiled ## Speed and cost next to nginx, Envoy, LiteLLM and others: about 6 minutes; see docs/performance.md
	@$(BENCH) $(BENCH_ARGS)

bench-quick: venv venv-agl compiled ## The same with nginx and LiteLLM only: about 1 minute
	@$(BENCH) --quick $(BENCH_ARGS)

bench-mapping: venv venv-agl compiled ## CPU of a call and of a chunk whose server speaks another protocol than its client: a minute
	@$(BENCH).mapping

bench-sharing: venv compiled ## CPU that limits shared over pods cost one, from idle to 5,000 requests a second: five minutes
	@PYTHONPATH="$$($(COMPILE) 2>/dev/null || true):tests:tests/support" $(BIN)/python -P -m bench.sharing

bench-spans: venv venv-agl compiled ## What the shipper takes and delivers a second, next to OpenTelemetry's batch exporter and Collector: two minutes
	@PYTHONPATH="$$($(COMPILE) 2>/dev/null || true):tests:tests/support" $(BIN)/python -P -m bench.spans

bench-operator: venv cluster-up ## The operator at 2,000 LLMProxies on a real API server: from empty, edits, a second run; minutes
	@KUBECONFIG=$$($(CLUSTER) place kubeconfig) LLMPROXY_E2E_KUBECONFIG=$$($(CLUSTER) place kubeconfig) \
	  LLMPROXY_E2E_KUBECTL=$$($(CLUSTER) tool kubectl) $(BENCH).operator $(BENCH_ARGS)
