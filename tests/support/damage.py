"""Damaged and forged run folders: what each does to a good one, and which commands must refuse it.

A damage changes a run folder in place; `outside` is a folder that no command may touch. Manifests are signed again
after they were forged, so that it takes more than a checksum to see it.
"""

import copy
import json
import os
import random
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy

from lsf_jax.runs import manifest

ALL = ("resume", "evaluate", "render", "plot", "compare")
PLAYS = ("evaluate", "render")
READS = ("resume", "plot")
SOME = ("resume", "evaluate", "plot")


class Damage(NamedTuple):
    """One way to break a run folder."""

    name: str
    apply: Callable[[Path, Path], None]  # run folder, folder outside
    refused_by: tuple[str, ...]  # commands that must say no
    tried_by: tuple[str, ...] = ()  # commands that may say no or do without, but do not break


def files_of(run: Path) -> dict[str, Path]:
    """One file of each kind."""
    return {
        "config.yaml": run / "config.yaml",
        "card.json": run / "card.json",
        "manifest": manifest_of(run, 0),
        "second manifest": manifest_of(run, 1),
        "arrays": max((run / "checkpoints" / "block-0001").rglob("arrays/**/*"), key=lambda file: file.stat().st_size),
        "train part": sorted((run / "metrics" / "train").glob("*.parquet"))[0],
        "eval part": sorted((run / "metrics" / "eval").glob("*.parquet"))[-1],
        "policy": run / "policies" / "block-0000.safetensors",
        "second policy": run / "policies" / "block-0001.safetensors",
    }


READERS = {
    "config.yaml": ALL,
    "card.json": ALL,
    "manifest": ("resume",),
    "second manifest": ("resume",),
    "arrays": ("resume",),
    "train part": READS,
    "eval part": READS,
    "policy": PLAYS,
    "second policy": PLAYS,
}
"""Who reads which kind of file, and so must notice that it cannot be read."""


def manifest_of(run: Path, block: int) -> Path:
    return next((run / "checkpoints" / f"block-{block:04d}").glob("step-*/manifest.json"))


# What may stand where a file belongs.


def _remove(path: Path, outside: Path) -> None:
    path.unlink()


