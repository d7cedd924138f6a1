"""Entry point, without Spark: see `./spark-submit.sh plan --help`."""

from __future__ import annotations

from collections.abc import Sequence

from dssm.cli import exit_with, parse_plan
from dssm.plan.constants import load_constants
from dssm.plan.estimate import Cluster, plan
from dssm.plan.show import show_plan
from dssm.plan.sizes import sizes_of


def main(argv: Sequence[str] | None = None) -> None:
    asked, settings = parse_plan(argv)
    constants = load_constants()
    sizes = sizes_of(settings, constants.shares, asked.events, asked.items, asked.users)
    cluster = Cluster(asked.nodes, asked.cores, asked.gpus, asked.network * 1e9 / 8)
    show_plan(settings, sizes, cluster, constants, plan(settings, sizes, cluster, constants))


if __name__ == "__main__":
    exit_with(main)
