"""Launchers see that Horovod has Gloo without TensorFlow."""

from __future__ import annotations

import subprocess
import sys

import pytest
from horovod.runner import launch

from dssm.train import gloo


@pytest.mark.slow
def test_gloo_is_seen_without_tensorflow() -> None:
    code = (
        "import sys, horovod.spark, horovod.spark.runner as spark\n"
        "from horovod.runner import launch\n"
        "from dssm.train import gloo\n"
        "gloo.gloo_built = lambda verbose: sys.exit('Horovod was asked')\n"
        "with gloo.gloo_seen():\n"
        "    assert launch.gloo_built(verbose=False) and spark.gloo_built(verbose=False)\n"
        "import dssm.train.launch, jobs.train, jobs.evaluate  # whose drivers leave it to ranks and executors\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_horovod_is_asked_where_its_library_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gloo, "OF_GLOO", b"no class of " + b"any library")
    before = launch.gloo_built
    for answer in (True, None):
        monkeypatch.setattr(gloo, "gloo_built", lambda verbose, answer=answer: answer)
        with gloo.gloo_seen():
            assert launch.gloo_built(verbose=False) is bool(answer)
    assert launch.gloo_built is before
