"""What all sections of the settings are made of: frozen models without unknown keys, and choices by `kind`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, model_validator

from dssm.errors import did_you_mean


class StrictModel(BaseModel):
    """A frozen section of the settings in which an unknown key is an error with a suggestion."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _no_unknown_keys(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            for key in values:
                if key not in cls.model_fields:
                    raise ValueError(cls._unknown(str(key)))
        return values

    @classmethod
    def _unknown(cls, key: str) -> str:
        """Says that there is no such key, and which one may be meant."""
        return f"unknown key '{key}'" + did_you_mean(key, cls.model_fields)

    def changed(self, *names: str) -> list[str]:
        """Returns those of the named settings that differ from their defaults.

        A dump holds every setting: what its writer gave cannot be told from `model_fields_set`.
        """
        fields = type(self).model_fields
        return [name for name in names if getattr(self, name) != fields[name].get_default(call_default_factory=True)]


class Kind(StrictModel):
    """A choice among several, told apart by `kind`: a tower, an encoder, a loss, an optimizer, a schedule, a sink.

    A family is a direct subclass with `choices = {}`; docs/models.md has those that take kinds of a user's own. A
    subclass of it whose `kind` has a default is one of the family's choices from the moment it is imported; there is
    no list to add it to. `builder` names the function that makes the thing itself, as module:function: it is imported
    where it is needed, so that settings are read without TensorFlow.
    """

    kind: str = ""
    builder: ClassVar[str] = ""
    choices: ClassVar[dict[str, type[Kind]]]

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        name = cls.model_fields["kind"].default
        if isinstance(name, str) and name:
            known = cls.choices.setdefault(name, cls)
            if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
                raise TypeError(f"{cls.__module__}.{cls.__qualname__}: {known.__module__} has the kind '{name}' too")

    @classmethod
    def _unknown(cls, key: str) -> str:
        others = [name for name, other in cls.choices.items() if key in other.model_fields]
        if others:
            return f"'{key}' goes with kind: {' or '.join(others)}; remove it, or set that"
        return super()._unknown(key)

    def build(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the builder with these settings and the arguments."""
        module, _, function = self.builder.partition(":")
        return getattr(importlib.import_module(module), function)(self, *args, **kwargs)


def kinds_of(union: Any) -> tuple[str, ...]:
    """Returns the names of the models of an annotated union that are told apart by `kind`."""
    return tuple(model.model_fields["kind"].default for model in get_args(get_args(union)[0]))


def choice_of(family: type[Kind], default: str) -> Callable[[Any], Any]:
    """Returns what turns the YAML of a choice into its settings, for pydantic's BeforeValidator.

    Args:
      family: whose choices there are.
      default: the kind where none is given.
    Returns: a function of a mapping, whose key `kind` says which; or of a kind's name alone: all else as it is by
      default.
    """

    def choose(value: Any) -> Any:
        if isinstance(value, str):
            value = {"kind": value}
        if not isinstance(value, Mapping):
            return value
        kind = value.get("kind", default)
        chosen = family.choices.get(kind) if isinstance(kind, str) else None
        if chosen is None:
            raise ValueError(f"kind: found {kind!r}" + did_you_mean(str(kind), family.choices))
        return chosen.model_validate({**value, "kind": kind})

    return choose
