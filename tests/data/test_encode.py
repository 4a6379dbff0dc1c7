from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from rlhf_lightning.data import Encoder
from rlhf_lightning.errors import UserError

from .conftest import TEMPLATE, make_tokenizer

BOS, EOS = 1, 2


def test_prompt_without_a_template_starts_with_the_bos_that_the_tokenizer_adds() -> None:
    assert Encoder(make_tokenizer()).prompt("a b") == [BOS, 6, 7]


def test_prompt_of_a_tokenizer_that_adds_no_bos_has_none() -> None:
    assert Encoder(make_tokenizer(adds_bos=False)).prompt("a b") == [6, 7]


def test_prompt_that_spells_out_its_bos_gets_no_second_one(encoder: Encoder) -> None:
    assert encoder.prompt("<s> a") == [BOS, 6]
    assert encoder.document("<s> a") == [BOS, 6, EOS]


def test_template_with_bos_gets_no_second_one_from_the_tokenizer() -> None:
    encoder = Encoder(make_tokenizer(adds_bos=True, template=TEMPLATE))
    assert encoder.prompt("a") == [BOS, 4, 6, 5]


@pytest.mark.parametrize("template", [TEMPLATE, TEMPLATE.replace("{{ bos_token }}", "")])
def test_template_gives_the_ids_that_transformers_gives(template: str) -> None:
    tokenizer = make_tokenizer(template=template)
    expected = tokenizer.apply_chat_template(
        [{"role": "user", "content": "a b"}], add_generation_prompt=True, return_dict=False
    )
    assert Encoder(tokenizer).prompt("a b") == expected


def test_conversation_and_system_message_go_through_the_template() -> None:
    encoder = Encoder(make_tokenizer(template=TEMPLATE.replace("m.role", "m.role")), system="j")
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    assert encoder.prompt(turns) == [BOS, 3, 15, 4, 6, 5, 7, 4, 8, 5]  # "system:" is no word: <unk> 3


def test_conversation_without_a_template_is_an_error(encoder: Encoder) -> None:
    with pytest.raises(UserError, match=r"needs a chat template.*one string"):
        encoder.prompt([{"role": "user", "content": "a"}])


def test_system_message_without_a_template_is_an_error() -> None:
    with pytest.raises(UserError, match="system"):
        Encoder(make_tokenizer(), system="a")


def test_conversation_that_the_template_refuses_is_an_error_of_one_line() -> None:
    encoder = Encoder(make_tokenizer(template="{{ raise_exception('roles must alternate') }}"))
    with pytest.raises(UserError, match="roles user: roles must alternate") as error:
        encoder.prompt("a")
    assert "\n" not in str(error.value)


def test_response_ends_with_one_eos_iff_finished(encoder: Encoder) -> None:
    assert encoder.response("a b") == [6, 7, EOS]
    assert encoder.response("a b", finished=False) == [6, 7]
    assert encoder.response("") == [EOS]


def test_response_that_spells_out_its_eos_gets_no_second_one(encoder: Encoder) -> None:
    assert encoder.response("a </s>") == [6, EOS]
    assert encoder.response("a </s>", finished=False) == [6]


def test_document_has_bos_and_eos(encoder: Encoder) -> None:
    assert encoder.document("a b") == [BOS, 6, 7, EOS]
    assert encoder.document("a b", eos=False) == [BOS, 6, 7]


def test_decode_gives_the_text_back_up_to_the_first_eos(encoder: Encoder) -> None:
    assert encoder.decode(encoder.response("a b c")) == "a b c"
    assert encoder.decode([6, EOS, 7]) == "a"
    assert encoder.decode([6, 0, 0]) == "a"
    assert encoder.decode([]) == ""


def test_pad_falls_back_to_eos() -> None:
    assert Encoder(make_tokenizer()).pad_token_id == 0
    assert Encoder(make_tokenizer(pad=None)).pad_token_id == EOS


def test_tokenizer_without_eos_is_an_error() -> None:
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(UserError, match=r"no end-of-sequence token.*set tokenizer.eos_token"):
        Encoder(tokenizer)


def test_saved_encoder_is_the_same_encoder(tmp_path: Path) -> None:
    encoder = Encoder(make_tokenizer(template=TEMPLATE))
    encoder.save(tmp_path / "model")
    loaded = Encoder.from_pretrained(tmp_path / "model")
    assert loaded.prompt("a b") == encoder.prompt("a b")
    assert loaded.fingerprint() == encoder.fingerprint()


def test_folder_without_a_tokenizer_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No tokenizer could be loaded from .*give a folder") as error:
        Encoder.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


def test_fingerprint_does_not_depend_on_earlier_calls(encoder: Encoder) -> None:
    before = encoder.fingerprint()
    encoder.tokenizer(["a b c", "a"], padding=True, truncation=True, max_length=2)
    assert encoder.fingerprint() == before


def test_fingerprint_depends_on_everything_that_changes_the_ids() -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["k"])
    encoders = [
        Encoder(make_tokenizer()),
        Encoder(make_tokenizer(adds_bos=False)),
        Encoder(make_tokenizer(template=TEMPLATE)),
        Encoder(make_tokenizer(template=TEMPLATE), system="a"),
        Encoder(tokenizer),
    ]
    assert len({encoder.fingerprint() for encoder in encoders}) == len(encoders)


@pytest.mark.shared_data
def test_real_tokenizer_gives_text_back(shared: Path) -> None:
    encoder = Encoder.from_pretrained(shared / "models" / "stories260k")
    story = 'She ran home.\n\nHer mom said, "Hi!"'
    assert encoder.decode(encoder.response(story)) == story
    assert encoder.prompt(story).count(encoder.bos_token_id) == 1
    assert encoder.prompt(story)[1:] == encoder.response(story)[:-1]


def test_a_template_that_writes_the_day_is_another_one_the_next_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else rows of yesterday, with yesterday's date in them, would be read from the cache."""
    dated = Encoder(make_tokenizer(template="{{ strftime_now('%d %b %Y') }}" + TEMPLATE))
    plain = Encoder(make_tokenizer(template=TEMPLATE))
    before = dated.fingerprint(), plain.fingerprint()

    class Tomorrow(datetime.date):
        @classmethod
        def today(cls) -> datetime.date:
            return datetime.date(2100, 1, 1)

    monkeypatch.setattr("rlhf_lightning.data.encode.datetime.date", Tomorrow)
    assert dated.fingerprint() != before[0]
    assert plain.fingerprint() == before[1]
