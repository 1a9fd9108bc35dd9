"""Calls that are wrong: a checker of types objects to every line marked ``# wrong``, and to no other.

Read by checkers, never run.
"""

from __future__ import annotations

from dtq import AsyncClient, Client, Executor, TaskQueue, Worker, task, wait
from dtq.testing import InProcessQueue


def plain(a: int, b: str = "") -> float:
    return a + len(b)


async def coroutine(a: int) -> bytes:
    return bytes(a)


@task(priority=1)
def decorated(a: int) -> str:
    return str(a)


@task(priority="high")  # wrong
def bad_priority() -> None: ...


@task(retries=3)  # wrong
def bad_option() -> None: ...


def decorators() -> None:
    decorated("1")  # wrong
    decorated(1, 2)  # wrong
    number: int = decorated(1)  # wrong
    print(number)


def submitting(client: Client) -> None:
    text: str = client.submit(plain, 1).result()  # wrong
    other: str = client.submit(coroutine, 1).result()  # wrong
    client.submit(plain, 1, priority="high")  # wrong
    client.submit(coroutine, 1, delay="soon")  # wrong
    client.submit("module:function", 1, max_retries="many")  # wrong
    client.submit(3)  # wrong
    client.submit(plain, 1).result(timeout="long")  # wrong
    print(text, other)


def mapping(client: Client) -> None:
    texts: list[str] = list(client.map(plain, [1]))  # wrong
    client.map(plain, 3)  # wrong
    client.map(plain, [1], orderd=False)  # wrong
    client.submit_map(coroutine, [1]).task("first")  # wrong
    print(texts)


def presets(client: Client) -> None:
    preset = client.options(priority=1)
    preset.submit(plain, "1")  # wrong
    preset.submit(plain, 1, c=2)  # wrong
    preset.submit(coroutine)  # wrong
    client.options(prority=1)  # wrong


def waiting(client: Client) -> None:
    wait([client.submit(plain, 1)], return_when="SOON")  # wrong
    wait([1, 2])  # wrong


async def awaiting(client: AsyncClient) -> None:
    text: str = await (await client.submit(plain, 1))  # wrong
    handle = client.submit(plain, 1)
    print(handle.id)  # wrong
    await client.submit(plain, 1, timeout="long")  # wrong
    async for value in client.map(plain, [1]):
        value.upper()  # wrong
    list(client.map(plain, [1]))  # wrong
    await client.options().submit(plain, "1")  # wrong
    print(text, await handle)


async def queueing(queue: TaskQueue) -> None:
    number: int = await queue.submit(plain, 1)  # wrong
    queue.get_stats()["unknown"]  # wrong
    TaskQueue(num_workers="4")  # wrong
    print(number)


def working() -> None:
    Worker(worker_id=3)  # wrong
    Worker().register_handler("email", 3)  # wrong
    Worker().start(poll_interval="1s")  # wrong


def executing(executor: Executor) -> None:
    executor.submit(plain, "1")  # wrong
    text: str = executor.submit(plain, 1).result()  # wrong
    Executor.local(prioriy=1)  # wrong
    print(text)


def testing(queue: InProcessQueue) -> None:
    queue.advance("1")  # wrong
    queue.assert_submitted(3)  # wrong
    number: int = queue.run_due()  # wrong
    print(number)
