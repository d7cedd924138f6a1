"""Entry point, without Spark: see `./spark-submit.sh init --help`."""

from __future__ import annotations

from collections.abc import Sequence

from dssm.cli import exit_with, init_parser
from dssm.console import out
from dssm.start.write import init, look_at


def main(argv: Sequence[str] | None = None) -> None:
    asked = init_parser().parse_args(argv)
    path = asked.out or f"conf/{asked.name}.yaml"
    text = init(asked.name, look_at(asked.events, asked.items, asked.profiles, asked.vectors), path)
    out.print(
        f"{path}: {text.count('{kind:')} features; {text.count('# ?')} choices are marked with ?: look at them, then"
    )
    out.print(f"  ./spark-submit.sh build_samples --config {path}")


if __name__ == "__main__":
    exit_with(main)
