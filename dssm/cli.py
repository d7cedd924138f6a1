"""The command line that all jobs share."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence

from dssm.config import Settings, load_settings, parse_dates
from dssm.console import err, heading
from dssm.errors import UserError

JOBS = {
    "build_samples": "join logs, profiles, catalogue and vectors into encoded samples",
    "train": "train the two towers on the samples",
    "evaluate": "search the whole catalogue for each user of the test window, beside baselines",
    "score_items": "publish a vector for every item of the catalogue in a table",
}


def parser(job: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog=f"./spark-submit.sh {job}", description=JOBS[job] + ".")
    made.add_argument("--config", required=True, help="YAML file of the pipeline, such as conf/demo.yaml")
    made.add_argument("--date", help="the run's date, YYYY-MM-DD; default: `date` of the config")
    made.add_argument("--dates", help="run each day of A..B in turn, both included")
    made.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting, such as train.epochs=2"
    )
    return made


def parse_settings(argv: Sequence[str] | None, job: str) -> list[Settings]:
    """Returns the settings of each date that the command asks for.

    Raises: UserError at any fault of the settings; SystemExit(2) at unknown arguments.
    """
    arguments = parser(job).parse_args(argv)
    settings = load_settings(arguments.config, arguments.set)
    dates = parse_dates(arguments.date, arguments.dates)
    return [settings.for_date(date) for date in dates or [settings.date]]


def each_date(argv: Sequence[str] | None, job: str) -> Iterator[Settings]:
    """Yields the settings of each date in turn, with a heading."""
    for settings in parse_settings(argv, job):
        heading(f"{job} {settings.name} {settings.date.isoformat()}")
        yield settings


def exit_with(main: Callable[[], object]) -> None:
    """Runs a job and ends the process: a fault of the user's is one message and exit code 2 (a gate: 3)."""
    try:
        main()
    except UserError as error:
        err.print("[red]error:[/red] ", end="")
        err.print(str(error), markup=False)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception:
        traceback.print_exc()
        sys.exit(1)
    sys.exit(0)
