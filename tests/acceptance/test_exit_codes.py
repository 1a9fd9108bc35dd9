"""Every exit code of the table, by a command that ends with it; and every wrong input as one clear sentence.

Each case shows: the code, one line on standard error that says what to do, an empty standard output, no traceback.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import textwrap
from pathlib import Path

import pytest

from tests.acceptance.home import Command, Home
from tests.cluster import until


def refused(command: Command, code: int, sentence: str) -> None:
    """The command ended with a code, and said one line, which a pattern matches, and nothing else."""
    assert command.process.returncode == code, command
    assert command.out == "", command
    assert command.err.count("\n") == 1, command
    assert re.match(f"dtq: {sentence}", command.err), command


# -- wrong use: 2 -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        # More of these are in the unit tests of the command line; they never get as far as a socket.
        ("submit nocolon", r"a function cannot be 'nocolon': write module:function, for example mymodule:work\."),
        (
            "status seventeen",
            r"'seventeen' is not a task id: write a batch \(17\), one task of it \(17\.3\), or a run of them \(17\.0-",
        ),
        ("worker --connect lab:99999", r"'lab:99999' is not an address: write host:port"),
        ("coordinator start --host [::1]", r"a host cannot be '\[::1\]': write a name or an address"),
    ],
)
def test_2_wrong_use(home: Home, words: str, sentence: str) -> None:
    refused(home.dtq(*words.split()), 2, sentence)


# -- what was given does not fit: 65 ------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["status 4711", "result 4711", "wait 4711.2", "cancel 4711", "dlq show 4711"])
def test_65_unknown_id(cluster: Home, words: str) -> None:
    refused(cluster.dtq(*words.split()), 65, r"no task 4711(\.2)? is known here: .* `dtq list` shows the tasks\.")


@pytest.mark.parametrize("verb", ["retry", "purge --yes"])
def test_65_not_a_dead_letter(cluster: Home, verb: str) -> None:
    task = cluster.id("jobs:add", "1")
    cluster.dtq("wait", task)
    for name in (task, "4711"):
        done = cluster.dtq("dlq", *verb.split(), name)
        assert (done.process.returncode, done.out) == (65, ""), done


def test_65_argument_over_the_limit(home: Home) -> None:
    home.coordinator("--memory", "--max-value", "128KiB")
    (home.work / "large").write_text("x" * 200_000 + "\n")
    refused(
        home.dtq("submit", "jobs:add", "--each", "large"),
        65,
        r"a task's call has 200,020 bytes, more than the limit of 131,072",
    )
    assert home.data("stats")["stats"]["submitted"] == 0


def test_65_key_of_another_submission(cluster: Home) -> None:
    cluster.id("jobs:add", "1", "--key", "mine", "--delay", "1h")
    refused(
        cluster.dtq("submit", "jobs:echo", "2", "--key", "mine"), 65, r"the key 'mine' already belongs to batch \d+"
    )


# -- no coordinator: 69, another protocol: 76, a wrong key: 77 ----------------------------------------------------


def _with_a_key(home: Home) -> None:
    home.key.parent.mkdir(parents=True)
    home.key.write_text("a key that is long enough")
    home.key.chmod(0o600)


@pytest.mark.parametrize("words", ["stats", "submit jobs:add 1", "wait 1", "coordinator status", "coordinator stop"])
def test_69_no_coordinator(home: Home, words: str) -> None:
    _with_a_key(home)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    sentence = rf"no coordinator answers at 127\.0\.0\.1:{port} \(connection refused\)\. Start one with `dtq coord"
    refused(home.dtq(*words.split(), "--connect", f"127.0.0.1:{port}"), 69, sentence)


def test_69_something_else_listens_there(home: Home) -> None:
    _with_a_key(home)
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = home.start("stats", "--connect", f"127.0.0.1:{server.getsockname()[1]}")
        peer, _ = server.accept()
        peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"x" * 100)
        peer.close()
        assert command.ends() in (69, 76), command
    assert "Traceback" not in command.err
    assert command.err.count("\n") == 1


def test_72_slots_that_do_not_start(home: Home) -> None:
    # Given a module that ends whatever imports it
    home.coordinator("--memory")
    (home.work / "deadly.py").write_text("import os\nos._exit(3)\n")
    done = home.dtq("worker", "--slots", "10", "--import", "deadly", "--name", "lab")
    assert done.process.returncode == 72, done
    assert "slot 10 died at its start" in done.err
    assert re.search(r"^dtq: the worker lab is broken: 10 slots in a row died at their start; ", done.err, re.MULTILINE)
    assert "Traceback" not in done.err


def test_76_another_protocol(home: Home) -> None:
    # Given a client that speaks a later protocol than the coordinator
    home.coordinator("--memory")
    (home.directory / "later").mkdir()
    (home.directory / "later" / "sitecustomize.py").write_text(
        "import dtq.model.messages as m\nm.Hello.__init__.__kwdefaults__['protocol'] = 99\n"
    )
    done = home.dtq("stats", PYTHONPATH=str(home.directory / "later"))
    refused(done, 76, r"this side speaks protocol .*Install the same version of dtq on both\.")


def test_77_wrong_key(home: Home) -> None:
    home.coordinator("--memory")
    home.key.rename(home.directory / "right.key")
    home.key.write_text("another key, long enough")
    home.key.chmod(0o600)
    sentence = r"the coordinator at 127\.0\.0\.1:\d+ refused the handshake: it has another authkey than .*/other\.key\."
    home.key.rename(home.directory / "other.key")
    for words in (["stats"], ["submit", "jobs:add"], ["worker"]):
        done = home.dtq(*words, "--authkey-file", str(home.directory / "other.key"))
        assert done.process.returncode == 77, done
        assert re.search(f"dtq: {sentence} Copy the coordinator's key file here", done.err), done
    # And with the right one, all is well
    assert home.dtq("stats", "--authkey-file", str(home.directory / "right.key")).process.returncode == 0


def test_77_key_open_to_others(home: Home) -> None:
    _with_a_key(home)
    home.key.chmod(0o644)
    for words in ("stats", "worker", "coordinator start --memory --port 0"):
        refused(
            home.dtq(*words.split()), 77, r"the authkey file .*authkey cannot be used: others can read it; run chmod"
        )


def test_78_no_key(home: Home) -> None:
    for words in ("stats", "submit jobs:add", "worker"):
        refused(
            home.dtq(*words.split()), 78, r"no authkey found: .*authkey does not exist\. Start a coordinator as this"
        )


# -- configuration: 78 --------------------------------------------------------------------------------------------


def test_78_bad_configuration(home: Home) -> None:
    (home.work / "dtq.toml").write_text("[coordinator]\nprot = 3\n")
    for words in ("coordinator start", "worker", "stats", "submit jobs:add"):
        sentence = r".*/dtq\.toml: unknown key 'prot' in \[coordinator\]; did you mean 'port'\?"
        refused(home.dtq(*words.split()), 78, sentence)


def test_78_bad_variable(home: Home) -> None:
    refused(home.dtq("worker", DTQ_SLOTS="many"), 78, r"DTQ_SLOTS: slots cannot be 'many': it is a whole number")
    refused(home.dtq("stats", DTQ_ADDRESS="lab"), 78, r"DTQ_ADDRESS: 'lab' is not an address: write host:port")


# -- what has to be made cannot be: 73; the store: 74 -------------------------------------------------------------


def test_73_port_in_use(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = home.dtq("coordinator", "start", "--memory", "--port", str(port))
    assert done.process.returncode == 73, done
    sentence = rf"dtq: cannot listen on 127\.0\.0\.1:{port}: address already in use.*\. Stop the other process, or"
    assert re.match(sentence, done.err), done


def test_73_store_in_use(home: Home) -> None:
    first = home.coordinator("--db", "queue.db")
    done = home.dtq("coordinator", "start", "--db", "queue.db", "--port", "0")
    assert done.process.returncode == 73, done
    assert re.search(
        rf"dtq: the store .*queue\.db is in use by another coordinator \(pid {first.process.pid}\)", done.err
    )


def test_74_store_is_no_store(home: Home) -> None:
    (home.work / "text.db").write_text("this is no database, but somebody's diary\n" * 100)
    done = home.dtq("coordinator", "start", "--db", "text.db", "--port", "0")
    assert done.process.returncode == 74, done
    assert "dtq: the store " in done.err
    assert "The file was not touched" in done.err
    assert (home.work / "text.db").read_text().startswith("this is no database")


def test_74_file_that_cannot_be_read(cluster: Home) -> None:
    refused(
        cluster.dtq("submit", "jobs:add", "--each", "nowhere.txt"), 74, r"nowhere\.txt: No such file or directory\."
    )


def test_74_store_in_a_directory_that_is_none(home: Home) -> None:
    (home.work / "file").touch()
    done = home.dtq("coordinator", "start", "--db", "file/queue.db", "--port", "0")
    assert done.process.returncode in (73, 74), done
    assert "file/queue.db" in done.err


# -- later: 75, the time: 124, the user: 130, 143 -----------------------------------------------------------------


def test_75_queue_full(home: Home) -> None:
    home.coordinator("--memory", "--max-tasks", "2")
    home.id("jobs:add", "1")
    home.id("jobs:add", "1")
    sentence = r"the queue already holds 2 tasks, its limit is 2\. Wait for workers to catch up"
    refused(home.dtq("submit", "jobs:add", "1"), 75, sentence)


def test_75_not_finished(cluster: Home) -> None:
    task = cluster.id("jobs:add", "1", "--delay", "1h")
    refused(cluster.dtq("result", task), 75, rf"task {task} is still scheduled\. `dtq wait` waits for it\.")
    (cluster.work / "two").write_text("1\n2\n")
    batch = cluster.id("jobs:add", "--each", "two", "--delay", "1h")
    refused(cluster.dtq("result", batch), 75, rf"task {batch} is still unfinished \(2 scheduled\)")


def test_124_time_ran_out_and_its_json(cluster: Home) -> None:
    task = cluster.id("jobs:add", "1", "--delay", "1h")
    done = cluster.dtq("wait", task, "--timeout", "50ms", "--json")
    assert (done.process.returncode, done.out) == (124, "")
    document = json.loads(done.err)
    assert document["schema"] == 1
    assert document["error"]["code"] == "wait-timeout"


def test_130_and_143_end_a_command_at_once(cluster: Home) -> None:
    task = cluster.id("jobs:add", "1", "--delay", "1h")
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)):
        waiting = cluster.start("submit", "--wait", "jobs:nap", "600", "--delay", "1h")
        until(lambda waiting=waiting: waiting.connected, "somebody waits")  # type: ignore[misc]
        waiting.signal(number)
        assert waiting.ends(within_s=10) == code
        assert "Traceback" not in waiting.err
    assert cluster.dtq("cancel", task).process.returncode == 0


# -- a bug: 70 ----------------------------------------------------------------------------------------------------


def test_70_a_bug_is_a_line_and_on_request_a_traceback(home: Home) -> None:
    # Given a dtq with a bug in it
    _with_a_key(home)
    (home.directory / "buggy").mkdir()
    (home.directory / "buggy" / "sitecustomize.py").write_text(
        textwrap.dedent(
            """
            import dtq.cli.calling as calling
            def target(*_): raise KeyError("surprise")
            calling.target = target
            """
        )
    )
    path = str(home.directory / "buggy")
    refused(
        home.dtq("stats", PYTHONPATH=path), 70, r"unexpected KeyError: 'surprise'\. This is a bug in dtq; run again"
    )
    command = home.start("stats", PYTHONPATH=path, DTQ_DEBUG="1")
    assert command.ends() == 70
    assert "Traceback" in command.err


# -- what goes wrong on the worker: the task is a dead letter, with a sentence -----------------------------------


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        ("jobs:no_such_function", r"no_such_function"),
        ("no_such_module:work", r"no_such_module"),
        ("jobs:lock", r"cannot (be )?pickle"),
        ("jobs:die", r"SIGKILL|signal 9"),
    ],
)
def test_1_what_cannot_be_run_is_a_dead_letter(cluster: Home, function: str, sentence: str) -> None:
    words = ["--max-retries", "0", "--max-crashes", "1"]
    done = cluster.dtq("submit", "--wait", function, *words)
    assert done.process.returncode == 1, done
    assert done.err.count("\n") == 1, done
    assert re.match(r"dtq: task \d+ ", done.err), done
    assert re.search(sentence, done.err), done
    # And it is found there, with the reason
    task = re.findall(r"\d+", done.err)[0]
    letters = cluster.data("dlq", "list")["dead_letters"]
    assert task in [entry["id"] for entry in letters]
    assert re.search(sentence, cluster.dtq("dlq", "show", task).out)


def test_1_a_time_limit_ends_a_task(cluster: Home) -> None:
    done = cluster.dtq("submit", "--wait", "jobs:nap", "60", "--timeout", "300ms", "--max-retries", "0")
    assert done.process.returncode == 1, done
    assert "time limit" in done.err, done


def test_every_code_of_the_table_has_a_test_here() -> None:
    from dtq.cli.failures import EXIT_CODES

    tested = set(re.findall(r"^def test_(\d+)_", Path(__file__).read_text(), re.MULTILINE)) | {"143"}
    elsewhere = {"0", "141", "71", "129"}  # all of test_commands, test_up
    assert {str(code) for code in EXIT_CODES} == tested | elsewhere
