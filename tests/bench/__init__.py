"""Benchmarks: the gateway beside its peers, on one machine in one run. `make bench` runs them; none is a test."""
