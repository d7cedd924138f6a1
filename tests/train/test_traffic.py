"""The bytes that a step counts, against those that the operating system sees pass between the ranks."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.train.conftest import launch
from tests.train.loopback import WAYS

pytestmark = pytest.mark.horovod

# A network namespace has a loopback of its own, whose counters nobody else moves; in a user namespace it needs no root.
OWN_LOOPBACK = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]


def why_no_loopback() -> str | None:
    """Returns why no loopback of its own can be made here; None where it can."""
    if missing := [name for name in ("unshare", "ip") if shutil.which(name) is None]:
        return f"needs {' and '.join(missing)}, of Linux"
    tried = subprocess.run([*OWN_LOOPBACK, "true"], capture_output=True, text=True, check=False)
    return f"no network namespace can be made here: {tried.stderr.strip()}" if tried.returncode else None


def test_a_steps_own_count_is_what_passes_over_the_network(tmp_path: Path, record_property):
    """Of two ranks, whichever way the tables' gradients go: the rest is TCP's headers, and the ranks' agreements.

    The rest may be a twentieth, and what passes in the same time where the ranks do nothing: they agree all the while.
    """
    if reason := why_no_loopback():
        pytest.skip(reason)
    done = launch(2, "tests.train.loopback", str(tmp_path), within=OWN_LOOPBACK)
    assert done.code == 0, done.output
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert list(found) == list(WAYS)
    for way, of_step in found.items():
        record_property(way, of_step)
        assert of_step["counted"] < of_step["loopback"] < 1.05 * of_step["counted"] + of_step["idle"], (way, of_step)
        # Look-ups are drawn evenly, as the plan takes them to be.
        assert of_step["counted"] == pytest.approx(of_step["planned"], rel=0.01), (way, of_step)
