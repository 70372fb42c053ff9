"""Specs that have every field of the resource: what tests change one by one, and at random."""

from typing import Any

Object = dict[str, Any]

KEY = {"secretKeyRef": {"name": "provider", "key": "api-key"}}
RESOURCES = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "2Gi"}}
BASE: Object = {
    "models": [
        {
            "name": "echo",
            "aliases": ["echo-latest"],
            "rateLimits": {"rpm": 10, "rps": 1, "tpm": 100, "maxParallel": 2},
            "deployments": [
                {
                    "model": "hosted_vllm/echo",
                    "apiBase": "https://echo:8000/v1",
                    "apiKey": KEY,
                    "tls": {"ca": {"secretKeyRef": {"name": "echo", "key": "ca.crt"}}, "serverName": "echo.corp"},
                    "headers": [{"name": "x-org", "value": {"secretKeyRef": {"name": "echo", "key": "org"}}}],
                    "weight": 1,
                    "tokenIds": False,
                    "timeout": "1m",
                    "timeouts": {"connect": "1s", "firstByte": "2s", "idle": "3s"},
                    "params": {"top_p": 1},
                },
                {"model": "gemini/g", "apiKey": KEY},
            ],
        },
        {"name": "spare", "deployments": [{"model": "hosted_vllm/echo", "apiBase": "http://echo:8000/v1"}]},
        {"name": "third", "deployments": [{"model": "hosted_vllm/echo", "apiBase": "http://echo:8000/v1"}]},
    ],
    "fallbacks": [{"model": "third", "to": ["spare"]}],
    "rateLimits": {
        "rpm": 20,
        "rps": 2,
        "tpm": 200,
        "maxParallel": 4,
        "overflow": "Queue",
        "maxQueueTime": "3s",
        "shared": {
            "mode": "Redis",
            "url": {"secretKeyRef": {"name": "redis", "key": "url"}},
            "ca": {"secretKeyRef": {"name": "redis", "key": "ca.crt"}},
        },
    },
    "retries": {"max": 1, "initialDelay": "1s", "maxDelay": "2s"},
    "spans": {
        "store": "http://store:4747",
        "otlp": {
            "endpoint": "http://collector:4318",
            "headers": [{"name": "authorization", "value": {"secretKeyRef": {"name": "collector", "key": "token"}}}],
        },
        "registerResource": "main_llm",
        "ackWait": "20ms",
        "content": "Full",
        "spool": {"size": "2Gi"},
        "resources": RESOURCES,
    },
    "replicas": 1,
    "disruptionBudget": {"maxUnavailable": 1},
    "translator": {"resources": RESOURCES},
    "litellm": {"settings": {"drop_params": True}},
    "access": {
        "namespaces": ["agents"],
        "metricsNamespaces": ["monitoring"],
        "egress": [
            {"cidr": "10.0.0.0/8", "ports": [443]},
            {"namespace": "vllm", "podLabels": {"app": "vllm"}},
        ],
        "apiKeys": {"secretRef": {"name": "trainers"}},
    },
    "monitoring": {"podMonitor": True, "labels": {"a": "b"}},
    "forwardHeaders": ["x-data-parallel-rank"],
    "drainTimeout": "1m",
    "image": "img:1",
    "resources": RESOURCES,
    "pod": {
        "labels": {"a": "b"},
        "annotations": {"a": "b"},
        "nodeSelector": {"a": "b"},
        "tolerations": [
            {"key": "a", "operator": "Equal", "value": "b", "effect": "NoExecute", "tolerationSeconds": 3},
        ],
        "priorityClassName": "high",
        "serviceAccountName": "trainer",
        "imagePullSecrets": [{"name": "registry"}],
        "topologySpread": True,
        "env": [
            {"name": "AWS_REGION", "value": "eu-west-1"},
            {"name": "AWS_SECRET_ACCESS_KEY", "secretKeyRef": {"name": "aws", "key": "secret"}},
        ],
    },
}
AUTOSCALED = {k: v for k, v in BASE.items() if k != "replicas"} | {
    "autoscaling": {"minReplicas": 2, "maxReplicas": 6, "targetCPUUtilization": 70}
}
"""Together they have every field; a field that is in neither fails the test."""
