"""The unix socket on which gateways hand records over. Begin with `server`.

May import: `spool`, and of `delivery` the destination that keeps a record.
"""
