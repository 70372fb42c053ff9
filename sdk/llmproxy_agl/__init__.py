"""Agent-Lightning's `LLMProxy`, run by this project: `from llmproxy_agl import LLMProxy` in place of upstream's.

On a laptop it runs gateway and shipper as processes; in a cluster it owns an LLMProxy object. docs/agent-lightning.md.
Layers: patch_agent_lightning > proxy > cluster, local > manifest, pause, kube_client > notices, errors. May import: the
API models and agentlightning. Begin with `proxy`.
"""

from agentlightning.llm_proxy import ModelConfig

from llmproxy_agl.errors import ProxyError
from llmproxy_agl.patch_agent_lightning import install
from llmproxy_agl.proxy import LLMProxy

__all__ = ["LLMProxy", "ModelConfig", "ProxyError", "install"]
