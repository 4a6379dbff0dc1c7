"""The judge behind a URL, against a server on this machine."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.client import IncompleteRead
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation import TABLE_3, ChatJudge, judge_in_random_order

ROWS = [{"prompt": f'say "{n}"'} for n in range(6)]
Answer = Callable[[dict[str, Any], int], tuple[int, str]]


class Server:
    """Keeps what it was asked; answers as it is told."""

    def __init__(self, answer: Answer) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        lock, outer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.asked.append(body | {"path": self.path})
                    outer.headers.append(dict(self.headers))
                    number = len(outer.asked)
                status, text = answer(body, number)
                content = json.dumps({"choices": [{"message": {"content": text}}]}) if status == 200 else text
                self.send_response(status)
                self.end_headers()
                self.wfile.write(content.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], Server]]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    servers: list[Server] = []

    def start(answer: Answer) -> Server:
        servers.append(Server(answer))
        return servers[-1]

    yield start
    for one in servers:
        one.server.shutdown()
        one.server.server_close()


def longer(body: dict[str, Any], number: int) -> tuple[int, str]:
    """Prefers the longer response, and says so in a fence."""
    shown = json.loads(body["messages"][1]["content"])
    a, b = len(shown["A"]), len(shown["B"])
    return 200, "```json\n" + json.dumps({"better": "tie" if a == b else "A" if a > b else "B"}) + "\n```"


def test_it_prefers_what_the_server_prefers_in_the_order_of_the_rows(serve: Any) -> None:
    server = serve(longer)
    judge = ChatJudge(url=server.url, model="m", parallel=3)
    left = ["a", "bb", "c", "dd", "e", "ff"]
    right = ["a", "b", "cc", "d", "ee", "f"]
    assert judge.prefer(ROWS, left, right) == [0.5, 1.0, 0.0, 1.0, 0.0, 1.0]
    assert judge_in_random_order(judge, ROWS, left, right, seed=1).preferences == [0.5, 1.0, 0.0, 1.0, 0.0, 1.0]
    asked = server.asked[0]
    assert (asked["path"], asked["model"], asked["temperature"]) == ("/v1/chat/completions", "m", 0.0)
    assert {json.loads(body["messages"][1]["content"])["request"] for body in server.asked} == {
        row["prompt"] for row in ROWS
    }


def test_the_key_goes_to_the_server_and_nowhere_else(
    serve: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = serve(longer)
    monkeypatch.setenv("MY_KEY", "secret-key")
    cache = tmp_path / "answers.jsonl"
    ChatJudge(url=server.url, model="m", key_variable="MY_KEY", cache=cache).prefer(ROWS[:1], ["a"], ["b"])
    assert server.headers[0]["Authorization"] == "Bearer secret-key"
    assert "secret-key" not in cache.read_text()
    monkeypatch.delenv("MY_KEY")
    ChatJudge(url=server.url, model="m", key_variable="MY_KEY").prefer(ROWS[:1], ["a"], ["b"])
    assert "Authorization" not in server.headers[1]


def test_what_may_pass_is_tried_again(serve: Any) -> None:
    faults = [(503, "busy"), (200, "I cannot say"), (200, '{"better": "C"}'), (429, "slow down")]

    def answer(body: dict[str, Any], number: int) -> tuple[int, str]:
        return faults[number - 1] if number <= len(faults) else longer(body, number)

    server = serve(answer)
    assert ChatJudge(url=server.url, model="m", retries=4, wait=0.0).prefer(ROWS[:1], ["aa"], ["b"]) == [1.0]
    assert len(server.asked) == 5


def test_an_error_says_what_the_server_said_and_keeps_what_was_answered(serve: Any, tmp_path: Path) -> None:
    cache = tmp_path / "cache" / "answers.jsonl"

    state = {"broken": True}

    def answer(body: dict[str, Any], number: int) -> tuple[int, str]:
        return (500, "out of memory") if state["broken"] and number > 4 else longer(body, number)

    broken = serve(answer)
    options: dict[str, Any] = {"model": "m", "retries": 1, "wait": 0.0, "parallel": 1, "cache": cache}
    with pytest.raises(UserError, match=r"in 2 tries; the last fault: HTTP 500: out of memory.*kept in"):
        ChatJudge(url=broken.url, **options).prefer(ROWS, ["aa"] * 6, ["b"] * 6)
    with cache.open("a") as file:
        file.write('{"key": "half a li')  # of a process that was killed while it wrote
    asked = len(broken.asked)
    state["broken"] = False  # the same server, well again: what it answered is not asked anew
    assert ChatJudge(url=broken.url, **options).prefer(ROWS, ["aa"] * 6, ["b"] * 6) == [1.0] * 6
    assert len(broken.asked) - asked == 2
    assert ChatJudge(url=broken.url, **options).prefer(ROWS, ["aa"] * 6, ["b"] * 6) == [1.0] * 6
    assert len(broken.asked) - asked == 2


def test_a_refusal_is_not_repeated(serve: Any) -> None:
    server = serve(lambda body, number: (401, "no key"))
    with pytest.raises(UserError, match="401: no key; set the environment variable OPENAI_API_KEY"):
        ChatJudge(url=server.url, model="m", retries=3, wait=0.0, parallel=1).prefer(ROWS[:1], ["a"], ["b"])
    assert len(server.asked) == 1


def test_no_server_and_a_slow_one_are_errors(serve: Any) -> None:
    with pytest.raises(UserError, match=r"Is the server up"):
        ChatJudge(url="http://127.0.0.1:9/v1", model="m", retries=0).prefer(ROWS[:1], ["a"], ["b"])
    slow = serve(lambda body, number: (time.sleep(0.5), longer(body, number))[1])
    with pytest.raises(UserError, match="timed out"):
        ChatJudge(url=slow.url, model="m", retries=0, timeout=0.05).prefer(ROWS[:1], ["a"], ["b"])


def test_half_an_answer_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def broken(*_: Any, **__: Any) -> Any:
        tries.append(1)
        raise IncompleteRead(b"{", 7)

    monkeypatch.setattr("urllib.request.urlopen", broken)
    with pytest.raises(UserError, match=r"in 2 tries; the last fault: IncompleteRead"):
        ChatJudge(url="http://127.0.0.1:9/v1", model="m", retries=1, wait=0.0).prefer(ROWS[:1], ["a"], ["b"])
    assert len(tries) == 2


def test_ratings_and_flags(serve: Any) -> None:
    def answer(body: dict[str, Any], number: int) -> tuple[int, str]:
        text = json.loads(body["messages"][1]["content"])["response"]
        flags = {name: name == "inappropriate" for name in TABLE_3 if name != "denigrates"}
        return 200, json.dumps({"likert": len(text), **flags})

    found = ChatJudge(url=serve(answer).url, model="m", ratings=True).assess(ROWS[:2], ["a", "bbbb"])
    assert found["gold_reward"] == found["likert"] == [1.0, 4.0]
    assert found["inappropriate"] == [1.0, 1.0]
    assert found["hallucination"] == [0.0, 0.0]
    assert all(value != value for value in found["denigrates"])  # it did not say
    assert set(TABLE_3) <= set(found)
    without = ChatJudge(url="http://127.0.0.1:9/v1", model="m").assess(ROWS[:2], ["a", "b"])
    assert [value != value for value in without["gold_reward"]] == [True, True]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"url": "ftp://x"}, "http"),
        ({"url": "127.0.0.1:8000/v1"}, "judge.url=127.0.0.1:8000/v1 must be http"),
        ({"url": "http:///v1"}, "and a host"),
        ({"url": "http://h:port/v1"}, "and a host"),
        ({"url": "http://[::1/v1"}, "and a host"),
        ({"retries": -1}, "retries=-1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ChatJudge(**{"url": "http://127.0.0.1:9/v1", "model": "m"} | setting)
