"""The process that horovodrun starts for each rank: python -m dssm.train.rank SETTINGS RESULT.

SETTINGS and RESULT are files, of any storage: the settings as JSON, and where rank 0 puts its result.
"""

from __future__ import annotations

import sys

from dssm.imports import uncollected

with uncollected():
    from dssm import storage
    from dssm.train.worker import train_worker

if __name__ == "__main__":
    train_worker(storage.read_text(sys.argv[1]), sys.argv[2])
