"""Model servers that are a little off, one file each, shown to every client protocol.

`oddities/*.toml` says what a server sends or refuses, where that was seen, and what clients and the span must get.
`server` plays the servers, `clients` read the answers, `test_zoo` runs each file. docs/compatibility.md is generated:

    PYTHONPATH=tests:tests/support python -m zoo
"""
