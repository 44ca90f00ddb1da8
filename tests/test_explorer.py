"""The explorer's server: what it answers is the run's, and what it is sent cannot harm it."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch

from tests.data.refusals import refused
from train import explore
from train.cli import command
from train.explore import ExploreSettings, opened
from train.explorer import guard, held_out, server, worker
from train.explorer.arrays import packed
from train.explorer.base import View
from train.planes import Plane
from train.trained import load
from train.verbs.base import Trained

JSON = {"content-type": "application/json"}
RUNS = (Path("runs/my-run"),)
DECODING = ("ae", "ae-colour", "icvae", "icvae-quantities", "icvae-echo", "icvae-vae")
KINDS = (*DECODING, "icvae-columns", "abc", "air")


@pytest.fixture(scope="module")
def views(explored) -> dict[str, View]:
    """The views of all runs by name."""
    return {name: opened(explored[name], ExploreSettings(RUNS)) for name in (*KINDS, "bench")}


class Answer(NamedTuple):
    """What a server answers."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@pytest.fixture(scope="module")
def address(views) -> Iterator[str]:
    """The address of a page over all runs."""
    with server.serving(list(views.values())) as started:
        yield started


@pytest.fixture(scope="module")
def request_of(address) -> Callable[..., Answer]:
    """Sends a request; TOKEN in the path stands for the token."""
    parts = urlsplit(address)

    def sent(method: str, path: str, body: bytes | str = b"", **headers: str) -> Answer:
        connection = HTTPConnection(parts.netloc, timeout=20)
        path = path.replace("TOKEN", parts.path.strip("/"))
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        found = Answer(answer.status, answer.headers, answer.read().decode())
        connection.close()
        return found

    return sent


@pytest.fixture(scope="module")
def ask(request_of, views) -> Callable[..., dict[str, Any]]:
    """Asks the view of a run for a verb, and returns what it answers."""

    def asked(name: str, verb: str, **fields: Any) -> dict[str, Any]:
        path = f"/TOKEN/views/{list(views).index(name)}/{verb}"
        answer = request_of("POST", path, json.dumps(fields), **JSON)
        assert answer.status == 200, answer.text
        return answer.json

    return asked


def unpacked(value: dict[str, Any]) -> np.ndarray:
    """Reads an array as the page does."""
    content = base64.b64decode(value["bytes"])
    return np.frombuffer(content, dtype=value["type"]).reshape(value["shape"])


def levels(images: torch.Tensor) -> np.ndarray:
    """The bytes of images in [0, 1]."""
    return (images.numpy() * 255).round().astype(np.uint8)


def shown(view: View) -> torch.Tensor:
    """The held-out images of a view."""
    return view.held_out.images


@pytest.mark.parametrize("name", DECODING)
def test_codes_and_images_are_those_of_the_verbs(ask, explored, views, name):
    trained, view = load(explored[name]), views[name]
    images = shown(view)[:3]
    labels, given = None, {}
    if name.startswith("icvae") and name != "icvae-vae":
        labels = view.held_out.values[:3]
        given = {"labels": [[value] for value in labels.tolist()]}
    z = np.random.default_rng(0).normal(size=(3, trained.code_size)).astype(np.float32)
    decoded = unpacked(ask(name, "decode", codes=z.tolist(), **given)["images"])
    expected = trained.decode(z) if labels is None else trained.decode(z, labels)
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded.reshape(3, -1), levels(expected).reshape(3, -1))
    codes = unpacked(ask(name, "encode", images=packed(images), **given)["codes"])
    assert codes.shape == (3, trained.code_size)
    if name == "icvae-echo":
        # Its noise is drawn anew, from other images.
        return
    by_labels = [labels] if name == "icvae-quantities" else []
    np.testing.assert_allclose(codes, trained.encode(images, *by_labels), atol=1e-6)


def test_the_map_is_the_codes_of_held_out_images(explored, views, ask):
    about = views["ae-colour"].description()
    images = shown(views["ae-colour"])
    codes = load(explored["ae-colour"]).encode(images).numpy()
    np.testing.assert_allclose(unpacked(about["codes"]), codes, atol=1e-6)
    assert np.array_equal(unpacked(ask("ae-colour", "images")["images"]), images.numpy())
    (colouring,) = about["colourings"]
    classes = [colouring["classes"][value] for value in colouring["values"]]
    assert classes == views["ae-colour"].held_out.values.tolist()
    plane = Plane(*map(np.array, about["plane"].values()))
    points = unpacked(about["points"])
    # What the plane leaves out is orthogonal to it.
    np.testing.assert_allclose(plane.project(plane.lift(points)), points, atol=1e-5)
    assert np.var(points, axis=0).sum() > 0.6 * np.var(codes, axis=0).sum()


