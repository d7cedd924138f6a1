"""Activations, encoders and towers once more: float64 NumPy, row by row, written from the papers.

Weights are looked up by the names of the model's variables, without `:0`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from dssm.encoders import AttentionPooling, Cnn, EncoderKind, Gru, Lstm, Transformer
from dssm.sections.model import Cross, Dnn, Fm, MultiObjective, Parallel, Senet, TowerKind

Weights = Mapping[str, np.ndarray]
Features = Mapping[str, np.ndarray]  # by name, (rows, width)

SELU_SCALE, SELU_SLOPE = 1.0507009873554805, 1.6732632423543772  # Klambauer et al., NeurIPS 2017


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


SCALAR: dict[str, Callable[[float], float]] = {
    "linear": lambda x: x,
    "relu": lambda x: max(x, 0.0),
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "tanh": math.tanh,
    "sigmoid": sigmoid,
    "elu": lambda x: x if x > 0 else math.exp(x) - 1,
    "selu": lambda x: SELU_SCALE * (x if x > 0 else SELU_SLOPE * (math.exp(x) - 1)),
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "swish": lambda x: x * sigmoid(x),
}


def of_each(function: Callable[[float], float], values: np.ndarray) -> np.ndarray:
    return np.array([function(float(x)) for x in values.ravel()]).reshape(values.shape)


def statistics(rows: np.ndarray, real: Sequence[bool]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population variance of each column over the real rows."""
    counted = [row for row, is_real in zip(rows.astype(float), real, strict=True) if is_real]
    mean = sum(counted) / len(counted)
    return mean, sum((row - mean) ** 2 for row in counted) / len(counted)


def batch_norm(
    rows: np.ndarray, mean: np.ndarray, variance: np.ndarray, gamma: np.ndarray, beta: np.ndarray, epsilon: float = 1e-3
) -> np.ndarray:
    return np.array([gamma * (row - mean) / np.sqrt(variance + epsilon) + beta for row in rows.astype(float)])


