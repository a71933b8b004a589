"""How far a replica has the changes of its peers, and whether it may lack some. Pure: clocks are the caller's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

from lookalike.v1.index_pb2 import PeerPosition, ShardState

LATE_S = 1.0  # A tick that comes later: the process was stopped,
BUSY_SHARE = 0.1  # unless it used more than this share of a core meanwhile: it is busy. One that is stopped uses none.


class ShardPart(NamedTuple):
    """Which part of the catalogue a version of a shard has; in all such versions a product has the same owner."""

    shard: int
    shards: int


class Pair(NamedTuple):
    """A version of a peer, and the version here that takes its changes."""

    source: str
    target: str


def pair_versions(peer: Sequence[ShardState], own: Mapping[str, ShardPart]) -> list[Pair]:
    """For each version here the one of the peer that it takes changes from.

    That is the peer's own copy of the version, if it has one: both are made of the same changes, vector by vector.
    While one of the two has moved to another version before the other, it is the first of the peer's versions that has
    the same products; vectors of other encoders are left out then, as where a shard migrates to another version.
    A version of another number of shards has other products: its changes come by a handover, and from no peer.
    Nor is one taken from that awaits a handover: it lacks changes.
    """
    pairs = []
    for target, part in own.items():
        same = [each for each in peer if each.HasField("live") and ShardPart(each.shard, each.shards) == part]
        sources = [each.version for each in same if each.version == target]
        sources += [each.version for each in same if not each.HasField("awaited")]
        pairs += [Pair(source, target) for source in sources[:1]]
    return pairs


@dataclass(slots=True)
class Pull:
    """How far a version has the changes of a version of a peer.

    Gateways send each change to all replicas, some milliseconds apart: most of what a peer has and this one lacks is on
    its way. So what is listed waits for the next pass, and is fetched if it has not come by itself.
    """

    listed: int = 0  # Number of the last change of the peer that was listed.
    position: int = 0  # Every change of the peer up to this number is here.
    waiting: dict[bytes, int] = field(default_factory=dict)  # Those listed that were lacking; revision by id.

    def note_arrived(self) -> None:
        """All that waited is here."""
        self.position, self.waiting = self.listed, {}

    def note_listed(self, sequence: int, lacking: Mapping[bytes, int]) -> None:
        """Changes up to this number were listed, of which these are not here."""
        self.listed = sequence
        self.waiting |= lacking
        if not self.waiting:
            self.position = sequence


def peer_positions(replica: str, pulls: Mapping[Pair, Pull]) -> list[PeerPosition]:
    """The position in each version of a peer: that of the version here which has least."""
    positions: dict[str, int] = {}
    for pair, pull in pulls.items():
        positions[pair.source] = min(pull.position, positions.get(pair.source, pull.position))
    return [PeerPosition(replica=replica, version=each, sequence=position) for each, position in positions.items()]


class _Answer(Enum):
    """What is known of a peer since this replica began to catch up."""

    UNKNOWN = auto()
    FAILED = auto()  # It did not answer when it was last asked.
    ANSWERING = auto()  # Its changes are being fetched.
    PULLED = auto()  # All its changes are here.


class End(Enum):
    """How a replica ceased to catch up."""

    CAUGHT_UP = "has all changes of the peers that answer"
    ALONE = "no peer answers: it may lack changes"


class CatchingUp:
    """Whether a replica may lack changes that a peer has acknowledged.

    It may from its start, and when its process was stopped for a while, until it has the changes of every peer that
    answers, or none has answered for `wait_s`: then it may be the only one that is left. One that is only busy is not
    behind: under load all replicas are, and none would be left.

    wait_s: see above.
    now_s:  monotonic seconds; cpu_s: those of CPU that the process has used.
    """

    def __init__(self, now_s: float, wait_s: float) -> None:
        self._wait_s = wait_s
        self._began_s = self._last_tick_s = now_s
        self._last_cpu_s = 0.0
        self._answers: dict[str, _Answer] = {}
        self._is_over = False
        self.episode = 0  # How often it began to catch up again.

    def begin(self, now_s: float) -> None:
        """It may lack changes from now on, whatever it had before."""
        self._began_s, self._is_over = now_s, False
        self._answers = dict.fromkeys(self._answers, _Answer.UNKNOWN)
        self.episode += 1

    def set_peers(self, peers: Iterable[str]) -> None:
        """The peers that there are, by address."""
        self._answers = {each: self._answers.get(each, _Answer.UNKNOWN) for each in peers}

    def note_answer(self, peer: str) -> None:
        """A peer answers; its changes are fetched next."""
        if self._answers.get(peer) in (_Answer.UNKNOWN, _Answer.FAILED):
            self._answers[peer] = _Answer.ANSWERING

    def note_failure(self, peer: str) -> None:
        """A peer does not answer, any more."""
        if self._answers.get(peer) in (_Answer.UNKNOWN, _Answer.ANSWERING):
            self._answers[peer] = _Answer.FAILED

    def note_pulled(self, peer: str, episode: int) -> None:
        """All changes of a peer are here, by a pull that began in this episode."""
        if peer in self._answers and episode == self.episode:
            self._answers[peer] = _Answer.PULLED

    def tick(self, now_s: float, cpu_s: float) -> bool:
        """Call it all the time. Returns whether the process was stopped meanwhile, so that it catches up again."""
        was_stopped = self._was_stopped(now_s, cpu_s)
        self._last_tick_s, self._last_cpu_s = now_s, cpu_s
        if was_stopped:
            self.begin(now_s)
        return was_stopped

    def end(self, now_s: float) -> End | None:
        """How it ceases to catch up now; None: it does not, or did before."""
        if self._is_over or not (how := self._outcome(now_s)):
            return None
        self._is_over = True
        return how

    def is_behind(self, now_s: float, cpu_s: float) -> bool:
        """Whether it may lack changes. True also before the first tick of a process that was stopped."""
        return not self._is_over or self._was_stopped(now_s, cpu_s)

    def _was_stopped(self, now_s: float, cpu_s: float) -> bool:
        late_s = now_s - self._last_tick_s
        return late_s > LATE_S and cpu_s - self._last_cpu_s < BUSY_SHARE * late_s

    def _outcome(self, now_s: float) -> End | None:
        answers = {*self._answers.values()}
        if _Answer.ANSWERING in answers:
            return None
        if _Answer.PULLED in answers:
            return None if _Answer.UNKNOWN in answers else End.CAUGHT_UP
        return End.ALONE if now_s - self._began_s >= self._wait_s else None
