"""Spool record: one call on disk, with its delivery state."""

import msgspec

from llmproxy import shipping_protocol


class SpoolRecord(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One call in a segment. (gateway, call.call_id) names it."""

    gateway: str
    sequence_id: int
    """The store's, taken at the call's arrival; 0 while there is none."""
    call: shipping_protocol.CallRecord
    tries: int = 0
    """Refusals while the destination accepted others."""
    since_ns: int = 0
    """First refusal, in Unix nanoseconds."""
    reason: str = ""
    """Reason of the last refusal."""
    delivered: tuple[int, ...] = ()
    """Indexes of its spans that the destination has already."""
    late: bool = False
    """True if the sequence id was taken after the call's end, so that it does not give the order of arrival."""

    @property
    def group(self) -> tuple[str, str]:
        """Rollout and attempt: a store refuses or accepts their calls together."""
        return self.call.rollout_id, self.call.attempt_id


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(SpoolRecord)
encode = _encoder.encode
decode = _decoder.decode
DecodeError = msgspec.MsgspecError
