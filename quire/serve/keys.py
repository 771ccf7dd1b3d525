"""Who may ask: keys, known by their hashes.

A key is a long random text that `make` has drawn (256 bits), so one SHA-256 is enough to keep it by: there is nothing to guess. It is shown
once and not kept. A file of keys is TOML, or JSON of the same form:

    [keys.alice]
    sha256 = "9f86d0..."
    requests = 60          # a minute; this and the next three may be left out
    tokens = 100_000       # a minute, read and written
    most_input = 4096      # tokens of one prompt
    at_once = 4            # requests on their way

There is one place that reads credentials, `credential`, for both headers that clients use.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import recipe
from ..durable import storage, write_bytes
from ..errors import RecipeError
from .errors import Refused

ENVIRONMENT = "QUIRE_API_KEY"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HASH = re.compile(r"[0-9a-f]{64}")
_LONGEST = 512  # bytes of a credential
_SHORTEST = 16  # of one from the environment, which may not be ours
_MOST = 10_000
_MOST_OF = 1_000_000_000  # of what is counted


@dataclass(frozen=True)
class Limit:
    """How much may be asked for; None is without end. requests, tokens: a minute; most_input: tokens of a prompt; at_once: on their way."""

    requests: int | None = None
    tokens: int | None = None
    most_input: int | None = None
    at_once: int | None = None

    def __post_init__(self) -> None:
        for name in Limit.__dataclass_fields__:
            value = getattr(self, name)
            if value is not None and not 1 <= value <= _MOST_OF:
                raise RecipeError(f"{name} is {value}; allowed is 1 to {_MOST_OF:,}, or leave it out for no limit.")

    def over(self, other: Limit) -> Limit:
        """These limits, and those of `other` where there is none here."""
        names = Limit.__dataclass_fields__
        return Limit(**{name: getattr(other, name) if getattr(self, name) is None else getattr(self, name) for name in names})


@dataclass(frozen=True)
class Entry(Limit):
    """A key as it stands in the file."""

    sha256: str = ""


@dataclass(frozen=True)
class Key:
    """name: whose it is; "" is the caller on loopback of a server without keys."""

    name: str = ""
    hash: bytes = b""
    limit: Limit = field(default_factory=Limit)


class Keys:
    """All keys of a server. Without any, everyone who reaches it may ask."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._keys = list(keys)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def who(self, headers: Iterable[tuple[bytes, bytes]]) -> Key:
        """Whose request it is. Raises Refused (401) for a credential that is missing, unknown, or one of two."""
        if not self._keys:
            return Key()
        given = credential(headers)
        if given is None:
            raise _refused("this server needs a key. Send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'.", "missing_api_key")
        found, hashed = None, hashlib.sha256(given).digest()
        for key in self._keys:  # all of them, so that the time does not tell which one it was
            if hmac.compare_digest(key.hash, hashed):
                found = key
        if found is None:
            raise _refused("this key is not known here. Whoever runs the server makes one with `quire key`.", "invalid_api_key")
        return found