def test_scenes(ask, explored, views):
    air, image = load(explored["air"]), shown(views["air"])[:1]
    found = {
        name: unpacked(value) for name, value in ask("air", "detect", images=packed(image)).items()
    }
    expected = air.detect(image)
    count = int(expected.counts[0])
    assert count >= 2
    for name in ("counts", "probabilities", "boxes", "z_where", "z_what", "z_background"):
        np.testing.assert_allclose(found[name], getattr(expected, name)[0], atol=1e-5)
    assert np.array_equal(found["masks"], levels(expected.masks[0]))
    rebuilt = levels(expected.reconstruction.clamp(0, 1))
    assert np.array_equal(found["reconstruction"][0], rebuilt)
    # The codes of what was found draw the same scene again.
    scene = unpacked(ask("air", "decode", codes=air.encode(image).tolist())["images"])
    assert np.array_equal(scene[0], rebuilt)
    draws = [unpacked(ask("air", "sample", n=2, count=2, seed=s)["images"]) for s in (1, 1, 2)]
    assert draws[0].shape == (2, 1, 20, 24)
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    assert unpacked(ask("air", "sample", n=1, count=None)["counts"]).shape == (1,)


def test_the_nearest_images_of_every_set(ask, explored, views):
    trained, view = load(explored["abc"]), views["abc"]
    images, labels = shown(view), view.held_out.values
    found = ask("abc", "nearest", images=packed(images[:1]), k=2)["nearest"]
    for name, indices in found.items():
        rows = np.flatnonzero(labels == name)
        assert indices == rows[trained.retrieve(images[:1], images[rows], k=2)[0]].tolist()
    sets = {each["name"]: each["withheld"] for each in view.description()["sets"]}
    assert sets == {"ant": False, "bee": False, "cat": True}


def test_tables_of_estimators(views):
    tables = views["bench"].description()["tables"]
    assert tables["training"][0] == {
        "estimator": "marginal", "seed": 0, "step": 1, "seconds": 0.1, "elbo": -99,
    }  # fmt: skip
    assert tables["training"][-1]["elbo"] is None
    assert [row["variance"] for row in tables["gradients"]] == [2.5, 4.5, 9]


def test_measures_are_told_in_words(views):
    told = views["icvae"].description()["measures"]
    assert told[0] == {
        "title": "class, read from codes", "value": "12.2%", "beside": "chance 10.0%",
    }  # fmt: skip


def test_named_conditions(ask, explored, views):
    icvae = load(explored["icvae-columns"])
    kind, size = views["icvae-columns"].description()["conditions"]
    assert kind["classes"] == ["ant", "bee", "cat"]
    assert size["low"][0] < size["high"][0]
    given = [["bee", [0.5]], ["cat", [-1]]]
    images = unpacked(ask("icvae-columns", "decode", codes=[[0, 1]] * 2, labels=given)["images"])
    labels = {"kind": ["bee", "cat"], "size": [0.5, -1.0]}
    expected = icvae.decode([[0, 1]] * 2, labels)
    assert np.array_equal(images[:, 0], levels(expected))


def test_what_is_described_is_what_there_is(request_of, views):
    described = request_of("GET", "/TOKEN/views").json
    assert [each["name"] for each in described] == list(views)
    page = request_of("GET", "/TOKEN/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for name, value in guard.HEADERS.items():
        assert page.headers[name] == value
    # Nothing is fetched from elsewhere.
    assert "//" not in page.text


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status", "word"),
    [
        ("GET", "/", {}, "", 403, "token"),
        ("GET", "/wrong/", {}, "", 403, "token"),
        ("GET", "/TOKEN1/views", {}, "", 403, "token"),
        ("GET", "/TOKEN/", {"Host": "evil.example"}, "", 421, "evil.example"),
        ("GET", "/TOKEN/", {"Host": "127.0.0.1.evil.example:80"}, "", 421, "evil.example"),
        ("GET", "/TOKEN/", {"Origin": "http://evil.example"}, "", 403, "evil.example"),
        ("GET", "/TOKEN/static/..%2f..%2fserver.py", {}, "", 404, ""),
        ("GET", f"/TOKEN/views/{'9' * 5_000}/decode", {}, "", 400, "cannot be answered"),
        ("OPTIONS", "*", {}, "", 403, "token"),
        ("GET", "/TOKEN/static/nothing.js", {}, "", 404, "nothing.js"),
        ("POST", "/TOKEN/views", JSON, "{}", 405, ""),
        ("DELETE", "/TOKEN/views/0/decode", {}, "", 405, ""),
        ("POST", "/TOKEN/views/99/decode", JSON, "{}", 404, "no view 99"),
        ("POST", "/TOKEN/views/0/save", JSON, "{}", 404, "no verb save"),
        ("POST", "/TOKEN/views/0/decode", {}, "{}", 415, "JSON"),
        ("POST", "/TOKEN/views/0/decode", JSON, "[]", 400, "object"),
        ("POST", "/TOKEN/views/0/decode", JSON, "a" * 2**21, 413, "bytes"),
    ],
)
def test_strangers_and_wrong_paths_are_refused(
    request_of, method, path, headers, body, status, word
):
    answer = request_of(method, path, body, **headers)
    assert answer.status == status
    assert word in answer.json["error"]


