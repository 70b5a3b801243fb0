#!/usr/bin/env bash
# Guess: with MyST's dollarmath a line $$a$$ is a displayed formula, also right below a line of text.
# Really: below text it is an inline formula between two stray dollar signs. With two such lines, the
#   line break between them becomes a third formula; if a sentence with $p$ follows, its words up to
#   the dollar become a formula and p becomes text. There is no warning, and Sphinx builds the page.
#   The same lines after an empty line, or below nothing, are read as written.
# Here: docs/conf.py sets myst_dmath_double_inline, which is off unless it is asked for.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet sphinx==9.0.4 myst-parser==5.2.0 docutils==0.22.4 markdown-it-py==4.3.0 mdit-py-plugins==0.7.0
venv/bin/python - <<'EOF'
from importlib.metadata import version

from docutils import nodes
from docutils.core import publish_doctree
from myst_parser.docutils_ import Parser

print(*(f"{name} {version(name)}" for name in ("myst-parser", "mdit-py-plugins", "markdown-it-py", "docutils")))
SHOWN, INLINE, WARNING = nodes.math_block, nodes.math, nodes.system_message


def formulas(text, double=False):
    """The displayed formulas, the inline ones, and the number of warnings."""
    settings = {"myst_enable_extensions": ["dollarmath"], "myst_dmath_double_inline": double, "report_level": 1}
    tree = publish_doctree(text, parser=Parser(), settings_overrides=settings)
    found = [[node.astext() for node in tree.findall(kind)] for kind in (SHOWN, INLINE, WARNING)]
    return *found[:2], len(found[2])


words = "The loss of a cell is\n"
two = "$$L = p$$\n$$G = q$$\n"
after = "with $p$ of its class.\n"
cases = [
    ("below an empty line", words + "\n" + two, False, (["L = p", "G = q"], [], 0)),
    ("below text", words + two, False, ([], ["L = p", "\n", "G = q"], 0)),
    ("between text", words + two + after, False, ([], ["L = p", "\n", "G = q", "\nwith "], 0)),
    ("between text, myst_dmath_double_inline", words + two + after, True, (["L = p", "G = q"], ["p"], 0)),
]
for name, text, double, expected in cases:
    shown, inline, warnings = formulas(text, double)
    print(f"{name}: displayed {shown}, inline {inline}, warnings {warnings}")
    assert (shown, inline, warnings) == expected
EOF
# Seen (Python 3.11, Linux, x86-64):
#   myst-parser 5.2.0 mdit-py-plugins 0.7.0 markdown-it-py 4.3.0 docutils 0.22.4
#   below an empty line: displayed ['L = p', 'G = q'], inline [], warnings 0
#   below text: displayed [], inline ['L = p', '\n', 'G = q'], warnings 0
#   between text: displayed [], inline ['L = p', '\n', 'G = q', '\nwith '], warnings 0
#   between text, myst_dmath_double_inline: displayed ['L = p', 'G = q'], inline ['p'], warnings 0
