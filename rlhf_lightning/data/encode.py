"""One encoder for all stages: text to token ids and back."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhf_lightning.data.dialogues import Conversation, Prompt
from rlhf_lightning.data.faults import RowFault
from rlhf_lightning.data.reporting import report
from rlhf_lightning.data.templates import opening, plain_template, response_text
from rlhf_lightning.errors import UserError


class Encoder:
    """Turns prompts, responses and documents into token ids, the same way in every stage.

    A sequence is a prompt and the response to it, two lists of ids that are joined and never decoded and encoded again,
    so that a response that was sampled during PPO and one that was read from a file have the same form. Where the
    prompt ends is the same for training, scoring and sampling: see ``rlhf_lightning.data.templates.opening``.

    Special tokens: a chat template is the whole truth about its prompt, as in ``apply_chat_template``, so nothing is
    added to what it renders. Without a template the prompt starts with one BOS if the tokenizer adds one to text by
    itself. Either way there are never two.

    Args:
        tokenizer: a Hugging Face tokenizer. It must have an EOS token; where it has no pad token, EOS is the padding
            (masks are carried beside the ids, so that EOS stays a label).
        system: a system message in front of every prompt; needs a chat template.
    """

    def __init__(self, tokenizer: Any, *, system: str | None = None) -> None:
        if tokenizer.eos_token_id is None:
            raise UserError(
                f"The tokenizer {tokenizer.name_or_path or type(tokenizer).__name__!r} has no end-of-sequence token: "
                "set tokenizer.eos_token, responses end with it"
            )
        if system is not None and not tokenizer.chat_template:
            raise UserError(
                "A system message needs a chat template and the tokenizer has none: set tokenizer.chat_template or "
                "leave out system"
            )
        self.tokenizer = tokenizer
        self.system = system
        self.eos_token_id: int = tokenizer.eos_token_id
        self.bos_token_id: int | None = tokenizer.bos_token_id
        self.pad_token_id: int = self.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self._known_lead: tuple[Any, str] = (None, "")
        self._vocabulary: int = max(tokenizer.get_vocab().values()) + 1
        # Whether text gets a BOS is the tokenizer's post-processor's business, which only a trial shows.
        self._adds_bos = self.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [self.bos_token_id]

    @classmethod
    def from_pretrained(cls, name: str | Path, *, system: str | None = None, **kwargs: Any) -> Encoder:
        """An encoder from a model folder or a Hub name; ``kwargs`` go to ``AutoTokenizer.from_pretrained``."""
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(name, **kwargs)
        except (OSError, ValueError) as error:
            raise UserError(
                f"No tokenizer could be loaded from {str(name)!r}: give a folder with tokenizer.json and "
                f"tokenizer_config.json, or the name of a model on the Hub ({type(error).__name__})"
            ) from error
        return cls(tokenizer, system=system)

    def require_template(self) -> None:
        """Make sure that conversations can be rendered: a tokenizer without a chat template gets the plain one.

        The plain template (``rlhf_lightning.data.templates.PLAIN_TEMPLATE``) starts with a BOS if the tokenizer adds
        one to text by itself. It is saved with the tokenizer. Prompts that are one string are user turns from then on,
        so it must be called before anything is encoded.
        """
        if not self.tokenizer.chat_template:
            self.tokenizer.chat_template = plain_template(bos=self._adds_bos)
            report(
                "the tokenizer has no chat template and the data has conversations: the plain one is used (User:, "
                "Assistant:, System: on a line of their own) and saved with the tokenizer"
            )

    def prompt(self, prompt: Prompt) -> list[int]:
        """Ids of a prompt, ready for the response to follow.

        Args:
            prompt: the user's text, or a whole conversation ``[{"role": ..., "content": ...}, ...]``.

        Errors:
            UserError: a conversation without a chat template, or one that the template refuses.
        """
        return self.open(self.tokenize(self.texts(prompt))[0])

    def example(self, prompt: Prompt, response: str, *, finished: bool = True) -> tuple[list[int], list[int]]:
        """Ids of a prompt and of the response to it, as the template writes that; ``finished`` as in ``response``.

        Errors:
            UserError: see ``prompt``.
        """
        question, reply = self.tokenize(self.texts(prompt, response))
        return self.open(question), self.close(reply, finished=finished)

    def response(self, text: str, *, finished: bool = True) -> list[int]:
        """Ids of text as it stands; it ends with exactly one EOS when ``finished`` and with none otherwise."""
        return self.close(self.tokenize([text])[0], finished=finished)

    def texts(self, prompt: Prompt, *responses: str) -> list[str]:
        """The text of a prompt and that of each response to it, as the chat template writes them.

        Prompt and response joined are what ``apply_chat_template`` gives for the conversation, up to what closes the
        last turn: a response ends with the tokenizer's EOS, also where the template has another mark.

        Errors:
            RowFault: see ``prompt``.
        """
        if self.tokenizer.chat_template:
            messages = messages_of(prompt)
            opened = opening(self.rendered, messages)
            return [opened.prompt, *(response_text(self.rendered, messages, text, opened) for text in responses)]
        if not isinstance(prompt, str):
            raise RowFault(
                "template",
                "A conversation needs a chat template and the tokenizer has none: set tokenizer.chat_template or "
                "give the prompt as one string",
            )
        return [prompt, *responses]

    def rendered(self, messages: Conversation, prompt: bool) -> str:
        """What the chat template makes of messages, with its generation prompt if ``prompt``.

        Errors:
            RowFault: the template refuses them.
        """
        from jinja2 import TemplateError

        if self.system is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.system}, *messages]
        try:
            text: str = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise RowFault(
                "template",
                f"The chat template refuses a conversation of roles {roles}: {error}; change the prompt or the "
                "template",
            ) from error
        return text

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of every text as it stands, all at once, which is much faster than one by one."""
        if not texts:
            return []
        found = self.tokenizer(
            list(texts),
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # a document longer than the model's context is no reason for a warning here
        )
        return [list(ids) for ids in found["input_ids"]]

    def open(self, ids: list[int]) -> list[int]:
        """Ids of a rendered prompt as a prompt: with one BOS where there is no template and the tokenizer adds one."""
        return ids if self.tokenizer.chat_template else self._with_bos(ids)

    def close(self, ids: list[int], *, finished: bool = True) -> list[int]:
        """Ids of a response's text as a response: it ends with exactly one EOS when ``finished``, else with none."""
        ids = list(ids)
        while ids and ids[-1] == self.eos_token_id:  # data that spells out its end must not get a second one
            ids.pop()
        return [*ids, self.eos_token_id] if finished else ids

    def document(self, text: str, *, eos: bool = True) -> list[int]:
        """Ids of pretraining text: BOS if the tokenizer adds one, the text as it is, EOS if ``eos``."""
        return self._with_bos(self.response(text, finished=eos))

    def decode(self, response_ids: Sequence[int]) -> str:
        """Text of a response up to its first EOS, without special tokens and without what the template writes before an
        answer's words: what ``example`` makes ids of. Ids beyond the vocabulary, which a model with a larger embedding
        can sample, give no text."""
        ids = [int(i) for i in response_ids]
        if self.eos_token_id in ids:
            ids = ids[: ids.index(self.eos_token_id)]
        ids = [i for i in ids if i < self._vocabulary]
        lead, text = self._lead(), self._shown(ids)
        if lead and self._shown(ids, special=True).startswith(lead):
            seen = lead if text.startswith(lead) else self._shown(self.tokenize([lead])[0])
            text = text.removeprefix(seen)
        return text

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer and its chat template to ``folder``, for ``AutoTokenizer.from_pretrained``."""
        self.tokenizer.save_pretrained(str(folder))

    def fingerprint(self) -> str:
        """Hash of everything that decides the ids; equal for equal tokenizers in any process.

        The Rust tokenizer's own JSON holds the vocabulary, merges, normaliser and added tokens. Its padding and
        truncation are left out: they are call state that earlier calls leave behind, and ids do not depend on it.
        """
        tokenizer = self.tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is not None:
            model = json.loads(backend.to_str())
            model.pop("padding", None)
            model.pop("truncation", None)
        else:  # a tokenizer written in Python: its vocabulary and options are all there is to see
            options = {key: str(value) for key, value in getattr(tokenizer, "init_kwargs", {}).items()}
            model = [
                type(tokenizer).__qualname__,
                sorted(tokenizer.get_vocab().items()),
                sorted(options.items()),
            ]
        special = [self.bos_token_id, self._adds_bos, self.eos_token_id, tokenizer.chat_template, self.system]
        if "strftime_now" in str(tokenizer.chat_template or ""):  # a template that writes the day into every prompt
            special.append(datetime.date.today().isoformat())
        return hashlib.sha256(json.dumps([model, special], sort_keys=True).encode()).hexdigest()

    def _lead(self) -> str:
        """What a response starts with before its words, by this template."""
        template = self.tokenizer.chat_template
        if template != self._known_lead[0]:
            try:
                lead = opening(self.rendered, messages_of("a")).lead
            except RowFault:
                lead = ""
            self._known_lead = template, lead
        return self._known_lead[1]

    def _shown(self, ids: list[int], *, special: bool = False) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=not special, clean_up_tokenization_spaces=False)
        return text

    def _with_bos(self, ids: list[int]) -> list[int]:
        if not self._adds_bos or self.bos_token_id is None:
            return ids
        while ids and ids[0] == self.bos_token_id:  # text that spells out its BOS must not get a second one
            ids = ids[1:]
        return [self.bos_token_id, *ids]


def messages_of(prompt: Prompt) -> Conversation:
    """A prompt as a conversation: text is what the user says."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
