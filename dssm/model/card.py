"""The model card: what a model was made of, how good it is, and how to call it. One JSON file, and a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from dssm import storage
from dssm.config import Settings
from dssm.features import AnyFeature, DenseFeat, Side, SparseFeat, VarLenSparseFeat, of_side
from dssm.manifest import MANIFEST, ColumnSpec, Manifest, Statistics, VocabularySpec, encoded_columns
from dssm.model.card_page import card_html
from dssm.model.manifest import ModelManifest
from dssm.model.outputs import OUTPUT, SCORE, output_name
from dssm.paths import CARD, DATASETS, RunPaths
from dssm.report.card_parts import InputCard, PartCard, PredictionCard, SignatureCard

if TYPE_CHECKING:
    from dssm.model.raw.save import RawTower  # with TensorFlow, which a job that adds an evaluation has no need of

PAGE = "model.html"


class _Card(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ModelCard(_Card):
    """What is known of a model when it is saved; `evaluation` is added when it has been evaluated."""

    name: str
    date: str
    model_version: str
    settings: dict[str, Any] = Field(description="All but Spark's own, which may hold secrets.")
    samples_build: str
    vocabularies_of: str | None = Field(description="Build whose vocabularies the samples took.")
    parts: dict[str, PartCard]
    vocabularies: dict[str, VocabularySpec]
    statistics: dict[str, Statistics]
    ranks: int
    steps: int
    rows_per_s: float
    epochs: list[dict[str, float | None]] = Field(description="Loss and the metrics of the test samples, by name.")
    evaluation: dict[str, Any] | None = Field(None, description="evaluation.json, once there is one of this model.")
    vector_dim: int
    objectives: dict[str, float] = Field(description="Share of each in the combined vector.")
    predictions: dict[str, PredictionCard] = Field(
        default_factory=dict, description="Of each objective: what its vectors predict."
    )
    towers: dict[str, SignatureCard] = Field(description="By folder.")
    scorer: SignatureCard | None = Field(None, description="Where the model has one.")


def make_card(
    settings: Settings,
    model: ModelManifest,
    raw: Mapping[Side, RawTower],
    pair: Mapping[Side, Sequence[float]] | None = None,
) -> ModelCard:
    """Returns the card of a model.

    Args:
      settings: of the run, whose samples lie in its folder.
      model: its manifest.
      raw: what `save_raw_tower` returned of each side.
      pair: vectors that a scorer takes, of each side, as its example; None where there is no scorer.
    """
    paths = RunPaths(settings.run_folder)
    train = Manifest.model_validate_json(storage.read_bytes(f"{paths.part('train')}/{MANIFEST}"))
    metrics = model.metrics or [{"auc": value} for value in model.auc]
    towers = {}
    for side, made in raw.items():
        towers[f"{side}_tower"] = _encoded_signature(settings, side, made, model)
        towers[f"{side}_tower_raw"] = _raw_signature(made, model)
    return ModelCard(
        name=settings.name,
        date=model.date,
        model_version=model.model_version,
        settings=settings.model_dump(mode="json", exclude={"spark"}),
        samples_build=model.samples_build,
        vocabularies_of=train.vocabularies_of,
        parts=_parts(paths),
        vocabularies=model.vocabularies,
        statistics=train.statistics,
        ranks=model.ranks,
        steps=model.steps,
        rows_per_s=model.rows_per_s,
        epochs=[{"loss": loss, **measured} for loss, measured in zip(model.loss, metrics, strict=True)],
        evaluation=_evaluation(paths, model.model_version),
        vector_dim=model.vector_dim,
        objectives=model.objectives,
        predictions=model.predictions,
        towers=towers,
        scorer=None if pair is None else _scorer_signature(model, pair),
    )


def write_card(folder: str, card: ModelCard) -> None:
    """Writes model.json and model.html."""
    storage.write_text(f"{folder}/{CARD}", card.model_dump_json(indent=1) + "\n")
    storage.write_text(f"{folder}/{PAGE}", card_html(card))


def add_evaluation(settings: Settings) -> None:
    """Writes the run's card anew with evaluation.json, where both are there and of the same model."""
    paths = RunPaths(settings.run_folder)
    if not storage.exists(paths.card):
        return
    card = ModelCard.model_validate_json(storage.read_bytes(paths.card))
    found = _evaluation(paths, card.model_version)
    if found is not None:
        write_card(paths.model, card.model_copy(update={"evaluation": found}))


