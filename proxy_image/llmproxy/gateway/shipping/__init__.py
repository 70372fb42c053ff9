"""The way of a call's record to the shipper, and probes of the sidecars. Begin with `shipper_client`.

May import: `llmproxy.shipping_protocol` and the gateway's metrics.
"""
