"""What a handler says, made fit to be stored: secrets masked, nothing that PostgreSQL refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence

from dispatcher.masking import MASK

__all__ = ["storable"]


def storable(text: str, secrets: Sequence[str]) -> str:
    """A handler's text with every secret masked, also where it is quoted, and without what PostgreSQL cannot store."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        for form in {secret, repr(secret)[1:-1], json.dumps(secret)[1:-1]}:
            text = text.replace(form, MASK)
    return text.replace("\0", "").encode("utf-8", "replace").decode()
