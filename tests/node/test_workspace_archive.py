"""Archives of workspaces: right for honest ones, harmless to unpack for hostile ones."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable

from codeexec.sandbox.types import EntryKind, WorkspaceEntry
from sessions_app.node.workspace_archive import ArchiveWriter


def entry(path: str, size: int = 0, **changes: object) -> WorkspaceEntry:
    given: dict[str, object] = {
        "path": path,
        "kind": EntryKind.FILE,
        "mode": 0o644,
        "size_bytes": size,
        "modified_at": 1_700_000_000.5,
    }
    return WorkspaceEntry(**(given | changes))


def archived(items: Iterable[WorkspaceEntry | bytes]) -> tarfile.TarFile:
    into = io.BytesIO()
    writer = ArchiveWriter(into, folder="session-1")
    for item in items:
        writer.take(item)
    writer.close()
    into.seek(0)
    return tarfile.open(fileobj=into, mode="r:gz")


def contents(archive: tarfile.TarFile) -> dict[str, bytes]:
    return {
        member.name: archive.extractfile(member).read() for member in archive if member.isfile()
    }


def test_files_come_out_as_they_went_in() -> None:
    long_name = "n" * 200 + "/" + "m" * 200
    archive = archived(
        [
            entry("a", 3),
            b"abc",
            entry("d", kind=EntryKind.DIRECTORY, mode=0o700),
            entry("d/b", 1300, mode=0o777),
            b"x" * 1000,
            b"x" * 300,
            entry(long_name, 512),
            b"z" * 512,
            entry("empty"),
        ]
    )
    assert contents(archive) == {
        "session-1/a": b"abc",
        "session-1/d/b": b"x" * 1300,
        f"session-1/{long_name}": b"z" * 512,
        "session-1/empty": b"",
    }
    modes = {member.name: member.mode for member in archive}
    assert (modes["session-1/a"], modes["session-1/d"], modes["session-1/d/b"]) == (
        0o644,
        0o755,
        0o755,
    )
    assert archive.getmember("session-1/a").mtime == 1_700_000_000


def test_one_that_could_not_be_read_is_left_out_and_one_that_shrank_is_filled_up() -> None:
    archive = archived(
        [entry("unreadable", 100), entry("shrunk", 1000), b"abc", entry("after", 2), b"ok"]
    )
    assert contents(archive) == {
        "session-1/shrunk": b"abc" + bytes(997),
        "session-1/after": b"ok",
    }


def test_links_special_files_and_set_user_bits_are_not_in_it() -> None:
    archive = archived(
        [
            entry("link", 11, kind=EntryKind.SYMLINK),
            entry("fifo", kind=EntryKind.OTHER),
            entry("suid", 1, mode=0o4755),
            b"x",
        ]
    )
    assert archive.getnames() == ["session-1", "session-1/suid"]
    assert all(member.mode in (0o644, 0o755) for member in archive)


def test_names_and_times_that_nobody_else_uses_are_kept_or_bounded() -> None:
    archive = archived(
        [
            entry("a\nb", 1, modified_at=2.0**50),
            b"1",
            entry("\udcff", 1, modified_at=-1.0),
            b"2",
        ]
    )
    assert set(contents(archive)) == {"session-1/a\nb", "session-1/\udcff"}
    assert [member.mtime for member in archive if member.isfile()] == [2**33 - 1, 0]
