"""Deployments for tests that need no server behind them."""

import asyncio
from pathlib import Path
from typing import Any

from llmproxy import contract
from llmproxy.gateway.upstreams.deployments import Pools, Upstream, make_upstream


def target(ident: str = "m/0", **fields: Any) -> Upstream:
    """Return a deployment ready to be called, as far as that goes without a loop that runs."""
    known = {"model": "openai_like/there", "api_base": "http://127.0.0.1:1/v1", **fields}
    deployment = contract.Deployment.model_validate({"id": ident, **known})

    async def make() -> Upstream:
        return make_upstream(deployment, Pools(), Path("/run"))

    return asyncio.run(make())
