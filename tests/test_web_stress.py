"""`condiff web` under stress: full disks, guessed passwords, closed tabs, memory, shutdown."""

# The fixtures of test_web.py are arguments here.
# ruff: noqa: F401, F811

import asyncio
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import make_photo

pytest.importorskip("starlette", reason="the page needs starlette")
pytest.importorskip("httpx2", reason="starlette's client needs httpx2")

from starlette.datastructures import Headers
from starlette.testclient import TestClient

from condiff.errors import CondiffError
from condiff.web.app import Server, WebSettings
from condiff.web.security import LOGIN_DELAY, Logins
from condiff.web.sessions import clean_name
from condiff.web.worker import NO_ROOM, STOPPED, Busy, Worker
from tests.test_web import (
    BYTES,
    JSON,
    client,
    download,
    encode,
    events_of,
    find,
    models,
    order,
    send,
    server,
    session,
)

ROOT = Path(__file__).parents[1]
Disk = namedtuple("Disk", "free")


def uploads(server, session):
    return server.sessions.find(session.rsplit("/", 1)[1]).uploads


def test_an_upload_without_a_length_ends_where_the_disk_is_full(
    client,
    session,
    server,
    monkeypatch,
):
    free = iter([10**12, 0])  # before it, and after its first parts
    monkeypatch.setattr("condiff.web.app.CHECKED", 900)
    monkeypatch.setattr("condiff.web.app.shutil.disk_usage", lambda _: Disk(next(free)))
    parts = (bytes(1000) for _ in range(100))  # sent without a length
    response = client.post(f"{session}/photo/upload", headers=BYTES, content=parts)
    assert (response.status_code, response.json()["error"]) == (507, NO_ROOM)
    assert not uploads(server, session)
    assert not any((server.sessions.root / session.rsplit("/", 1)[1]).iterdir())


def test_a_full_disk_in_a_job_is_a_sentence_and_a_bug_is_none(capfd):
    async def run(error):
        worker = Worker()

        def fail():
            raise error
            yield

        try:
            return [event async for event in worker.submit(fail).events()][-1]
        finally:
            worker.close()

    full = OSError(errno.ENOSPC, "No space left on device")
    assert asyncio.run(run(full)) == {"error": NO_ROOM}
    assert "Traceback" not in capfd.readouterr().err
    assert "terminal" in asyncio.run(run(OSError(errno.EIO, "broken")))["error"]
    assert "Traceback" in capfd.readouterr().err


def test_a_long_name_is_shortened():
    name = clean_name("ü" * 60_000 + ".jpeg")
    assert name.endswith(".jpeg")
    assert len(os.fsencode(name)) <= 200


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_number_is_refused(client, session, number):
    upload = find(send(client, session, encode(make_photo(40, 30))), "upload")
    body = f'{{"seed": 3, "sampling": {{"guidance_scale": {number}}}}}'
    response = client.post(f"{session}/make/{upload}", content=body, headers=JSON)
    assert (response.status_code, "JSON" in response.json()["error"]) == (422, True)


def test_many_guesses_at_once_are_no_faster_and_others_do_not_wait(monkeypatch):
    logins = Logins("family:secret")
    right = Headers({"authorization": "Basic ZmFtaWx5OnNlY3JldA=="})
    wrong = Headers({"authorization": "Basic d3Jvbmc="})
    pause, running, delays, order = asyncio.sleep, [], [], []

    async def sleep(delay):
        running.append(delay)
        assert len(running) == 1  # one guess waits at a time
        await pause(0.01)
        delays.append(running.pop())

    async def check(name, address, headers):
        known = await logins.check({"client": (address, 1)}, headers)
        order.append((name, known, len(delays)))

    async def all_at_once():
        guesses = [check(f"guess {n}", "10.0.0.9", wrong) for n in range(5)]
        tasks = [asyncio.ensure_future(guess) for guess in guesses]
        await pause(0)
        lucky = asyncio.ensure_future(check("lucky", "10.0.0.9", right))
        await asyncio.gather(*tasks, lucky, check("family", "10.0.0.2", right))

    monkeypatch.setattr("condiff.web.security.asyncio.sleep", sleep)
    asyncio.run(all_at_once())
    assert delays == [LOGIN_DELAY] * 5
    assert order[0] == ("family", True, 0)
    assert order[1:6] == [(f"guess {n}", False, n + 1) for n in range(5)]
    assert order[6:] == [("lucky", True, 5)]  # it waited behind the wrong ones
    assert not logins._guesses
    assert not asyncio.run(logins.check({}, Headers({})))


def test_a_tab_has_one_zip_and_a_failed_one_leaves_nothing(
    client,
    session,
    server,
    tmp_path,
):
    upload = find(send(client, session, encode(make_photo(40, 30))), "upload")
    row = [upload, find(order(client, session, upload), "result")]
    for _ in range(3):
        events = events_of(client.post(f"{session}/zip", json={"results": [row]}))
    assert set(uploads(server, session)) == {upload, find(events[-2:], "upload")}

    def fail(*_):
        raise MemoryError
        yield

    colorizer = server.models.colorizer
    write, colorizer.write = colorizer.write, fail
    try:
        events = events_of(client.post(f"{session}/zip", json={"results": [row]}))
    finally:
        colorizer.write = write
    assert "memory" in find(events, "error")
    assert set(uploads(server, session)) == {upload}


