"""Questions to an OpenAI-compatible chat endpoint: retried, in parallel, and each asked once in a lifetime."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import Progress

from rlhf_lightning.errors import UserError

T = TypeVar("T")
_PASSING = (408, 409, 425, 429, 500, 502, 503, 504)  # what another try may mend


class ChatClient:
    """Asks ``POST url/chat/completions``; answers are kept in a file as they come, so that a stopped evaluation goes on
    where it stopped and costs nothing twice.

    Args:
        url: up to ``/v1``, such as ``http://127.0.0.1:8000/v1``.
        model: the name that the server knows it by.
        key_variable: environment variable with the key; it is sent if it is set, and written nowhere.
        temperature, max_tokens: of the answers.
        timeout: seconds for one answer.
        retries: further tries after a failure that may pass; waits of ``wait``, 2·``wait``, 4·``wait`` ... seconds.
        parallel: questions at one time.
        cache: a JSONL file of answers by the hash of their question; ``None`` keeps none.

    Raises:
        UserError: a URL that is none, or numbers that make no sense.
    """

    def __init__(
        self,
        *,
        url: str,
        model: str,
        key_variable: str = "OPENAI_API_KEY",
        temperature: float = 0.0,
        max_tokens: int = 256,
        timeout: float = 60.0,
        retries: int = 4,
        wait: float = 1.0,
        parallel: int = 4,
        cache: str | Path | None = None,
    ) -> None:
        if not _is_address(url):
            raise UserError(f"judge.url={url} must be http:// or https:// and a host, such as http://127.0.0.1:8000/v1")
        if retries < 0 or parallel < 1 or timeout <= 0 or wait < 0:
            raise UserError(
                f"judge: retries={retries} and wait={wait} must not be negative, parallel={parallel} at least 1, "
                f"timeout={timeout} positive"
            )
        self.url = url.rstrip("/") + "/chat/completions"
        self.model, self.key_variable = model, key_variable
        self.temperature, self.max_tokens = temperature, max_tokens
        self.timeout, self.retries, self.wait, self.parallel = timeout, retries, wait, parallel
        self.cache = None if cache is None else Path(cache)
        self._lock = threading.Lock()
        self._known = self._read_cache()

    def ask(self, questions: Sequence[str], *, system: str, read: Callable[[str], T], label: str = "judge") -> list[T]:
        """The answers to all questions, in their order.

        Args:
            questions: what the user says.
            system: what is said before it.
            read: makes the result of an answer; a ``ValueError`` of it asks again, as a failure that may pass.
            label: of the progress bar.

        Raises:
            UserError: no answer after all tries: what the server said last, and where to look.
        """
        console = Console(stderr=True)
        bar = Progress(console=console, transient=True, disable=len(questions) < 3 or not console.is_terminal)
        with bar as progress, ThreadPoolExecutor(self.parallel) as pool:
            waiting = [pool.submit(self._ask, question, system, read) for question in questions]
            try:
                return [one.result() for one in progress.track(waiting, description=f"{label} is asked")]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _ask(self, question: str, system: str, read: Callable[[str], T]) -> T:
        body = {
            "model": self.model,
            "messages": [{"role": "system", "content": system}, {"role": "user", "content": question}],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        key = hashlib.sha256(json.dumps([self.url, body], sort_keys=True).encode()).hexdigest()
        if key in self._known:
            return read(self._known[key])
        fault = ""
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(self.wait * 2 ** (attempt - 1))
            try:
                answer = self._post(body)
            except _PassingFault as error:
                fault = str(error)
                continue
            try:
                result = read(answer)
            except ValueError as error:
                fault = f"an answer that cannot be read ({error})"
                continue
            self._keep(key, answer)
            return result
        raise UserError(
            f"the judge at {self.url} gave no usable answer in {self.retries + 1} tries; the last fault: {fault}. Is "
            f"the server up and does it know the model {self.model}? What was answered so far is "
            + (f"kept in {self.cache}" if self.cache else "lost, since judge.cache is not set")
        )

    def _post(self, body: dict[str, Any]) -> str:
        headers = {"Content-Type": "application/json"}
        key = os.environ.get(self.key_variable)
        if key:
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                content = response.read()
        except urllib.error.HTTPError as error:
            said = f"HTTP {error.code}: {error.read(300).decode(errors='replace')}"
            if error.code in _PASSING:
                raise _PassingFault(said) from error
            hint = f"; set the environment variable {self.key_variable}" if error.code in (401, 403) else ""
            raise UserError(f"the judge at {self.url} refused the question: {said}{hint}") from error
        except (OSError, http.client.HTTPException) as error:  # no connection, a broken one, a timeout, half an answer
            raise _PassingFault(str(error) or type(error).__name__) from error
        try:
            answer = json.loads(content)["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise _PassingFault(f"no chat completion: {content[:200].decode(errors='replace')}") from error
        if not isinstance(answer, str):
            raise _PassingFault("a completion without text")
        return answer

    def _read_cache(self) -> dict[str, str]:
        if self.cache is None or not self.cache.is_file():
            return {}
        found = {}
        for line in self.cache.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
                found[str(entry["key"])] = str(entry["answer"])
            except (ValueError, KeyError, TypeError):
                continue  # half a line, of a process that was killed
        return found

    def _keep(self, key: str, answer: str) -> None:
        with self._lock:
            self._known[key] = answer
            if self.cache is None:
                return
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            with self.cache.open("a+b") as file:
                if file.tell() and not _ends_line(file):
                    file.write(b"\n")
                file.write(json.dumps({"key": key, "answer": answer}).encode() + b"\n")


class _PassingFault(Exception):
    """What may be gone at the next try."""


def _is_address(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port  # a ValueError where it is no number
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and " " not in url


def _ends_line(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")