def prelu(rows: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.where(rows > 0, rows, alpha * rows)


def dice(rows: np.ndarray, mean: np.ndarray, variance: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    p = of_each(sigmoid, (rows - mean) / np.sqrt(variance + 1e-8))
    return p * rows + (1 - p) * alpha * rows


# Encoders --------------------------------------------------------------------------------------------


def encoded(
    settings: EncoderKind,
    name: str,
    w: Weights,
    embeddings: np.ndarray,
    ids: np.ndarray,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Each list as one vector: (batch, width)."""
    encode = {
        AttentionPooling: _attention, Cnn: _cnn, Lstm: _lstm, Gru: _gru, Transformer: _transformer
    }[type(settings)]  # fmt: skip
    result = np.zeros((len(ids), settings.width(embeddings.shape[2])))
    for row in range(len(ids)):
        entries = [
            (1.0 if weights is None else float(weights[row, place])) * embeddings[row, place].astype(float)
            for place in range(ids.shape[1])
            if ids[row, place] != 0
        ]
        if getattr(settings, "order", "newest_last") == "newest_first":
            entries.reverse()
        if entries:
            result[row] = encode(settings, name, w, np.array(entries))
    return result


def softmax(scores: np.ndarray) -> np.ndarray:
    exponents = np.exp(scores - scores.max())
    return exponents / exponents.sum()


def _attention(settings: AttentionPooling, name: str, w: Weights, entries: np.ndarray) -> np.ndarray:
    pooled = []
    for head in range(settings.heads):
        own = slice(head * settings.units, (head + 1) * settings.units)
        kernel, bias, query = w[f"{name}/kernel"][:, own], w[f"{name}/bias"][own], w[f"{name}/query"][:, head]
        shares = softmax(np.array([query @ np.tanh(entry @ kernel + bias) for entry in entries]))
        pooled.append(sum(share * entry for share, entry in zip(shares, entries, strict=True)))
    return np.concatenate(pooled)


def _cnn(settings: Cnn, name: str, w: Weights, entries: np.ndarray) -> np.ndarray:
    kernel, bias = w[f"{name}/convolution/kernel"], w[f"{name}/convolution/bias"]
    windows = []
    for centre in range(len(entries)):
        total = bias.astype(float)
        for place in range(settings.window):
            entry = centre - (settings.window - 1) // 2 + place
            if 0 <= entry < len(entries):
                total = total + entries[entry] @ kernel[place]
        windows.append(of_each(SCALAR[settings.activation], total))
    return np.max(windows, axis=0)


def _lstm(settings: Lstm, name: str, w: Weights, entries: np.ndarray) -> np.ndarray:
    kernel, recurrent, bias = (w[f"{name}/lstm/lstm_cell/{part}"] for part in ("kernel", "recurrent_kernel", "bias"))
    state = memory = np.zeros(settings.units)
    for entry in entries:
        gates = np.split(entry @ kernel + state @ recurrent + bias, 4)
        take, keep, give = (of_each(sigmoid, gates[place]) for place in (0, 1, 3))
        memory = keep * memory + take * np.tanh(gates[2])
        state = give * np.tanh(memory)
    return state


def _gru(settings: Gru, name: str, w: Weights, entries: np.ndarray) -> np.ndarray:
    kernel, recurrent, bias = (w[f"{name}/gru/gru_cell/{part}"] for part in ("kernel", "recurrent_kernel", "bias"))
    state = np.zeros(settings.units)
    for entry in entries:
        of_entry = np.split(entry @ kernel + bias[0], 3)
        of_state = np.split(state @ recurrent + bias[1], 3)
        keep, reset = (of_each(sigmoid, of_entry[place] + of_state[place]) for place in (0, 1))
        state = keep * state + (1 - keep) * np.tanh(of_entry[2] + reset * of_state[2])
    return state


def _layer_norm(row: np.ndarray, w: Weights, name: str) -> np.ndarray:
    deviation = math.sqrt(float(np.mean((row - row.mean()) ** 2)) + 1e-6)
    return (row - row.mean()) / deviation * w[f"{name}/gamma"] + w[f"{name}/beta"]


def _transformer(settings: Transformer, name: str, w: Weights, entries: np.ndarray) -> np.ndarray:
    last = len(entries) - 1
    x = [entry + w[f"{name}/positions"][last - place] for place, entry in enumerate(entries)]
    for number in range(1, settings.blocks + 1):
        block = f"{name}/block_{number}"
        normal = [_layer_norm(row, w, f"{block}/attention_norm") for row in x]
        x = [row + _attended(settings, f"{block}/attention", w, normal, place) for place, row in enumerate(x)]
        for place, row in enumerate(x):
            inner = _layer_norm(row, w, f"{block}/feed_forward_norm") @ w[f"{block}/first/kernel"]
            inner = np.maximum(inner + w[f"{block}/first/bias"], 0)
            x[place] = row + inner @ w[f"{block}/second/kernel"] + w[f"{block}/second/bias"]
    x = [_layer_norm(row, w, f"{name}/norm") for row in x]
    return x[last] if settings.pool == "last" else np.mean(x, axis=0)


def _attended(settings: Transformer, name: str, w: Weights, rows: list[np.ndarray], place: int) -> np.ndarray:
    seen = rows[: place + 1] if settings.causal else rows
    total = w[f"{name}/attention_output/bias"].astype(float)
    for head in range(settings.heads):
        query, key, value = (
            [row @ w[f"{name}/{part}/kernel"][:, head] + w[f"{name}/{part}/bias"][head] for row in group]
            for part, group in (("query", [rows[place]]), ("key", seen), ("value", seen))
        )
        shares = softmax(np.array([query[0] @ k / math.sqrt(len(k)) for k in key]))
        mixed = sum(share * v for share, v in zip(shares, value, strict=True))
        total = total + mixed @ w[f"{name}/attention_output/kernel"][head]
    return total


# Towers ----------------------------------------------------------------------------------------------


def tower(
    settings: TowerKind,
    features: Features,
    w: Weights,
    *,
    name: str,
    objectives: Sequence[str],
    vector_dim: int,
    unit_norm: bool,
    real: Sequence[bool] | None = None,
    of_side: Features | None = None,
) -> dict[str, np.ndarray]:
    """The vectors of a tower for each objective.

    Args:
      real: the rows whose statistics batch norm and dice take; None: they take the moving averages.
      of_side: what residuals are looked up in.
    """
    of_side = of_side or features
    shared = {"vector_dim": vector_dim, "unit_norm": unit_norm, "real": real, "of_side": of_side}
    if isinstance(settings, Parallel):
        channels = [
            tower(channel, features, w, name=f"{name}.{key}", objectives=objectives, **shared)
            for key, channel in settings.channels.items()
        ]
        return {o: np.concatenate([vectors[o] for vectors in channels], axis=1) for o in objectives}
    if isinstance(settings, MultiObjective):
        hidden = {"shared": _hidden(settings.shared, features, w, name, real)}
        return {o: tower(settings.head, hidden, w, name=f"{name}.{o}", objectives=[o], **shared)[o] for o in objectives}
    if isinstance(settings, Dnn):
        hidden = _hidden(settings, features, w, name, real)
        vector = _activated(settings.last_activation, "", _dense(hidden, w, f"{name}.projection"), w, name, real)
        for residual in settings.residual:
            vector = vector + of_side[residual]
    elif isinstance(settings, Fm):
        width, vector = settings.width(vector_dim), 0.0
        for key, values in features.items():
            same = values.shape[1] == width
            vector = vector + (values if same else values @ w[f"{name}.projection_{key}/kernel"])
    else:
        assert isinstance(settings, Cross)
        base = x = np.concatenate(list(features.values()), axis=1).astype(float)
        for number in range(1, settings.depth + 1):
            narrow = x if settings.rank is None else x @ w[f"{name}.narrow_{number}/kernel"]
            x = base * _dense(narrow, w, f"{name}.cross_{number}") + x
        vector = _dense(x, w, f"{name}.projection")
    if unit_norm:
        vector = np.array([row / np.sqrt(np.sum(row**2)) for row in vector])
    return dict.fromkeys(objectives, vector)


def _dense(rows: np.ndarray, w: Weights, name: str) -> np.ndarray:
    return rows @ w[f"{name}/kernel"] + w[f"{name}/bias"]


def _hidden(settings: Dnn, features: Features, w: Weights, name: str, real: Sequence[bool] | None) -> np.ndarray:
    parts = list(features.values())
    if isinstance(settings, Senet):
        means = np.array([[part[row].mean() for part in parts] for row in range(len(parts[0]))])
        excited = np.maximum(np.maximum(means @ w[f"{name}.senet/squeeze"], 0) @ w[f"{name}.senet/excite"], 0)
        parts = [excited[:, [place]] * part for place, part in enumerate(parts)]
    hidden = np.concatenate(parts, axis=1).astype(float)
    for number in range(1, len(settings.layers) + 1):
        kinds = settings.activation
        hidden = _dense(hidden, w, f"{name}.dense_{number}")
        if settings.batch_norm:
            norm = f"{name}.norm_{number}"
            hidden = batch_norm(hidden, *_moments(hidden, w, norm, real), w[f"{norm}/gamma"], w[f"{norm}/beta"])
        kind = kinds if isinstance(kinds, str) else kinds[number - 1]
        hidden = _activated(kind, f"_{number}", hidden, w, name, real)
    return hidden


def _moments(rows: np.ndarray, w: Weights, name: str, real: Sequence[bool] | None) -> tuple[np.ndarray, np.ndarray]:
    return (w[f"{name}/moving_mean"], w[f"{name}/moving_variance"]) if real is None else statistics(rows, real)


def _activated(
    kind: str, number: str, rows: np.ndarray, w: Weights, name: str, real: Sequence[bool] | None
) -> np.ndarray:
    layer = f"{name}.{kind}{number}"
    if kind == "prelu":
        return prelu(rows, w[f"{layer}/alpha"])
    if kind == "dice":
        return dice(rows, *_moments(rows, w, f"{layer}/{layer}_norm", real), w[f"{layer}/alpha"])
    return of_each(SCALAR[kind], rows)
