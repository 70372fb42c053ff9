"""Intake of call records from gateways over a unix socket: group commit, acknowledgements. Begin with `server`.

May import: `delivery` (the destinations that persist a record, the sequencer, the journal), `spool`, `metrics`.
"""
