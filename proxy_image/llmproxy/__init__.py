r"""The data plane: a request comes in, an answer and a span go out. Begin with `contract`.

gateway (HTTP in, limits, retries, HTTP out)  ->  shipper (spool on disk, spans to the LightningStore)
        \->  translator (litellm, only for providers that do not speak the client's protocol)

`contract` is the document that the three read, `shipping_protocol` the messages from gateway to shipper, `providers`
the table of providers, `protocols` every wire format.

May import: nothing of the operator and nothing of Kubernetes. Gateway, shipper, translator and echo do not import each
other.
"""

__version__ = "0.1.0"
