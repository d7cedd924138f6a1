from __future__ import annotations

import datetime as dt

import pytest


@pytest.fixture
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was current just now may be removed at once."""
    monkeypatch.setattr("dssm.scoring.retention.GRACE", dt.timedelta(0))


@pytest.fixture
def quick_expiry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock of a process that died is free at once."""
    monkeypatch.setattr("dssm.locks.EXPIRES_S", 0.01)
    monkeypatch.setattr("dssm.locks.PAUSE_S", (0.02, 0.03))
