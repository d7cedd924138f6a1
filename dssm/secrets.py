"""Passwords, tokens and keys: read where they are used, hidden where settings are shown.

Settings name an environment variable or a file; the secret itself stands in none of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from dssm import storage
from dssm.errors import UserError

HIDDEN = "(not shown)"
_NAMES = re.compile(
    r"secret|password|passwd|passphrase|token|credential|(access|account|api|private)[._-]?key|(^|[._])sas([._]|$)",
    re.IGNORECASE,
)
# Names that hold where a secret is, what reads it, or what Spark does with it: Kubernetes' own objects among them.
_PLACES = re.compile(
    r"(^|[._])env$|file$|[._-]enabled?$|[._]provider$|[._]provider[._](path|type|impl|mapping)([._]|$)|[._]keyprovider[._]"
    r"|secretBitLength$|[._]token[._](binding|mechanism|max-lifetime|renew-interval)$|token-renewal[._]|clear-text-fallback$"
    r"|(^|\.)spark\.kubernetes\.(container\.image\.pullSecrets$|(driver|executor)\.secret(s|KeyRef)\.)"
    r"|(^|\.)spark\.(kubernetes\.kerberos\.tokenSecret|security\.credentials|kerberos\.renewal\.credentials)(\.|$)",
    re.IGNORECASE,
)
_LOGIN = re.compile(r"(://)[^/@\s]+@")
_NOT_YET = rf"(?!{re.escape(HIDDEN)})"
_PARAMETER = re.compile(rf"((?:secret|password|passwd|token|access[._]?key)=){_NOT_YET}[^;&\s]+", re.IGNORECASE)
_KEY = r"(?:secret[._-]?)?(?:access|api|secret)[._-]?key"
# In running text. A feature may be called token: `token: 3 ids` is no secret, `token=…` and `"token": …` are.
_ASSIGNED = re.compile(
    rf"""(?i)([\w.-]*(?:(?:password|passwd|pwd|secret|credentials?|{_KEY})["']?\s*[=:]|token(?:\s*=|["']\s*:))\s*["']?)"""
    rf"""{_NOT_YET}[^\s"',;&}}]+"""
)
LEAST_SECRET = 6  # characters: a shorter value of a variable of such a name, such as `true`, says nothing


def read_secret(setting: str, env: str | None, file: str | None, kind: str) -> str | None:
    """Returns a secret without the blanks around it; None where the settings name no place for it.

    Args:
      setting: the section that names the place, for messages.
      env, file: environment variable, file (of any store that fsspec knows); one of them at most.
      kind: what the keys of the setting start with: token of token_env and token_file; "" for env and file.
    Raises: UserError where the place is not there, or holds nothing.
    """
    key = f"{setting}.{kind}_" if kind else f"{setting}."
    if env is not None:
        if env not in os.environ:
            raise UserError(f"{key}env: the environment has no {env}; set it")
        found, where = os.environ[env].strip(), f"{key}env: {env}"
    elif file is not None:
        where = f"{key}file: {file}"
        try:
            found = storage.read_text(file).strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no text"
            raise UserError(f"{where} can't be read ({reason})") from error
    else:
        return None
    if not found:
        raise UserError(f"{where} is empty; expected a secret")
    return found


def is_secret(key: str) -> bool:
    """Whether a setting of this name may hold a secret, and not only the place of one."""
    return bool(_NAMES.search(key)) and not _PLACES.search(key)


def hide_logins(text: str) -> str:
    """Returns a text without the logins of its addresses, `://user:password@` and `password=…`."""
    return _PARAMETER.sub(rf"\1{HIDDEN}", _LOGIN.sub(rf"\1{HIDDEN}@", text))


def secrets_of(environment: Mapping[str, str]) -> list[str]:
    """Returns the values of variables that are named as secrets are, the longest first."""
    values = {value for name, value in environment.items() if is_secret(name) and len(value) >= LEAST_SECRET}
    return sorted(values, key=len, reverse=True)


def hide_secrets(text: str, known: Sequence[str]) -> str:
    """Returns a running text, such as a log's, without logins, values of what is named as a secret, and known secrets.

    >>> hide_secrets("redis://me:pw@host/0 refused hush, password: abc", ["hush"])
    'redis://(not shown)@host/0 refused (not shown), password: (not shown)'
    """
    for secret in known:
        text = text.replace(secret, HIDDEN)
    return _ASSIGNED.sub(rf"\1{HIDDEN}", hide_logins(text))


def hidden_in(key: str, value: Any) -> Any:
    """Returns a setting's value, a mapping or list with all that is below it, for reading."""
    if isinstance(value, Mapping):
        return {name: hidden_in(str(name), below) for name, below in value.items()}
    if isinstance(value, (list, tuple)):
        return [hidden_in(key, below) for below in value]
    if not isinstance(value, str):
        return value
    return HIDDEN if is_secret(key) else hide_logins(value)


def hidden_in_arguments(line: Sequence[str]) -> list[str]:
    """Returns a command line for reading: the value of each `key=value` as `hidden_in` shows it."""
    return [_hidden_in_argument(argument) for argument in line]


def _hidden_in_argument(argument: str) -> str:
    key, equals, text = argument.partition("=")
    if not equals:
        return hide_logins(argument)
    if key.startswith("--"):  # --set=key=value
        return f"{key}={_hidden_in_argument(text)}"
    try:
        value = yaml.safe_load(text) if text.startswith(("{", "[")) else text
    except yaml.YAMLError:
        value = text
    shown = hidden_in(key, value)
    if shown == value:
        return argument
    if not isinstance(shown, str):
        shown = yaml.safe_dump(shown, default_flow_style=True, width=1 << 20).strip()
    return f"{key}={shown}"
