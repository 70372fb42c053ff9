.PHONY: demo demo-cluster

demo: venv venv-agl ## The quickstart without a cluster: a limit that holds, spans in a real LightningStore, an edit in force
	@$(BIN)/python examples/demo/demo.py --agl $(AGL)/bin/agl

demo-cluster: cluster-up images helm venv ## The same story with kubectl and Helm on a real cluster
	@$(BIN)/python examples/demo/cluster.py --kubeconfig "$$($(CLUSTER) place kubeconfig)" \
	  --kubectl "$$($(CLUSTER) tool kubectl)" --helm "$$($(CLUSTER) tool helm)" $(DEMO_FLAGS)
