"""The pattern of a range of addresses takes what Python's own reader takes, and the API server with it."""

import ipaddress
import re

from hypothesis import given
from hypothesis import strategies as st

from llmproxy_api.access import CIDR

V6_PARTS = st.lists(st.sampled_from(["", "0", "1", "fd00", "ABCD", "12345", "g"]), min_size=1, max_size=10).map(
    ":".join
)
V4_PARTS = st.lists(st.sampled_from(["0", "9", "10", "255", "256", "01", ""]), min_size=3, max_size=5).map(".".join)
BITS = st.sampled_from(["/0", "/8", "/32", "/33", "/64", "/128", "/129", "/08", "/", ""])


def read(text: str) -> bool:
    """Whether it is a range; an address alone and bits with a zero before them are none to Kubernetes."""
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return re.fullmatch(".*/(0|[1-9][0-9]*)", text) is not None


@given(st.one_of(V6_PARTS, V4_PARTS), BITS)
def test_a_range_of_addresses_is_told_from_other_texts(address: str, bits: str) -> None:
    assert (re.fullmatch(CIDR, address + bits) is not None) == read(address + bits)


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), st.integers(0, 32))
def test_every_address_makes_a_range(address: ipaddress.IPv4Address | ipaddress.IPv6Address, bits: int) -> None:
    assert re.fullmatch(CIDR, f"{address}/{bits}")
