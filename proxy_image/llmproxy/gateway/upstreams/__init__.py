"""Deployments of a model and the balancer that picks one. Begin with `deployments`.

May import: the contract, the table of providers and `http`.
"""
