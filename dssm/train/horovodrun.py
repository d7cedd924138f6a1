"""horovodrun, which says in one line why the ranks did not start, or which ended first, and not with its traceback."""

from __future__ import annotations

import os
import re
import sys

from dssm.errors import UserError
from dssm.train.watchdog import how_it_ended

# What Horovod 0.28.1 raises as a RuntimeError before a rank is started: of hosts, and of the script that names them.
NOT_STARTED = re.compile(r"via ssh|Job has been shutdown")


def why_it_ended(error: Exception) -> str | UserError:
    """Returns what a launch's error tells: a fault of the user's where no rank was started."""
    first = re.search(r"Process name: (.+)\nExit code: (-?\d+)", str(error))
    if first is not None:
        return f"rank {first[1]} was the first to end: {how_it_ended(int(first[2]))}"
    if isinstance(error, RuntimeError) and not NOT_STARTED.search(str(error)):
        return f"horovodrun: {error}"
    return UserError(
        f"train.launch: horovodrun has started no rank: {str(error).rstrip('. ')}; expected slots for train.ranks on "
        "hosts (train.hosts, or those that train.elastic.hosts_script prints) that ssh reaches without a password"
    )


def main() -> None:
    # Not above: Horovod starts each rank by a process that imports this module anew, and does not need them.
    from horovod.runner import launch
    from horovod.runner.common.util.timeout import TimeoutException

    from dssm.train.gloo import gloo_seen

    try:
        with gloo_seen():
            sys.exit(launch.run_commandline())
    except (RuntimeError, TimeoutException, ValueError) as error:
        from dssm.train.result import FAULTS_TO, leave_fault

        told = why_it_ended(error)
        if isinstance(told, str):
            sys.exit(told)
        leave_fault(os.environ.get(FAULTS_TO), "launcher", told)
        sys.exit(told.exit_code)


if __name__ == "__main__":
    main()
