"""The matrix is whole: each feature has a test, each gap a reason, and no gap is of a cell that is not there."""

from integration.protocols import test_endpoints, test_pairs, test_responses, test_troubles
from integration.protocols.matrix import FEATURES, GAPS, PAIRS, cells, covered


def test_every_cell_is_run_or_a_gap_with_a_reason() -> None:
    assert all(
        (test_endpoints, test_pairs, test_responses, test_troubles)
    )  # what they cover is known once they are read
    assert covered == set(FEATURES)
    for client, upstream, feature in GAPS:
        assert (client, upstream) in PAIRS
        assert feature in FEATURES
    assert all(len(reason.split()) > 4 for reason in GAPS.values())


def test_no_feature_is_a_gap_everywhere() -> None:
    assert all(cells(feature) for feature in FEATURES)
