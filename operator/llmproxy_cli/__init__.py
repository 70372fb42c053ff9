"""The command line, `llmproxy`: the same resource and contract as in a cluster, on a laptop.

manifests (a file) -> plan (what to run) -> pod (processes in place of containers) -> local (watch, roll, end).
"""
