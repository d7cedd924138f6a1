"""What a model's card and a run's report both show of a model: its data, its vocabularies, how it is called."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from dssm.manifest import Statistics, VocabularySpec
from dssm.report.html import (
    Html,
    count_cell,
    figure_text,
    join,
    note,
    number_cell,
    table,
    tag,
    text_cell,
    words_cell,
)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InputCard(_Part):
    """An input of a signature: `shape` has null for the rows, and for the entries of a list."""

    dtype: str
    shape: tuple[int | None, ...]
    says: str = Field(description="What it is, and what to send for nothing.")


class SignatureCard(_Part):
    """How to call a SavedModel's signature `serving_default`."""

    inputs: dict[str, InputCard]
    outputs: dict[str, str]
    example: dict[str, Any] = Field(description="One row; TensorFlow Serving takes it as {instances: [row]}.")


class PredictionCard(_Part):
    """What an objective's vectors u and v predict: the sigmoid of s = ⟨u, v⟩ / temperature + bias, or s itself."""

    output: str = Field(description="Of both towers, with u and v.")
    similarity: Literal["cosine", "inner_product"]
    temperature: float = Field(description="τ; times the share of an only objective, as u and v are times its √.")
    bias: float = Field(0.0, description="Learned, where model.score_bias is set.")
    activation: Literal["linear", "sigmoid"] | None = Field(None, description="Of s; None: s orders items alone.")
    prediction: Literal["probability", "value"] | None = Field(
        None, description="That the label is 1 in the rows as the loss weighs them, or the label's value, 0…1."
    )


class PartCard(_Part):
    """A dataset of the samples."""

    rows: int
    files: int
    digest: str = Field(description="Of its manifest.json.")


class CardParts(Protocol):
    """A model card, as far as it is drawn here; see dssm.model.card.ModelCard."""

    @property
    def samples_build(self) -> str: ...
    @property
    def vocabularies_of(self) -> str | None: ...
    @property
    def parts(self) -> Mapping[str, PartCard]: ...
    @property
    def vocabularies(self) -> Mapping[str, VocabularySpec]: ...
    @property
    def statistics(self) -> Mapping[str, Statistics]: ...
    @property
    def predictions(self) -> Mapping[str, PredictionCard]: ...


def samples(card: CardParts) -> Html:
    """Draws what the model was trained on: rows, files and the digest of each dataset's manifest."""
    rows = [
        (name, [count_cell(part.rows), count_cell(part.files), text_cell(tag("code", part.digest))])
        for name, part in card.parts.items()
    ]
    frozen = "" if card.vocabularies_of is None else f" Its vocabularies are those of build {card.vocabularies_of}."
    return join(
        [note(f"Build {card.samples_build}.{frozen}"), table(["dataset ", "rows", "files", "manifest's digest "], rows)]
    )


def vocabularies(card: CardParts) -> Html:
    """Draws the vocabularies that its ids are of, and the statistics that its numbers are scaled by."""
    rows = [
        (name, [text_cell(spec.rule), count_cell(spec.size), text_cell(tag("code", spec.digest))])
        for name, spec in card.vocabularies.items()
    ]
    parts = [note("Ids count padding and unknown."), table(["vocabulary ", "rule ", "ids", "digest "], rows)]
    if card.statistics:
        numbers = [
            (name, [number_cell(figure_text(x)) for x in (s.mean, s.deviation, s.minimum, s.maximum)])
            for name, s in card.statistics.items()
        ]
        heads = ["number ", "mean", "deviation", "minimum", "maximum"]
        parts += [tag("h3", "Statistics of the training window"), table(heads, numbers)]
    return join(parts)


def predictions(card: CardParts) -> Html:
    """Draws what two vectors say of each objective."""
    if not card.predictions:
        return note("Not told: the model is of an earlier version.")
    rows = [
        (name, [text_cell(tag("code", told.output)), text_cell(told.similarity), words_cell(_told(told))])
        for name, told in card.predictions.items()
    ]
    return join(
        [
            note("u and v are the outputs of the user's and the item's tower, ⟨u, v⟩ is their inner product."),
            table(["objective ", "output ", "similarity ", "prediction "], rows),
        ]
    )


def _told(told: PredictionCard) -> str:
    """Returns a prediction's formula.

    >>> _told(PredictionCard(output="vector", similarity="cosine", temperature=0.1))
    'none: s = ⟨u, v⟩ / 0.1 orders items alone'
    >>> _told(PredictionCard(output="vector", similarity="cosine", temperature=0.1, bias=-1.5, activation="sigmoid",
    ...                      prediction="probability"))
    'probability 1 / (1 + exp(−s)), s = ⟨u, v⟩ / 0.1 − 1.5'
    """
    score = f"s = ⟨u, v⟩ / {told.temperature:g}"
    if told.bias:
        score += f" {'+' if told.bias > 0 else '−'} {abs(told.bias):.6g}"
    if told.prediction is None:
        return f"none: {score} orders items alone"
    return f"{told.prediction} {'1 / (1 + exp(−s))' if told.activation == 'sigmoid' else 's'}, {score}"


def signature(name: str, called: SignatureCard) -> Html:
    """Draws how a tower or a scorer is called, with an example request. Args: name: of its folder."""
    rows = [
        (key, [text_cell(given.dtype), text_cell(_shape(given.shape)), words_cell(given.says)])
        for key, given in called.inputs.items()
    ]
    outputs = [(key, [words_cell(says)]) for key, says in called.outputs.items()]
    lines = [f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in called.example.items()]
    request = '{"instances": [{\n' + ",\n".join(lines) + "\n}]}"  # a list on one line, however long it is
    return join(
        [
            table(["input ", "type ", "shape ", "what "], rows),
            table(["output ", "what "], outputs),
            tag("h3", "Example request"),
            note(f"For TensorFlow Serving: POST /v1/models/{name}:predict"),
            tag("pre", request),
        ]
    )


def _shape(shape: tuple[int | None, ...]) -> str:
    """Returns a shape for reading.

    >>> _shape((None,)), _shape((None, 20)), _shape((None, None))
    ('rows', 'rows × 20', 'rows × any')
    """
    return " × ".join(["rows", *("any" if size is None else str(size) for size in shape[1:])])
