# A Kubernetes cluster for tests, and the images. See tests/cluster/README.md.
CLUSTER := PYTHONPATH=tests $(PYTHON) -m cluster

.PHONY: cluster-up cluster-down cluster-status cluster-doctor cluster-smoke images helm argocd

cluster-up: ## A real Kubernetes: one given, else kind, else a node built here
	@$(CLUSTER) up

cluster-down: ## Remove the cluster with everything it left
	@$(CLUSTER) down

cluster-status: ## Whether the cluster can be used, and where its kubeconfig is
	@$(CLUSTER) status

cluster-doctor: ## Whether this machine can have a cluster (exit code 3 and the reason if not)
	@$(CLUSTER) doctor

cluster-smoke: cluster-up images venv ## Prove the cluster: native sidecar, Service DNS, logs, rolling update
	@$(BIN)/pytest -q tests/cluster/test_smoke.py -m cluster

images: ## Build the images with docker, podman or buildah; load them where a cluster is up
	@$(CLUSTER) images

helm: ## Build Helm into the cache
	@$(CLUSTER) build helm

argocd: ## Build Argo CD into the cache
	@$(CLUSTER) argocd
