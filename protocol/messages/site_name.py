"""What a site may be called, by whoever writes the name down."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from protocol.messages.envelope import COORDINATOR
from protocol.plain_text import LONGEST_NAME

_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{LONGEST_NAME - 1}}}")


def check_site_name(name: str) -> str:
    """The name, if a site may have it; pydantic's error if not."""
    if not _NAME.fullmatch(name):
        # It names folders and certificates, and people read it on their terminals.
        raise PydanticCustomError(
            "name", f"expected up to {LONGEST_NAME} letters, digits, dashes and underscores"
        )
    if name.lower() == COORDINATOR:
        raise PydanticCustomError("name", "expected another name than the coordinator's own")
    return name


SiteName = Annotated[str, AfterValidator(check_site_name)]
