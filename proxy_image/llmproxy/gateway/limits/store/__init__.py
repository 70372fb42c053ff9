"""Limits of several replicas: leases from one Redis or Valkey. Begin with `lease_limiter`.

May import: `limits.local` and the limiter.
"""
