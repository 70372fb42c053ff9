"""Manifests of a proxy with Secrets, as `llmproxy local` and its kin read them."""

import base64

from llmproxy_cli import manifests
from llmproxy_cli.manifests import ManifestBundle

PROXY = """\
apiVersion: llmproxy.dev/v1alpha1
kind: LLMProxy
metadata: {name: demo}
spec:
  models:
  - name: echo
    deployments:
    - {model: hosted_vllm/echo, apiBase: "http://echo:8000/v1"}
  - name: gpt
    deployments:
    - model: openai/gpt-4o-mini
      apiKey: {secretKeyRef: {name: openai, key: api-key}}
  - name: gemini
    deployments:
    - model: gemini/gemini-2.0-flash
      apiKey: {secretKeyRef: {name: google, key: key}}
  rateLimits: {rpm: 5}
  spans: {store: "http://store:4747"}
"""


SECRETS = f"""
---
kind: Secret
metadata: {{name: openai}}
stringData: {{api-key: sk-plain}}
data: {{api-key: {base64.b64encode(b"sk-covered").decode()}}}
---
kind: Secret
metadata: {{name: google}}
data: {{key: {base64.b64encode(b"AIza").decode()}}}
---
kind: Secret
metadata: {{name: openai, namespace: elsewhere}}
stringData: {{api-key: sk-elsewhere}}
---
kind: ConfigMap
metadata: {{name: other}}
"""


def read(text: str, name: str | None = None, connect_to: dict[str, str] | None = None) -> ManifestBundle:
    return manifests.read(text, "proxy.yaml", name=name, connect_to=connect_to or {})
