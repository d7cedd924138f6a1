"""horovodrun, which says in one line which rank ended first, and not with its own traceback."""

from __future__ import annotations

import re
import sys

from horovod.runner.launch import run_commandline

if __name__ == "__main__":
    try:
        sys.exit(run_commandline())
    except RuntimeError as error:
        first = re.search(r"Process name: (.+)\nExit code: (-?\d+)", str(error))
        if first is None:
            raise
        sys.exit(f"rank {first[1]} was the first to end, with exit code {first[2]}")
