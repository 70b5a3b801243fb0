"""The site of a profile's results, by Sphinx (docs/conf.py)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from lightdet_core.config import UserError, root


def build_site(profile: str, out: Path) -> Path:
    """Its first page; the folder `out` is replaced once all of it is there.

    Raises:
        UserError: `out` is something else.
        SystemExit: Sphinx has failed, and said why.
    """
    if out.exists() and not (out / ".buildinfo").is_file():
        raise UserError(f"{out}: is no site that this command made; move it away")
    work = out.with_name(f"{out.name}.work")
    shutil.rmtree(work, ignore_errors=True)
    (work / "source").mkdir(parents=True)
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--jobs", "auto"]
    command += ["--conf-dir", root() / "docs", "--doctree-dir", work / "doctrees"]
    done = subprocess.run(
        [*map(str, command), work / "source", work / "html"],
        env={**os.environ, "LIGHTDET_PROFILE": profile},
    )
    if done.returncode:  # it has said why
        sys.exit(2)
    shutil.rmtree(out, ignore_errors=True)
    (work / "html").rename(out)
    shutil.rmtree(work)
    return out / "index.html"