@pytest.mark.parametrize(
    ("name", "verb", "text", "word"),
    [
        ("ae", "decode", '{"codes": [[1, NaN]]}', "finite"),
        ("ae", "decode", '{"codes": [[1, 1e999]]}', "finite"),
        ("ae", "decode", '{"codes": [[1, 1e60]]}', "finite"),
        ("ae", "decode", '{"codes": [[1]]}', "lists of 2"),
        ("ae", "decode", '{"codes": [[1, true]]}', "finite numbers"),
        ("ae", "decode", '{"codes": []}', "1 to 512"),
        ("ae", "decode", f'{{"codes": {[[0, 0]] * 513}}}', "1 to 512"),
        ("ae", "decode", "{" * 100_000, "JSON"),
        ("ae", "decode", '{"codes": ' + "[" * 100_000, "JSON"),
        ("ae", "encode", '{"images": 3}', "images"),
        ("ae", "encode", '{"images": {"shape": [1, 1, 99999, 99999]}}', "12, 10"),
        (
            "ae",
            "encode",
            '{"images": {"shape": [1, 1, 12, 10], "type": "uint8", "bytes": "?"}}',
            "base64",
        ),
        (
            "ae",
            "encode",
            '{"images": {"shape": [1, 1, 12, 10], "type": "uint8", "bytes": "AAAA"}}',
            "120 bytes",
        ),
        ("icvae", "decode", '{"codes": [[0, 0]], "labels": [["dog"]]}', "no class 'dog'"),
        ("icvae", "decode", '{"codes": [[0, 0]], "labels": ["ant"]}', "1 lists of 1"),
        ("icvae", "decode", '{"codes": [[0, 0]]}', "labels are None"),
        ("icvae-quantities", "decode", '{"codes": [[0, 0]], "labels": [[[1]]]}', "2 finite"),
        ("icvae-vae", "decode", '{"codes": [[0, 0]], "labels": [[1]]}', "no condition"),
        ("air", "sample", '{"n": 10000}', "16"),
        ("air", "sample", '{"n": 1, "count": 4}', "count"),
        ("air", "sample", '{"n": 1, "count": 0.5}', "count"),
        ("air", "sample", '{"n": 1, "seed": -1}', "seed"),
    ],
)
def test_what_a_verb_cannot_use_is_refused_in_words(request_of, views, name, verb, text, word):
    path = f"/TOKEN/views/{list(views).index(name)}/{verb}"
    answer = request_of("POST", path, text, **JSON)
    assert answer.status == 400, answer.text
    assert word in answer.json["error"]


def hostile(address: str, n: int) -> list[bytes]:
    """Requests of random sizes, types, paths, tokens and hosts, all of them wrong."""
    rng = random.Random(0)
    parts = urlsplit(address)
    right = f"{parts.path}views/0/decode"
    bodies = (
        b"",
        b"{",
        b"\x00\xff" * 50,
        b"[" * 5_000,
        b'{"codes": [[NaN, 0]]}',
        b'{"codes": {"a": 1}}',
        b'{"codes": [["1", "2"]]}',
        json.dumps({"codes": [[0, 0]] * 1_000}).encode(),
        b'{"images": {"shape": [-1, 1, 12, 10]}}',
    )
    paths = ("/", "//", "/../../etc/passwd", f"/{'a' * 3_000}/", "/%00%ff/")
    paths += tuple(
        f"{parts.path}{end}" for end in ("static/../a.py", "views/-1/x", "views/0/__init__")
    )
    made = []
    for _ in range(n):
        kind = rng.choice(["body", "path", "host", "type", "length", "method"])
        method, path, host, body = "POST", right, parts.netloc, rng.choice(bodies)
        content, length = "application/json", None
        if kind == "path":
            path = rng.choice(paths)
        elif kind == "host":
            host = rng.choice(["evil.example", "", "[::1", "127.0.0.1@evil.example", "a" * 500])
        elif kind == "type":
            content = rng.choice(["", "text/plain", "multipart/form-data", "application/x" * 99])
        elif kind == "length":
            length = rng.choice([2**31, 10**30])
        elif kind == "method":
            method = rng.choice(["PUT", "DELETE", "PATCH"])
        length = len(body) if length is None else length
        made.append(
            f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {content}\r\n"
            f"Content-Length: {length}\r\nConnection: close\r\n\r\n".encode()
            + body
        )
    return made


