"""Source that travels with tasks: to workers that do not have it, and never into another one's process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from dtq import AsyncClient, Client, SourceBundle
from dtq.client.source_bundles import digest_of
from dtq.errors import CannotImport, CannotUnpickle
from dtq.model.options import Function
from dtq.model.states import State
from tests.cluster import Cluster, until

#: What each version of a module tells: its name for itself, its process and file, and what else it finds.
MODULE = """
import os, time
from pathlib import Path
import helping
NAME = {name!r}
class Thing:
    def __init__(self, name): self.name = name
def tell(): return NAME, helping.NAME
def pid(): return os.getpid()
def file(): return __file__
def thing(): return Thing(NAME)
def thing_name(thing): return thing.name
def late():
    import lately
    return lately.NAME
def wait(path):
    while not os.path.exists(path): time.sleep(0.01)
    return NAME
def nested(queue):
    from dtq import Client
    with Client() as client:
        handles = [client.submit(fn, queue=queue) for fn in (tell, "working:tell")]
        return [handle.result() for handle in handles]
def data(): return Path(__file__).with_name("data.csv").read_text()
"""


class Scene:
    """A cluster whose two workers, one of them without access to the coordinator's files, have no module."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        cluster.environment.pop("PYTHONDONTWRITEBYTECODE", None)
        cluster.coordinator("--lease", "2s")
        for words in (("--queue", "near"), ("--queue", "far", "--no-by-reference")):
            cluster.worker(*words, "--tasks-may-submit", slots=1)
        self.client = Client(cluster.address, authkey_file=cluster.key_file)

    def bundle(self, name: str) -> SourceBundle:
        """A version of the modules."""
        directory = self.cluster.directory / name
        directory.mkdir(exist_ok=True)
        (directory / "working.py").write_text(MODULE.format(name=name))
        for module in ("helping", "lately"):
            (directory / f"{module}.py").write_text(f"NAME = {name!r}\n")
        (directory / "data.csv").write_text(name * 50_000)
        return self.client.bundle(str(directory), include=["*.csv"])

    def run(self, function: Function | str, *args: object, queue: str = "near") -> object:
        return self.client.submit(function, *args, queue=queue, max_retries=0, max_crashes=1).result(40)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Cluster(tmp_path_factory.mktemp("bundles")) as cluster:
        scene = Scene(cluster)
        with scene.client:
            yield scene


@pytest.mark.parametrize("queue", ["near", "far"])
def test_source_travels_and_two_bundles_never_meet(scene: Scene, queue: str) -> None:
    # Given two bundles with modules of the same names, on one slot
    one, two = scene.bundle("one"), scene.bundle("two")
    before = scene.client.stats().retries
    # When their tasks take turns, also with tasks of neither
    for bundle, name in ((one, "one"), (two, "two"), (one, "one")):
        assert scene.run(bundle.function("working:tell"), queue=queue) == (name, name)
        assert scene.run(bundle.function("working:late"), queue=queue) == name
        assert scene.run("math:sqrt", 4, queue=queue) == 2
    # Then each has its own, also data, and nobody was blamed
    assert scene.run(two.function("working:data"), queue=queue) == "two" * 50_000
    assert scene.client.stats().retries == before
    # And tasks of one bundle share a process
    first = scene.run(one.function("working:pid"), queue=queue)
    assert scene.run(one.function("working:pid"), queue=queue) == first
    assert scene.run(two.function("working:pid"), queue=queue) != first


def test_slots_keep_their_code_where_there_are_enough(scene: Scene) -> None:
    # Given a worker of two slots, which has had tasks with a bundle and without
    scene.cluster.worker("--queue", "pair", slots=2)
    functions = ("os:getpid", scene.bundle("one").function("working:pid"))
    for function in functions * 2:
        scene.run(function, queue="pair")
    # When they take turns, then most find a process that has their code: it may not be idle yet now and then
    processes = [scene.run(function, queue="pair") for function in functions * 8]
    assert len(set(processes)) <= 8


def test_many_tasks_of_two_bundles_at_once(scene: Scene) -> None:
    one, two = scene.bundle("one"), scene.bundle("two")
    handles = [
        scene.client.submit(bundle.function("working:tell"), queue=queue)
        for _ in range(10)
        for bundle in (one, two)
        for queue in ("near", "far")
    ]
    names = [handle.result(40)[0] for handle in handles]
    assert names == ["one", "one", "two", "two"] * 10


def test_both_workers_of_a_machine_unpack_it_once(scene: Scene) -> None:
    bundle = scene.bundle("fresh")
    places = {scene.run(bundle.function("working:file"), queue=queue) for queue in ("near", "far", "near")}
    assert len(places) == 1
    (place,) = places
    assert str(place).startswith(str(scene.cluster.directory / ".cache" / "dtq" / "bundles"))


def test_source_travels_from_an_event_loop(scene: Scene) -> None:
    scene.bundle("one")

    async def told() -> object:
        async with AsyncClient(scene.cluster.address, authkey_file=scene.cluster.key_file) as client:
            bundle = await client.bundle(str(scene.cluster.directory / "one"))
            return await (await client.submit(bundle.function("working:tell"), queue="near"))

    assert asyncio.run(told()) == ("one", "one")


def test_what_a_bundles_task_submits_travels_with_the_bundle(scene: Scene) -> None:
    assert scene.run(scene.bundle("two").function("working:nested"), "far") == [("two", "two")] * 2


def test_a_function_that_is_missing_or_does_not_import_is_told(scene: Scene) -> None:
    bundle = scene.bundle("one")
    with pytest.raises(CannotImport, match=r"working \(.*working\.py\) has no nothing"):
        scene.run(bundle.function("working:nothing"))
    assert scene.run(bundle.function("working:tell")) == ("one", "one")


def test_a_hostile_bundle_is_refused_with_a_sentence(scene: Scene) -> None:
    files = (("../../evil.py", b"X = 1\n"),)
    bundle = SourceBundle(scene.client.put(files), digest_of(files))
    with pytest.raises(CannotUnpickle, match="would not be below its own directory"):
        scene.run(bundle.function("evil:f"))
    assert not list(scene.cluster.directory.rglob("evil.py"))


def test_a_worker_that_is_killed_loses_no_bundle(scene: Scene) -> None:
    # Given a task of a bundle that its client no longer holds
    bundle, go = scene.bundle("one"), scene.cluster.directory / "go"
    worker = scene.cluster.worker("--queue", "third", "--no-by-reference", slots=1)
    handle = scene.client.submit(bundle.function("working:wait"), str(go), queue="third")
    del bundle
    until(lambda: handle.state is State.RUNNING, "the task to run")
    # When its worker is killed, then another one runs it
    worker.kill()
    scene.cluster.worker("--queue", "third", "--no-by-reference", slots=1)
    go.write_text("")
    assert handle.result(40) == "one"


def test_modules_that_a_worker_has_imported_give_way_to_a_bundles(scene: Scene) -> None:
    # Given a worker with a module of a bundle's name, which each of its slots imports at its start
    own = scene.cluster.directory / "own"
    own.mkdir()
    (own / "helping.py").write_text("NAME = 'own'\n")
    scene.cluster.worker("--queue", "own", "--path", str(own), "--import", "helping", slots=1)
    # When tasks of the bundle and others take turns, then each finds its own
    bundle = scene.bundle("two")
    for _ in range(2):
        assert scene.run(bundle.function("working:tell"), queue="own") == ("two", "two")
        assert scene.run("builtins:eval", "__import__('helping').NAME", queue="own") == "own"
