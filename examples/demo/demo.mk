demo: venv venv-agl ## The quickstart without a cluster: a limit that holds, spans in a real LightningStore, an edit in force
	@$(BIN)/python examples/demo/demo.py --agl $(AGL)/bin/agl
