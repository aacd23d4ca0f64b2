"""Files of a block on their way between a worker's own folder and the driver's run folder."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from lsf_jax.cluster.connect import import_ray
from lsf_jax.runs import checkpoint, safe_files, tables
from lsf_jax.runs.manifest import CheckpointError, verify
from lsf_jax.runs.policy_files import policy_path
from lsf_jax.runs.safe_files import file_inside, folder_inside
from lsf_jax.runs.session import STAYING
from lsf_jax.runs.sweeps.messages import PIECE_BYTES, Piece, Saved


class Courier:
    """A worker's end: sends files of a block once they are complete, a checkpoint after what it makes count."""

    def __init__(self, stage: Path, index: int, send: Callable[[Any], object]) -> None:
        """Nothing is sent yet.

        Args:
          stage: the worker's folder, which looks like the run's.
          index: of the block.
          send: takes each message.
        """
        self.stage, self.index, self.send = stage, index, send
        self.sent: set[tuple[str, int]] = set()

    def receive(self, files: Iterable[tuple[tuple[str, ...], Iterable[Any]]]) -> None:
        """Lay down the checkpoint that the driver has, so that the block goes on from it.

        Args:
          files: names below the run folder, and references to their pieces.
        """
        ray = import_ray()
        for names, pieces in files:
            path = self.stage.joinpath(*names)
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "wb") as file:
                for piece in pieces:
                    file.write(ray.get(piece))
        newest = checkpoint.latest(checkpoint.block_folder(self.stage, self.index))
        if newest is not None:
            self.sent.add(_stamp(newest))

    def collect(self) -> None:
        """Send what is new."""
        found = [part for table in STAYING for part in tables.part_paths(self.stage, table, self.index)]
        newest = checkpoint.latest(checkpoint.block_folder(self.stage, self.index))
        policies = policy_path(self.stage, self.index)
        found += [policies] if policies.exists() else []
        for path in found:
            if _stamp(path) not in self.sent:
                self._send_file(path)
        if newest is not None and _stamp(newest) not in self.sent:
            for path in sorted(path for path in newest.rglob("*") if path.is_file()):
                self._send_file(path)
            self.send(Saved(newest.relative_to(self.stage).parts))
            self.sent.add(_stamp(newest))

    def clear(self) -> None:
        """Remove the block's files from this node."""
        shutil.rmtree(checkpoint.block_folder(self.stage, self.index), ignore_errors=True)
        policy_path(self.stage, self.index).unlink(missing_ok=True)
        for table in STAYING:
            for part in tables.part_paths(self.stage, table, self.index):
                part.unlink()

    def _send_file(self, path: Path) -> None:
        for data, is_last in pieces_of(path):
            self.send(Piece(path.relative_to(self.stage).parts, data, is_last))
        self.sent.add(_stamp(path))


class Delivery:
    """The driver's end: files of one attempt at a block, put into the run folder when they are complete."""

    def __init__(self, run: Path, index: int) -> None:
        """Nothing has arrived yet.

        Args:
          run: the run folder, which this process has locked.
          index: of the block.
        """
        self.run, self.index = run, index
        self.arriving: dict[tuple[str, ...], Path] = {}

    def take(self, piece: Piece) -> None:
        """Add a piece to its file; the last one puts it in its place, of a checkpoint beside it.

        Raises:
          RunFolderError: its name leads elsewhere.
          OSError: it cannot be written.
        """
        target = file_inside(self.run, *piece.names)
        if piece.names not in self.arriving:
            self.arriving[piece.names] = self._temporary(piece.names)
            self.arriving[piece.names].unlink(missing_ok=True)
        temporary = self.arriving[piece.names]
        temporary.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "ab") as file:
            file.write(piece.data)
            if piece.is_last:
                file.flush()
                os.fsync(file.fileno())
        if piece.is_last and piece.names[0] != "checkpoints":
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary, target)
            safe_files.fsync_directory(target.parent)
            del self.arriving[piece.names]

    def commit(self, saved: Saved) -> None:
        """Put a checkpoint into its place and remove its predecessor.

        Raises:
          CheckpointError: it is not what its manifest says.
          OSError: it cannot be written.
        """
        block = checkpoint.block_folder(self.run, self.index)
        arrived = self._checkpoint_folder()
        verify(arrived)
        for directory, _, _ in os.walk(arrived):
            safe_files.fsync_directory(Path(directory))
        final = block / saved.names[-1]
        if final.exists():
            raise CheckpointError(f"{final} is there already; another worker has written it")
        os.rename(arrived, final)
        safe_files.fsync_directory(block)
        checkpoint.remove(block, [path for path in checkpoint.checkpoints(block) if path != final])
        self.arriving.clear()

    def give_up(self) -> None:
        """Remove what has arrived of an attempt that failed."""
        for path in self.arriving.values():
            path.unlink(missing_ok=True)
        shutil.rmtree(self._checkpoint_folder(), ignore_errors=True)
        self.arriving.clear()

    def _temporary(self, names: tuple[str, ...]) -> Path:
        if names[0] == "checkpoints":  # checkpoints/block/step-.../...
            return file_inside(self._checkpoint_folder(), *names[3:])
        return file_inside(self.run, *names[:-1], f".tmp-{names[-1]}-{os.getpid()}")

    def _checkpoint_folder(self) -> Path:
        return folder_inside(checkpoint.block_folder(self.run, self.index), f"tmp-000000000-{os.getpid()}")


def pieces_of(path: Path) -> Iterator[tuple[bytes, bool]]:
    """A file in pieces, each with whether it is the last; an empty file is one empty piece.

    Args:
      path: a file in a run folder.
    """
    with os.fdopen(safe_files.open_plain(path, os.O_RDONLY), "rb") as file:
        left = os.fstat(file.fileno()).st_size
        while left > PIECE_BYTES:
            left -= PIECE_BYTES
            yield file.read(PIECE_BYTES), False
        yield file.read(), True


def _stamp(path: Path) -> tuple[str, int]:
    """A file or folder as it is: one of the same name that is written again is another."""
    return str(path), path.stat().st_mtime_ns
