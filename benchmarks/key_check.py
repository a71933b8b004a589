"""What the check of an API key costs a call: CPU of the guard alone, and with the limits of the key. No I/O.

    python -m benchmarks.key_check

Each figure is the median of rounds that alternate between the cases.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from statistics import median
from time import process_time

from lookalike.access.guard import KeyGuard, KeyTable
from lookalike.access.key import new_key
from lookalike.errors import Unauthenticated
from lookalike.runtime.call import Call, CallerLimits, begin
from server.admission import Admission
from server.metrics import RequestTimer

KEYS, CALLS, ROUNDS = 1000, 20_000, 7
METHOD = "/lookalike.v1.SimilarProducts/Search"
HEADERS = (("user-agent", "grpc-python"), ("x-request-id", "order-7"))


def cases() -> dict[str, Callable[[], None]]:
    scopes = frozenset({"search"})
    made = [new_key(str(number), scopes, now_s=0) for number in range(KEYS)]
    limited, limited_token = new_key("limited", scopes, now_s=0, limits=CallerLimits(calls_per_s=1e9, concurrency=64))
    guard = KeyGuard(KeyTable([limited, *(key for key, _ in made)]), max_age_s=1e9)
    admission = Admission(512)
    timer = RequestTimer()

    def call(token: str) -> Call:
        return Call(METHOD, (*HEADERS, ("authorization", f"Bearer {token}")), "ipv4:10.0.0.7:43210")

    valid, bound = call(made[KEYS // 2][1]), call(limited_token)
    unknown, wrong = call("lk_000000000000_" + "0" * 64), call(f"lk_{made[0][0].id}_" + "0" * 64)

    def refuse(refused: Call) -> None:
        with suppress(Unauthenticated):
            guard(refused)

    def admit(admitted: Call) -> None:
        begin(admitted, None)
        with admission.permit(timer):
            pass

    begin(valid, guard)
    anybody = Call(METHOD)
    guard(bound)
    return {
        "the guard, a valid key": lambda: guard(valid),
        "the guard, an unknown id": lambda: refuse(unknown),
        "the guard, a known id and another secret": lambda: refuse(wrong),
        "a permit, no key": lambda: admit(anybody),
        "a permit, a key without limits": lambda: admit(valid),
        "a permit, a key with limits": lambda: admit(bound),
    }


def main() -> None:
    took: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, run in cases().items():
            began_s = process_time()
            for _ in range(CALLS):
                run()
            took.setdefault(name, []).append((process_time() - began_s) / CALLS * 1e6)
    for name, each in took.items():
        print(f"{median(each):6.2f} µs  {name}")


if __name__ == "__main__":
    main()
