"""A small OpenAI- and vLLM-compatible model server for demos and tests, which says in its answers that it is an echo.

It repeats the last user message in the shapes of a real server: streams, tools, usage, token ids, log-probabilities.
Flags set its behaviour; headers or a directive in the message set it for one request (`behaviour`). Begin with `app`.

May import: `llmproxy.protocols`, to read a Responses request; nothing of the gateway.
"""
