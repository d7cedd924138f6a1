"""The command behind spark-submit.sh: checks the settings, then submits a job."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from dssm.cli import JOBS, TOOLS, VIEWS, exit_with, parse_settings
from dssm.console import terminal_environment
from dssm.errors import UserError, did_you_mean
from dssm.shipped import shipped
from dssm.submitting.command import Submission

USAGE = """usage: ./spark-submit.sh JOB --config conf/X.yaml [--date YYYY-MM-DD | --dates A..B] [--set key=value …]
       ./spark-submit.sh VIEW RUN [options]
       ./spark-submit.sh init NAME --events PATH --items PATH [options]
       ./spark-submit.sh plan --config conf/X.yaml [--events N] [--items N] [--nodes N] [--gpus N]

Submits a job to Spark: on this machine, or on the cluster that the setting spark.master or the
environment's MASTER names. With --dry-run it prints the command, with what it adds to your environment, secrets
hidden, and starts nothing.
./spark-submit.sh JOB --help shows a job's options.
"""
DRY_RUN = "--dry-run"
# Not profile.py: Python looks for modules beside the script first, and PySpark's cProfile imports one of that name.
VIEW_SCRIPTS = {view: f"{view}.py" for view in [*VIEWS, *TOOLS]} | {"profile": "profile_samples.py"}


def usage() -> str:
    width = max(map(len, [*JOBS, *VIEWS, *TOOLS]))
    lists = {"to begin with": TOOLS, "jobs": JOBS, "views of a run that is there, without Spark": VIEWS}
    return USAGE + "".join(
        f"\n{title}:\n" + "".join(f"  {name:<{width}}  {what}\n" for name, what in of.items())
        for title, of in lists.items()
    )


def submit(argv: Sequence[str]) -> None:
    """Checks the command and its settings, then replaces this process by the job.

    Raises: UserError before anything is started.
    """
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage(), end="")
        return
    job, arguments = argv[0], argv[1:]
    if job in VIEW_SCRIPTS:
        line = [sys.executable, str(shipped("jobs") / VIEW_SCRIPTS[job]), *arguments]
        os.execve(line[0], line, dict(os.environ) | terminal_environment())
    if job not in JOBS:
        raise UserError(f"no job is named '{job}'" + did_you_mean(job, [*JOBS, *VIEW_SCRIPTS]))
    given = [argument for argument in arguments if argument != DRY_RUN]
    submission = Submission(job, given, parse_settings(given, job)[0], os.environ)
    if len(given) < len(arguments):
        print(submission.shown)
        return
    submission.prepare()
    line = submission.line
    sys.stdout.flush()
    os.execve(line[0], line, dict(os.environ) | submission.environment | terminal_environment())


def main() -> None:
    exit_with(lambda: submit(sys.argv[1:]))


if __name__ == "__main__":
    main()
