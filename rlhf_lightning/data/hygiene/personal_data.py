"""Which kinds of personal data a text holds."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from rlhf_lightning.data.hygiene.machines import has_ip_address, has_mac_address
from rlhf_lightning.data.hygiene.mail_addresses import has_mail_address
from rlhf_lightning.data.hygiene.payment import has_account_number, has_card_number
from rlhf_lightning.data.hygiene.telephone import has_telephone_number
from rlhf_lightning.errors import UserError

KINDS: dict[str, Callable[[str], bool]] = {
    "email": has_mail_address,
    "phone": has_telephone_number,
    "card": has_card_number,
    "account": has_account_number,
    "ip": has_ip_address,
    "mac": has_mac_address,
}
POSSIBLE = re.compile(r"[\d@]")
"""A character that every kind has; most texts without personal data have none and are done."""
SEVEN = re.compile(r"\d(?:[ ().\-/]{0,2}\d){6}")
"""Seven digits in a row or in groups, which the numbers of telephones, cards and accounts have."""
NUMBERS = {"phone", "card", "account"}


class PersonalDataFilter:
    """A callable ``text -> kinds of personal data in it``, by their form (paper: section 3.2 filters prompts).

    It reads e-mail addresses, telephone numbers, card numbers (Luhn), account numbers (IBAN with its checksum, or
    digits that are announced as one) and addresses of machines (IPv4, IPv6, MAC), in time linear in the text. It does
    not know names or postal addresses: pass a callable of your own as ``personal_data`` for those.

    Args:
        kinds: of "email", "phone", "card", "account", "ip", "mac"; by default all.

    Errors:
        UserError: an unknown kind, or none.
    """

    def __init__(self, *, kinds: Sequence[str] = tuple(KINDS)) -> None:
        listed = isinstance(kinds, Sequence) and not isinstance(kinds, str)
        if not listed or not kinds or not set(kinds) <= set(KINDS):
            given = (", ".join(map(str, kinds)) or "none") if listed else kinds
            raise UserError(f"personal_data must list kinds out of {', '.join(KINDS)}, not {given}")
        self.kinds = tuple(kinds)

    def __call__(self, text: str) -> list[str]:
        if not POSSIBLE.search(text):
            return []
        seven = SEVEN.search(text) is not None
        return [kind for kind in self.kinds if (seven or kind not in NUMBERS) and KINDS[kind](text)]
