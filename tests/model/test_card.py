"""The model card of a tiny run: its file, its page, and what it says of calling the towers."""

from __future__ import annotations

import datetime as dt
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from dssm import storage
from dssm.config import Settings
from dssm.features import UNKNOWN_ID, Side
from dssm.manifest import MANIFEST, read_manifest
from dssm.model.card import PAGE, ModelCard, add_evaluation, make_card, write_card
from dssm.model.card_page import card_html
from dssm.model.export import LoadedRawTower, LoadedTower, save_scorer
from dssm.model.manifest import ModelManifest, read_model_manifest
from dssm.model.raw.save import RawTower, save_raw_tower
from dssm.model.scorer import build_scorer
from dssm.paths import CARD, RunPaths
from dssm.report.card_parts import PredictionCard
from dssm.sections import Scorer
from tests.datasets import SIZES, write_run
from tests.model.tiny import make_towers, write_model

EVALUATION = {
    "items": 15,
    "users": 9,
    "seen_kept": {"model": {"recall@10": 0.25, "ndcg@10": 0.125}, "popularity": {"recall@10": 0.0625}},
    "popularity_tenths": {"items": [2, 1], "seen_kept": {"clicks": [7, 2], "model": {"recall@10": [0.5, 0.25]}}},
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A run with samples and a model, as `train` leaves it: its manifest is the last thing."""
    settings = write_run(tmp_path_factory.mktemp("card"))
    settings = settings.model_copy(
        update={"spark": settings.spark.model_copy(update={"conf": {"spark.hadoop.fs.s3a.secret.key": "hush"}})}
    )
    paths = RunPaths(settings.run_folder)
    vocabularies = Path(paths.samples) / "vocabularies"
    vocabularies.mkdir(exist_ok=True)
    for name, size in SIZES.items():
        tokens = [f"<{name} {place}>" for place in range(size - 2)]
        pq.write_table(pa.table({"token": tokens}), vocabularies / f"{name}.parquet")
    write_model(settings)
    towers, manifest = make_towers(settings), read_manifest(paths.part("train"), "")
    sides: tuple[Side, ...] = ("user", "item")
    raw = {
        side: save_raw_tower(
            getattr(towers, side), side, settings, manifest, paths.samples, f"{paths.model}/{side}_tower_raw"
        )
        for side in sides
    }
    (Path(paths.folder) / "raw.json").write_text(json.dumps({side: made.model_dump() for side, made in raw.items()}))
    write_card(paths.model, make_card(settings, read_model_manifest(paths.model), raw))
    return settings


def card_of(settings: Settings) -> ModelCard:
    return ModelCard.model_validate_json((Path(RunPaths(settings.run_folder).model) / CARD).read_bytes())


def raw_of(settings: Settings) -> dict[Side, RawTower]:
    made = json.loads((Path(settings.run_folder) / "raw.json").read_text())
    return {side: RawTower.model_validate(found) for side, found in made.items()}


def test_the_card_says_what_the_model_was_made_of(settings: Settings) -> None:
    card, paths = card_of(settings), RunPaths(settings.run_folder)
    model = read_model_manifest(paths.model)
    assert (card.name, card.date, card.model_version) == ("tiny", "2024-01-08", model.model_version)
    assert card.samples_build == "tiny"
    assert card.vocabularies == model.vocabularies
    assert {name: (part.rows, part.files) for name, part in card.parts.items()} == {
        "train": (36, 4), "test": (19, 4), "items": (15, 3),
    }  # fmt: skip
    for name, part in card.parts.items():
        assert part.digest == storage.digest((Path(paths.part(name)) / "manifest.json").read_bytes())
    assert Settings.model_validate({**card.settings, "date": dt.date(2024, 1, 8)}).features == settings.features
    assert "spark" not in card.settings
    assert "hush" not in (Path(paths.model) / CARD).read_text()
    assert "hush" not in (Path(paths.model) / PAGE).read_text()
    assert card.epochs == [{"loss": 1.0, "auc": None}]
    assert card.evaluation is None


def test_every_epoch_has_its_metrics(settings: Settings) -> None:
    model = read_model_manifest(RunPaths(settings.run_folder).model)
    measured = model.model_copy(
        update={
            "loss": [2.0, 1.5],
            "auc": [0.6, None],
            "metrics": [{"auc": 0.6, "mse": 0.2}, {"auc": None, "mse": 0.1}],
        }
    )
    card = make_card(settings, measured, raw_of(settings))
    assert card.epochs == [{"loss": 2.0, "auc": 0.6, "mse": 0.2}, {"loss": 1.5, "auc": None, "mse": 0.1}]
    cells = texts_of(card_html(card), "td")
    assert [cells[place : place + 3] for place in (0, 3)] == [["2", "0.6", "0.2"], ["1.5", "–", "0.1"]]


def test_each_signature_is_that_of_its_saved_model(settings: Settings) -> None:
    card, folder = card_of(settings), RunPaths(settings.run_folder).model
    assert list(card.towers) == ["user_tower", "user_tower_raw", "item_tower", "item_tower_raw"]
    for name, signature in card.towers.items():
        loaded = (LoadedRawTower if name.endswith("raw") else LoadedTower)(f"{folder}/{name}")
        assert set(signature.inputs) == set(loaded.inputs) == set(signature.example)
        for key, spec in loaded.inputs.items():
            assert (signature.inputs[key].dtype, list(signature.inputs[key].shape)) == (spec.dtype.name, spec.shape)
        assert set(signature.outputs) == set(loaded.outputs) == {"vector"}


@pytest.mark.parametrize("side", ["user", "item"])
def test_the_examples_are_the_same_row(settings: Settings, side: str) -> None:
    card, folder = card_of(settings), RunPaths(settings.run_folder).model
    raw = LoadedRawTower(f"{folder}/{side}_tower_raw").vectors([card.towers[f"{side}_tower_raw"].example])
    columns = {name: np.array([value]) for name, value in card.towers[f"{side}_tower"].example.items()}
    np.testing.assert_allclose(raw, LoadedTower(f"{folder}/{side}_tower").vectors(columns), atol=1e-6)
    assert np.abs(raw).sum() > 0


def test_several_objectives_have_an_output_each(settings: Settings) -> None:
    model = read_model_manifest(RunPaths(settings.run_folder).model)
    several = ModelManifest.model_validate({**model.model_dump(), "objectives": {"click": 1.0, "like": 0.5}})
    card = make_card(settings, several, raw_of(settings))
    for signature in card.towers.values():
        assert list(signature.outputs) == ["vector", "vector_click", "vector_like"]
        assert "share 0.5" in signature.outputs["vector_like"]


PREDICTIONS = {
    "click": PredictionCard(output="vector_click", similarity="cosine", temperature=0.1),
    "like": PredictionCard(
        output="vector_like", similarity="cosine", temperature=0.1, bias=-1.25, activation="sigmoid",
        prediction="probability",
    ),
}  # fmt: skip


def test_what_the_vectors_of_each_objective_predict_is_told(settings: Settings) -> None:
    model = read_model_manifest(RunPaths(settings.run_folder).model).model_copy(update={"predictions": PREDICTIONS})
    assert ModelManifest.model_validate_json(model.model_dump_json()).predictions == PREDICTIONS
    card = make_card(settings, model, raw_of(settings))
    assert ModelCard.model_validate_json(card.model_dump_json()).predictions == PREDICTIONS
    cells = texts_of(card_html(card), "td")
    for name, formula in (
        ("click", "none: s = ⟨u, v⟩ / 0.1 orders items alone"),
        ("like", "probability 1 / (1 + exp(−s)), s = ⟨u, v⟩ / 0.1 − 1.25"),
    ):
        place = cells.index(f"vector_{name}")
        assert cells[place : place + 3] == [f"vector_{name}", "cosine", formula]


def test_a_model_of_before_that_does_not_tell_them_is_read(settings: Settings) -> None:
    paths = RunPaths(settings.run_folder)
    model, card = (json.loads(Path(path).read_text()) for path in (f"{paths.model}/{MANIFEST}", paths.card))
    del model["predictions"], card["predictions"]
    assert ModelManifest.model_validate(model).predictions == {}
    read = ModelCard.model_validate(card)
    assert read.predictions == {}
    assert "Not told: the model is of an earlier version." in card_html(read)


@pytest.mark.parametrize(
    ("objectives", "says"),
    [
        ({"label": 1.0}, "vector of user_tower"),
        ({"label": 0.25}, "vector of user_tower / 0.5"),
        ({"click": 0.25, "like": 1.0}, "vector_click of user_tower"),
    ],
)
def test_a_scorers_signature_is_that_of_its_saved_model(
    settings: Settings, objectives: dict[str, float], says: str, tmp_path: Path
) -> None:
    model = read_model_manifest(RunPaths(settings.run_folder).model).model_copy(update={"objectives": objectives})
    pair: dict[Side, list[float]] = {"user": [0.5, -1.0, 2.0], "item": [1.5, 0.0, -0.25]}
    card = make_card(settings, model, raw_of(settings), pair)
    called = ModelCard.model_validate_json(card.model_dump_json()).scorer
    assert called is not None
    scorer = build_scorer(Scorer(), 3)
    save_scorer(scorer, f"{tmp_path}/scorer")
    serve = tf.saved_model.load(f"{tmp_path}/scorer").signatures["serving_default"]
    specs = serve.structured_input_signature[1]
    given = {name: (found.dtype, list(found.shape)) for name, found in called.inputs.items()}
    assert given == {name: (spec.dtype.name, spec.shape) for name, spec in specs.items()}
    assert called.inputs["user_vector"].says == says
    found = serve(**{name: tf.constant([value], tf.float32) for name, value in called.example.items()})
    assert set(called.outputs) == set(found)
    np.testing.assert_allclose(found["score"], scorer([np.array([pair["user"]]), np.array([pair["item"]])]), rtol=1e-6)
    assert {"instances": [called.example]} in [json.loads(text) for text in texts_of(card_html(card), "pre")[:5]]


def test_an_evaluation_of_the_model_is_added(settings: Settings) -> None:
    paths, before = RunPaths(settings.run_folder), card_of(settings)
    add_evaluation(settings)
    assert card_of(settings) == before
    for version in ("another", before.model_version):
        found = {"model_version": version, **EVALUATION}
        Path(paths.evaluation).write_text(json.dumps(found))
        add_evaluation(settings)
        expected = found if version == before.model_version else None
        assert card_of(settings) == before.model_copy(update={"evaluation": expected})
    page = (Path(paths.model) / PAGE).read_text()
    cells = texts_of(page, "td")
    start = cells.index("0.25")
    assert cells[start : start + 4] == ["0.25", "0.0625", "0.125", "–"]
    Path(paths.evaluation).unlink()


def test_without_a_card_there_is_nothing_to_add_to(tmp_path: Path) -> None:
    settings = write_run(tmp_path)
    add_evaluation(settings)
    assert not Path(RunPaths(settings.run_folder).model).exists()


def test_no_users_id_is_published(settings: Settings) -> None:
    card, folder = card_of(settings), Path(RunPaths(settings.run_folder).model)
    assert card.towers["user_tower_raw"].example["user_id"] == "example1"
    assert card.towers["user_tower"].example["user_id"] == UNKNOWN_ID
    for name in (CARD, PAGE):
        text = (folder / name).read_text()
        assert "item_id 0" in text
        assert "user_id 0" not in text


class _Texts(HTMLParser):
    """Collects the text of each element of one name, and what the page would load."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.texts, self.open, self.loads = name, [""], 0, []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open += tag == self.name
        self.loads += [
            value for key, value in attrs if key in ("src", "action") or (key == "href" and value[:1] != "#")
        ]

    def handle_endtag(self, tag: str) -> None:
        if tag == self.name:
            self.open -= 1
            self.texts.append("")

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts[-1] += data


def texts_of(page: str, name: str) -> list[str]:
    parser = _Texts(name)
    parser.feed(page)
    assert parser.loads == []
    return parser.texts[:-1]


def test_the_page_shows_every_input_and_a_request(settings: Settings) -> None:
    card = card_of(settings).model_copy(update={"evaluation": None})
    page = card_html(card)
    heads = texts_of(page, "th")
    for signature in card.towers.values():
        assert set(signature.inputs) < set(heads)
    requests = [json.loads(text) for text in texts_of(page, "pre")[:4]]
    assert requests == [{"instances": [signature.example]} for signature in card.towers.values()]
    assert card.towers["user_tower_raw"].example["clicked"] == ["<item_id 0>", "<item_id 1>"]
    assert "<item_id" not in page  # what a log holds is escaped
    assert "rows × any" in page
