"""What is on disk for each call: the call as the gateway told it, and what has become of it since."""

import msgspec

from llmproxy import shipping_protocol


class Record(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One call in a segment. (gateway, call.call_id) names it."""

    gateway: str
    sequence_id: int
    """The store's, taken when the call arrived; 0 when there is none yet."""
    call: shipping_protocol.CallRecord
    tries: int = 0
    """How often the store refused it while it took others."""
    since_ns: int = 0
    """When it was refused first."""
    reason: str = ""
    """Why it was refused last."""
    delivered: tuple[int, ...] = ()
    """Numbers of those of its spans that are in the store already."""
    late: bool = False
    """Whether the sequence id was taken after the call had ended, so that it says nothing of its order."""

    @property
    def group(self) -> tuple[str, str]:
        """What the store refuses or takes as one: rollout and attempt."""
        return self.call.rollout_id, self.call.attempt_id


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)
encode = _encoder.encode
decode = _decoder.decode
DecodeError = msgspec.MsgspecError
