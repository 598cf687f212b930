"""Translations that go into archives: zip, tar, and the numbered tar files of WebDataset.

The pictures of an archive are translated into a hidden folder beside it, as into any other, so that a job that was
stopped goes on; then all are packed, and the archive appears. The journal beside it knows which archives are current.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

from cgpipe.archives import Members, Writer, expanded, is_open, members_of, reading_member, without_scheme
from cgpipe.errors import CgpipeError, MediaError, UsageError, reason_of
from cgpipe.jobs.folder_job import FolderTold
from cgpipe.jobs.journal import Journal, Standing, foreign_reason
from cgpipe.jobs.picture_work import PictureWork
from cgpipe.jobs.plan import Names, Plan, plan_files
from cgpipe.jobs.report import FileResult, FolderReport
from cgpipe.jobs.shards import ShardReport
from cgpipe.jobs.stopwatch import Stopwatch
from cgpipe.models.choose import Chosen
from cgpipe.notebook import ProgressBar
from cgpipe.options import Options
from cgpipe.remote import is_archive, located, located_archive, released
from cgpipe.storage import LOCAL, PathLike, Stamp, atomic_write, digest_of_file, fetched, shown, store_of, work_folder

PICTURES_A_SHARD = 1000
"""Pictures of each archive of an open range, such as ``shard-{000000..}.tar``, where folders go in."""


def names_archives(output: PathLike | None) -> bool:
    """Whether an output is an archive, or several, and no folder of such a name."""
    if output is None:
        return False
    name = without_scheme(output)
    return is_archive(name) and not os.path.isdir(name)


@dataclass(frozen=True)
class _Lot:
    """What goes into one archive.

    Args:
        archive: where it goes.
        names: inputs, the members that they become, and their places.
        source: the archive that the inputs are in, whose other files are kept beside them.
        plan: the one whose left-out files count here; None: they count elsewhere.
        problem: why nothing can be done.
    """

    archive: Path
    names: list[Names]
    source: Path | None = None
    plan: Plan | None = None
    problem: str = ""


class ArchiveJob:
    """Translates into archives; see :func:`cgpipe.translate_folder`.

    Args:
        watch: runs since before the model was chosen.
    """

    def __init__(self, chosen: Chosen, options: Options, watch: Stopwatch) -> None:
        self._chosen = chosen
        self._options = options
        self._watch = watch
        self._work = PictureWork(chosen, options)

    def run(self, inputs: Sequence[PathLike], output: PathLike, told: FolderTold) -> FolderReport:
        """Translates what the inputs name into the archives that the output names.

        Raises:
            UsageError: inputs and archives do not fit, or an input is missing.
            CgpipeError: an archive cannot be written.
        """
        watch, shard = self._watch, self._options.work.part
        sources = [one for name in inputs for one in expanded(name)]
        count = self._archive_count(sources, output)
        targets = [located_archive(name) for name in expanded(without_scheme(output), count)]
        if shard and len(targets) == 1:
            raise UsageError("One archive cannot be divided by --shard: name several, as in 'zebras-{000..099}.tar'.")
        _require_other_files(sources, targets)
        report = FolderReport(model=str(self._chosen), outputs=tuple(targets), settings=self._work.asked())
        with ProgressBar("picture", told.progress) as bar, self._cluster():

            def tell(result: FileResult) -> None:
                report.add(result)
                bar.advance()
                if told.on_result:
                    told.on_result(result)

            bar.start(None)
            if told.on_start:
                told.on_start(report.model, None)
            for lot in self._lots(sources, targets):
                if lot.problem:
                    input = Path(lot.names[0][0])
                    tell(FileResult(input=input, output=lot.archive, status="failed", reason=lot.problem))
                    continue
                if lot.plan is not None:
                    report.ignore(lot.plan)
                self._make(lot, report, tell, told, watch)
        report.first = watch.first
        report.seconds |= watch.seconds | {"total": watch.total}
        if shard:
            folders = dict.fromkeys(target.parent for target in targets)
            ShardReport.of_pictures(report, shard, self._work.fingerprint).leave(folders)
        return report

    # --- what goes where -------------------------------------------------------------------------------------------

    def _archive_count(self, sources: Sequence[str], output: PathLike) -> int | None:
        """How many archives there are, where the name of the output leaves that open."""
        if not is_open(output):
            return None
        return len(sources) if all(map(is_archive, sources)) else -(-self._plan(sources).count // PICTURES_A_SHARD)

    def _lots(self, sources: Sequence[str], targets: Sequence[Path]) -> Iterator[_Lot]:
        shard = self._options.work.part

        def mine(target: Path) -> bool:
            return shard is None or shard.holds(target.name)

        if all(map(is_archive, sources)) and len(sources) == len(targets):
            for source, target in zip(sources, targets, strict=True):
                if mine(target):
                    yield from self._lot_of_archive(source, target)
            return
        if all(map(is_archive, sources)) and len(targets) > 1:
            raise UsageError(f"{len(sources)} archives go in and {len(targets)} come out: name as many as there are.")
        plan = self._plan(sources)
        names, counted = _members(plan), False
        share = -(-len(names) // len(targets))
        for number, target in enumerate(targets):
            if mine(target):
                part = names[number * share : (number + 1) * share]
                yield _Lot(target, part, plan=None if counted else plan)
                counted = True

    def _lot_of_archive(self, source: str, target: Path) -> Iterator[_Lot]:
        """The lot of an archive; one that cannot be read, or has no pictures, stops none of the others."""
        try:
            archive = located(source)
            with released(archive):
                plan = self._plan([os.fspath(archive)])
                yield _Lot(target, _members(plan), archive, plan)
        except UsageError as error:
            yield _Lot(target, [(source, "", "")], problem=reason_of(error))

    def _plan(self, sources: Sequence[str]) -> Plan:
        """The plan, with outputs below the folder that :func:`_members` knows."""
        recursive, format = self._options.work.recursive, self._options.encoding.format
        return plan_files(sources, _NOWHERE, domain=self._chosen.domain, format=format, recursive=recursive)

    def _cluster(self) -> AbstractContextManager[object]:
        """One connection for all archives."""
        if self._options.work.ray is None:
            return nullcontext()
        from cgpipe.jobs.ray_cluster import ray_cluster

        return ray_cluster(self._options.work.ray)

    # --- one archive -----------------------------------------------------------------------------------------------

    def _make(
        self, lot: _Lot, report: FolderReport, tell: Callable[[FileResult], None], told: FolderTold, watch: Stopwatch
    ) -> None:
        """Gives every picture of a lot its result, and makes the archive unless it is current."""
        fingerprint = self._fingerprint(lot)
        with self._journal(fingerprint) as whole, self._journal(f"{fingerprint[:-1]}~") as partly:
            standing = whole.standing(lot.archive, ())
            if standing in (Standing.CURRENT, Standing.FOREIGN):
                for name in lot.names:
                    tell(_result(lot, name, standing))
                return
            there = partly.standing(lot.archive, ()) is Standing.CURRENT
            earlier = fetched(lot.archive) if there else nullcontext()
            with ExitStack() as stack:
                here = stack.enter_context(earlier)
                known = stack.enter_context(members_of(here)) if here else None
                staged = _staged(lot.archive, shared=self._options.work.ray is not None)
                failed = self._translate(lot, known, staged, report, tell, told, watch)

                def publish(temporary: PathLike, path: PathLike) -> None:
                    (partly if failed else whole).publisher((), ())(temporary, path)

                try:
                    with atomic_write(lot.archive, publish=publish) as partial:
                        for member, reason in _pack(lot, known, staged, failed, partial):
                            tell(_left_out(lot, member, reason))
                            failed.add(member)
                except OSError as error:
                    raise CgpipeError(f"{shown(lot.archive)} cannot be written: {reason_of(error)}.") from error
        _remove(staged)

    def _translate(
        self,
        lot: _Lot,
        known: Members | None,
        staged: Path,
        report: FolderReport,
        tell: Callable[[FileResult], None],
        told: FolderTold,
        watch: Stopwatch,
    ) -> set[str]:
        """Translates what is missing into the staging folder; gives the places of those that failed."""
        there = known.all if known else ()
        by_output: dict[str, Names] = {}
        failed: set[str] = set()

        def done(result: FileResult) -> None:
            name = by_output[os.fspath(result.output)]
            if result.status in ("failed", "unsupported"):
                failed.add(os.path.normpath(name[2]))
            tell(replace(result, output=lot.archive / name[1]))

        for name in lot.names:
            if name[1] in there:
                tell(_result(lot, name, Standing.CURRENT))
            elif not _can_hold(lot.archive, name[1]):
                failed.add(os.path.normpath(name[2]))
                reason = "Zip files take names in UTF-8, and this is in another encoding. Rename it, or write a .tar."
                tell(FileResult(input=Path(name[0]), output=lot.archive / name[1], status="failed", reason=reason))
            else:
                by_output[os.fspath(staged / name[1])] = name
        plan = Plan.of((name[0], output, name[2]) for output, name in by_output.items())
        with self._work.open_journal() as journal:
            worklist = self._work.worklist(plan, journal)
            for settled in worklist.sort_out():
                done(settled)
            if worklist:
                report.settings = self._work.translate(worklist, done, watch, told.on_part or _nobody)
            for lost in worklist.lost():
                done(lost)
        return failed

    def _fingerprint(self, lot: _Lot) -> str:
        """Of all that decides an archive: what was asked for, and what goes in."""
        version = digest_of_file if self._options.work.checksum else Stamp.of
        sum = blake2b(self._work.fingerprint.encode(), digest_size=8)
        sum.update(lot.archive.suffix.lower().encode())
        inputs = [os.fspath(lot.source)] if lot.source else []
        for input in inputs or [name[0] for name in lot.names]:
            with suppress(OSError):  # which the reader says
                sum.update(os.fsencode(f"{os.path.basename(input)}\0{version(input)}\n"))
        for name in lot.names:
            sum.update(os.fsencode(f"{name[1]}\n"))
            for mask in self._work.mask_of(name[2]):
                with suppress(OSError):
                    sum.update(os.fsencode(f"{version(mask)}\n"))
        return sum.hexdigest()

    def _journal(self, fingerprint: str) -> Journal:
        overwrite = self._options.work.overwrite
        return Journal(fingerprint, looks_made=lambda one, other: False, overwrite=overwrite)


_IN_MEMORY = 1 << 24
"""Bytes of a member up to which it is copied through memory."""

_NOWHERE = Path(os.sep, ".cgpipe-archive")
"""The folder of all members, which is never made."""


def _nobody(share: float) -> None:
    """Is told, and does nothing."""


def _require_other_files(sources: Sequence[str], targets: Sequence[Path]) -> None:
    read = {store_of(one).real(one) for one in sources}
    for target in targets:
        if store_of(target).real(os.fspath(target)) in read:
            raise UsageError(f"{shown(target)} would overwrite itself. Use another --output.")


def _members(plan: Plan) -> list[Names]:
    """A plan's names, of which the second is that of a member."""
    return [(input, os.path.relpath(output, _NOWHERE), place) for input, output, place in plan.names()]


