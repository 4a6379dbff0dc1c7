"""E-mail addresses in a text."""

from __future__ import annotations

import re

# Possessive (++): a run of letters is read once, however long, so that time is linear in the text.
ADDRESS = re.compile(r"(?<![\w.%+-])[\w.%+-]++@([\w-]++(?:\.[\w-]++)+)")
FILES = {"png", "jpg", "jpeg", "gif", "svg", "webp", "ico", "css", "js", "ts", "html", "json", "txt", "py"}
"""Endings of names such as icon@2x.png."""


def has_mail_address(text: str) -> bool:
    """Whether ``text`` has an e-mail address: a name, "@" and a domain that ends in letters."""
    return "@" in text and any(_is_domain(match[1]) for match in ADDRESS.finditer(text))


def _is_domain(domain: str) -> bool:
    labels = domain.split(".")
    version = len(labels) > 2 and labels[0].isdigit() and labels[1].isdigit()  # package@1.0.0-beta.rc
    return labels[-1].isalpha() and len(labels[-1]) > 1 and labels[-1].lower() not in FILES and not version
