from __future__ import annotations

import datetime as dt

import pytest


@pytest.fixture
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was current just now may be removed at once."""
    monkeypatch.setattr("dssm.scoring.publish.GRACE", dt.timedelta(0))
