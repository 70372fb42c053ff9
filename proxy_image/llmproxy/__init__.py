r"""The data plane: a request comes in, an answer and a span go out.

gateway (HTTP in, limits, retries, HTTP out)  ->  shipper (spool on disk, spans to the LightningStore)
        \->  translator (litellm, only for providers that do not speak the client's protocol)

`contract` says what the three are told, `calls` what the gateway tells the shipper, `providers` how to reach a model.
Nothing here knows Kubernetes.
"""

__version__ = "0.1.0"
