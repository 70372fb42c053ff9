r"""Makes calls durable, then spans of them, then delivers those to a LightningStore.

intake (socket, sequence ids, group commit) -> spool (segments on disk) -> spans (pure) -> delivery -> store
                                                                            \-> parked -> dead letters

It knows neither HTTP of callers nor the operator: `contract` tells it where, `calls` what was called.
"""
