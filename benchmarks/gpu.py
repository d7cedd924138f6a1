"""Samples a second of one rank on a GPU, and on all cores of the same machine: `make bench-gpu`.

The work is that of `benchmarks.train`: MovieLens' shape, read from Parquet. Each training is a process of its own; its
first epoch, which traces and loads kernels, is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BATCHES = (4_096, 16_384)
EPOCHS = 4
WAYS: dict[str, tuple[bool, list[str]]] = {
    "GPU": (True, []),
    "GPU, mixed precision": (True, ["train.mixed_precision=true"]),
    "processor": (False, []),
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--rows", type=int, default=1_048_576, help="of an epoch; whole batches of either size")
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    given = parser.parse_args(argv)
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        config = written(Path(folder), given.rows)
        for batch in BATCHES:
            for name, (on_gpu, settings) in WAYS.items():
                way = f"{name}, batch {batch:,}"
                found[way] = of_way = trained(config, batch, cores, on_gpu, settings)
                print(
                    f"{way:<36} {of_way['samples_per_s']:>11,.0f} samples/s, waiting for input "
                    f"{of_way['input_wait']:.1%}, loss {of_way['loss'][-1]:.4f}",
                    flush=True,
                )
    if given.output:
        given.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def written(work: Path, rows: int) -> Path:
    """Writes the run. Returns: its settings."""
    from benchmarks.train.data import TEST_ROWS, draw_log, write_run

    return write_run(work, draw_log(rows + TEST_ROWS), rows)


def trained(config: Path, batch: int, cores: str, on_gpu: bool, settings: Sequence[str]) -> dict[str, Any]:
    """Trains. Returns: what the rank says, and `samples_per_s`, of its fastest epoch but the first."""
    chosen = [f"train.batch_size={batch}", f"train.epochs={EPOCHS}", *settings]
    options = [option for setting in chosen for option in ("--set", setting)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.train.rank", str(config), "--cores", cores, *options],
        env={**os.environ, **({} if on_gpu else {"CUDA_VISIBLE_DEVICES": "-1"})},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**said, "samples_per_s": said["rows_per_epoch"] / min(said["seconds"][1:])}


if __name__ == "__main__":
    main()
