"""Client speaks OpenAI's chat completions, upstream speaks Anthropic's Messages API. Begin with `request`.

May import: the modules of `protocols` beside it, no other map.
"""
