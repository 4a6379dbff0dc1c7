"""Numbers of payment cards and of bank accounts in a text, told from other numbers by their check digits."""

from __future__ import annotations

import re

# Every repetition is bounded, so that time is linear in the text.
CARD = re.compile(r"(?<![\w.+-])(?<!\d )[2-6]\d{3}(?:[ -]?\d){10,15}(?![\w-]|[ .]\d)")
ISSUERS = re.compile(
    r"4(?:\d{15}|\d{18})"  # Visa
    r"|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}"  # Mastercard
    r"|3[47]\d{13}"  # American Express
    r"|3(?:0[0-5]|[68]\d)\d{11}"  # Diners Club
    r"|(?:6011|64[4-9]\d|65\d\d|62\d\d|35[2-8]\d)\d{12}"  # Discover, UnionPay, JCB
)
GROUPS = re.compile(r"\d+|\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{3})?|\d{4}([ -])\d{6}\2\d{4,5}")
IBAN = re.compile(r"(?<![A-Za-z0-9])([A-Za-z]{2})\d{2}(?:[ -]?[A-Za-z0-9]){11,30}")
COUNTRIES = {
    15: "NO", 16: "BE", 18: "DK FO FI GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK", 21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS", 23: "AE GI IL IQ OM SO TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HU LB NI PL SV",
    29: "BR EG PS QA UA", 30: "JO KW MU", 31: "MT SC", 32: "LC", 33: "RU",
}  # fmt: skip
LENGTHS = {country: length for length, countries in COUNTRIES.items() for country in countries.split()}
"""Characters of an IBAN by country."""
ACCOUNT = re.compile(
    r"\b(?:account|acct)\.?[ ](?:number|no\b|nr\b|#)[.:#]?(?:[ ]?(?:is|=|:))?[ ]?(?:\d[ -]?){6,16}\d(?![\d.,]\d)",
    re.IGNORECASE,
)


def has_card_number(text: str) -> bool:
    """Whether ``text`` has the number of a payment card: an issuer's first digits and length, written in one or in
    its usual groups, with a right check digit (Luhn)."""
    for match in CARD.finditer(text):
        digits = match[0].replace(" ", "").replace("-", "")
        if GROUPS.fullmatch(match[0]) and ISSUERS.fullmatch(digits) and luhn(digits):
            return True
    return False


def has_account_number(text: str) -> bool:
    """Whether ``text`` has the number of an account: an IBAN with its country's length and a right checksum, or
    digits that the words "account number" announce."""
    return any(_is_iban(match) for match in IBAN.finditer(text)) or ACCOUNT.search(text) is not None


def luhn(digits: str) -> bool:
    """Luhn's check: with every second digit from the right doubled, the sum of all digits ends in 0."""
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(int(digit) for digit in digits[-1::-2]) + sum(doubled)) % 10 == 0


def iban_checksum(iban: str) -> bool:
    """ISO 7064: the country and check digits moved to the end, letters as 10 to 35, the remainder by 97 is 1."""
    return int("".join(str(int(character, 36)) for character in iban[4:] + iban[:4])) % 97 == 1


def _is_iban(match: re.Match[str]) -> bool:
    length = LENGTHS.get(match[1].upper())
    if length is None:
        return False
    found = re.match(rf"(?:[A-Za-z0-9][ -]?){{{length - 1}}}[A-Za-z0-9](?![A-Za-z0-9])", match[0])
    if found is None:  # shorter, or the run of characters goes on
        return False
    end = match.start() + found.end()
    after = match.string[end : end + 1]
    iban = found[0].replace(" ", "").replace("-", "")
    return not after.isalnum() and iban_checksum(iban)