def _evaluation(paths: RunPaths, model_version: str) -> dict[str, Any] | None:
    if not storage.exists(paths.evaluation):
        return None
    found: dict[str, Any] = json.loads(storage.read_text(paths.evaluation))
    return found if found.get("model_version") == model_version else None


def _parts(paths: RunPaths) -> dict[str, PartCard]:
    found = {}
    for part in DATASETS:
        path = f"{paths.part(part)}/{MANIFEST}"
        if storage.exists(path):
            content = storage.read_bytes(path)
            manifest = Manifest.model_validate_json(content)
            found[part] = PartCard(rows=manifest.rows, files=len(manifest.files), digest=storage.digest(content))
    return found


# Signatures ---------------------------------------------------------------------------------------------


def _raw_signature(made: RawTower, model: ModelManifest) -> SignatureCard:
    inputs = {
        name: InputCard(dtype=given.dtype, shape=tuple(given.spec.shape.as_list()), says=given.says)
        for name, given in made.inputs.items()
    }
    return SignatureCard(inputs=inputs, outputs=_outputs(model), example=made.example)


def _encoded_signature(settings: Settings, side: Side, made: RawTower, model: ModelManifest) -> SignatureCard:
    inputs = {
        name: InputCard(dtype=spec.dtype, shape=(None, *spec.shape), says=_told(feature, name, spec))
        for feature in of_side(settings.features, side)
        for name, spec in encoded_columns(feature, settings.vectors).items()
    }
    return SignatureCard(inputs=inputs, outputs=_outputs(model), example=made.encoded)


def _scorer_signature(model: ModelManifest, pair: Mapping[Side, Sequence[float]]) -> SignatureCard:
    objective, divisor = model.scorer_takes
    scaled = "" if divisor == 1 else f" / {divisor:g}"
    inputs = {
        f"{side}_vector": InputCard(
            dtype="float32", shape=(None, len(vector)), says=f"{output_name(objective)} of {side}_tower{scaled}"
        )
        for side, vector in pair.items()
    }
    says = "the logit s: the probability that the user acts on the item is 1 / (1 + exp(−s))"
    example = {f"{side}_vector": list(vector) for side, vector in pair.items()}
    return SignatureCard(inputs=inputs, outputs={SCORE: says}, example=example)


def _told(feature: AnyFeature, name: str, spec: ColumnSpec) -> str:
    """Says what an encoded column holds."""
    if isinstance(feature, DenseFeat):
        if feature.pre_embed is None:
            return f"a number, transform {feature.transform}"
        if spec.dtype == "float32":
            return f"the vector of {feature.pre_embed}; zeros for none"
        return f"row numbers of the vectors {feature.pre_embed}, from 1; 0 for none"
    if isinstance(feature, VarLenSparseFeat):
        if name == feature.weight_name:
            return f"weights of {feature.name}; 0 where that is padding"
        return f"ids of {feature.vocabulary}: 0 padding, 1 unknown"
    assert isinstance(feature, SparseFeat)
    return f"an id of {feature.vocabulary}: 1 unknown"


def _outputs(model: ModelManifest) -> dict[str, str]:
    """Says what each output is."""
    if len(model.objectives) < 2:
        return {OUTPUT: f"{model.vector_dim} numbers"}
    return {
        OUTPUT: f"{model.vector_dim} numbers: the objectives' vectors, each times √share",
        **{output_name(name): f"the vector of {name} (share {share:g})" for name, share in model.objectives.items()},
    }
