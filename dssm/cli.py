"""The command line that all jobs share."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence

from dssm.config import Settings, load_settings, parse_dates
from dssm.console import err, heading
from dssm.errors import INTERRUPTED, UserError
from dssm.paths import DATASETS

JOBS = {
    "build_samples": "join logs, profiles, catalogue and vectors into encoded samples",
    "train": "train the two towers on the samples",
    "evaluate": "search the whole catalogue for each user of the test window, beside baselines",
    "score_items": "publish a vector for every item of the catalogue in a table",
    "score_users": "publish a vector for every user of the samples in a table",
    "index_items": "load the published item vectors into the engines of the setting index",
    "rollback": "point the table's partition at one of its earlier versions again",
}
# These look at a run that is there: they take no config and start no Spark.
VIEWS = {
    "show": "print samples of a run in words",
    "profile": "write the data report of a run: profile.html, and its numbers as profile.json",
    "status": "say which jobs of a run have ended or failed, when, how long they took and what they left",
    "report": "write the report of a run anew: report.html",
    "compare": "compare the evaluations of several runs on the same users",
    "versions": "list the published versions of a run's date",
    "recommend": "print top items for a user, top users for an item, or similar items",
    "serve": "answer recommendations over HTTP, from the newest published version",
}
# These have no run yet.
TOOLS = {
    "init": "write a commented config for your own tables, by looking at them",
    "plan": "say what a config will need on a cluster: bytes, memory and hours, each with its formula",
}
# Which date a NAME alone stands for, where that is not the newest with samples; see `dssm.report.runs`.
NEWEST = {
    "compare": "its newest date that is evaluated",
    "versions": "its newest date with a published table",
    "recommend": "its newest date with published items",
    "serve": "its newest date with published items",
}
PARTS = tuple(name for name in DATASETS if name != "interactions")  # whose pairs hold nothing to show
TABLES = ("items", "users")


def parser(job: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog=f"./spark-submit.sh {job}",
        description=JOBS[job] + ".",
        epilog="With --dry-run the command is printed, secrets hidden, and nothing starts.",
    )
    _config_options(made)
    made.add_argument("--dates", help="run each day of A..B in turn, both included")
    if job == "train":
        made.add_argument("--profile", action="store_true", help="also write a profile of some steps, and a timeline")
        made.add_argument(
            "--warm-start", metavar="RUN", help="train the model of this run further, NAME/DATE or its folder"
        )
    if job in ("score_items", "score_users"):
        made.add_argument(
            "--force", action="store_true", help="publish whatever the gates say; the version's manifest records it"
        )
    if job == "rollback":
        made.add_argument("--to", required=True, metavar="VERSION", help="one that `versions` lists")
        made.add_argument("--table", choices=TABLES, default="items", help="which table (default: %(default)s)")
    if job == "build_samples":
        made.add_argument(
            "--vocabularies",
            metavar="RUN",
            help="use the vocabularies and statistics of this run, NAME/DATE or its folder",
        )
        made.add_argument(
            "--grow", action="store_true", help="with --vocabularies: new tokens go behind the known ones"
        )
        made.add_argument(
            "--force",
            action="store_true",
            help="with --dates: also build the dates that are complete with these settings",
        )
    return made


def _config_options(made: argparse.ArgumentParser) -> None:
    made.add_argument("--config", required=True, help="YAML file of the pipeline, such as conf/demo.yaml")
    made.add_argument("--date", help="the run's date, YYYY-MM-DD; default: `date` of the config")
    made.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting, such as train.epochs=2"
    )


def parse_settings(argv: Sequence[str] | None, job: str) -> list[Settings]:
    """Returns the settings of each date that the command asks for.

    Raises: UserError at any fault of the settings; SystemExit(2) at unknown arguments.
    """
    arguments = parser(job).parse_args(argv)
    settings = load_settings(arguments.config, [*arguments.set, *_of_flags(arguments)])
    dates = parse_dates(arguments.date, arguments.dates)
    return [settings.for_date(date) for date in dates or [settings.date]]


def _of_flags(arguments: argparse.Namespace) -> list[str]:
    """Returns --vocabularies, --grow, --warm-start and --profile as overrides of the settings that they stand for."""
    overrides = []
    if getattr(arguments, "warm_start", None) is not None:
        overrides.append(f"train.warm_start.run={json.dumps(arguments.warm_start)}")
    if getattr(arguments, "vocabularies", None) is not None:
        overrides.append(f"samples.vocabularies.run={json.dumps(arguments.vocabularies)}")
    if getattr(arguments, "grow", False):
        overrides.append("samples.vocabularies.grow=true")
    if getattr(arguments, "profile", False):
        overrides.append("train.profile=true")
    return overrides


def skips_complete(argv: Sequence[str] | None) -> bool:
    """Whether build_samples leaves out dates that are complete: a range of dates, not forced."""
    arguments = parser("build_samples").parse_args(argv)
    return arguments.dates is not None and not arguments.force


def view_parser(view: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog=f"./spark-submit.sh {view}", description=VIEWS[view] + ".")
    several = "+" if view == "compare" else None
    date = NEWEST.get(view, "its newest date")
    made.add_argument("run", metavar="RUN", nargs=several, help=f"NAME/DATE, NAME ({date}), or a run's folder")
    made.add_argument("--root", default="runs", help="folder of the runs (default: %(default)s)")
    if view in VIEW_OPTIONS:
        VIEW_OPTIONS[view](made)
    return made


def init_parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="./spark-submit.sh init", description=TOOLS["init"] + ".")
    made.add_argument("name", metavar="NAME", help="of the pipeline")
    made.add_argument(
        "--events",
        required=True,
        metavar="PATH",
        help="event log: a file, or a folder of files or days; a second log: another entry under sources in the config",
    )
    made.add_argument("--items", required=True, metavar="PATH", help="catalogue, one row an item")
    made.add_argument("--profiles", action="append", default=[], metavar="PATH", help="one row a user; may be repeated")
    made.add_argument("--vectors", metavar="PATH", help="pretrained vectors of the items")
    made.add_argument("--out", metavar="FILE", help="the config (default: conf/NAME.yaml)")
    return made


def plan_parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="./spark-submit.sh plan", description=TOOLS["plan"] + ".")
    _config_options(made)
    made.add_argument("--events", type=_count, metavar="N", help="rows of the logs over the windows, such as 1e9")
    made.add_argument("--items", type=_count, metavar="N", help="of the catalogue")
    made.add_argument("--users", type=_count, metavar="N", help="those in the logs")
    made.add_argument("--nodes", type=_count, default=1, metavar="N", help="machines (default: %(default)s)")
    made.add_argument("--cores", type=_count, default=16, metavar="N", help="of each machine (default: %(default)s)")
    made.add_argument(
        "--gpus", type=int, default=0, metavar="N", help="of all machines together, a rank each (default: none)"
    )
    made.add_argument(
        "--network", type=float, default=10.0, metavar="GBIT", help="Gbit/s of each machine (default: %(default)s)"
    )
    return made


def _count(text: str) -> int:
    number = float(text)
    if not 1 <= number < 1e15:
        raise argparse.ArgumentTypeError(f"{text}: expected a number from 1 to 1e15")
    return round(number)


def parse_plan(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Settings]:
    """Returns the arguments of `plan`, and the settings of its config.

    Raises: UserError at any fault of the settings; SystemExit(2) at unknown arguments.
    """
    arguments = plan_parser().parse_args(argv)
    if arguments.gpus < 0 or arguments.network <= 0:
        raise UserError(f"--gpus {arguments.gpus} --network {arguments.network}: expected at least 0, and above 0")
    settings = load_settings(arguments.config, arguments.set)
    dates = parse_dates(arguments.date, None)
    return arguments, settings.for_date(dates[0]) if dates else settings


def _show_options(made: argparse.ArgumentParser) -> None:
    made.add_argument("--part", choices=PARTS, default="train", help="the dataset (default: %(default)s)")
    made.add_argument("--user", metavar="U", help="only samples of this user, the newest first")
    made.add_argument("--rows", type=int, default=3, metavar="N", help="samples at most (default: %(default)s)")
    made.add_argument("--full", action="store_true", help="long lists with all their entries")


def _compare_options(made: argparse.ArgumentParser) -> None:
    made.add_argument("--metric", metavar="M", help="that runs are ordered by (default: the first run's headline)")
    made.add_argument("--filtered", action="store_true", help="with seen items filtered")


def _versions_options(made: argparse.ArgumentParser) -> None:
    made.add_argument("--table", choices=TABLES, default="items", help="which table (default: %(default)s)")


def _recommend_options(made: argparse.ArgumentParser) -> None:
    asked = made.add_mutually_exclusive_group(required=True)
    asked.add_argument("--user", metavar="U", help="top items for this user of the samples")
    asked.add_argument("--request", metavar="FILE", help="top items for the raw features of any user, as JSON")
    asked.add_argument("--item", metavar="X", help="with --users: the audience of this item")
    asked.add_argument("--like", metavar="X", help="items whose vectors are nearest to this one's")
    made.add_argument("--users", action="store_true", help="with --item: top users for it")
    made.add_argument("--rows", type=int, default=10, metavar="N", help="rows at most (default: %(default)s)")
    made.add_argument("--objective", metavar="NAME", help="score by this objective's vectors, not the combined ones")
    made.add_argument("--seen", action="store_true", help="also items that the user has seen")
    made.add_argument(
        "--rescore", type=int, metavar="N", help="order the first N by the probability of the model's scorer"
    )


def _serve_options(made: argparse.ArgumentParser) -> None:
    made.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    made.add_argument("--port", type=int, default=8080, help="0: any free one (default: %(default)s)")
    made.add_argument("--index", choices=("exact", "faiss"), default="faiss", help="(default: %(default)s)")


VIEW_OPTIONS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "show": _show_options,
    "compare": _compare_options,
    "versions": _versions_options,
    "recommend": _recommend_options,
    "serve": _serve_options,
}


def parse_view(argv: Sequence[str] | None, view: str) -> argparse.Namespace:
    """Returns the arguments of a view.

    Raises: UserError at rows below 1, or options that do not go together; SystemExit(2) at unknown arguments.
    """
    arguments = view_parser(view).parse_args(argv)
    if getattr(arguments, "rows", 1) < 1:
        raise UserError(f"--rows {arguments.rows}: expected at least 1")
    if view == "recommend" and (arguments.item is not None) != arguments.users:
        raise UserError("--item X and --users go together; expected both, or --like X for similar items")
    if getattr(arguments, "rescore", None) is not None:
        if arguments.user is None and arguments.request is None:
            raise UserError("--rescore goes with --user or --request; expected one of them, or no --rescore")
        if arguments.rescore < arguments.rows:
            raise UserError(f"--rescore {arguments.rescore}: expected at least --rows, {arguments.rows}")
    return arguments


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
        sys.exit(INTERRUPTED)
    except Exception:
        traceback.print_exc()
        sys.exit(1)
    sys.exit(0)
