"""Records of calls, as the gateway sends them to the shipper."""

import httpx2
import pytest

from integration.protocols.conftest import Rig
from llmproxy.shipper.spans.agent_lightning import spans_of
from llmproxy.shipper.spool.records import SpoolRecord


def test_the_record_of_a_client_that_left_early_names_its_try_and_deployment(rig: Rig) -> None:
    body = {"model": "m-vllm", "messages": [{"role": "user", "content": rig.directive("vllm", delay_ms=5000)}]}
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.post(f"{rig.base}/rollout/ro-1/attempt/at-1/v1/chat/completions", json=body, timeout=0.5)
    call = rig.recorder.last()
    assert (call.error, call.status, call.provider, call.upstream_model) == ("client_closed", 0, "hosted_vllm", "echo")
    assert [(item.deployment, item.status, item.error) for item in call.tries] == [("m-vllm/0", 0, "cancelled")]
    assert 0.3e9 < call.tries[0].ended_ns - call.tries[0].started_ns < 4e9
    root = spans_of(SpoolRecord(gateway="g", call=call, sequence_id=1, late=False), "Full")[0]
    assert (root.attributes["llmproxy.deployment"], root.attributes["llmproxy.tries"]) == ("m-vllm/0", 1)
