"""The control plane: reads LLMProxy objects, writes their children, status and Events. It never carries a request.

Begin with `manager` (the process) and `reconcile` (one LLMProxy). `watch/` reports changes, `render/` computes the
desired objects, `cluster` is the only module that speaks to the API server. May import: `llmproxy_api`, and of
`llmproxy` the contract and the table of providers.
"""
