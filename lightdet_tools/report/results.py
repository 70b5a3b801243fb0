"""Files of results, read; what wrote them is named where something is wrong with them."""

import json
from pathlib import Path

from lightdet_core.config import UserError


def read_result(path: Path, keys: tuple[str, ...], command: str) -> dict:
    """A file of results; `UserError` names `command` if it is missing, damaged or incomplete."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: not found; `{command}` makes it") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); `{command}` makes it anew") from None
    if missing := [key for key in keys if key not in content]:
        raise UserError(f"{path}: without {', '.join(missing)}; `{command}` makes it anew")
    return content
