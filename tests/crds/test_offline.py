"""The offline verdict on every case, without a cluster."""

import pytest

from crds.cases import Case, cases
from llmproxy_api import SpecError, parse


@pytest.mark.parametrize("case", cases("valid"), ids=lambda c: c.path.stem)
def test_a_valid_object_is_accepted(case: Case) -> None:
    proxy = parse(case.manifest)

    assert proxy.metadata.name == case.manifest["metadata"]["name"]


@pytest.mark.parametrize("case", cases("invalid"), ids=lambda c: c.path.stem)
def test_an_invalid_object_is_refused_with_the_field_and_the_way_out(case: Case) -> None:
    with pytest.raises(SpecError) as caught:
        parse(case.manifest)

    assert case.refused, "the file does not say which field is refused"
    assert case.missing_in(str(caught.value)) == [], str(caught.value)


@pytest.mark.parametrize("case", cases("invalid"), ids=lambda c: c.path.stem)
def test_a_message_never_repeats_what_may_be_a_key(case: Case) -> None:
    with pytest.raises(SpecError) as caught:
        parse(case.manifest)

    assert "planted" not in str(caught.value)
    assert caught.value.__cause__ is None