def _result(lot: _Lot, name: Names, standing: Standing) -> FileResult:
    foreign = standing is Standing.FOREIGN
    return FileResult(
        input=Path(name[0]),
        output=lot.archive / name[1],
        status="failed" if foreign else "skipped",
        reason=foreign_reason(lot.archive) if foreign else "",
    )


def _can_hold(archive: Path, name: str) -> bool:
    """Whether an archive can hold a member of this name; a tar holds any bytes."""
    if archive.suffix.lower() != ".zip":
        return True
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _staged(archive: Path, *, shared: bool) -> Path:
    """Where the pictures of an archive lie before they are packed.

    Args:
        shared: other machines write there, too.
    """
    beside = archive.with_name(f".{archive.name}.cgpipe")
    return beside if shared or store_of(archive) is LOCAL else work_folder(beside)


def _remove(folder: Path) -> None:
    store, place = store_of(folder), os.fspath(folder)
    if store is LOCAL:
        shutil.rmtree(folder, ignore_errors=True)
        return
    with suppress(OSError):
        files, folders = store.listing(place)
        for name in folders:
            _remove(folder / name)
        for name in files:
            store.remove(f"{place}/{name}")


def _left_out(lot: _Lot, name: str, reason: str) -> FileResult:
    source = lot.source or lot.archive
    return FileResult(input=source / name, output=lot.archive / name, status="failed", reason=reason)


