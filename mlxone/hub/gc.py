"""What of the Hugging Face cache nobody needs any more: planned first, deleted when asked to.

- A snapshot is superseded when no ref points to it. Where `main` points to none that is here, the
  newest one stays as well, since that is what the repo's name means.
- A blob goes when no snapshot that stays needs it.
- Nothing younger than an hour goes: it may belong to a download that has not linked it yet. What
  is copied here with its old dates counts from the copying.
- While a download into a repo runs, ours or the Hub client's, all of the repo stays, even when forced.
- Right before a repo's blobs are deleted its snapshots and refs are read anew; what is linked,
  pointed to or in use by then stays.
- Snapshots go before their blobs and are set aside in one step, so a kill at any moment leaves a
  valid cache, and the next gc finishes the work.
- Parts of downloads, locks, datasets, spaces and whatever lies outside the cache are not touched.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mlxone.core.amounts import first_of
from mlxone.hub import cache_tree, in_use, shared_blobs, snapshots, trash
from mlxone.hub.cache_tree import Blob, Snapshot, Tree
from mlxone.hub.trash import Swept, Tally

YOUNG = 3600.0
SHARED = "(shared by repos)"  # stands for a repo in the plan: files of the Hub client's own store
TRASH = "(a removal that was cut off)"


@dataclass(slots=True)
class RepoPlan:
    """What goes in one repo; `notes` say what stays, and why."""

    repo: str
    folder: Path
    snapshots: list[Path] = field(default_factory=list)
    blobs: list[Blob] = field(default_factory=list)
    payloads: list[Path] = field(default_factory=list)
    trash: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    bytes: int = 0  # that come free; what several repos share counts where its last user goes

    @property
    def is_empty(self) -> bool:
        return not (self.snapshots or self.blobs or self.payloads or self.trash)


@dataclass(slots=True)
class Plan:
    cache: Path
    repos: list[RepoPlan]

    @property
    def bytes(self) -> int:
        return sum(repo.bytes for repo in self.repos)

    @property
    def is_empty(self) -> bool:
        return all(repo.is_empty for repo in self.repos)


def plan(
    cache: Path, *, force: bool = False, now: float | None = None, elsewhere: Sequence[Path] = ()
) -> Plan:
    """Deletes nothing. `elsewhere` are other folders that may hold what a cut-off removal left."""
    cache = cache.resolve()
    now = time.time() if now is None else now
    repos = [_repo_plan(cache_tree.read(folder), force, now) for folder in cache_tree.repo_folders(cache)]
    left = [place for folder in (cache, *elsewhere) for place in trash.leftovers(folder)]
    if left:
        repos.append(RepoPlan(TRASH, cache, trash=left))
    repos.append(_shared(cache, repos, now))
    found = Plan(cache, [repo for repo in repos if not repo.is_empty or repo.notes])
    _count(found)
    return found


def execute(plan: Plan) -> Swept:
    """Deletes what was planned and is still not needed; goes on where something cannot be deleted."""
    done = Swept()
    for repo in plan.repos:
        for place in repo.trash:
            done.add(trash.delete_folder(place))
        if repo.snapshots or repo.blobs:
            done.add(_collect(repo))
        for payload in repo.payloads:
            done.add(shared_blobs.sweep(payload, plan.cache))
    return done


def unused(blobs: Sequence[Blob], tree: Tree) -> list[Blob]:
    """Those that no snapshot of the tree needs; none where that cannot be known."""
    staying = list(tree.snapshots.values())
    if tree.opaque or any(snapshot.opaque for snapshot in staying):
        return []
    return [blob for blob in blobs if not cache_tree.uses(staying, blob)]


def delete_unused(blobs: Sequence[Blob], tree: Tree) -> Swept:
    """Those of the blobs that are still the same files and that the tree, just read, does not need."""
    done = Swept()
    there = {(blob.path, blob.inode) for blob in tree.blobs}
    for blob in unused([blob for blob in blobs if (blob.path, blob.inode) in there], tree):
        done.add(trash.delete_file(blob.path))
    return done


def _repo_plan(tree: Tree, force: bool, now: float) -> RepoPlan:
    found = RepoPlan(tree.repo, tree.folder, trash=trash.leftovers(tree.folder))
    reason = tree.opaque or _download_into(tree.folder)
    if reason:
        found.notes.append(f"left alone: {reason}")
        return found
    kept = _kept(tree)
    for commit, snapshot in list(tree.snapshots.items()):
        if commit in kept:
            continue
        reason = _why_it_stays(snapshot, tree, [tree.snapshots[k] for k in kept], force, now)
        if reason:
            found.notes.append(f"snapshot {commit[:12]} stays: {reason}")
        else:
            found.snapshots.append(snapshot.path)
            del tree.snapshots[commit]
    _plan_blobs(found, tree, now)
    return found


def _plan_blobs(found: RepoPlan, tree: Tree, now: float) -> None:
    unclear = next((snapshot.opaque for snapshot in tree.snapshots.values() if snapshot.opaque), None)
    if unclear:
        found.notes.append(f"its files stay: {unclear}")
    free = [blob for blob in unused(tree.blobs, tree) if _is_known(blob, tree.folder.parent)]
    found.blobs = [blob for blob in free if now - blob.changed >= YOUNG]
    if len(free) > len(found.blobs):
        count = len(free) - len(found.blobs)
        found.notes.append(f"{count} unused {'file stays' if count == 1 else 'files stay'}: {_YOUNG_WORDS}")


_YOUNG_WORDS = "younger than an hour"


def _kept(tree: Tree) -> set[str]:
    kept = {commit for commit in tree.refs.values() if commit in tree.snapshots}
    if tree.snapshots and tree.refs.get("main") not in kept:
        kept.add(max(tree.snapshots, key=lambda c: (tree.snapshots[c].path.lstat().st_mtime, c)))
    return kept


def _why_it_stays(snapshot: Snapshot, tree: Tree, kept: list[Snapshot], force: bool, now: float) -> str:
    """Why a snapshot that nothing points to is not deleted all the same; empty when it is."""
    if snapshot.opaque:
        return snapshot.opaque
    if now - snapshot.changed < YOUNG:
        return _YOUNG_WORDS
    users = in_use.using(snapshot.path)
    if users:
        return f"in use by {users[0]}"
    if force:
        return ""
    lacking = sorted(snapshot.names - set().union(*(k.names for k in kept)))
    if lacking:
        return f"only it has {first_of(lacking, 1)} (--force deletes it)"
    if tree.unfinished and _may_be_unfinished(snapshot, kept):
        return f"its download was cut off (`mlxone get {tree.repo}` goes on, --force deletes it)"
    return ""


def _may_be_unfinished(snapshot: Snapshot, kept: list[Snapshot]) -> bool:
    """Not whole, or newer than what is kept. Times alone would not do: other tools write into folders."""
    if any(name.endswith(".gguf") for name in snapshot.names) or snapshots.is_whole(snapshot.path):
        return all(snapshot.changed > k.changed for k in kept)
    return True


def _download_into(folder: Path) -> str:
    """Who is fetching files of this repo, if anybody is."""
    users = [use for use in in_use.using(folder) if use.what == in_use.DOWNLOAD]
    if users:
        return f"in use by {users[0]}"
    return "a download is at work on it" if cache_tree.is_locked(folder) else ""


def _is_known(blob: Blob, cache: Path) -> bool:
    """A link that leads out of the cache was laid by hand."""
    return not blob.is_link or shared_blobs.payload_of(blob.path, cache) is not None


def _shared(cache: Path, repos: Sequence[RepoPlan], now: float) -> RepoPlan:
    """Files of the store whose every user goes with this plan, or went with an earlier one."""
    going = {blob.path for repo in repos for blob in repo.blobs}
    found = RepoPlan(SHARED, cache / "blobs")
    try:
        for payload in shared_blobs.payloads(cache):
            users = shared_blobs.users(payload, cache)
            # A link to it is laid after its file is there: a young one may still get its first.
            fresh = not users and now - cache_tree.changed(payload.lstat()) < YOUNG
            if users is not None and users <= going and not fresh:
                found.payloads.append(payload)
    except OSError as error:
        found.notes.append(f"left alone: {error.filename or cache}: {error.strerror or error}")
    return found


def _count(plan: Plan) -> None:
    tally = Tally()
    for repo in plan.repos:
        folders = sum(tally.folder(folder) for folder in repo.trash + repo.snapshots)
        repo.bytes = folders + sum(tally.file(path) for path in [b.path for b in repo.blobs] + repo.payloads)


def _collect(repo: RepoPlan) -> Swept:
    done = Swept()
    tree = cache_tree.read(repo.folder)
    reason = tree.opaque or _download_into(tree.folder)
    if reason:
        done.problems.append(f"{repo.repo} is left alone: {reason}")
        return done
    kept = _kept(tree)
    for path in repo.snapshots:
        if path.name in kept or path.name not in tree.snapshots or in_use.using(path):
            continue
        try:
            done.add(trash.delete_folder(trash.set_aside(path, repo.folder)))
        except FileNotFoundError:
            continue
        except OSError as error:
            done.failed(error, path)
    done.add(delete_unused(repo.blobs, cache_tree.read(repo.folder)))
    return done
