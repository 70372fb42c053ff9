"""LiteLLM behind a unix socket, for providers that do not speak OpenAI's protocol.

app (HTTP) -> fields -> engine (the only module that imports litellm) -> transport (the provider); errors and shapes
bring what comes back into OpenAI's form. No retries, no limits and no spans are here: the gateway calls it as one more
upstream and does all that.
"""
