"""The operator's command line."""

import pytest

from llmproxy_operator.__main__ import main


def test_help_teaches_and_a_missing_image_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPERATOR_PROXY_IMAGE", raising=False)

    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    told = capsys.readouterr().out
    assert all(flag in told for flag in ("--namespace", "--proxy-image", "--no-leader-elect", "--health-port"))
    assert main([]) == 2
    assert "OPERATOR_PROXY_IMAGE is not set" in capsys.readouterr().err
    assert main(["--proxy-image", "x", "--health-port", "0"]) == 2
