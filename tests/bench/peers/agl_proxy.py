"""Runs agentlightning's LLMProxy as its documentation shows: agl_proxy.py PORT UPSTREAM. Needs .venv-agl."""

import asyncio
import sys

from agentlightning import LightningStoreClient, LLMProxy


async def main(port: int, upstream: str) -> None:
    """Serve until killed."""
    proxy = LLMProxy(
        port=port,
        host="127.0.0.1",
        launch_mode="asyncio",
        store=LightningStoreClient(upstream),
        model_list=[
            {
                "model_name": "bench",
                "litellm_params": {"model": "hosted_vllm/bench", "api_base": f"{upstream}/v1", "api_key": "none"},
            }
        ],
    )
    await proxy.start()
    await asyncio.Event().wait()


asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