async def sent(address: str, request: bytes) -> tuple[int, bytes]:
    """Sends bytes, and returns the status and the body of the answer."""
    parts = urlsplit(address)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def test_a_thousand_hostile_requests_leave_it_serving(address, ask):
    requests = hostile(address, 1_000)

    async def attack() -> list[tuple[int, bytes]]:
        answers = []
        for at_once in (requests[i : i + 100] for i in range(0, 1_000, 100)):
            answers += await asyncio.gather(*(sent(address, each) for each in at_once))
        return answers

    answers = asyncio.run(attack())
    statuses = Counter(status for status, _ in answers)
    assert all(400 <= status < 500 for status in statuses), statuses
    assert {400, 403, 404, 405, 413, 415, 421} <= set(statuses)
    assert all(len(body) > 10 for _, body in answers)
    assert ask("ae", "decode", codes=[[0, 0]])["images"]["shape"] == [1, 1, 12, 10]


def test_too_many_at_once_and_too_slow_ones_are_refused(views, monkeypatch):
    monkeypatch.setattr(guard, "MOST_AT_ONCE", 2)
    monkeypatch.setattr(guard, "SECONDS", 0.3)
    with server.serving([views["ae"]]) as address:
        path = urlsplit(address).path
        slow = (
            f"POST {path}views/0/decode HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{{"
        )

        async def wait() -> list[tuple[int, bytes]]:
            late = slow.replace("Host", "Connection: close\r\nHost").encode()
            return await asyncio.gather(*(sent(address, late) for _ in range(5)))

        answers = Counter(status for status, _ in asyncio.run(wait()))
        assert answers == {408: 2, 429: 3}


def test_of_a_channel_the_latest_is_run():
    """The mutation: a worker that forgets who came last runs all of them."""

    async def follow() -> list[Any]:
        one, ran = worker.Worker(), []
        first = asyncio.ensure_future(one.run("a", lambda: time.sleep(0.05)))
        await asyncio.sleep(0.01)
        waiting = [
            asyncio.ensure_future(one.run(channel, lambda i=i: ran.append(i)))
            for i, channel in enumerate(["a", "a", "b", "", "", "a"])
        ]
        results = await asyncio.gather(first, *waiting, return_exceptions=True)
        dropped = [isinstance(each, worker.SupersededError) for each in results]
        one.close()
        return [ran, dropped]

    ran, dropped = asyncio.run(follow())
    assert ran == [2, 3, 4, 5]
    assert dropped == [False, True, True, False, False, False, False]


def test_the_data_are_those_of_the_run(explored, tmp_path):
    other = tmp_path / "other.npz"
    images = np.random.default_rng(5).integers(0, 256, (60, 12, 10), dtype=np.uint8)
    np.savez(other, images=images, labels=np.arange(60) % 3)
    with refused("other.npz", "other data"):
        opened(explored["ae"], ExploreSettings(RUNS, data=str(other)))
    trained = load(explored["ae"])
    assert len(held_out.sampled(held_out.reopened(trained), 5)) == 5


def test_a_method_without_a_view_is_refused(explored, monkeypatch):
    monkeypatch.setattr(type(load(explored["ae"])), "view", Trained.view)
    with refused("no view of a TrainedAutoencoder"):
        opened(explored["ae"], ExploreSettings(RUNS))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give one or more run folders"),
        (["nothing"], "nothing holds no run"),
        (["runs/x", "--port", "70000"], "--port"),
    ],
)
def test_wrong_arguments_end_with_one_line(capfd, arguments, words):
    with pytest.raises(SystemExit) as ended:
        command(ExploreSettings, explore.main, arguments)
    assert ended.value.code == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert words in line


def test_a_missing_extra_and_a_taken_port_are_said(explored, monkeypatch):
    with server.listen(0) as taken, refused("--port", "give another"):
        server.listen(taken.getsockname()[1])
    for name in ("uvicorn", "train.explorer.server"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with refused("uvicorn is not installed: pip install 'structured-latents[explore]'"):
        explore.main(ExploreSettings(runs=(explored["ae"],)))


def test_ctrl_c_ends_it_in_order(views, monkeypatch):
    """As uvicorn does: it stops serving, and raises the signal again."""

    def interrupted(self: Any, sockets: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(server.uvicorn.Server, "run", interrupted)
    addresses: list[str] = []
    assert server.serve([views["ae"]], started=addresses.append) == {}
    # No longer there.
    with pytest.raises(ConnectionRefusedError):
        asyncio.run(sent(addresses[0], b""))
