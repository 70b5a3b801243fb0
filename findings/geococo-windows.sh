#!/usr/bin/env bash
# Guess: geococo cuts a large picture into pieces of any WIDTH and HEIGHT, each with the objects that it shows; a new
#   class name gets an id of its own when labels are added to a data set; an object has its area, whatever its colour.
# Really: width and height are exchanged on the way: with 512 x 256 each piece shows the left half of its place only,
#   stretched to twice the width and half the height, the lower half is black, the boxes lie where the objects would be,
#   and those in the other half are gone; with 256 x 512 the other way round; 256 x 256 is right. A new name gets the
#   number after the highest of the names that come again, not of all: "car" gets the id of "tree", and where none comes
#   again it begins with 1, so that a pool is a house, in the categories and in the objects; with ids in the labels it
#   is right. Black pixels count as "no data" though the picture declares none: a black object of 60 x 30 keeps 229 of
#   1800 pixels of its mask and area, a half black one about half. Nothing is said.
# Here: pictures go into the network whole, and a report names each category with its id.
# (With pandas 3 it raises for class names: hence pandas 2.)
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 pandas==2.3.3 geopandas==1.1.1 rasterio==1.4.4 shapely==2.2.0 \
  pandera==0.35.0 pydantic==1.10.27 opencv-python-headless==5.0.0.93 pycocotools==2.0.11 geococo==0.7.0
cat > check.py <<'EOF'
import contextlib
import io
import warnings
from importlib.metadata import version
from pathlib import Path

warnings.filterwarnings("ignore")
import geopandas
import numpy as np
import rasterio
from geococo import append_dataset, create_dataset
from rasterio.transform import from_origin
from shapely.geometry import box

print(*(f"{name} {version(name)}" for name in ("geococo", "rasterio", "geopandas", "pandas")))
WIDTH, HEIGHT, EAST, NORTH = 1024, 512, 500000, 5600000  # one pixel is one metre
THINGS = {"house": (100, 100, 160, 130), "tree": (420, 60, 470, 100), "car": (300, 400, 340, 480),
          "pool": (900, 300, 960, 330)}


def raster(name, **colours):
    """A grey picture with bright things, some of them of other colours; it has no value for "no data"."""
    image = np.full((3, HEIGHT, WIDTH), 90, np.uint8)
    for thing, (x1, y1, x2, y2) in THINGS.items():
        image[:, y1:y2, x1:x2] = colours.get(thing, 220)
    profile = dict(driver="GTiff", width=WIDTH, height=HEIGHT, count=3, dtype="uint8", crs="EPSG:32631")
    with rasterio.open(name, "w", transform=from_origin(EAST, NORTH, 1, 1), **profile) as out:
        out.write(image)
    return image


def labels(names, ids=None):
    shapes = [box(EAST + x1, NORTH - y2, EAST + x2, NORTH - y1) for x1, y1, x2, y2 in map(THINGS.get, names)]
    columns = {"name": names} if ids is None else {"name": names, "number": ids}
    return geopandas.GeoDataFrame(columns, geometry=shapes, crs="EPSG:32631")


def add(data, folder, raster_name, table, window, **more):
    Path(folder).mkdir(exist_ok=True)
    with rasterio.open(raster_name) as source, contextlib.redirect_stderr(io.StringIO()):
        return append_dataset(dataset=data, images_dir=Path(folder), src=source, labels=table,
                              window_bounds=[window], name_attribute="name", **more)


def new():
    return create_dataset(description="town", contributor="us")


