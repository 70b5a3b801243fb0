#!/usr/bin/env bash
# Guess: cvannotate turns a VOC file into COCO or YOLO with the classes that its objects have, and leaves files alone
#   that are there already, unless --force is given ("Overwrite output files").
# Really: for the class it looks for an element `name_id`, which VOC does not have (its own writer makes none either),
#   and takes 0 without it: every object becomes one of the first class of `-c`, be it in COCO, YOLO or VOC, though the
#   names stand in both files. A file that is there is called skipped, is listed in skipped.txt, and is written over
#   all the same. Label files for YOLO are called a.jpg.txt, where trainers look for a.txt. From YOLO to VOC or COCO the
#   classes are right.
# Here: judged by hand.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet cvannotate==1.0.0 typer==0.29.1 defusedxml==0.7.1 pillow==13.0.0
printf '%s\n' person car dog > classes.txt
cat > a.xml <<'EOF'
<annotation><filename>a.jpg</filename><size><width>200</width><height>100</height><depth>3</depth></size>
<object><name>person</name><bndbox><xmin>10</xmin><ymin>10</ymin><xmax>30</xmax><ymax>60</ymax></bndbox></object>
<object><name>dog</name><bndbox><xmin>50</xmin><ymin>20</ymin><xmax>90</xmax><ymax>70</ymax></bndbox></object>
<object><name>car</name><bndbox><xmin>100</xmin><ymin>30</ymin><xmax>180</xmax><ymax>80</ymax></bndbox></object>
</annotation>
EOF
printf '%s\n' '0 0.1 0.35 0.1 0.5' '2 0.35 0.45 0.2 0.5' '1 0.7 0.55 0.4 0.5' > b.txt
turn=(venv/bin/cvannotate convert -c classes.txt)
"${turn[@]}" -i a.xml --from-format voc -f coco -o coco
"${turn[@]}" -i a.xml --from-format voc -f yolo -o yolo
"${turn[@]}" -i a.xml --from-format voc -f voc -o voc
"${turn[@]}" -i b.txt --from-format yolo -w 200 --height 100 -f coco -o right
"${turn[@]}" -i b.txt --from-format yolo -w 200 --height 100 -f voc -o right
"${turn[@]}" -i right/b.xml --from-format voc -f yolo -o back
mkdir keep
echo "<annotation>corrected by hand</annotation>" > keep/a.jpg.xml
"${turn[@]}" -i a.xml --from-format voc -f voc -o keep --verbose > said.txt
venv/bin/python - <<'EOF'
import json
import re
from importlib.metadata import version
from pathlib import Path

print("cvannotate", version("cvannotate"))


def of_voc(path):
    return re.findall(r"<name>(\w+)</name>", Path(path).read_text())


def of_coco(path):
    data = json.loads(Path(path).read_text())
    names = {c["id"]: c["name"] for c in data["categories"]}
    return [names[one["category_id"]] for one in data["annotations"]]


def of_yolo(path):
    names = Path("classes.txt").read_text().split()
    return [names[int(line.split()[0])] for line in Path(path).read_text().splitlines()]


given = of_voc("a.xml")
print(f"VOC file: {given}")
for kind, got in (("COCO", of_coco("coco/annotations.json")), ("YOLO", of_yolo("yolo/a.jpg.txt")),
                  ("VOC", of_voc("voc/a.jpg.xml"))):
    print(f"  to {kind}: {got}")
    assert got == ["person"] * 3 and given == ["person", "dog", "car"]
print(f"YOLO file: {of_yolo('b.txt')}")
for kind, got in (("COCO", of_coco("right/annotations.json")), ("VOC", of_voc("right/b.xml"))):
    print(f"  to {kind}: {got}")
    assert got == given
print(f"  to VOC and back: {of_yolo('back/b.txt')}")
assert of_yolo("back/b.txt") == ["person"] * 3
print(f"label files of a.jpg: {[p.name for p in Path('yolo').iterdir()]}")
assert [p.name for p in Path("yolo").iterdir()] == ["a.jpg.txt"]
said, after = Path("said.txt").read_text().splitlines(), Path("keep/a.jpg.xml").read_text()
print(f"a file that is there, without --force: said {said[0]!r}")
print(f"  in skipped.txt: {Path('keep/skipped.txt').read_text().split()}")
print(f"  what stands in it: {len(of_voc('keep/a.jpg.xml'))} objects, the correction {'corrected' in after}")
assert said[0] == "Skipping keep/a.jpg.xml" and len(of_voc("keep/a.jpg.xml")) == 3 and "corrected" not in after
EOF
# Seen (Python 3.11, Linux, x86-64):
#   cvannotate 1.0.0
#   VOC file: ['person', 'dog', 'car']
#     to COCO: ['person', 'person', 'person']
#     to YOLO: ['person', 'person', 'person']
#     to VOC: ['person', 'person', 'person']
#   YOLO file: ['person', 'dog', 'car']
#     to COCO: ['person', 'dog', 'car']
#     to VOC: ['person', 'dog', 'car']
#     to VOC and back: ['person', 'person', 'person']
#   label files of a.jpg: ['a.jpg.txt']
#   a file that is there, without --force: said 'Skipping keep/a.jpg.xml'
#     in skipped.txt: ['keep/a.jpg.xml']
#     what stands in it: 3 objects, the correction False
