"""Client speaks Anthropic's Messages API, upstream speaks OpenAI's chat completions. Begin with `request`.

May import: the modules of `protocols` beside it, no other map.
"""
