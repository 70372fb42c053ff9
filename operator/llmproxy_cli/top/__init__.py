"""`llmproxy top`: metrics of local or cluster pods as a table that refreshes. Begin with `view`.

May import: the registry of local runs, and names of the operator's objects.
"""
