#!/usr/bin/env bash
# Guess: an optional package with which jsonschema can check one more format costs nothing where none is checked.
# Really: jsonschema imports rfc3987-syntax where it finds it (from 4.25.0 on its extra `format-nongpl` asks for it, and
#   JupyterLab for that extra, by way of jupyter-events). At its import that package reads one grammar 39 times, into as
#   many parsers, of which jsonschema uses one, for `iri`. Whatever imports nbformat (JupyterLab, nbconvert, papermill)
#   begins with this, in each process; no notebook has an IRI. Without the package, or with jsonschema 4.24, it is gone.
# Here: requirements.in keeps jsonschema below 4.25; each notebook that the pipeline executes starts so much sooner.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet nbformat==5.11.1 "jsonschema[format-nongpl]==4.26.0" rfc3987-syntax==1.1.0 lark==1.3.1
cat > check.py <<'END'
import subprocess
import sys
from importlib.metadata import version

print(*(f"{name} {version(name)}" for name in ("jsonschema", "nbformat", "rfc3987-syntax", "lark")), sep=", ")

# How many parsers, and how many of them are of the same grammar
import lark

made = []
usual = lark.Lark.__init__


def counted(self, grammar, **options):
    made.append((grammar, str(options["start"])))
    usual(self, grammar, **options)


lark.Lark.__init__ = counted
import jsonschema

print(f"`import jsonschema`: {len(made)} parsers of {len({grammar for grammar, _ in made})} grammar")
assert len(made) == 39 and len({grammar for grammar, _ in made}) == 1
jsonschema.validate("http://a.b", {"format": "iri"}, format_checker=jsonschema.FormatChecker())
assert len(made) == 39  # the one that is used is there already


def seconds(first=""):
    """Processor time of a new Python that imports nbformat, less that of one that does nothing."""
    code = "import resource, sys\n{}\nused = resource.getrusage(resource.RUSAGE_SELF)\n"
    code += "print(used.ru_utime + used.ru_stime)"
    found = []
    for body in (f"{first}\nimport nbformat", "pass"):
        command = [sys.executable, "-c", code.format(body)]
        found.append(min(float(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(3)))
    return found[0] - found[1]


with_it, without = seconds(), seconds("sys.modules['rfc3987_syntax'] = None  # as if it were not installed")
print(f"`import nbformat` takes more than twice as long with it: {with_it > 2 * without}")
assert with_it > 2 * without
END
venv/bin/python check.py
venv/bin/pip install --quiet "jsonschema==4.24.1"
venv/bin/python -c 'import sys, jsonschema; assert "lark" not in sys.modules; print("jsonschema 4.24.1: no parser")'
# Seen (Python 3.11, Linux, x86-64):
#   jsonschema 4.26.0, nbformat 5.11.1, rfc3987-syntax 1.1.0, lark 1.3.1
#   `import jsonschema`: 39 parsers of 1 grammar
#   `import nbformat` takes more than twice as long with it: True
#   jsonschema 4.24.1: no parser