def test_photos_leave_the_memory_and_are_read_again(
    client,
    session,
    server,
    monkeypatch,
):
    colorizer = server.models.colorizer
    colorizer.release()
    made = []
    for seed in range(2):
        upload = find(send(client, session, encode(make_photo(60, 44, seed=seed))), "upload")
        made.append((upload, find(order(client, session, upload), "result")))
    assert {key[0] for key in colorizer._shown} == {upload for upload, _ in made}
    monkeypatch.setattr("condiff.web.colorizer.KEPT_BYTES", 10_000)  # one of 7,920 bytes
    first = download(client, session, *made[0])
    assert len(colorizer._shown) == 2  # the first one was still there
    send(client, session, encode(make_photo(60, 44, seed=3)))
    assert len(colorizer._shown) == 1
    second = download(client, session, *made[1])
    asyncio.run(_tidy(server))
    assert not colorizer._shown
    assert order(client, session, made[0][0])[-1] == {"done": True}

    kept = [name for name in colorizer._samples if made[0][0] in name]
    assert kept
    client.post(f"{session}/remove/{made[0][0]}", headers=JSON)
    order(client, session, made[1][0])  # behind what frees it
    assert not [name for name in colorizer._samples if made[0][0] in name]
    assert first[1] != second[1]


async def _tidy(server):
    server._release()
    while server.worker.length:
        await asyncio.sleep(0.01)
    assert server.worker.rests_for >= 0


def test_a_stop_is_heard_at_once_and_nothing_more_is_taken():
    go_on = threading.Event()

    def slow():
        yield {"step": 0}
        go_on.wait(10)
        yield {"step": 1}

    async def run():
        worker = Worker()
        running, waiting = worker.submit(slow), worker.submit(slow)
        events = running.events()
        while "step" not in await anext(events):
            pass
        worker.stop()
        heard = [await anext(events)]
        heard += [event async for event in waiting.events()][-1:]
        with pytest.raises(Busy, match="stopped"):
            worker.submit(slow)
        go_on.set()
        worker.close()
        return heard

    assert asyncio.run(run()) == [{"error": STOPPED}] * 2
    assert issubclass(Busy, CondiffError)


@pytest.fixture
def held(server):
    """Keeps the worker busy until it is set."""
    go_on, begun = threading.Event(), threading.Event()

    def wait():
        begun.set()
        go_on.wait(20)
        yield {}

    async def submit():
        server.worker.submit(wait)

    asyncio.run(submit())
    assert begun.wait(20)
    yield go_on
    go_on.set()


def test_an_upload_that_is_canceled_while_it_waits_leaves_nothing(client, session, server, held):
    content, url, heard = encode(make_photo(40, 30)), f"{session}/photo/upload", []
    sending = threading.Thread(
        target=lambda: heard.extend(events_of(client.post(url, content=content, headers=BYTES)))
    )
    sending.start()
    while not server.worker._jobs:
        time.sleep(0.01)
    job = server.worker._jobs[0].id
    assert len(job) == 32  # cannot be guessed by another tab
    assert len(uploads(server, session)) == 1
    assert client.post(f"{session}/cancel/{job}", headers=JSON).json() == {"canceled": True}
    held.set()
    sending.join(20)
    assert heard[-1] == {"canceled": True}
    assert not uploads(server, session)
    assert not any((server.sessions.root / session.rsplit("/", 1)[1]).iterdir())


def test_an_upload_that_is_refused_by_a_full_queue_leaves_nothing(
    client, session, server, monkeypatch
):
    monkeypatch.setattr("condiff.web.worker.MAX_WAITING", 0)
    response = client.post(f"{session}/photo/upload", content=b"x", headers=BYTES)
    assert response.status_code == 503 and "waiting" in response.json()["error"]
    assert not uploads(server, session)


def test_a_folder_that_the_system_cleaned_is_told_and_made_again(models):
    made = Server(WebSettings(**models))
    with TestClient(made.build(), base_url="http://localhost:7860") as client:
        old = client.post("/api/session", headers=JSON).json()["session"]
        shutil.rmtree(made.sessions.root)
        for response in (
            client.post(f"/api/{old}/photo/upload", content=b"x", headers=BYTES),
            client.post(f"/api/{old}/alive", headers=JSON),
        ):
            assert response.status_code == 404 and "reload" in response.json()["error"]
        new = client.post("/api/session", headers=JSON).json()["session"]
        assert made.sessions.root.stat().st_mode & 0o777 == 0o700
        assert find(send(client, f"/api/{new}", encode(make_photo(40, 30))), "upload")
    assert not made.sessions.root.exists()


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_server_that_is_stopped_at_work_says_so_and_leaves_nothing(tiny_folder, tmp_path, stop):
    import http.client

    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "condiff", "web", "--port", "0", "--no-browser"]
    with (
        subprocess.Popen(
            [*command, "-m", str(tiny_folder)], env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as process,
        ExitStack() as opened,
    ):  # fmt: skip
        port = int(process.stdout.readline().strip().rsplit(":", 1)[1].strip("/"))

        def post(path, body=b"{}", headers=JSON):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=280)
            opened.callback(connection.close)
            connection.request("POST", path, body, headers)
            return connection.getresponse()

        session = json.loads(post("/api/session").read())["session"]
        photo = encode(make_photo(60, 44))
        sent = post(f"/api/{session}/photo/upload?name=a.jpg", photo, BYTES).read().splitlines()
        upload = find([json.loads(line) for line in sent], "upload")
        order = json.dumps({"seed": 1, "sampling": {"steps": 1000}}).encode()
        answer = post(f"/api/{session}/make/{upload}", order)
        begun = next(line for line in answer if b"step" in line)
        assert begun
        process.send_signal(stop)
        last = answer.read().splitlines()[-1]
        said = process.stderr.read()
    assert json.loads(last) == {"error": STOPPED}
    assert process.returncode == (128 + stop if stop == signal.SIGTERM else 0)
    assert "Traceback" not in said
    assert not list(tmp_path.glob("condiff-web-*"))
