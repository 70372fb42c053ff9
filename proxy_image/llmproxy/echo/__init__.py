"""A small OpenAI- and vLLM-compatible model server for demos and tests, which says in its answers that it is an echo.

It repeats the last user message, in the shapes of a real server: streams, tools, usage, token ids, log-probabilities.
How it behaves is set by flags and, for one request, by headers or a directive in the message (`behaviour`).
"""
