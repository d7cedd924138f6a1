from __future__ import annotations

from pathlib import Path

import pytest

from dssm.cli import parse_plan
from dssm.config import load_settings
from dssm.errors import UserError
from dssm.plan import scale
from dssm.plan.constants import Shares
from dssm.plan.show import show_plan
from dssm.plan.sizes import EVENTS, ITEMS, sizes_of
from tests.report.full_run import samples_run, settings_of

DEMO = str(Path(__file__).parents[2] / "conf" / "demo.yaml")
SHARES = Shares(train=0.25, test=0.05, pairs=0.5, test_users=0.4)


def test_what_is_asked_is_taken_and_the_rest_are_shares_of_the_demo() -> None:
    settings = load_settings(DEMO, ["root=no-runs", "features.client_type.max_size=50"])
    sizes = sizes_of(settings, SHARES, 10**6, 5_000)
    assert (sizes.events, sizes.items, sizes.users) == (10**6, 5_000, 20_000)
    assert (sizes.train_rows, sizes.test_rows, sizes.pairs, sizes.test_users) == (250_000, 50_000, 500_000, 8_000)
    assert sizes.tables == {"client_id": 20_002, "client_type": 52, "topic_id": 10_002, "post_id": 5_002}
    default = sizes_of(settings, SHARES)
    assert (default.events, default.items, default.users) == (EVENTS, ITEMS, EVENTS // 50)
    every_row = sizes_of(load_settings(DEMO, ["root=no-runs", "samples.train_rows=all"]), SHARES, 10**6)
    assert (every_row.train_rows, every_row.test_rows) == (10**6, 200_000)
    every_user = sizes_of(load_settings(DEMO, ["root=no-runs", "samples.users=all"]), SHARES, 10**6)
    assert (every_user.user_rows, every_user.test_users) == (every_user.users, sizes.test_users) == (20_000, 8_000)


def test_vocabularies_that_the_settings_decide() -> None:
    changes = [
        "root=no-runs",
        "features.bucket={kind: SparseFeat, side: user, column: client_id, hash_buckets: 300}",
        "features.hour={kind: SparseFeat, side: user, time: hour}",
        "features.age={kind: SparseFeat, side: user, quantiles: 9}",
        "features.fan={kind: SparseFeat, side: user, column: age, boundaries: [1, 2]}",
    ]
    settings = load_settings(DEMO, changes)
    tables = sizes_of(settings, SHARES, 10**6, 5_000).tables
    assert {name: tables[name] for name in ("bucket", "hour", "age", "fan")} == {
        "bucket": 302, "hour": 26, "age": 11, "fan": 5,
    }  # fmt: skip


def test_a_runs_own_sizes_go_first_and_are_scaled(tmp_path: Path) -> None:
    samples_run(tmp_path)
    settings = settings_of(tmp_path)
    own = sizes_of(settings, SHARES)
    assert (own.events, own.items, own.train_rows, own.test_rows) == (4321, 60, 40, 8)
    assert own.tables["item_id"] == 62
    tenfold = sizes_of(settings, SHARES, events=43_210)
    assert (tenfold.train_rows, tenfold.test_rows, tenfold.items) == (400, 80, 60)
    more_items = sizes_of(settings, SHARES, items=600)
    assert (more_items.events, more_items.items, more_items.tables["item_id"]) == (4321, 600, 602)
    assert more_items.tables["topic"] == own.tables["topic"]  # nobody knows more of it


def test_the_page_is_current() -> None:
    """`python -m dssm.plan.scale` writes it."""
    assert scale.PAGE.read_text(encoding="utf-8") == scale.page()


def test_the_page_reaches_from_a_million_events_to_ten_billion() -> None:
    page = scale.page()
    for number in (10**6, 10**10, 10**5, 10**9):
        assert f"\n| {number:,} | " in page
    header = next(line for line in page.splitlines() if line.startswith("| events \\ items"))
    assert header.count("|") == 7


def test_the_command_takes_round_numbers() -> None:
    asked, settings = parse_plan(
        ["--config", DEMO, "--events", "1e9", "--nodes", "8", "--gpus", "8", "--date", "2024-02-01"]
    )
    assert (asked.events, asked.nodes, asked.gpus, asked.items) == (10**9, 8, 8, None)
    assert settings.date.isoformat() == "2024-02-01"
    with pytest.raises(SystemExit):
        parse_plan(["--config", DEMO, "--events", "0"])
    with pytest.raises(UserError, match="--gpus -1"):
        parse_plan(["--config", DEMO, "--gpus", "-1"])


def test_the_plan_is_printed_with_formulas(capsys: pytest.CaptureFixture[str]) -> None:
    settings, constants = scale.settings_of_page(), scale.load_constants()
    sizes = sizes_of(settings, constants.shares, 10**9, 10**7)
    lines = scale.plan(settings, sizes, scale.CLUSTER, constants)
    show_plan(settings, sizes, scale.CLUSTER, constants, lines)
    printed = capsys.readouterr().out
    assert "1,000,000,000 events, 10,000,000 items, 20,000,000 users" in printed
    assert "8 nodes × 16 cores, 10 Gbit/s a node, 8 ranks" in printed
    for words in ("build_samples", "tables and state, sharded", "(N − 1) Σ looked up", "4 B × 10,000,000 × 64"):
        assert words in printed