# 1: pieces of other shapes
image = raster("town.tif")
print("pieces: bright pixels at their place in the picture, in the piece, under its labels")
for window in ((256, 256), (512, 256), (256, 512)):
    data = add(new(), f"pieces{window[0]}x{window[1]}", "town.tif", labels(list(THINGS)), window)
    place = piece = under = same = halves = 0
    for one in data.images:
        left, top = map(int, one.file_name.stem.split("_")[1:3])
        part = np.zeros((3, window[1], window[0]), np.uint8)
        cut = image[:, top : top + window[1], left : left + window[0]]
        part[:, : cut.shape[1], : cut.shape[2]] = cut
        with rasterio.open(one.file_name) as source:
            saved = source.read()
        assert saved.shape == part.shape and (one.width, one.height) == window
        bright = saved[0] > 150
        place, piece = place + int((part[0] > 150).sum()), piece + int(bright.sum())
        for thing in data.annotations:
            if thing.image_id == one.id:
                x, y, w, h = thing.bbox
                under += int(bright[y : y + h, x : x + w].sum())
        same += bool(np.abs(saved.astype(int) - part).mean() < 1)
        # the shape with width and height exchanged, brought to the right one by leaving out and repeating pixels
        short = min(window)
        turned = np.zeros((3, window[0], window[1]), np.uint8)
        turned[:, :short, :short] = part[:, :short, :short]
        rows = np.arange(window[1]) * window[0] // window[1]
        columns = np.arange(window[0]) * window[1] // window[0]
        halves += bool(np.abs(saved.astype(int) - turned[:, rows][:, :, columns]).mean() < 3)
    print(f"  {window[0]} x {window[1]}: {place}, {piece}, {under}; {same} of {len(data.images)} pieces as they should",
          f"be, {len(data.annotations)} objects")
    if window == (256, 256):
        assert place == piece == under and same == len(data.images) <= len(data.annotations)
    else:
        assert piece < 0.7 * place and under < 0.4 * piece and same == 0 and halves == len(data.images)

# 2: new classes
print("classes, and the class ids of the objects, after each time that labels were added")
for ids in (None, {"house": 1, "tree": 2, "car": 3, "pool": 4}):
    print("  with names and ids:" if ids else "  with names:")
    data, shown = new(), []
    for names in (["house", "tree"], ["house", "car"], ["pool"]):
        before = len(data.annotations)
        table = labels(names, ids and [ids[name] for name in names])
        more = {"id_attribute": "number"} if ids else {}
        data = add(data, f"town{bool(ids)}", "town.tif", table, (512, 512), **more)
        classes = [(one.id, one.name) for one in data.categories]
        shown.append(classes)
        print(f"    {' and '.join(names)}: {classes}, {sorted({o.category_id for o in data.annotations[before:]})}")
    if ids:
        assert shown[-1] == [(1, "house"), (2, "tree"), (3, "car"), (4, "pool")]
    else:
        assert shown[1] == [(1, "house"), (2, "tree"), (2, "car")] and shown[2] == [*shown[1], (1, "pool")]

# 3: black objects
print("area of house and tree, 60 x 30 and 50 x 40")
areas = {}
half_black = np.repeat([0, 220], 20)[:, None]  # 20 rows black, 20 bright
for colour, house, tree in (("dark grey", 40, 40), ("black, and half black", 0, half_black)):
    raster("colours.tif", house=house, tree=tree)
    with rasterio.open("colours.tif") as source:
        assert source.nodata is None
    data = add(new(), f"colours {colour}", "colours.tif", labels(["house", "tree"]), (512, 512))
    areas[colour] = [int(one.area) for one in data.annotations]
    print(f"  {colour}: {areas[colour]}, boxes {[one.bbox for one in data.annotations]}")
assert areas["dark grey"] == [1800, 2000]
assert areas["black, and half black"][0] < 300 and 900 < areas["black, and half black"][1] < 1300
EOF
venv/bin/python check.py
# Seen (Python 3.11, Linux, x86-64):
#   geococo 0.7.0 rasterio 1.4.4 geopandas 1.1.1 pandas 2.3.3
#   pieces: bright pixels at their place in the picture, in the piece, under its labels
#     256 x 256: 23840, 23840, 23840; 13 of 13 pieces as they should be, 13 objects
#     512 x 256: 18560, 7520, 0; 0 of 9 pieces as they should be, 7 objects
#     256 x 512: 19640, 10600, 784; 0 of 8 pieces as they should be, 8 objects
#   classes, and the class ids of the objects, after each time that labels were added
#     with names:
#       house and tree: [(1, 'house'), (2, 'tree')], [1, 2]
#       house and car: [(1, 'house'), (2, 'tree'), (2, 'car')], [1, 2]
#       pool: [(1, 'house'), (2, 'tree'), (2, 'car'), (1, 'pool')], [1]
#     with names and ids:
#       house and tree: [(1, 'house'), (2, 'tree')], [1, 2]
#       house and car: [(1, 'house'), (2, 'tree'), (3, 'car')], [1, 3]
#       pool: [(1, 'house'), (2, 'tree'), (3, 'car'), (4, 'pool')], [4]
#   area of house and tree, 60 x 30 and 50 x 40
#     dark grey: [1800, 2000], boxes [[59, 79, 60, 30], [379, 39, 50, 40]]
#     black, and half black: [229, 1168], boxes [[59, 79, 60, 30], [379, 39, 50, 40]]
