"""Portkey's gateway, from npm."""

from contextlib import AbstractContextManager

from bench import install
from bench.peers.base import Place, Running, simple


class Portkey:
    """A gateway for many providers, on Node."""

    name = "portkey"
    title = "Portkey gateway"

    def missing(self) -> str:
        return install.node_peers()

    def version(self) -> str:
        return install.node_version_of("@portkey-ai/gateway")

    def run(self, place: Place) -> AbstractContextManager[Running]:
        program = install.node_folder() / "node_modules/@portkey-ai/gateway/build/start-server.js"
        return simple(
            place,
            install.node(),
            str(program),
            f"--port={place.port}",
            "--headless",
            env={"TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost", "NODE_ENV": "production"},
            headers={"x-portkey-provider": "openai", "x-portkey-custom-host": f"{place.upstream}/v1"},
        )
