from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dssm.config import Settings
from dssm.errors import UserError
from dssm.evaluation import VIEWS
from dssm.manifest import ITEM_KEY
from dssm.paths import RunPaths
from dssm.published import GateDecision
from dssm.report.item_words import Items, shortened
from dssm.report.pipeline_picture import boxes
from dssm.report.run_evaluation import best_baseline
from dssm.report.run_facts import note_refusal, read_facts
from dssm.report.run_page import page
from dssm.report.run_remarks import remarks
from dssm.report.run_style import CATEGORIES
from dssm.report.run_vectors import vector_facts
from dssm.sections.reporting import Report
from tests.report.full_run import (
    IDS,
    clustered_vectors,
    full_run,
    samples_run,
    settings_of,
    write_evaluation,
    write_index,
    write_model,
    write_table,
)
from tests.report.handmade import item, write_run
from tests.report.test_page import Reader

SECTIONS = [
    "pipeline", "training", "model", "evaluation", "vectors", "examples", "gates", "indexes", "settings", "versions",
]  # fmt: skip


DOT = '<span class="dot"></span>'


def page_of(paths: RunPaths, settings: Settings | None = None) -> str:
    facts = read_facts(paths, settings)
    items = Items(facts.run, facts.settings.report)
    return page(facts, items, vector_facts(facts, items))


def text_of(shown: str) -> str:
    without_script = re.sub(r"<script>.*?</script>", "", shown, flags=re.DOTALL)
    return " ".join(Reader(without_script).text.split())


