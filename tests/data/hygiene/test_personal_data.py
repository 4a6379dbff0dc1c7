"""What is personal data and what merely looks like it, by literal examples."""

from __future__ import annotations

import time

import pytest

from rlhf_lightning.data.hygiene import PersonalDataFilter
from rlhf_lightning.errors import UserError

HITS = {
    "email": [
        "mail jane.doe+rlhf@example.co.uk now",
        "<a@b.io>",
        "я@пример.рф",
        "user@163.com",
        "Write to x@y.com.",
        "mailto:j_d@sub.example.org?subject=x",
    ],
    "phone": [
        "+44 20 7946 0958",
        "+1 (555) 123-4567",
        "+442079460958.",
        "0049 30 901820",
        "+49 (0)30 901820",
        "+33.6.12.34.56.78",
        "555-123-4567",
        "(555) 123 4567",
        "(555)123-4567",
        "555.123.4567",
        "1-800-555-0199",
        "ask 415 555-2671",
        "020 7946 0958",
        "(020) 7946 0958",
        "07700 900123",
        "06 12 34 56 78",
        "06-12-34-56-78",
        "030/901820",
        "phone: 5551234567",
        "My phone number is 555-0199.",
        "tel. 555 0199",
        "call me at 5550199",
    ],
    "card": [
        "4111 1111 1111 1111",
        "card 4111111111111111, exp 12/29",
        "5555-5555-5555-4444",
        "3782 822463 10005",
        "378282246310005",
        "6011111111111117",
        "30569309025904",
        "2223003122003222",
    ],
    "account": [
        "DE89 3704 0044 0532 0130 00",
        "DE89370400440532013000",
        "GB82 WEST 1234 5698 7654 32 and more",
        "fr14 2004 1010 0505 0001 3m02 606",
        "NO9386011117947",
        "account number: 12345678",
        "my account number is 12-345-678",
    ],
    "ip": [
        "192.168.1.20",
        "203.0.113.7:8080",
        "10.0.0.12/24",
        "the server 8.8.4.14.",
        "2001:db8::1",
        "2001:0db8:85a3:0000:0000:8a2e:0370:7334",
        "fe80::1ff:fe23:4567:890a%eth0",
        "[2001:db8::1]:443",
    ],
    "mac": ["00:1A:2B:3C:4D:5E", "00-1a-2b-3c-4d-5e", "00:11:22:33:44:55"],
}
MISSES = {
    "dates": "2023-10-12, 12/31/1999, 31.12.1999, 01-02-2023, 05/06/2023; 07.08.1999 to 09.10.2001; 10-12-13-14-15-16",
    "a date after a phone's word": "call us on 12 May 2023. Call me 2023-10-12. The phone of 2007 2008",
    "times": "at 14:30:00, 09:30 - 17:45, 2023-10-12T14:30:00.123456Z, 01.02.2023 10:30, 12:30:45:00",
    "versions": "Python 3.11.4, Chrome 91.0.4472.124, version 10.15.7.12, v1.20.30.40, react@1.0.0-beta.rc",
    "sections": "1.2.3.4 Scope, see chapter 12.13.14.15",
    "numbers too large or odd for an address": "300.20.30.40, 10.20.300.40, 10.020.30.40",
    "years": "in 1984, 1990-1995, (1874-1936), 2019, 2020, 2021",
    "prices": "$1,299.99 or € 1.299,99 or $1234567.89; my phone costs 1999.99 dollars, a phone at $1234567",
    "ISBN": "978-3-16-148410-0, 9783161484100, 0-306-40615-2, 0306406152, ISBN 0-19-852663-6",
    "long integers": "1234567890, 0012345678, 1234567890123456, 12345678901234567890, 1700000000000, 4012345678901",
    "grouped integers": "1 234 567 890 or 1,234,567,890 or 12 345 678.90",
    "decimals": "3.14159265358979, 0.123456789, -0.75 0.12 0.33 0.44, +40.712812, 37.3362725, 01.23456789",
    "lists": "sort 200 300 4000 and 01 02 03 04 05 06 and 01 02 03 04 05, 01 02 04 08 16 32, 05 01 07 02 08,03,04",
    "binary": "0101 1010 0110 and 01101000 01100101",
    "sums": "2+2=4, 100-200-300, 1-2-3-4-5, 1:2:3, 16:9, +1000",
    "a wrong check digit": "4111111111111112, DE88370400440532013000, DE00 3704 0044 0532 0130 00",
    "a card's digits in no issuer's range": "1111 1111 1111 1117, 7992739871300000, 2100000000000005",
    "a card's digits in other groups": "4111 1 1111111 1111",
    "identifiers": "550e8400-e29b-41d4-a716-446655440000, #FF00AA, US1234567A, Room 0042",
    "code": "a[1::2], std::vector, abc::def, face::add, @handle, user@localhost, user@host.42, icon@2x.png, @property",
    "machines that nobody owns": "127.0.0.1, 0.0.0.0, 255.255.255.0, ::1, 00:00:00:00:00:00, ff:ff:ff:ff:ff:ff",
    "an account's balance": "account balance 2000000",
    "a web address": "https://time.com/5798772/x and https://www.vox.com/2020/3/18/21229268/covid-19",
}


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in HITS.items() for text in texts])
def test_personal_data_is_found_and_nothing_else_in_it(kind: str, text: str) -> None:
    assert PersonalDataFilter()(text) == [kind]
    assert PersonalDataFilter()(f"Please read this:\n{text}\nand answer.") == [kind]


@pytest.mark.parametrize("text", MISSES.values(), ids=MISSES)
def test_what_looks_like_it_is_no_hit(text: str) -> None:
    assert PersonalDataFilter()(text) == []
    for part in text.split(", "):
        assert PersonalDataFilter()(part) == [], part


def test_kinds_choose_what_counts() -> None:
    text = "jane@example.com, +44 20 7946 0958, 10.0.0.12"
    assert PersonalDataFilter()(text) == ["email", "phone", "ip"]
    assert PersonalDataFilter(kinds=["ip", "email"])(text) == ["ip", "email"]
    assert PersonalDataFilter(kinds=["mac"])(text) == []


@pytest.mark.parametrize("kinds", [["email", "name"], [], "email"])
def test_unknown_kinds_are_an_error(kinds: list[str]) -> None:
    with pytest.raises(UserError, match="must list kinds out of email, phone, card, account, ip, mac, not"):
        PersonalDataFilter(kinds=kinds)


@pytest.mark.parametrize(
    "unit",
    ["a", "1", "1 ", "a@", "1.", "@a.", "2001:", "ff:", "+1", "01 ", "phone ", "4111 ", "DE89 ", "call me 1 1 1 "],
)
def test_time_grows_with_the_text_and_not_with_its_square(unit: str) -> None:
    """Texts on which a careless expression backtracks: 400,000 characters would take it minutes."""
    text = "@ " + (unit * 400_000)[:400_000] + " 123456"
    began = time.perf_counter()
    PersonalDataFilter()(text)
    assert time.perf_counter() - began < 5
