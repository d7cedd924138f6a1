"""What the service takes: models of requests, made from the inputs of the user tower that is loaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    create_model,
    model_validator,
)

from dssm.errors import did_you_mean
from dssm.report.card_parts import InputCard, SignatureCard

MOST_ITEMS = 1000  # of an answer
LONGEST_TEXT, LONGEST_LIST = 65_536, 10_000
RESCORE = "So many items are retrieved; the answer is the most probable of them by the model's scorer."


def _text(value: Any) -> str:
    """Returns an id or a text; whole numbers are ids as well."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"expected a text, found {_kind(value)}")  # noqa: TRY004  (pydantic reports ValueErrors)
    if len(value) > LONGEST_TEXT:
        raise ValueError(f"expected at most {LONGEST_TEXT:,} letters, found {len(value):,}")
    value.encode("utf-8")  # half of a surrogate pair is no letter: a ValueError
    return value


def _texts(value: Any) -> str | list[str | None]:
    """Returns a list of texts, or one text that the tower parts."""
    return _text(value) if isinstance(value, str) else [None if one is None else _text(one) for one in _list(value)]


def _numbers(value: Any) -> list[float | None]:
    return [None if one is None else _number(one) for one in _list(value)]


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"expected a number, found {_kind(value)}")  # noqa: TRY004
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError("expected a finite number, or null for none")
    return number


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**63:
        raise ValueError(f"expected a whole number of 64 bits, found {_kind(value)}")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"expected a list, found {_kind(value)}")  # noqa: TRY004
    if len(value) > LONGEST_LIST:
        raise ValueError(f"expected at most {LONGEST_LIST:,} entries, found {len(value):,}")
    return value


def _kind(value: Any) -> str:
    """Returns what JSON calls a value's kind."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _checked(check: Callable[[Any], Any], **schema: Any) -> Any:
    """Returns a field's type: what the check lets through, and how OpenAPI describes it."""
    return Annotated[Any, AfterValidator(check), WithJsonSchema(schema)]


_ID = {"type": ["string", "integer"], "maxLength": LONGEST_TEXT}
_ENTRIES = {"type": ["array", "string"], "items": {"type": ["string", "integer", "null"]}, "maxItems": LONGEST_LIST}
Id = _checked(_text, **_ID)
Count = Annotated[int, Field(strict=True, ge=1, le=MOST_ITEMS)]
_ONE: dict[str, Any] = {
    "string": Id,
    "float64": _checked(_number, type="number"),
    "int64": _checked(_whole, type="integer", format="int64"),
}
_MANY: dict[str, Any] = {
    "string": _checked(_texts, **_ENTRIES),
    "float64": _checked(_numbers, type="array", items={"type": ["number", "null"]}, maxItems=LONGEST_LIST),
}


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def features_model(signature: SignatureCard) -> type[BaseModel]:
    """Returns the model of a user's raw features: one field an input, each may be null or left out."""
    fields: dict[str, Any] = {
        # Inputs may have names that a model's attributes have, so these are numbered.
        f"input_{place}": (_type_of(given) | None, Field(None, alias=name, description=given.says))
        for place, (name, given) in enumerate(signature.inputs.items())
    }
    return create_model("Features", __base__=Strict, **fields)


def _type_of(given: InputCard) -> Any:
    return (_ONE if len(given.shape) == 1 else _MANY)[given.dtype]


def request_model(signature: SignatureCard, objectives: Sequence[str]) -> type[BaseModel]:
    """Returns the model of the body of POST /recommend.

    Args:
      signature: of the user tower.
      objectives: of the model, where there are several.
    """
    features = features_model(signature)
    fields: dict[str, Any] = {
        "user": (
            Id | None,
            Field(None, description="Id of a user; of one who is not in samples/users nothing counts as known."),
        ),
        "features": (
            features | None,
            Field(None, description="Raw features, of any user; what is left out counts as not known."),
        ),
        "count": (Count, Field(10, description="Items of the answer at most.")),
        "seen": (bool, Field(False, strict=True, description="Also items that the user has seen.")),
        "rescore": (Count | None, Field(None, description=RESCORE)),
    }
    if len(objectives) > 1:
        named = Literal[tuple(objectives)]  # type: ignore[valid-type]
        fields["objective"] = (
            named | None,
            Field(None, description="Score by this objective's vectors, not the combined ones."),
        )
    return create_model("Recommend", __base__=_Asked, **fields)


class _Asked(Strict):
    @model_validator(mode="after")
    def _someone(self) -> _Asked:
        if getattr(self, "user", None) is None and getattr(self, "features", None) is None:
            raise ValueError(
                "neither user nor features: give one of them, features: {} for a user of whom nothing is known"
            )
        return self


def faults(error: ValidationError, known: Mapping[tuple[str, ...], Iterable[str]]) -> list[dict[str, Any]]:
    """Returns what is wrong with a request, as FastAPI tells it, but without what was sent.

    Args:
      error: of the model.
      known: names of fields, by the place of what holds them.
    """
    found = []
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        place = tuple(str(part) for part in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            message = f"no such field{did_you_mean(place[-1], known.get(place[:-1], ()))}"
        found.append({"type": fault["type"], "loc": ["body", *fault["loc"]], "msg": message})
    return found