def remarks_of(paths: RunPaths) -> list[str]:
    facts = read_facts(paths)
    items = Items(facts.run, facts.settings.report)
    return [sentence for _, sentence in remarks(facts, vector_facts(facts, items))]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> str:
    return page_of(full_run(tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="module")
def text(shown: str) -> str:
    return text_of(shown)


# The page ----------------------------------------------------------------------------------------------


def test_the_page_is_well_formed_and_needs_nothing_else(shown: str) -> None:
    read = Reader(shown)
    assert {name for name, _ in read.tags}.isdisjoint({"link", "img", "iframe", "object", "image"})
    for _, attributes in read.tags:
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
    assert "://" not in shown
    assert len(shown.encode()) < 1_000_000


def test_the_policy_lets_this_script_run_and_no_other(shown: str) -> None:
    scripts = re.findall(r"<script>(.*?)</script>", shown, flags=re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in shown


def test_sections_follow_and_links_lead_to_them(shown: str) -> None:
    read = Reader(shown)
    ids = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert [key for key in ids if key in SECTIONS] == SECTIONS
    assert {a["href"] for name, a in read.tags if name == "a"} <= {f"#{key}" for key in ids}
    labels = [a.get("aria-labelledby") for name, a in read.tags if name == "section"]
    assert labels == SECTIONS
    assert all(a.get("role") == "img" and a.get("aria-label") for name, a in read.tags if name == "svg")


def test_the_model_is_shown_with_its_data_and_how_to_call_it(shown: str) -> None:
    section = shown.split('id="model"')[1].split("</section>")[0]
    assert "0123train" in section
    assert "0123topic" in section
    assert "value 1 / (1 + exp(−s)), s = ⟨u, v⟩ / 0.1 + 0.5" in section
    called = section.split("item tower, raw inputs: how to call it")[1].split("</details>")[0]
    assert "rows × any" in called
    assert "POST /v1/models/item_tower_raw:predict" in called
    request = html.unescape(called.split("<pre>")[1].split("</pre>")[0])
    assert json.loads(request) == {"instances": [{"topic": ["<rock>"]}]}
    assert section.index("item tower, raw inputs") < section.index("item tower, encoded inputs")
    called = section.split("scorer: how to call it")[1].split("</details>")[0]
    assert "POST /v1/models/scorer:predict" in called
    assert "vector of user_tower" in called


def test_names_of_the_data_can_not_become_part_of_the_page(shown: str, text: str) -> None:
    assert "<b>art</b>" not in shown
    assert "<b>art</b>" in text
    assert "User <u1>" in text
    assert "\x1b" not in shown
    assert 'Title & "i3"' in text


def test_every_section_has_its_figures(text: str) -> None:
    for told in (
        "Report of the run: trained on 2024-01-05 to 2024-01-07, tested on 2024-01-08. Model m1.",
        "Published by force. 60 vectors in tiny_items, dt=2024-01-08, version v1, over 1 of 2 gates.",
        "0.400recall@50 of the model (0.350–0.450)",
        "0.380recall@50 of itemcf, the best baseline",
        "0.5000least recall of the indexes",
        "25 min 0 sall jobs together",
        "The weights are those of epoch 2 (dashed), the best by validation.",
        "received a step2.50 MB; planned: 3.10 MB at most on average",
        "The whole catalogue of 60 items ranked for 1,234 users",
        "Whiskers are 95 % intervals of a bootstrap over the users, 500 replicates.",
        "82 to 90 in the first tenth, 10 to 18 in the last",
        "7 users without an event before the test window, by rankers that need none.",
        "5 items without a training row that weighs, with 11 clicks in the test window.",
        "as train measured them with the weights that were kept.auc0.7000log loss–",
        "All 60 items. Near points have near vectors",
        "100 % of an item's 10 nearest items have its topic; by chance 32.2 % would.",
        "is a neighbour of 19 others",
        "1,234 items before · 1 of 5 recommended were clicked",
        "1 item before · 1 of 5 recommended were clicked",
        "Version v1 of 2024-01-09 03:00 UTC, model m1: 60 vectors, 8 × float32; 60 scored.",
        "Published with --force, over: a vector's norm is off 1 by 0.02",
        "normsrefused0.020.001a vector's norm is off 1 by 0.02",
        "nearfaissanswers0.980021,0000.260",
        "farredisrefused0.5000––59",
        "samples/trainmanifest",
        "tensorflow2.15.1",
    ):
        assert told in text


def test_history_and_recommendations_stand_side_by_side_with_hits_marked(shown: str) -> None:
    example = re.findall(r"<article.*?</article>", shown, flags=re.DOTALL)[0]
    lists = re.findall(r"<h4>(.*?)</h4><ol>(.*?)</ol>", example, flags=re.DOTALL)
    assert [name for name, _ in lists] == ["Before", "Recommended", "Clicked then"]
    hits = [re.findall(r'<li class="hit">.*?(i\d+)&quot;', entries) for _, entries in lists]
    assert hits == [[], ["i3"], ["i3"]]
    assert "i21&quot; <small>mu\\x1bsic</small>" in lists[0][1]
    assert "i1&quot; <small>sport · 0.900</small>" in lists[1][1]
    assert "mu\\x1bsic · seen before" in lists[2][1]


def test_an_item_that_the_catalogue_lacks_keeps_the_name_it_had(text: str) -> None:
    assert "Clicked thenGone" in text


def test_a_page_of_samples_alone_says_what_would_make_the_rest(tmp_path: Path) -> None:
    shown = page_of(samples_run(tmp_path))
    text = text_of(shown)
    assert "Not published yet. Run score_items for this date." in text
    assert "Nothing stands out." in text
    assert "loss and metric curvestrainit has not run" in text
    assert re.findall(r'<h2 id="(\w+)"', shown) == ["pipeline", "settings", "versions", "missing"]
    assert "<script" not in shown


def test_recall_by_popularity_has_every_baseline_that_was_evaluated(tmp_path: Path, shown: str) -> None:
    """The bound is none; an older evaluation.json knows the most popular items alone."""
    named = "recall@50 by tenth of the items, seen items kept: "
    assert f'aria-label="{named}model, popularity and itemcf"' in shown
    drawn = shown[shown.index(named) :].split("</svg>")[0]
    assert [drawn.count(f"stroke: {colour}") > 0 for colour in (CATEGORIES[1], CATEGORIES[2])] == [True, True]
    assert f'<span class="c2">{DOT}itemcf</span>' in shown
    paths = full_run(tmp_path)
    evaluation = json.loads(Path(paths.evaluation).read_text())
    for view in VIEWS:
        tenths = evaluation["popularity_tenths"]
        for of in (tenths[view], tenths["intervals"][view]):
            for name in ("itemcf", "best_reachable"):
                of.pop(name)
    Path(paths.evaluation).write_text(json.dumps(evaluation))
    old = page_of(paths)
    assert f'aria-label="{named}model and popularity"' in old
    assert f'<span class="other">{DOT}popularity</span>' in old


def test_the_best_epochs_weights_may_have_been_trained_further(tmp_path: Path) -> None:
    paths = samples_run(tmp_path)
    write_model(paths, loss=[3.0, 2.5, 2.25, 2.0])
    told = "The weights are those of epoch 2 (dashed), the best by validation, trained further on the newest rows."
    assert told in text_of(page_of(paths))


def test_an_evaluation_without_intervals_or_groups_is_shown(tmp_path: Path) -> None:
    paths = samples_run(tmp_path)
    write_model(paths, best_epoch=None, validation=[], metrics=[])
    values = {name: {"recall@5": value} for name, value in (("model", 0.2), ("popularity", 0.3))}
    old = {"seen_kept": values, "intervals": {}, "cold": None, "activity_tenths": None, "popularity_tenths": None}
    write_evaluation(paths, **old, seen_filtered={})
    evaluation = json.loads(Path(paths.evaluation).read_text())
    for name in ("intervals", "cold", "activity_tenths", "popularity_tenths", "seen_filtered", "test_rows"):
        evaluation.pop(name)
    Path(paths.evaluation).write_text(json.dumps(evaluation))
    text = text_of(page_of(paths))
    assert "recall@5 of the model" in text
    assert "7 cold users are left out." in text
    assert "Whiskers" not in text
    assert "Test rows" not in text
    assert remarks_of(paths) == ["recall@5 with seen items kept: popularity is better, 0.300; the model has 0.200"]


# Remarks ------------------------------------------------------------------------------------------------


def test_what_stands_out(tmp_path: Path) -> None:
    paths = full_run(tmp_path)
    assert remarks_of(paths) == [
        "The table of items was published by force: a vector's norm is off 1 by 0.02",
        "recall@50 with seen items kept: itemcf, 0.380, lies within the model's interval, 0.350–0.450",
        "recall@50 with seen items filtered: itemcf, 0.380, lies within the model's interval, 0.350–0.450",
        "index.sinks.far: recall@10 0.5000",
    ]


def test_refusals_stand_first(tmp_path: Path) -> None:
    paths = full_run(tmp_path)
    note_refusal(paths, "score_items", "gate: too bad")
    note_refusal(paths, "index_items", "recall too low")
    found = remarks_of(paths)
    assert found[:2] == ["score_items refused: gate: too bad", "index_items refused: recall too low"]
    assert not any("index.sinks.far" in remark for remark in found)


def test_the_banner_says_what_was_refused_and_what_stays(tmp_path: Path) -> None:
    paths = samples_run(tmp_path)
    note_refusal(paths, "score_items", "gate: too bad")
    assert "Not published: gate: too bad. 40" in " ".join(text_of(page_of(paths)).replace("40", " 40").split())
    write_table(paths, f"{tmp_path}/table", clustered_vectors())
    assert "Not published: gate: too bad. Version v1 stays." in text_of(page_of(paths))


def test_gates_that_saw_nothing_did_not_pass(tmp_path: Path) -> None:
    paths = samples_run(tmp_path)
    passed = GateDecision(gate="norms", passed=True, found=0.0, limit=0.001)
    first = GateDecision(
        gate="no worse than the last version", passed=True, reason="nothing that can be read was there"
    )
    blind = GateDecision(gate="better than the baseline", passed=True, reason="not measured: no evaluation")
    vectors = clustered_vectors()
    write_table(paths, f"{tmp_path}/1", vectors, gates=[passed, passed, first, blind], forced=False, overridden=[])
    text = text_of(page_of(paths))
    assert "version v1; 2 gates passed, 2 had nothing to compare with." in text
    assert "gates passed" not in text.replace("2 gates passed", "")
    assert [line for box in boxes(read_facts(paths)) for line in box.lines if "gate" in line] == ["2 gates passed"]
    told = "The table of items was published, but gate 'better than the baseline' has not looked: not measured"
    assert remarks_of(paths) == [f"{told}: no evaluation"]
    write_table(paths, f"{tmp_path}/2", vectors, gates=[passed, passed], forced=False, overridden=[])
    assert "version v1; 2 gates passed." in text_of(page_of(paths))
    assert remarks_of(paths) == []


def test_broken_vectors_hubs_and_a_rising_loss(tmp_path: Path) -> None:
    paths = samples_run(tmp_path)
    vectors = clustered_vectors()
    vectors[0], vectors[1] = 0, float("nan")
    vectors[5] = 3.0  # long, and towards all others
    write_table(paths, f"{tmp_path}/table", vectors, gates=[], forced=False, overridden=[], quarantined={"bad": 3})
    write_model(paths, loss=[3.0, 2.0, 2.5])
    found = remarks_of(paths)
    assert "3 items could not be read and are not in the table" in found
    assert "The loss rose after epoch 2" in found
    assert "1 vectors are not finite, 1 are all zeros" in found
    assert any(re.fullmatch(r"Some items are hubs: skewness \d\.\d, and .* nobody's neighbour", one) for one in found)
    text = text_of(page_of(paths))
    assert "Published. 60 vectors" in text
    assert "3 rows in quarantine" in text
    assert "not finite1 ✗ not as expected" in text


def test_the_oracle_is_no_baseline() -> None:
    found: dict[str, Any] = {
        "seen_kept": {
            "model": {"recall@5": 0.2}, "best_reachable": {"recall@5": 0.9}, "ease": {"recall@5": 0.1}, "none": {},
        }
    }  # fmt: skip
    assert best_baseline(found, "recall@5") == ("ease", 0.1)
    assert best_baseline(found, "recall@6") is None


# Items ---------------------------------------------------------------------------------------------------


def test_ids_stand_for_titles_that_are_not_there(tmp_path: Path) -> None:
    paths = samples_run(tmp_path, titled=False)
    write_table(paths, f"{tmp_path}/table", clustered_vectors())
    shown = page_of(paths)
    assert "<title>i7 · sport</title>" in shown


@pytest.mark.parametrize(
    ("report", "category"),
    [({}, "topic"), ({"category": "item_id"}, "item_id"), ({"map_items": 0, "hub_items": 0}, "topic")],
)
def test_the_category_and_the_sizes_are_settings(tmp_path: Path, report: dict[str, Any], category: str) -> None:
    settings = settings_of(tmp_path, report=report)
    paths = samples_run(tmp_path, settings)
    write_table(paths, f"{tmp_path}/table", clustered_vectors())
    shown = page_of(paths, settings)
    if report.get("map_items") == 0:
        assert 'class="map"' not in shown
        assert "Hubs" not in shown
        assert "Norms" in shown
    else:
        assert f"Colours: {category}." in shown


def test_a_smaller_map_says_which_items_it_shows(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, report={"map_items": 20, "hub_items": 15})
    paths = samples_run(tmp_path, settings)
    write_table(paths, f"{tmp_path}/table", clustered_vectors())
    shown = page_of(paths, settings)
    assert "20 of 60 items: half of them the most popular, the others drawn by a hash." in shown
    assert "N10 of 15 items drawn by the hash of their id" in shown
    assert shown.count("<circle") == 20
    most_popular = {f"i{number + 1}" for number in range(10)}  # of write_run: popularity falls with the number
    assert {name for name in IDS if f"Title &amp; &quot;{name}&quot; · " in shown} >= most_popular


def test_an_unknown_category_is_named(tmp_path: Path) -> None:
    facts = read_facts(samples_run(tmp_path))
    message = r"report\.category: no item feature with ids is named 'topik' \(did you mean 'topic'\?\)"
    with pytest.raises(UserError, match=message):
        Items(facts.run, Report(category="topik"))


@pytest.mark.parametrize("name", ["price", "title", "city"])  # a number, a text, a user's
def test_a_category_is_an_id_of_the_items(tmp_path: Path, name: str) -> None:
    facts = read_facts(samples_run(tmp_path))
    with pytest.raises(UserError, match=f"no item feature with ids is named '{name}'"):
        Items(facts.run, Report(category=name))


def test_long_names_are_cut_to_one_line() -> None:
    assert shortened("a\n  b\tc") == "a b c"
    assert shortened("x" * 81) == "x" * 79 + "…"


# Indexes and colours ----------------------------------------------------------------------------------------


def test_a_store_without_a_search_is_told(tmp_path: Path, text: str) -> None:
    assert "A store without a search of its own is fetched once, and compared: its queries/s are of that call." in text
    paths = samples_run(tmp_path)
    write_index(paths, sinks=[])
    assert "A store without" not in text_of(page_of(paths))


def test_a_list_colours_by_its_first_entry(tmp_path: Path) -> None:
    features = {
        **settings_of(tmp_path).model_dump(mode="json")["features"],
        "tags": {"kind": "VarLenSparseFeat", "side": "item", "share_embedding": "topic", "maxlen": 3},
    }
    settings = settings_of(tmp_path, features=features, report={"category": "tags"})
    items = [item(number, tags=tags, **{ITEM_KEY: number}) for number, tags in enumerate(([3, 2], [2], [], [1, 3]))]
    run = write_run(tmp_path, [[]], items=items, tokens={"topic": ["sport", "music"]}, settings=settings)
    words = Items(run, settings.report).at(np.arange(4))
    assert [one.category for one in words] == ["music", "sport", "none", "unknown"]
