"""LiteLLM's own proxy, and Agent-Lightning's LLMProxy, which is built on it."""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from bench import install
from bench.peers.base import KEY, Place, Running, alone, simple
from bench.places import AGL, SOURCES
from bench.shapes import MODEL

ENV = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_TELEMETRY": "False"}


def _missing() -> str:
    return "" if (AGL / "litellm").exists() else "litellm is not installed: make venv-agl"


class LiteLLM:
    """One worker, no database, no callbacks."""

    name = "litellm"
    title = "LiteLLM proxy"

    def missing(self) -> str:
        return _missing()

    def version(self) -> str:
        return install.version_of("litellm", AGL / "python")

    def run(self, place: Place) -> AbstractContextManager[Running]:
        config = place.folder / "config.yaml"  # JSON is YAML
        config.write_text(
            json.dumps(
                {
                    "model_list": [
                        {
                            "model_name": MODEL,
                            "litellm_params": {
                                "model": f"hosted_vllm/{MODEL}",
                                "api_base": f"{place.upstream}/v1",
                                "api_key": "none",
                            },
                        }
                    ],
                    "general_settings": {"master_key": KEY},
                }
            )
        )
        options = ("--config", str(config), "--host", "127.0.0.1", "--port", str(place.port), "--num_workers", "1")
        return simple(place, str(AGL / "litellm"), *options, env=ENV)


class AgentLightning:
    """LLMProxy with a store that costs nothing; its spans are exported, as they are in training."""

    name = "agent-lightning"
    title = "Agent-Lightning LLMProxy"

    def missing(self) -> str:
        return _missing()

    def version(self) -> str:
        return install.version_of("agentlightning", AGL / "python")

    @contextmanager
    def run(self, place: Place) -> Iterator[Running]:
        env = {
            **ENV,
            # It cannot be given a master key: its own health check sends none.
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
            # Today's exporter does not see the address that LLMProxy sets, and would block for 7 s with each call.
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{place.upstream}/v1/traces",
        }
        program = (str(AGL / "python"), str(SOURCES / "peers/agl_proxy.py"))
        with alone(place, *program, str(place.port), place.upstream, env=env) as (process, start_s):
            yield Running(place.port, (process.pid,), start_s, "/rollout/bench/attempt/bench/v1/chat/completions", {})