def credential(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """What a request proves itself with; None: nothing. Raises Refused (401) for two that differ and for one that cannot be read."""
    found: set[bytes] = set()
    for name, value in headers:
        if name == b"x-api-key":
            found.add(value.strip())
        elif name == b"authorization":
            scheme, _, rest = value.strip().partition(b" ")
            if scheme.lower() != b"bearer":
                raise _refused("the header Authorization has another form than 'Bearer KEY'.", "invalid_api_key")
            found.add(rest.strip())
    found.discard(b"")
    if len(found) > 1:
        raise _refused("the request carries two keys that differ. Send one.", "invalid_api_key")
    if found and len(next(iter(found))) > _LONGEST:
        raise _refused(f"the key has more than {_LONGEST} bytes, which none of ours has.", "invalid_api_key")
    return next(iter(found), None)


def _refused(message: str, code: str) -> Refused:
    return Refused(401, message, "authentication_error", code=code, headers={"WWW-Authenticate": "Bearer"})


# -- where keys come from ----------------------------------------------------------------------------------------------------------


def keys(file: Path | None, environment: Mapping[str, str]) -> Keys:
    """Those of a file and the one of the environment. Raises RecipeError."""
    found = [] if file is None else _read(file)
    single = environment.get(ENVIRONMENT, "")
    if single:
        if len(single.encode()) < _SHORTEST:
            raise RecipeError(f"{ENVIRONMENT} has {len(single.encode())} bytes; at least {_SHORTEST} are needed. Make one: quire key NAME")
        found.append(Key("environment", hashlib.sha256(single.encode()).digest()))
    names, hashes = [key.name for key in found], {key.hash for key in found}
    if len(set(names)) < len(found) or len(hashes) < len(found):
        raise RecipeError("two keys have one name or one hash. Give every caller a name and a key of its own.")
    return Keys(found)


def _read(file: Path) -> list[Key]:
    entries = _entries(file)
    if not entries:
        raise RecipeError(f"{file} holds no keys. Make one: quire key NAME --file {file}")
    if len(entries) > _MOST:
        raise RecipeError(f"{file} holds {len(entries):,} keys; at most {_MOST:,} are allowed.")
    found = []
    for name, values in entries.items():
        _check_name(name)
        entry = recipe.from_dict(Entry, values, f"{file}: keys.{name}")
        if not _HASH.fullmatch(entry.sha256):
            raise RecipeError(f"{file}: keys.{name}.sha256 must be 64 hexadecimal digits: the hash of the key, not the key itself.")
        found.append(Key(name, bytes.fromhex(entry.sha256), Limit(entry.requests, entry.tokens, entry.most_input, entry.at_once)))
    return found


def _entries(file: Path) -> dict[str, Any]:
    with storage(file, "read"):
        if not file.exists():
            raise RecipeError(f"there is no file {file}. Make it: quire key NAME --file {file}")
        text = file.read_bytes().decode("utf-8", "replace")
    try:
        data = json.loads(text) if file.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:
        raise RecipeError(f"{file} cannot be read: {error}") from error
    if not isinstance(data, dict) or set(data) - {"keys"} or not isinstance(data.get("keys", {}), dict):
        raise RecipeError(f"{file} must hold tables [keys.NAME] and nothing else.")
    found: dict[str, Any] = data.get("keys", {})
    for name, values in found.items():
        if not isinstance(values, dict):
            raise RecipeError(f"{file}: keys.{name} must be a table with sha256 in it.")
    return found


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise RecipeError(f"a key cannot be called {name[:80]!r}; allowed are up to 64 of A-Z a-z 0-9 . _ - with a letter or digit first.")


def make(name: str, file: Path | None, limit: Limit) -> tuple[str, str]:
    """A new key and its entry, which is also added to `file` (made where there is none). Raises RecipeError for a name that is there."""
    _check_name(name)
    key = f"quire-{secrets.token_urlsafe(32)}"
    given = {"sha256": hashlib.sha256(key.encode()).hexdigest(), **{k: v for k, v in vars(limit).items() if v is not None}}
    entry = f'[keys."{name}"]\n' + "".join(f"{k} = {json.dumps(v)}\n" for k, v in given.items())
    if file is not None:
        entries = _entries(file) if file.exists() else {}
        if name in entries:
            raise RecipeError(f"{file} has a key for '{name}' already. Remove its entry first, or choose another name.")
        old, mode = (file.read_bytes(), file.stat().st_mode & 0o777) if file.exists() else (b"", 0o600)
        if file.suffix == ".json":
            write_bytes(file, json.dumps({"keys": {**entries, name: given}}, indent=2).encode() + b"\n")
        else:
            write_bytes(file, old + (b"\n" if old else b"") + entry.encode())
        file.chmod(mode)
    return key, entry
