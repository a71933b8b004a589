"""Whether a Redis keeps what it is given: its version, persistence and eviction, by what it says of itself. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from lookalike.errors import BadSettings

MIN_VERSION: Final = (6, 2)  # XTRIM MINID, XPENDING with exclusive ranges
_WAITAOF_VERSION: Final = (7, 2)
_TRUST: Final = "if it is durable all the same, say so (trust_durability)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Persistence:
    """What is known of a Redis; None: it does not tell."""

    version: tuple[int, int]
    append_only: bool | None
    fsync: str | None  # always, everysec, no
    max_memory: int | None
    eviction: str | None  # noeviction, allkeys-lru, …


@dataclass(frozen=True, slots=True)
class Durability:
    """How appends to a Redis are acknowledged, and what its operator should know."""

    wait_for_fsync: bool  # By WAITAOF, after each append.
    notices: tuple[str, ...] = ()


def persistence_of(config: Mapping[str, str] | None, info: Mapping[str, object]) -> Persistence:
    """config: of CONFIG GET; None: it is forbidden, and less is known. info: of INFO."""
    if (match := re.match(r"(\d+)\.(\d+)", str(info.get("redis_version", "")))) is None:
        raise BadSettings(f"the stream's Redis says no version: {info.get('redis_version')!r}")
    version = int(match[1]), int(match[2])
    if config is not None and "appendonly" in config:
        return Persistence(
            version=version,
            append_only=config["appendonly"] == "yes",
            fsync=config.get("appendfsync"),
            max_memory=int(config.get("maxmemory", "0")),
            eviction=config.get("maxmemory-policy"),
        )
    enabled, max_memory, eviction = (info.get(key) for key in ("aof_enabled", "maxmemory", "maxmemory_policy"))
    return Persistence(
        version=version,
        append_only=None if enabled is None else str(enabled) == "1",
        fsync=None,
        max_memory=None if max_memory is None else int(str(max_memory)),
        eviction=None if eviction is None else str(eviction),
    )


def check_durability(found: Persistence, *, trust: bool) -> Durability:
    """Raises BadSettings for a Redis that may lose the stream, by the name of the setting that says so.

    trust: the operator answers for the Redis; what would be refused is only noted.
    """
    if found.version < MIN_VERSION:
        raise BadSettings(
            f"the stream's Redis is of version {_text(found.version)}, at least {_text(MIN_VERSION)} is needed"
        )
    if (problems := _problems(found)) and not trust:
        raise BadSettings(f"the stream's Redis may lose events: {'; '.join(problems)}; {_TRUST}")
    wait = found.fsync == "everysec" and bool(found.append_only) and found.version >= _WAITAOF_VERSION
    notices = problems
    if not problems and found.fsync == "everysec" and not wait:
        notices = [
            "appendfsync is everysec: if the machine of the stream's Redis fails, up to two seconds of acknowledged "
            "events are lost; appendfsync always, or a Redis from 7.2 on, loses none"
        ]
    return Durability(wait, tuple(notices))


def _problems(found: Persistence) -> list[str]:
    problems = []
    if found.append_only is None:
        problems.append("it does not tell whether appendonly is yes (CONFIG and INFO persistence)")
    elif not found.append_only:
        problems.append("appendonly is no; set it to yes")
    elif found.fsync is None:
        problems.append("it does not tell its appendfsync, since CONFIG is forbidden")
    elif found.fsync not in ("always", "everysec"):
        problems.append(f"appendfsync is {found.fsync}; set it to always or everysec")
    if found.max_memory is None or found.eviction is None:
        problems.append("it does not tell its maxmemory-policy")
    elif found.max_memory and found.eviction != "noeviction":
        problems.append(f"maxmemory-policy is {found.eviction}, which evicts the stream; set it to noeviction")
    return problems


def _text(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
