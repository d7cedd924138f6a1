"""The exported user tower: raw features in, a vector out, whatever a caller sends."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from pydantic import ValidationError

from dssm import storage
from dssm.errors import UserError, did_you_mean, no_objective
from dssm.model.card import ModelCard
from dssm.model.export import LoadedRawTower
from dssm.model.manifest import ModelManifest
from dssm.model.outputs import output_name
from dssm.paths import RunPaths
from dssm.report.card_parts import SignatureCard
from dssm.serving.requests import faults, features_model

FOLDER = "user_tower_raw"
LONGEST_REASON = 200  # letters: TensorFlow's may quote what was sent
LONGEST_FOUND = 60  # letters of a value that a message shows
OF_CARD = "what its card says of each input"


class FeaturesError(ValueError):
    """What is wrong with features that the tower makes no vector of.

    Attributes:
      problem, expected: its parts.
      faults: what is wrong with each feature that is to blame, by name; empty where no feature is.
    """

    def __init__(self, problem: str, expected: str, faults: Mapping[str, str] | None = None) -> None:
        self.problem, self.expected, self.faults = problem, expected, dict(faults or {})
        told = [f"{name}: {fault}" for name, fault in self.faults.items()]
        super().__init__("; ".join(told) or f"{problem}; expected {expected}")


class UserTower:
    """A run's `user_tower_raw`.

    Attributes:
      signature: its inputs and an example, as the model's card has them.
    """

    def __init__(self, paths: RunPaths, model: ModelManifest) -> None:
        """Raises: UserError where the run's model has no raw tower or no card, or its card is of another model."""
        self.signature = _signature(paths, model)
        self._tower = LoadedRawTower(f"{paths.model}/{FOLDER}")

    def vector(self, features: Mapping[str, Any], objective: str | None = None) -> np.ndarray:
        """Returns a user's vector, (dim,) float32. Without any feature it is the tower's answer for a cold user.

        Raises: FeaturesError that names the features which the tower refuses, or whose vector is too large to be
          compared.
        """
        try:
            return self._made(features, objective)
        except FeaturesError as error:
            raise FeaturesError(error.problem, error.expected, self._faults(features, objective)) from error

    def _made(self, features: Mapping[str, Any], objective: str | None) -> np.ndarray:
        """Raises: FeaturesError that names no feature: TensorFlow does not say which it was."""
        try:
            vector: np.ndarray = self._tower.all_vectors([features])[output_name(objective)][0]
        except tf.errors.InvalidArgumentError as error:
            reason = " ".join(str(error.message).split())
            raise FeaturesError(f"the tower refuses a value ({reason[:LONGEST_REASON]})", OF_CARD) from error
        # No vector whose square is infinite is published: between two that are finite, so are all products.
        if not np.isfinite(np.einsum("i,i", vector, vector)):
            raise FeaturesError("the tower's vector is not finite, or too large to be compared", "smaller numbers")
        return vector

    def _faults(self, features: Mapping[str, Any], objective: str | None) -> dict[str, str]:
        """Returns what is wrong with each feature that the tower refuses of a user of whom nothing else is known.

        Each alone, so that all together are no more to read than what was sent. None is named where only several
        together are refused, or a user without features is.
        """
        faults: dict[str, str] = {}
        for name, value in features.items():
            try:
                self._made({name: value}, objective)
            except FeaturesError as error:
                expected = self.signature.inputs[name].says if error.expected == OF_CARD else error.expected
                faults[name] = f"{error.problem}; found {_shortened(value)}, expected {expected}"
        return {} if len(faults) == len(features) and self._refuses_anybody(objective) else faults

    def _refuses_anybody(self, objective: str | None) -> bool:
        try:
            self._made({}, objective)
        except FeaturesError:
            return True
        return False


def _shortened(value: Any) -> str:
    told = json.dumps(value[:LONGEST_FOUND] if isinstance(value, list) else value, ensure_ascii=False)
    return told if len(told) <= LONGEST_FOUND else f"{told[:LONGEST_FOUND]}…"


def _signature(paths: RunPaths, model: ModelManifest) -> SignatureCard:
    path = paths.card
    if not storage.exists(path):
        raise UserError(f"{path}: not found; run train for this date again")
    try:
        card = ModelCard.model_validate_json(storage.read_bytes(path))
    except ValidationError as error:
        raise UserError(f"{path}: of another version ({error.errors()[0]['msg']}); run train again") from error
    if card.model_version != model.model_version or FOLDER not in card.towers:
        raise UserError(f"{path}: not of the model {model.model_version}; run train for this date again")
    return card.towers[FOLDER]


def check_objective(model: ModelManifest, objective: str | None) -> None:
    """Raises: UserError where the model has no such objective."""
    known = model.objectives if len(model.objectives) > 1 else ()
    if objective is not None and objective not in known:
        raise UserError(f"--objective: {no_objective(objective, known)}")


def read_request(path: str, signature: SignatureCard) -> dict[str, Any]:
    """Reads a user's raw features from a JSON file: an object with the tower's inputs.

    Raises: UserError that names the field: one that is no input, one that is missing, one of another kind.
    """
    try:
        given = json.loads(storage.read_text(path))
    except FileNotFoundError as error:
        raise UserError(f"--request {path}: not found; expected a JSON file, such as {_example(signature)}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"--request {path}: can't be read as JSON ({error})") from error
    if not isinstance(given, dict):
        raise UserError(f"--request {path}: found {type(given).__name__}, expected an object: {_example(signature)}")
    for name in given:
        if name not in signature.inputs:
            raise UserError(f"--request {path}: {name}: no such input" + did_you_mean(name, signature.inputs))
    missing = [name for name in signature.inputs if name not in given]
    if missing:
        raise UserError(
            f"--request {path}: {', '.join(missing)}: missing; expected each of {', '.join(signature.inputs)}, null "
            f"for nothing. An example: {_example(signature)}"
        )
    try:
        checked = features_model(signature).model_validate(given)
    except ValidationError as error:
        fault = faults(error, {})[0]
        raise UserError(f"--request {path}: {'.'.join(map(str, fault['loc'][1:]))}: {fault['msg']}") from error
    return sent(checked)


def _example(signature: SignatureCard) -> str:
    return json.dumps(signature.example, ensure_ascii=False)


def sent(features: Any) -> dict[str, Any]:
    """Returns checked features as the raw tower takes them; what is null is left out, and so counts as not sent."""
    given: dict[str, Any] = features.model_dump(by_alias=True, exclude_none=True)
    return given
