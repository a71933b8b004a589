"""How long to delay the refusals of callers without a valid key, by their addresses. Pure.

A secret of 256 bits is not found by guessing: the delay keeps a caller with a wrong key, which tries again at once and
for ever, from taking CPU. Nobody waits in a thread for it.
"""

from __future__ import annotations

from collections import OrderedDict

FREE = 10  # Refusals of an address at once; then they are delayed. One is forgotten each second.
STEP_S, LONGEST_S = 0.1, 2.0
MAX_ADDRESSES = 4096  # Of which the one that was refused longest ago is forgotten.
# Of all addresses: so 128 calls at most wait, which in grpcio hold their requests; the others are refused at once.
MAX_DELAYED_PER_S = 64


class Refusals:
    """Counts refusals by address."""

    def __init__(self) -> None:
        self._addresses: OrderedDict[str, tuple[float, float]] = OrderedDict()  # Count, and when it was that.
        self._second, self._delayed = 0, 0

    def delay_s(self, address: str, now_s: float) -> float:
        """Count a refusal; how long to delay it."""
        count, since_s = self._addresses.pop(address, (0.0, now_s))
        count = max(0.0, count - (now_s - since_s)) + 1.0
        self._addresses[address] = (min(count, FREE + LONGEST_S / STEP_S), now_s)
        if len(self._addresses) > MAX_ADDRESSES:
            self._addresses.popitem(last=False)
        if count <= FREE:
            return 0.0
        if int(now_s) != self._second:
            self._second, self._delayed = int(now_s), 0
        self._delayed += 1
        return min(LONGEST_S, (count - FREE) * STEP_S) if self._delayed <= MAX_DELAYED_PER_S else 0.0
