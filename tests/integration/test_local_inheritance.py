"""What the slots of a local cluster have of their program: streams, interpreter options, multiprocessing's family."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.cluster import DEADLINE_S, Cluster

ROOT = Path(__file__).parents[2]


def run(tmp_path: Path, program: str, *flags: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program of its own to its end."""
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(program))
    return subprocess.run(
        [sys.executable, *flags, str(script)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
        cwd=cwd or tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_what_tasks_print_goes_where_the_program_prints_in_order(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        import logging, sys, warnings
        from dtq import Executor

        def speak(n):
            print("out", n)
            print("err", n, file=sys.stderr)
            warnings.warn(f"warning {n}")
            logging.getLogger("mine").error("record %d", n)
            print("no line", n, end=";")

        if __name__ == "__main__":
            with Executor.local(1) as executor:
                for n in range(3):
                    executor.submit(speak, n).result()
                    print(f"[{n} is done]", flush=True)
        """,
    )
    assert done.stdout == "".join(f"out {n}\nno line {n};[{n} is done]\n" for n in range(3)), done
    lines = [line for line in done.stderr.splitlines() if line.startswith(("err", "record")) or "warning" in line]
    assert [line.split(":")[-1].strip() for line in lines if "warn(" not in line] == [
        f"{word} {n}" for n in range(3) for word in ("err", "warning", "record")
    ], done.stderr


def test_what_a_call_prints_as_the_program_ends_is_seen(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        import time
        from dtq import Executor

        def late():
            time.sleep(0.3)
            print("apple")

        Executor.local(1).submit(late)
        """,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("apple\n", "", 0)


def test_task_queue_prints_too(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        import asyncio
        from dtq import TaskQueue

        async def main():
            async with TaskQueue(1) as queue:
                await queue.submit(print, "from a task")

        asyncio.run(main())
        """,
    )
    assert (done.stdout, done.returncode) == ("from a task\n", 0), done.stderr


def test_slots_have_the_interpreter_options_of_the_program(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        import sys
        from dtq import Executor

        def options():
            return sys.flags.optimize, sys.flags.dev_mode, sys.warnoptions

        with Executor.local(1) as executor:
            print(*options())
            print(*executor.submit(options).result())
        """,
        "-OO",
        "-X",
        "dev",
        "-W",
        "ignore::ResourceWarning",
    )
    assert done.stdout.splitlines() == ["2 True ['default', 'ignore::ResourceWarning']"] * 2, done


def test_module_of_the_working_directory_hides_no_module_of_the_standard_library(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    for name in ("random", "logging", "selectors", "tempfile"):
        (here / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    (here / "mine.py").write_text("def answer():\n    return 42\n")
    done = run(
        tmp_path,
        """
        from dtq import Executor

        with Executor.local(1) as executor:
            submit = executor.client.submit
            print(submit("mine:answer").result(), submit("random:getrandbits", 0).result())
        """,
        cwd=here,
    )
    assert done.stdout == "42 0\n", done.stderr


def test_proxies_of_the_programs_managers_work_in_slots(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        import multiprocessing
        from dtq import Executor

        def record(shared, n):
            shared[n] = n * n

        if __name__ == "__main__":
            with multiprocessing.Manager() as manager, Executor.local(2) as executor:
                shared = manager.dict()
                list(executor.map(record, [shared] * 10, range(10)))
                print(sorted(shared.items()) == [(n, n * n) for n in range(10)])
        """,
    )
    assert done.stdout == "True\n", done.stderr


#: Uses shared memory from slots, one of which dies at it; prints what the others have done, if that is still there.
SHARING = """
import os
import signal
import subprocess
from multiprocessing.shared_memory import SharedMemory
from dtq import Executor

def fill(name):
    memory = SharedMemory(name)
    memory.buf[0] += 1
    memory.close()

def die(name):
    SharedMemory(name)
    # Its reaper would kill what removes the memory before that has done so; most of the time.
    subprocess.Popen(["sh", "-c", f"sleep 0.1; kill -CONT {{os.getppid()}}"])
    os.kill(os.getppid(), signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    memory = SharedMemory(create=True, size=100)
    with {executor} as executor:
        executor.submit(fill, memory.name).result()
        executor.options(max_crashes=1).submit(die, memory.name).exception()
        executor.submit(fill, memory.name).result()
        print(memory.buf[0])
        memory.close()
        memory.unlink()
"""


def test_shared_memory_outlives_the_slots_of_a_local_cluster_that_used_it(tmp_path: Path) -> None:
    done = run(tmp_path, SHARING.format(executor="Executor.local(1)"))
    assert (done.stdout, done.stderr, done.returncode) == ("2\n", "", 0)


def test_shared_memory_outlives_the_slots_of_a_worker_that_used_it(tmp_path: Path) -> None:
    with Cluster(tmp_path, memory=True) as cluster:
        cluster.coordinator()
        worker = cluster.worker(slots=1)
        where = f"Executor({cluster.address!r}, authkey_file={str(cluster.key_file)!r})"
        done = run(tmp_path, SHARING.format(executor=where))
        assert (done.stdout, done.returncode) == ("2\n", 0), done.stderr
        assert worker.popen.poll() is None