def _folder(path: Path, outside: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path, outside: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _socket(path: Path, outside: Path) -> None:
    path.unlink()
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path has at most 108 characters
    try:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(path.name)
    finally:
        os.chdir(here)


def _link(path: Path, outside: Path) -> None:
    """To a file that would be read well."""
    target = outside / path.name
    path.rename(target)
    path.symlink_to(target)


def _loop(path: Path, outside: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _endless(path: Path, outside: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


REPLACED = (_folder, _pipe, _socket, _link, _loop, _endless)


def _empty(path: Path, outside: Path) -> None:
    path.write_bytes(b"")


def _half(path: Path, outside: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _noise(path: Path, outside: Path) -> None:
    path.write_bytes(random.Random(0).randbytes(path.stat().st_size))


def _nulls(path: Path, outside: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


OVERWRITTEN = (_empty, _half, _noise, _nulls)


def file_damages() -> Iterator[Damage]:
    for kind, readers in READERS.items():
        for change in (*REPLACED, *OVERWRITTEN):
            refused = readers
            if kind == "config.yaml" and change is _half:
                refused = ("resume", "evaluate", "render")  # the others take what is left for an old configuration
            yield Damage(f"{kind}{change.__name__}", _of_file(kind, change), refused, readers)
    for kind in ("config.yaml", "card.json", "manifest", "arrays", "policy"):
        yield Damage(f"{kind}_remove", _of_file(kind, _remove), READERS[kind])
    for kind in ("config.yaml", "card.json"):
        yield Damage(f"{kind}_huge", _of_file(kind, lambda path, _: os.truncate(path, 2**36)), ALL)


def _of_file(kind: str, change: Callable[[Path, Path], None]) -> Callable[[Path, Path], None]:
    return lambda run, outside: change(files_of(run)[kind], outside)


def flips(rng: random.Random, count: int) -> Iterator[Damage]:
    """Single bytes of any file changed: noticed or harmless, never a breakdown."""
    kinds = list(READERS)
    for number in range(count):
        kind, place, value = rng.choice(kinds), rng.random(), rng.randrange(256)

        def flip(path: Path, outside: Path, place: float = place, value: int = value) -> None:
            data = bytearray(path.read_bytes())
            data[int(place * len(data))] = value
            path.write_bytes(data)

        yield Damage(f"flip {number} in {kind}", _of_file(kind, flip), (), READERS[kind])


# Documents with something else in them.

OTHERS: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**70,
    1e308,
    float("nan"),
    "",
    "x" * 300,
    "\x1b[2J",
    [],
    [[]],
    {},
    {"a": 1},
)


def places_in(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to everything inside a document."""
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places_in(value, (*path, key))


def changed(content: Any, place: tuple[Any, ...], value: Any, *, gone: bool) -> Any:
    content = copy.deepcopy(content)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    if gone:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return content


def card_damages(rng: random.Random, card: dict[str, Any], count: int) -> Iterator[Damage]:
    places = list(places_in(card))
    for number in range(count):
        place, value, gone = rng.choice(places), rng.choice(OTHERS), rng.random() < 0.2
        text = json.dumps(changed(card, place, value, gone=gone))
        yield Damage(f"card {number} {place} {value!r:.20} {gone}", _writing("card.json", text), (), ALL)
    for text in ("{}", '{"layout": {}}', '{"layout": null}', '{"layout": 3}'):
        yield Damage(f"card {text}", _writing("card.json", text), ("resume", "evaluate", "render"), ALL)
    for key in card["layout"]:
        for value in (0, 7, 2**31 - 1, 1.5):
            text = json.dumps(card | {"layout": card["layout"] | {key: value}})
            yield Damage(f"layout {key} {value}", _writing("card.json", text), ("resume", "evaluate", "render"))
    for text in ("[" * 100_000, '{"a": ' * 5000, "9" * 5000, "NaN", '"\\ud800"'):
        yield Damage(f"card {text[:6]}", _writing("card.json", text), ALL)


def _writing(name: str, text: str) -> Callable[[Path, Path], None]:
    return lambda run, outside: (run / name).write_text(text, encoding="utf-8") and None


def signed(body: Any) -> str:
    return json.dumps({"sha256": manifest._text_digest(body), "body": body})


def manifest_damages(rng: random.Random, body: dict[str, Any], block: int, count: int) -> Iterator[Damage]:
    def forging(forged: Any) -> Callable[[Path, Path], None]:
        return lambda run, outside: manifest_of(run, block).write_text(signed(forged)) and None

    places = list(places_in(body))
    for number in range(count):
        place, value, gone = rng.choice(places), rng.choice(OTHERS), rng.random() < 0.2
        forged = changed(body, place, value, gone=gone)
        yield Damage(f"manifest {number} {place} {value!r:.20} {gone}", forging(forged), (), ("resume",))
    for key in ("step", "meta", "leaves", "files"):
        yield Damage(f"manifest without {key}", forging({k: v for k, v in body.items() if k != key}), ("resume",))
    for key in ("block", "finished_budget", "env_steps", "updates"):
        meta = {k: v for k, v in body["meta"].items() if k != key}
        yield Damage(f"meta without {key}", forging(body | {"meta": meta}), ("resume",))
    for key, value in {
        "config": "algo: {name: nope}", "env_steps": [], "block": 5, "layout": body["meta"]["layout"] | {"width": 9},
    }.items():  # fmt: skip
        yield Damage(f"meta {key} {value}", forging(body | {"meta": body["meta"] | {key: value}}), ("resume",))
    keyed = next(number for number, leaf in enumerate(body["leaves"]) if leaf["key_impl"])
    for index, entry in (
        (0, {"stored_shape": [2**40]}), (0, {"shape": [9, 9]}), (0, {"dtype": "object"}), (0, {"name": "../../x"}),
        (keyed, {"key_impl": "mine"}), (keyed, {"key_impl": "rbg"}), (keyed, {"key_impl": None}),
    ):  # fmt: skip
        leaves = [leaf | entry if number == index else leaf for number, leaf in enumerate(body["leaves"])]
        yield Damage(f"leaf {index} {entry}", forging(body | {"leaves": leaves}), ("resume",))
    files = body["files"] | {"../../../../outside/precious": {"bytes": 8, "sha256": "0" * 64}}
    yield Damage("manifest of files elsewhere", forging(body | {"files": files}), ("resume",))


# Policies.


def policy_damages() -> Iterator[Damage]:
    def remade(change: Callable[[dict[str, np.ndarray], dict[str, str]], None]) -> Callable[[Path, Path], None]:
        def apply(run: Path, outside: Path) -> None:
            path = files_of(run)["policy"]
            arrays, metadata = safetensors.numpy.load_file(path), _metadata(path)
            change(arrays, metadata)
            path.write_bytes(safetensors.numpy.save(arrays, metadata))

        return apply

    def every(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict, dict], None]:
        return lambda arrays, _: arrays.update({name: change(value) for name, value in arrays.items()})

    def one(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict, dict], None]:
        return lambda arrays, _: arrays.update({next(iter(arrays)): change(next(iter(arrays.values())))})

    changes = {
        "a row too many": every(lambda a: np.concatenate([a, a[:1]])),
        "a row too few": every(lambda a: a[1:]),
        "no row": every(lambda a: a[:0]),
        "a row too many in one array": one(lambda a: np.concatenate([a, a[:1]])),
        "rows without an axis": every(lambda a: a[0]),
        "one axis more": every(lambda a: a[None]),
        "one array flat": one(lambda a: a.reshape(-1)),
        "one array of doubles": one(lambda a: a.astype(np.float64)),
        "one array of whole numbers": one(lambda a: a.astype(np.int32)),
        "one array missing": lambda arrays, _: arrays.pop(next(iter(arrays))),
        "one array more": lambda arrays, _: arrays.update(more=np.zeros(2, np.float32)),
        "an array inside an array": lambda arrays, _: arrays.update({f"{next(iter(arrays))}/x": np.zeros(2)}),
        "foreign": lambda arrays, _: [arrays.clear(), arrays.update({"\x1b[31m": np.zeros(3)})],
        "no arrays": lambda arrays, _: arrays.clear(),
        "rows of another block": lambda _, metadata: metadata.update(rows="[2]"),
        "another algorithm's": lambda _, m: m.update(config=m["config"].replace("name: vdn", "name: iql")),
        "another environment's": lambda _, m: m.update(
            config=m["config"].replace("name: matrix_game", "name: climbing")
        ),
        "an unreadable configuration": lambda _, metadata: metadata.update(config="{"),
    }
    for name, change in changes.items():
        yield Damage(f"policy: {name}", remade(change), PLAYS)

    def header(data: bytes) -> Callable[[Path, Path], None]:
        return lambda run, outside: files_of(run)["policy"].write_bytes(data) and None

    yield Damage("policy: an endless header", header(struct.pack("<Q", 2**60) + b"{}"), PLAYS)
    yield Damage("policy: a header that is a list", header(struct.pack("<Q", 2) + b"[]"), PLAYS)
    told = b'{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,4]}}'
    yield Damage("policy: an endless array", header(struct.pack("<Q", len(told)) + told + bytes(4)), PLAYS)
    yield Damage("policy: the first missing", lambda run, _: files_of(run)["policy"].unlink(), PLAYS)
    yield Damage("policy: the last missing", lambda run, _: files_of(run)["second policy"].unlink(), PLAYS)

    def swap(run: Path, outside: Path) -> None:
        first, second = files_of(run)["policy"], files_of(run)["second policy"]
        data = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(data)

    yield Damage("policy: two exchanged", swap, PLAYS)
    yield Damage(
        "policy: one too many",
        lambda run, _: (
            (run / "policies" / "block-0009.safetensors").write_bytes(files_of(run)["policy"].read_bytes()) and None
        ),
        PLAYS,
    )


def _metadata(path: Path) -> dict[str, str]:
    with safetensors.safe_open(path, framework="np") as file:
        return dict(file.metadata())


# Tables.


def table_damages() -> Iterator[Damage]:
    def remade(kind: str, change: Callable[[pa.Table], pa.Table]) -> Callable[[Path, Path], None]:
        def apply(run: Path, outside: Path) -> None:
            path = files_of(run)[kind]
            content = pq.read_table(path)
            pq.write_table(change(content), path)

        return apply

    def column(name: str, make: Callable[[int], Any]) -> Callable[[pa.Table], pa.Table]:
        def change(content: pa.Table) -> pa.Table:
            place = content.schema.get_field_index(name)
            made = pa.array(make(content.num_rows))
            schema = content.schema.set(place, pa.field(name, made.type))
            arrays = [made if i == place else content.column(i) for i in range(content.num_columns)]
            return pa.Table.from_arrays(arrays, schema=schema)

        return change

    def told(**metadata: str) -> Callable[[pa.Table], pa.Table]:
        return lambda content: content.replace_schema_metadata(
            {**content.schema.metadata, **{f"lsf_jax.{k}".encode(): v.encode() for k, v in metadata.items()}}
        )

    changes = {
        "another version": told(schema_version="999"),
        "a version that is no text": lambda content: content.replace_schema_metadata(
            {**content.schema.metadata, b"lsf_jax.schema_version": b"\xff\xfe"}
        ),
        "another table": told(table="other"),
        "foreign": lambda content: content.replace_schema_metadata({}),
        "without rows' names": lambda content: content.drop_columns(["row"]),
        "without steps": lambda content: content.drop_columns(["env_steps"]),
        "names of rows": column("row", lambda n: ["x"] * n),
        "rows of another type": column("row", lambda n: np.zeros(n, np.float64)),
        "rows below zero": column("row", lambda n: np.full(n, -1, np.int32)),
        "steps below zero": column("env_steps", lambda n: np.full(n, -5, np.int64)),
        "gaps": column("env_steps", lambda n: pa.array([None] * n, pa.int64())),
    }
    for kind in ("train part", "eval part"):
        for name, change in changes.items():
            yield Damage(f"{kind}: {name}", remade(kind, change), READS)
        far = column("row", lambda n: np.full(n, 2**31 - 1, np.int32))
        yield Damage(f"{kind}: far rows", remade(kind, far), READS)
        grid = column("grid", lambda n: np.full(n, 7, np.int32))
        yield Damage(f"{kind}: a grid that is not there", remade(kind, grid), READS)
    eval_changes = {
        "without final": lambda content: content.drop_columns(["final"]),
        "words for a metric": column("return", lambda n: ["x"] * n),
        "doubles for a metric": column("return", lambda n: np.zeros(n)),
        "a metric of lists": column("return", lambda n: [[1.0]] * n),
    }
    for name, change in eval_changes.items():
        yield Damage(f"eval part: {name}", remade("eval part", change), ("resume",), ("plot",))

    def foreign_name(run: Path, outside: Path) -> None:
        files_of(run)["eval part"].rename(run / "metrics" / "eval" / "mine.parquet")

    yield Damage("eval part: another name", foreign_name, READS)


# The configuration.

EDITS = {
    "algo.target_interval": ("target_interval: 3", "target_interval: 8"),
    "algo.discount": ("discount: 0.99", "discount: 0.5"),
    "algo.name": ("name: vdn", "name: iql"),
    "algo.lr": ("lr: 0.001", "lr: 0.5"),
    "train.seeds": ("seeds: 3", "seeds: 30"),
    "train.seed": ("seed: 0", "seed: 1"),
    "train.block": ("block: 2", "block: 3"),
    "train.n_envs": ("n_envs: 2", "n_envs: 4"),
    "train.evaluate_every": ("evaluate_every: 4", "evaluate_every: 400"),
}
"""What `resume` must name -> what is edited, from and to."""


def config_damages(text: str) -> Iterator[Damage]:
    for key, (before, after) in EDITS.items():
        assert before in text, (before, text)
        yield Damage(
            f"edited {key}", _writing("config.yaml", text.replace(before, after)), ("resume",), ("evaluate", "plot")
        )
    lines = text.splitlines(keepends=True)
    for number in range(0, len(lines), 3):
        yield Damage(
            f"config.yaml cut after {number} lines", _writing("config.yaml", "".join(lines[:number])), (), SOME
        )
    for name, tail in {
        "a grid that is a list": "grid: [1]\n",
        "a grid of words": "grid: {algo.lr: [a, b]}\n",
        "a grid without values": "grid: {algo.lr: []}\n",
    }.items():
        yield Damage(f"config.yaml: {name}", _writing("config.yaml", text + tail), ("resume", "evaluate", "plot"), ALL)
    for section in ("algo", "env", "train"):
        for value in ("3", "[]", "null", "text"):
            other = text.replace(f"{section}:\n", f"{section}: {value}\nx{section}:\n")
            yield Damage(f"config.yaml: {section} is {value}", _writing("config.yaml", other), ALL)


# Links and the like where a run writes.


def place_damages() -> Iterator[Damage]:
    def linked(*names: str) -> Callable[[Path, Path], None]:
        def apply(run: Path, outside: Path) -> None:
            path, target = run.joinpath(*names), outside / names[-1]
            if path.is_dir():
                path.rename(target)
            elif not target.exists():
                target.write_text("precious")
            path.unlink(missing_ok=True)
            path.symlink_to(target)

        return apply

    def emptied(*names: str) -> Callable[[Path, Path], None]:
        """A link to the folder outside in which there is something to remove."""

        def apply(run: Path, outside: Path) -> None:
            path = run.joinpath(*names)
            path.rename(run / "elsewhere")
            path.symlink_to(outside)

        return apply

    def second_name(run: Path, outside: Path) -> None:
        (run / ".lock").unlink(missing_ok=True)
        os.link(outside / "precious", run / ".lock")

    for name in (".lock", "card.md", "curves-return.png"):
        yield Damage(f"{name} is a link", linked(name), ("resume", *(("plot",) if name.endswith("png") else ())))
    yield Damage(".lock is another file's second name", second_name, ("resume",))
    for names in (
        ("policies",), ("metrics",), ("metrics", "train"), ("metrics", "eval"), ("checkpoints",),
        ("checkpoints", "block-0000"), ("checkpoints", "block-0001"),
    ):  # fmt: skip
        readers = {"policies": ("resume", *PLAYS), "metrics": READS, "checkpoints": ("resume",)}[names[0]]
        yield Damage(f"{'/'.join(names)} is a link", linked(*names), readers)
        yield Damage(f"{'/'.join(names)} is a link to a full folder", emptied(*names), readers)

    def file_instead(*names: str) -> Callable[[Path, Path], None]:
        def apply(run: Path, outside: Path) -> None:
            run.joinpath(*names).rename(run / "elsewhere")
            run.joinpath(*names).write_text("x")

        return apply

    for names in (("policies",), ("metrics",), ("checkpoints",), ("checkpoints", "block-0001")):
        yield Damage(f"{'/'.join(names)} is a file", file_instead(*names), ("resume",))
    for name in ("card.md", "curves-return.png", ".lock"):

        def folder_instead(run: Path, outside: Path, name: str = name) -> None:
            (run / name).unlink(missing_ok=True)
            (run / name).mkdir()

        yield Damage(f"{name} is a folder", folder_instead, ("resume",))

    def inner_link(run: Path, outside: Path) -> None:
        (manifest_of(run, 0).parent / "arrays" / "more").symlink_to(outside / "precious")

    yield Damage("a link among the arrays", inner_link, ("resume",))

    def step_link(run: Path, outside: Path) -> None:
        step = manifest_of(run, 0).parent
        step.rename(outside / step.name)
        step.symlink_to(outside / step.name)

    yield Damage("a checkpoint is a link", step_link, ("resume",))

    def renamed(run: Path, outside: Path) -> None:
        step = manifest_of(run, 0).parent
        step.rename(step.with_name("step-999999999"))

    yield Damage("a checkpoint of another name", renamed, ("resume",))

    def more_blocks(run: Path, outside: Path) -> None:
        (run / "checkpoints" / "block-0007").mkdir()

    yield Damage("a block of another run", more_blocks, ("resume",))

    def exchanged(run: Path, outside: Path) -> None:
        first, second, aside = (run / "checkpoints" / name for name in ("block-0000", "block-0001", "aside"))
        first.rename(aside)
        second.rename(first)
        aside.rename(second)

    yield Damage("two blocks exchanged", exchanged, ("resume",))


def damages(run: Path, rng: random.Random, more: int = 1) -> list[Damage]:
    """All damages of a good run folder, generated ones `more` times as many."""
    card = json.loads((run / "card.json").read_text())
    body = json.loads(manifest_of(run, 0).read_text())["body"]
    return [
        *file_damages(),
        *flips(rng, 20 * more),
        *card_damages(rng, card, 10 * more),
        *manifest_damages(rng, body, 0, 20 * more),
        *policy_damages(),
        *table_damages(),
        *config_damages((run / "config.yaml").read_text()),
        *place_damages(),
    ]
