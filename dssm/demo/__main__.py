"""python -m dssm.demo --config conf/demo.yaml: writes the feed."""

from __future__ import annotations

import argparse
import datetime as dt
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from rich.console import Console
from rich.table import Table

from dssm.config import Settings, load_settings
from dssm.demo.feed import Feed
from dssm.demo.files import Summary, make_feed
from dssm.demo.recall import CUTOFF
from dssm.errors import UserError

# Command ---------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"dssm.demo: {message}; --help lists the options")


def _parse(argv: Sequence[str] | None) -> tuple[Settings, Feed, str]:
    parser = _Parser(prog="python -m dssm.demo", description="Generates a feed with planted tastes.")
    parser.add_argument("--config", required=True, help="settings of the pipeline that will read it")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="goes over a setting")
    for name, text in (
        ("events", "rows of the log"),
        ("clients", "users"),
        ("posts", "items"),
        ("topics", "topics that tastes are over"),
    ):
        parser.add_argument(
            f"--{name}", type=int, default=getattr(Feed, name), metavar="N", help=f"{text}; %(default)s"
        )
    parser.add_argument("--days", type=int, metavar="N", help="days of the log; those of the settings' windows")
    parser.add_argument("--end", metavar="DATE", help="last day of the log; that of the settings' test window")
    parser.add_argument("--seed", type=int, help="that of the settings")
    parser.add_argument("--output", metavar="FOLDER", help="the settings' data folder")
    options = parser.parse_args(argv)
    settings = load_settings(options.config, options.set)
    days = settings.window_days()
    try:
        end = days[-1] if options.end is None else dt.date.fromisoformat(options.end)
    except ValueError as error:
        raise UserError(f"--end {options.end}: not a date; expected YYYY-MM-DD") from error
    widths = {vectors.width for vectors in settings.vectors.values()} or {Feed.vector_width}
    feed = Feed(
        end=end,
        days=len(days) if options.days is None else options.days,
        events=options.events,
        clients=options.clients,
        posts=options.posts,
        topics=options.topics,
        vector_width=max(widths),
        seed=settings.seed if options.seed is None else options.seed,
        timezone=settings.timezone,
    )
    return settings, feed, options.output or settings.data


def _show(console: Console, summary: Summary) -> None:
    table = Table("file", "rows", "bytes")
    for column in table.columns[1:]:
        column.justify = "right"
    sizes = dict(summary.files)
    log = [sizes.pop(path) for path in summary.files if path.startswith("events/")]
    sizes[f"events/dt=*/part-00000.csv ({len(log)} days)"] = {
        key: sum(x[key] for x in log) for key in ("rows", "bytes")
    }
    for path, size in sizes.items():
        table.add_row(path, f"{size['rows']:,}", f"{size['bytes']:,}")
    console.print(table, soft_wrap=False)
    events = sum(x["rows"] for x in log)
    console.print(f"{summary.clicks:,} of {events:,} events are clicks ({summary.clicks / events:.1%})")
    if summary.best_reachable_recall is not None and summary.popularity_recall is not None:
        console.print(
            f"recall@{CUTOFF} on the last day over {summary.clients_ranked:,} clients: best reachable "
            f"[bold]{summary.best_reachable_recall:.4f}[/], popularity [bold]{summary.popularity_recall:.4f}[/]",
        )


def main(argv: Sequence[str] | None = None) -> int:
    console = Console(highlight=False, soft_wrap=True)
    began = time.perf_counter()
    try:
        settings, feed, folder = _parse(argv)
        summary, written = make_feed(feed, folder)
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if written:
        console.print(f"wrote {folder} in {time.perf_counter() - began:.1f} s")
    else:
        console.print(f"{folder} holds this feed already: nothing written")
    _show(console, summary)
    missing = sorted(set(settings.window_days()) - set(feed.dates))
    if missing:
        console.print(
            f"[yellow]the settings' windows reach beyond the log: {len(missing)} of their days are missing, "
            f"first {missing[0]}[/]; --days and --end move the log, --set date=… the windows",
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
