"""The API server's verdict on every case: it must be the offline one, with the same field and words."""

import pytest

from crds.cases import Case, cases
from crds.conftest import ApiServer

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize("case", cases("valid"), ids=lambda c: c.path.stem)
def test_the_api_server_takes_a_valid_object(api_server: ApiServer, case: Case) -> None:
    assert api_server.verdict(case.manifest) == ""


@pytest.mark.parametrize("case", cases("invalid"), ids=lambda c: c.path.stem)
def test_the_api_server_refuses_an_invalid_object_with_the_field_and_the_way_out(
    api_server: ApiServer, case: Case
) -> None:
    message = api_server.verdict(case.manifest)

    assert message, "the API server took it"
    assert case.missing_in(message) == [], message