def _pack(
    lot: _Lot, known: Members | None, staged: Path, failed: Collection[str], path: Path
) -> Iterator[tuple[str, str]]:
    """Writes the archive: translations in their order, and what else the source holds, of samples that are whole.

    Yields what of the source cannot be read, and why.
    """
    by_place = {os.path.normpath(name[2]): name[1] for name in lot.names}
    there = known.all if known else ()
    dropped = {_sample(place) for place in failed}
    with Writer(path, lot.archive.name) as writer:

        def add_picture(place: str) -> None:
            member = by_place[place]
            if known is not None and member in there:
                _copy(writer, known, member)
                return
            with fetched(staged / member) as here, open(here, "rb") as file:
                writer.add(member, file, os.path.getsize(here))

        if lot.source is None:
            for place in by_place:
                if place not in failed:
                    add_picture(place)
            return
        with fetched(lot.source) as here, members_of(here) as source:
            for name in source.all:
                if name in by_place and name not in failed:
                    add_picture(name)
                elif name not in by_place and _sample(name) not in dropped:
                    try:
                        _copy(writer, source, name)
                    except MediaError as error:
                        yield name, str(error)


def _copy(writer: Writer, source: Members, name: str) -> None:
    """Copies a member once it was read whole.

    Raises:
        MediaError: it cannot be read.
    """
    size, _ = source.version(name)
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as whole:
        try:
            with reading_member(), source.open(name) as file:
                shutil.copyfileobj(file, whole)
        except OSError as error:
            raise MediaError(f"It cannot be read: {reason_of(error)}.") from error
        whole.seek(0)
        writer.add(name, whole, size)


def _sample(place: str) -> str:
    """What the files of one sample share: folder and name up to the first dot, as WebDataset has it."""
    folder, name = os.path.split(place)
    return os.path.join(folder, name.partition(".")[0])
