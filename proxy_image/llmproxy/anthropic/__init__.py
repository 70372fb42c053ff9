"""Anthropic's Messages API and OpenAI's chat completions, each made from the other. Pure: bytes and values in and out.

                    client speaks Anthropic,             client speaks OpenAI,
                    upstream speaks OpenAI               upstream speaks Anthropic
    request         chat_request.from_messages           messages_request.from_chat
    answer          messages_answer.from_chat            chat_answer.from_message
    stream          messages_stream.MessagesStream       chat_stream.ChatStream
    error           errors.to_anthropic                  errors.to_openai

The gateway maps on the way; the shipper uses the right-hand column to show a native Anthropic call as a chat
completion (`as_chat`). Which fields are mapped, left out, refused and passed on is said in docs/protocols.md, and above
the tables in the two request modules. The rule: what a caller would miss is refused with the field's name, what only
hints (caching, tiers) is left out, what neither API defines is passed on, since model servers have fields of their own.

Text is never changed: streams are split at LF alone, and U+0085, U+2028 and U+2029 are written as JSON escapes,
because many SSE readers take them for the end of a line.
"""
