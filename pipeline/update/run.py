"""An update from its first step to its last, each of which can be stopped and taken up again. File and network I/O.

plan → encode → train → build          a version, which does not serve            pipeline/update/make.py
→ verify                               the gate says whether it may serve
→ publish → watch                      it serves, and is taken back if it is bad
→ reencode                             what changed meanwhile, by its encoders
→ retain                               what nothing needs any more is removed
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lookalike.credentials import ApiKey
from lookalike.errors import LookalikeError, OperatorError, Unavailable
from lookalike.releases import version
from lookalike.releases.location import Directory
from lookalike.releases.owner import owner_name
from lookalike.releases.records import PUBLISHED, ROLLED_BACK, ReleaseRecord, now, read_record, write_record
from lookalike.releases.retention import DEFAULT_KEEP
from lookalike.releases.store import ObjectStore
from lookalike.releases.version import RECORDS
from lookalike.releases.version_change import tell_what_is_lost
from pipeline.gateway import Gateway
from pipeline.reencode import BuiltProducts, ReencodeOptions, reencode_served
from pipeline.update import page
from pipeline.update.build import software
from pipeline.update.lease import DEFAULT_SETTINGS, LeaseSettings, hold_lease
from pipeline.update.live import LiveVersion, current_name, stage_live
from pipeline.update.make import PROGRESS, is_intact, make
from pipeline.update.options import WORK, UpdateOptions
from pipeline.update.plan import Plan
from pipeline.update.progress import Progress, Step, is_after
from pipeline.update.publish import make_current, publish
from pipeline.update.report import UpdateReport
from pipeline.update.retain import Retained, retain
from pipeline.update.verify import GateVerdict, Verify, judge
from pipeline.update.watch import Watch
from pipeline.update_lock import lock_directory

REFUSED, TAKEN_BACK = 3, 4  # Exit statuses: the gate refused the version; it was published, and taken back.
ROLLED_BACK_CHECK = "rolled-back"  # The name by which a version is accepted that was taken back before.

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ReleaseOptions:
    """What becomes of a version that an update builds."""

    location: Directory | ObjectStore
    step: Step | None = None  # Run up to this step; None: all of them.
    verify: Verify | None = None  # None: there is no gate.
    golden: Path | None = None  # A file of queries for the gate.
    accept: frozenset[str] = frozenset()  # Checks of the gate that do not refuse the version.
    watch: Watch | None = None  # None: nobody looks at it after it began to serve.
    gateways: Sequence[str] = ()  # host:port: they encode what changed meanwhile, and what they serve is not removed.
    reencode: ReencodeOptions | None = None  # None: what changed meanwhile is not encoded anew.
    keep: int = DEFAULT_KEEP  # Versions beside the one that serves and the one that it replaced.
    page: Path | None = None  # Where the report is written; None: beside the record of the version.
    lease: LeaseSettings = DEFAULT_SETTINGS


@dataclass(slots=True)
class UpdateResult:
    """What an update did. status: 0, REFUSED or TAKEN_BACK."""

    status: int = 0
    version: str = ""  # Empty: it was to stop before one is built.
    report: UpdateReport | None = None  # None: the version was built by an earlier run.
    plan: Plan | None = None
    taken_over: tuple[str, ...] = ()
    stopped_after: str = ""
    record: ReleaseRecord | None = None
    steps: dict[str, float] = field(default_factory=dict)  # Seconds of each step that is done.
    unchanged: bool = False  # The version served before the update began.
    refusals: tuple[str, ...] = ()
    retained: Retained | None = None
    reencoded: dict[str, Any] | None = None
    page: str = ""

    def as_json(self) -> dict[str, Any]:
        report = self.report.as_json() if self.report is not None else dict(self.record.report) if self.record else {}
        record = asdict(self.record) if self.record is not None else None
        if record is not None:
            record.pop("report")
        return report | {
            "version": self.version,
            "status": self.status,
            "plan": self.plan.as_json() if self.plan is not None else None,
            "steps": self.steps,
            "unchanged": self.unchanged,
            "taken_over": list(self.taken_over),
            "stopped_after": self.stopped_after,
            "gate": dict(self.record.gate) if self.record is not None and self.record.gate is not None else None,
            "refused": list(self.refusals),
            "record": record,
            "retained": self.retained.as_json() if self.retained is not None else None,
            "reencoded": self.reencoded,
            "page": self.page,
        }


async def run_update(options: UpdateOptions, release: ReleaseOptions, *, say: Say = lambda _: None) -> UpdateResult:
    """Run the steps, going on with an update that was stopped. say: told what happens, for a person.

    A version that the gate refuses or that is taken back is a result, with its status. Raises OperatorError, also while
    another update is under way here, and ServiceError: what is done is done, and the next run goes on.
    """
    with ExitStack() as held:
        work = held.enter_context(lock_directory(options.location / WORK))
        check: Callable[[], None] = lambda: None  # noqa: E731  # The kernel keeps two updates of a directory apart.
        if isinstance(release.location, ObjectStore):
            check = held.enter_context(hold_lease(release.location, release.lease, warn=say)).check
        progress = Progress(work / PROGRESS)
        return await _Run(options, release, progress, check, say)()


@dataclass(slots=True)
class _Run:
    """One run: what it goes by, and what it has come to."""

    options: UpdateOptions
    release: ReleaseOptions
    progress: Progress
    check: Callable[[], None]
    say: Say
    live: LiveVersion = field(default_factory=LiveVersion)
    start: str = ""  # What gateways said when the run began, for the watch.
    result: UpdateResult = field(default_factory=UpdateResult)

    async def __call__(self) -> UpdateResult:
        self.live = stage_live(self.release.location, self.options.location, self.say)
        if self.release.watch is not None:
            self.start = await self.release.watch.read()
        if not await self._has_version():
            self.result.stopped_after, self.result.steps = str(self.release.step), self.progress.seconds
            return self.result
        self._verify_again_if_another_serves()
        try:
            for step, act in self._steps():
                if self.release.step is not None and is_after(step, self.release.step):
                    self.result.stopped_after = str(self.release.step)
                    return self.result
                if self.progress.result(step) is None:
                    await self._do(step, act)
                if self.result.status:
                    return self.result
            self.progress.finish()
            return self.result
        finally:
            self.result.steps = self.progress.seconds
            with suppress(LookalikeError):  # Where the location is lost, what failed is raised.
                self._write_page()

    def _verify_again_if_another_serves(self) -> None:
        """What an update that was stopped had verified and published is of the version that served then."""
        if (verified := self.progress.result(Step.VERIFY)) is None:
            return
        is_published = self.progress.result(Step.PUBLISH) is not None
        if self.live.name not in (self.result.version, *([] if is_published else [verified["before"]])):
            self.progress.undo(Step.VERIFY)

    def _steps(self) -> Sequence[tuple[Step, Callable[[], Awaitable[dict[str, Any]]]]]:
        return (
            (Step.VERIFY, self._verify),
            (Step.PUBLISH, self._publish),
            (Step.WATCH, self._watch),
            (Step.REENCODE, self._reencode),
            (Step.RETAIN, self._retain),
        )

    async def _do(self, step: Step, act: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        start_s = time.monotonic()
        self.check()
        done = await act()
        seconds = time.monotonic() - start_s
        if not self.result.unchanged:
            record = self._record()
            self._save(replace(record, steps={**record.steps, **self.progress.seconds, step: round(seconds, 3)}))
        if not self.result.status:
            self.progress.done(step, seconds, done)

    async def _has_version(self) -> bool:
        """Build the version; or go on with the one that an update which was stopped has built."""
        step, location = self.release.step, self.options.location
        if step is not None and is_after(step, Step.BUILD) and (name := self.progress.resume()):
            if is_intact(location, name) and (record := read_record(self.release.location, name)) is not None:
                self.say(f"goes on with version {name}; done before: {', '.join(self.progress.taken_over)}")
                self.result.version, self.result.record = name, record
                self.result.taken_over = tuple(self.progress.taken_over)
                return True
            self.say(f"version {name}, which was built before, is damaged or not recorded: it is built again")
        until = step if step is not None and not is_after(step, Step.BUILD) else Step.BUILD
        made = await make(self.options, self.progress, live=self.live.products(location), until=until, say=self.say)
        self.result.report, self.result.plan, self.result.version = made.report, made.plan, made.version
        self.result.taken_over = tuple(self.progress.taken_over)
        if not made.version:
            return False
        before = read_record(self.release.location, made.version)
        serves = made.version == self.live.name
        if before is not None and (serves or Step.BUILD in self.progress.taken_over):
            self.result.record = before  # How it was made is known, and this run has made nothing of it.
            self.result.unchanged = serves and self.progress.result(Step.VERIFY) is None
            return True
        self._save(
            ReleaseRecord(
                version=made.version,
                made_at=before.made_at if before is not None and before.made_at else now(),
                software=software(),
                catalogue=self.options.source,
                steps=self.progress.seconds,
                report=made.report.as_json(),
                changes=made.plan.changes.as_json(),
                gate=before.gate if before is not None else None,
                accepted=before.accepted if before is not None else (),
                watch=before.watch if before is not None else None,
                events=before.events if before is not None else (),
            )
        )
        return True

    def _record(self) -> ReleaseRecord:
        if self.result.record is None:
            raise RuntimeError("a version has a record as soon as it is built")
        return self.result.record

    def _save(self, record: ReleaseRecord) -> None:
        self.result.record = record
        write_record(self.release.location, record)

    async def _verify(self) -> dict[str, Any]:
        name, live = self.result.version, self.live
        done = {"before": live.name, "start": self.start}
        if name == live.name:
            self.say(f"version {name} serves already: nothing changed")
            return done
        accept = self.release.accept - {ROLLED_BACK_CHECK}
        verdict = GateVerdict(refused=False, reasons=(), accepted=(), report={})
        if self.release.verify is None:
            self.say("verify: there is no gate, so the version is published as it is")
        else:
            compared = live.name if live.manifest is not None else None
            report = self.release.verify(self.options.location, name, compared, golden=self.release.golden)
            verdict = judge(report, accept)
            self._save(replace(self._record(), gate=verdict.report, accepted=verdict.accepted))
        reasons = [*verdict.reasons]
        if self._record().is_rolled_back and ROLLED_BACK_CHECK not in self.release.accept:
            event = self._record().events[-1]
            reasons.append(f"{ROLLED_BACK_CHECK}: it was published and taken back at {event.at}: {event.why}")
        if verdict.refused or reasons:
            self.result.status, self.result.refusals = REFUSED, tuple(reasons or ["the gate gave no reason"])
            self.say(f"REFUSED: version {name} is not published, and what serves stays as it is")
            for reason in self.result.refusals:
                self.say(f"  {reason}")
            return done
        accepted = (*verdict.accepted, *([ROLLED_BACK_CHECK] if self._record().is_rolled_back else []))
        if accepted:
            self._save(replace(self._record(), accepted=accepted))
            self.say(f"accepted all the same: {', '.join(accepted)}")
        return done

    async def _publish(self) -> dict[str, Any]:
        name, location = self.result.version, self.release.location
        verified = self.progress.result(Step.VERIFY)
        before: str = verified["before"] if verified is not None else ""
        if before == name:
            return {"published": False}
        if verified is not None and self.release.watch is not None and self.live.name != name:
            # Written before CURRENT is: where this process is killed, the next one knows how things were.
            done = {**verified, "end": await self.release.watch.read()}
            self.progress.done(Step.VERIFY, self.progress.seconds[Step.VERIFY], done)
        publish(location, self.options.location, name, before=before, check=self.check)
        record = self._record()
        if not (record.events and record.events[-1].what == PUBLISHED and record.replaced == before):
            self._save(record.with_event(PUBLISHED, owner_name(), why="update", other=before))
        self.say(f"version {name} serves" + (f"; before, it was {before}" if before else ""))
        if self.live.manifest is not None and self.live.name != name:
            tell_what_is_lost(self.live.manifest, version.read_manifest(self.options.location, name))
        return {"published": True, "before": before}

    @property
    def _published(self) -> dict[str, Any]:
        return dict(self.progress.result(Step.PUBLISH) or {"published": False})

    async def _watch(self) -> dict[str, Any]:
        if not self._published["published"]:
            return {}
        if self.release.watch is None:
            self.say("watch: skipped, no gateway's metrics are given (--gateway-metrics)")
            return {}
        verified = self.progress.result(Step.VERIFY) or {}
        if not verified.get("end"):
            self.say("watch: skipped, because it was published by an update that was not to watch it")
            return {}
        start = verified["start"] or verified["end"]
        verdict = await self.release.watch.watch(start, verified["end"], self.result.version)
        self._save(replace(self._record(), watch=verdict.as_json()))
        if verdict.bad:
            self._take_back("; ".join(verdict.reasons))
        return {}

    def _take_back(self, why: str) -> None:
        """Let the version before serve again. Recorded first: a version that was taken back is not published again."""
        location, name, before = self.release.location, self.result.version, self._published["before"]
        self.result.status, self.result.refusals = TAKEN_BACK, (why,)
        self.check()
        current = current_name(location)
        if not before:
            self.say(f"OUT OF BOUNDS, and no version to go back to: version {name}: {why}")
        elif current != name:
            self.say(f"OUT OF BOUNDS: version {name}: {why}; but version {current} serves by now")
        else:
            self._save(self._record().with_event(ROLLED_BACK, owner_name(), why=why, other=before))
            make_current(location, self.options.location, before)
            self.say(f"TAKEN BACK: version {before} serves again, because version {name} was out of bounds: {why}")
        self.progress.finish()

    async def _reencode(self) -> dict[str, Any]:
        release, name = self.release, self.result.version
        if not (self._published["published"] and self._published["before"]):
            return {}  # Nothing served that could have changed.
        if not release.gateways or release.reencode is None:
            self.say(
                "reencode: skipped; what changed while the update ran is encoded by "
                f"`lookalike catalog reencode {release.location} --gateway HOST:PORT`"
            )
            return {}
        built = BuiltProducts(self.options.location, name)
        done = await reencode_served(release.gateways, built, name, release.reencode)
        self.result.reencoded = asdict(done)
        self.say(f"reencode: {done.changed:,} products changed meanwhile, {done.encoded:,} encoded anew")
        if failed := done.failed.total():
            raise Unavailable(
                f"{failed:,} of {done.changed:,} products are not encoded anew: {next(iter(done.failed))}; "
                "run the update again with --step reencode"
            )
        return {}

    async def _retain(self) -> dict[str, Any]:
        try:
            pinned = await _served_versions(self.release.gateways, self.options.api_key)
        except LookalikeError as error:
            self.say(f"retain: nothing is removed, because a gateway does not say what it serves: {error}")
            return {}
        self.result.retained = await asyncio.to_thread(
            retain,
            self.release.location,
            self.options.location,
            self.options.artifacts,
            keep=self.release.keep,
            pinned=pinned,
        )
        self.say(f"retain: {self.result.retained}")
        return self.result.retained.as_json()

    def _outcome(self) -> str:
        if self.result.status == REFUSED:
            return "Refused: it is not published, and what served before serves on."
        if self.result.status == TAKEN_BACK:
            return "Published, and taken back: it was out of bounds."
        if self.result.stopped_after:
            return f"Stopped after {self.result.stopped_after}, as it was told to."
        if self.progress.finished:
            return "It serves."
        return "The update has not come to its end: it goes on with the next run."

    def _write_page(self) -> None:
        if (record := self.result.record) is None or self.result.unchanged:
            return
        manifest = version.read_manifest(self.options.location, record.version)
        html = page.render(
            record,
            manifest,
            photos=self.options.catalogue or self.options.photos,
            outcome=self._outcome(),
            reasons=self.result.refusals,
        )
        if self.release.page is not None:
            try:
                version.replace_file(self.release.page, html)
            except OSError as error:
                raise OperatorError(f"{self.release.page}: {error.strerror}") from error
            self.result.page = str(self.release.page)
        else:
            self.release.location.write_file(f"{RECORDS}/{record.version}.html", html.encode())
            self.result.page = f"{self.release.location}/{RECORDS}/{record.version}.html"


async def _served_versions(addresses: Sequence[str], api_key: ApiKey | None) -> set[str]:
    """The versions that gateways serve: none is removed."""
    async with AsyncExitStack() as opened:
        gateways = [await opened.enter_async_context(Gateway(address, api_key)) for address in addresses]
        return {await gateway.version() for gateway in gateways}
