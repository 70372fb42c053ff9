"""LiteLLM behind a unix socket, for providers that do not speak OpenAI's protocol. Begin with `app`.

app (HTTP) -> fields -> engine (the only module that imports litellm) -> transport (the provider). `errors` and `shapes`
bring the answer into OpenAI's form. The gateway calls the translator as one more upstream, so retries, limits and spans
are not here.

May import: the contract and the table of providers; nothing of the gateway or the shipper.
"""
