"""Wire formats of OpenAI (chat completions, Responses) and Anthropic (Messages). Pure: bytes and values in and out.

Begin with `sse` (server-sent events) and `passthrough` (a stream forwarded as it is). A folder maps one protocol to
another and is named client_to_upstream:

    anthropic_to_openai     client speaks Anthropic, upstream speaks OpenAI
    openai_to_anthropic     client speaks OpenAI, upstream speaks Anthropic
    responses_to_openai     client speaks Responses, upstream speaks OpenAI chat completions
    normalize               a recorded call of any protocol as a chat completion, for spans

The gateway maps on the way; the shipper uses `normalize`. Which fields are mapped, dropped, refused and passed on is
in docs/protocols.md, and above the tables in the `request` modules. The rule: what a caller would miss is refused with
the field's name, hints (caching, tiers) are dropped, and what neither API defines is passed on, since model servers
have fields of their own.

Text is never changed: streams are split at LF alone, and U+0085, U+2028 and U+2029 are written as JSON escapes,
because many SSE readers take them for the end of a line.

May import: the standard library and msgspec. Not the gateway, the shipper, or anything that does I/O.
"""
