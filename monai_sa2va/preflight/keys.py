# Copyright (c) monai-sa2va contributors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Keys of a configuration that nothing uses: most are misspelt, and the run would quietly go on without them."""

from __future__ import annotations

import difflib
import inspect
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pydoc import ErrorDuringImport, locate
from typing import Any

from monai.bundle import ConfigComponent, ConfigParser, ReferenceResolver
from monai.bundle.utils import DEFAULT_MLFLOW_SETTINGS, ID_SEP_KEY

from monai_sa2va.bundles import find_bundle
from monai_sa2va.errors import ConfigError
from monai_sa2va.preflight.settings import running_parser

__all__ = ["check_keys", "find_unknown", "find_unknown_argument", "refuse_dropped", "refuse_unknown"]

_TRACKING: Any = DEFAULT_MLFLOW_SETTINGS
# what monai.bundle itself looks for, with what its tracking adds
_MONAI_KEYS = {
    *("_meta_", "imports", "initialize", "finalize", "run", "training", "evaluating", "inference"),
    *_TRACKING["configs"],
}


def check_keys(kind: str) -> None:
    """Refuse a running configuration that has a key which nothing uses, as ``learning_rat``, or lost a ``None``.

    Args:
        kind: ``"train"``, ``"inference"`` or ``"evaluate"``: whose shipped keys are known.

    Raises:
        ConfigError: naming the key and the known one that is most like it, or a key that was set to ``None``.
    """
    parser = running_parser()
    refuse_unknown(parser, kind)
    # its program alone gets overrides as words
    if getattr(getattr(sys.modules.get("__main__"), "__spec__", None), "name", None) == "monai.bundle.__main__":
        refuse_dropped(_nothings(sys.argv[1:]), parser.get())


def refuse_dropped(keys: Iterable[str], config: Mapping[str, Any]) -> None:
    """Refuse ``--key None``: ``monai.bundle run`` leaves such a word out, and the key would keep its value.

    Args:
        keys: that are set to ``None``, nested ones with ``#``.
        config: parsed; what is ``None`` there anyway may be said again.

    Raises:
        ConfigError: naming the first key that has another value.
    """
    for key in keys:
        value: Any = config
        for part in key.replace("#", ID_SEP_KEY).split(ID_SEP_KEY):
            value = value.get(part) if isinstance(value, Mapping) else "?"
        if value is not None:
            raise ConfigError(f"--{key} None changes nothing, as MONAI leaves it out; write --{key} '$None'")


def _nothings(words: list[str]) -> list[str]:
    """Keys that the words of a command set to ``None``."""
    found = [word[2:-5] for word in words if word.startswith("--") and word.endswith("=None")]
    return found + [key[2:] for key, value in pairwise(words) if key[:2] == "--" and "=" not in key and value == "None"]


def refuse_unknown(parser: ConfigParser, kind: str) -> None:
    """As :func:`check_keys`, for a parser that has parsed its configuration."""
    file = find_bundle().path / "configs" / f"{kind}.json"
    shipped = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    found = find_unknown(parser.get(), shipped)
    if found is not None:
        key, near = found
        raise ConfigError(f"unknown key {key}: nothing in the configuration uses it; {_advice(near)}")
    argument = find_unknown_argument(parser)
    if argument is not None:
        key, target, near = argument
        raise ConfigError(f"unknown key {key}: {target} takes no argument of that name; {_advice(near)}")


def find_unknown_argument(parser: ConfigParser) -> tuple[str, str, str | None] | None:
    """The first argument of a component (what stands beside a ``_target_``) that its class or function doesn't take.

    Args:
        parser: of a parsed configuration.

    Returns:
        The key, what doesn't take it, and the most similar argument or ``None``; ``None`` where all are taken.
    """
    for path, item in parser.ref_resolver.items.items():
        if not isinstance(item, ConfigComponent):
            continue
        names = _arguments(item)
        odd = next((key for key in item.resolve_args() if names is not None and key not in names), None)
        if odd is not None:
            near = difflib.get_close_matches(odd, names or [], n=1)
            target = str(item.get_config()["_target_"]).rpartition(".")[2]
            return _shown(f"{path}{ID_SEP_KEY}{odd}"), target, _shown(f"{path}{ID_SEP_KEY}{near[0]}") if near else None
    return None


def _arguments(item: ConfigComponent) -> list[str] | None:
    """What a component's class or function takes by name; ``None`` where that can't be told, or is anything."""
    target = item.resolve_module_name()
    try:
        found = locate(target) if isinstance(target, str) else None
        parameters = inspect.signature(found).parameters.values() if callable(found) else None
    # of what can't be imported, building says more
    except (ErrorDuringImport, TypeError, ValueError):
        return None
    if parameters is None or any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [parameter.name for parameter in parameters]


def _advice(near: str | None) -> str:
    return f"did you mean {near}?" if near else "no key that is known is like it; remove it"


def find_unknown(config: Mapping[str, Any], shipped: Mapping[str, Any]) -> tuple[str, str | None] | None:
    """The first key that nothing refers to and that is not among the shipped ones.

    Arguments of components are looked at by :func:`find_unknown_argument`.

    Args:
        config: parsed, that is with its macros replaced.
        shipped: keys that are known though nothing refers to them any more, as where a component was replaced.

    Returns:
        The key, nested ones with ``#``, and the most similar known one or ``None``; ``None`` where all are known.
    """
    references = {ref for text in _texts(config) for ref in ReferenceResolver.match_refs_pattern(text)}
    return _find(config, {**dict.fromkeys(_MONAI_KEYS), **shipped}, "", references, config)


def _find(
    section: Mapping[str, Any], known: Mapping[str, Any], prefix: str, references: set[str], config: Mapping[str, Any]
) -> tuple[str, str | None] | None:
    for key, value in section.items():
        path = f"{prefix}{key}"
        whole = any(path == ref or path.startswith(f"{ref}{ID_SEP_KEY}") for ref in references)
        inside = any(ref.startswith(f"{path}{ID_SEP_KEY}") for ref in references)
        if not whole and not inside and key not in known and not _copied(value, config):
            candidates = [name for name in {**known, **section} if name != key]
            near = difflib.get_close_matches(key, candidates, n=1)
            return _shown(path), _shown(f"{prefix}{near[0]}") if near else None
        # of what is referred to as a whole, and of components, the receiver knows the keys
        if isinstance(value, Mapping) and not whole and "_target_" not in value and key not in _MONAI_KEYS:
            below = known.get(key)
            inner = below if isinstance(below, Mapping) else {}
            found = _find(value, inner, f"{path}{ID_SEP_KEY}", references, config)
            if found is not None:
                return found
    return None


def _shown(path: str) -> str:
    return path.replace(ID_SEP_KEY, "#")


def _copied(value: Any, config: Any) -> bool:
    """Whether a section stands elsewhere, too: where a macro (``%key``) was replaced by its content."""
    return isinstance(value, (dict, list)) and bool(value) and sum(part == value for part in _parts(config)) > 1


def _parts(config: Any) -> Iterator[Any]:
    inner: Iterable[Any] = ()
    if isinstance(config, Mapping):
        inner = config.values()
    elif isinstance(config, (list, tuple)):
        inner = config
    for part in inner:
        yield part
        yield from _parts(part)


def _texts(config: Any) -> Iterator[str]:
    return (part for part in _parts(config) if isinstance(part, str))
