"""What is measured side by side: each module brings one gateway up, alone on its core, and tells how to call it."""

from bench.peers.base import Peer
from bench.peers.direct import Direct
from bench.peers.gateway import Gateway
from bench.peers.native import Envoy, Nginx, VllmRouter
from bench.peers.node import Portkey
from bench.peers.python import AgentLightning, LiteLLM

ALL: tuple[Peer, ...] = (
    Direct(),
    Gateway("gateway", "this gateway, all features"),
    Gateway("gateway-held", "this gateway, answers held until stored", ack_wait_s=0.05),
    Gateway("gateway-plain", "this gateway, calls of no rollout", rollout=False),
    Nginx(),
    Envoy(),
    VllmRouter(),
    Portkey(),
    LiteLLM(),
    AgentLightning(),
)
QUICK = ("direct", "gateway", "nginx", "litellm")
OURS = "gateway"
