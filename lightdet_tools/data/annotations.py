"""COCO annotation files: read, checked as a whole, and turned into arrays."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lightdet_core.config import DataError
from lightdet_core.machinery.files import how_to_get
from lightdet_core.machinery.packs import true_area
from lightdet_tools.data.checks import check_form, doubles

SHOWN = 20  # problems spelled out in an error
FEW = 5  # of what is left out or changed, by name


class Annotations(NamedTuple):
    """A checked annotation file: N images, M boxes in the order of the images."""

    image_ids: np.ndarray  # (N,) int64
    file_names: np.ndarray  # (N,) str
    sizes: np.ndarray  # (N,2) int64, width and height
    counts: np.ndarray  # (N,) int64, boxes per image
    boxes: np.ndarray  # (M,4) float64 xyxy, pixels of the original image, clipped to it
    labels: np.ndarray  # (M,) int64
    crowd: np.ndarray  # (M,) bool
    categories: list[dict]  # {"id", "name"}, sorted by id
    drops: dict[str, int]  # rule -> number of boxes or images
    truth: dict  # the same as COCO has it, for evaluation; also boxes under 1 px
    examples: dict[str, list[str]]  # rule -> the first few of them, in words


def read_coco(path: Path) -> dict:
    """A COCO json file without its segmentations (two thirds of COCO's bytes, not used here).

    Raises:
        DataError: missing, not JSON, a key that stands twice (JSON's reader takes the last one), or
            without the lists images, annotations and categories.
    """

    def slim(pairs: list[tuple[str, object]]) -> dict:
        record = dict(pairs)
        if len(record) < len(pairs):
            [(key, _)] = Counter(key for key, _ in pairs).most_common(1)
            raise DataError(f"{path}: {key!r} stands twice in one place; keep one")
        record.pop("segmentation", None)
        return record

    try:
        with open(path, encoding="utf-8-sig") as file:
            data = json.load(file, object_pairs_hook=slim)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise DataError(f"{path}: annotation file not found{how_to_get(path)}") from None
    except DataError:
        raise
    except (ValueError, RecursionError) as error:  # JSON and UTF-8 errors are ValueErrors
        raise DataError(f"{path}: not JSON: {error}") from None
    keys = ("images", "annotations", "categories")
    wrong = [k for k in keys if not isinstance(data, dict) or not isinstance(data.get(k), list)]
    if wrong:
        raise DataError(f"{path}: not COCO format: no list under {', '.join(wrong)}")
    return data


SKIP = "repair them, or leave them out: lightdet pack --profile NAME --skip-broken"


def complain(path: Path, problems: list[tuple[str, str]], remedy: str = SKIP) -> None:
    """Raises one DataError over all (kind, detail) problems, if there are any."""
    if not problems:
        return
    shown = [f"  {kind}: {detail}" for kind, detail in problems[:SHOWN]]
    if len(problems) > SHOWN:
        shown.append(f"  … and {len(problems) - SHOWN} more")
    counts = ", ".join(f"{n} {kind}" for kind, n in Counter(k for k, _ in problems).items())
    many = f"{len(problems)} problem{'s' if problems[1:] else ''}"
    raise DataError("\n".join([f"{path}: {many} ({counts})", *shown, f"  {remedy}"]))


def _is_id(value: object) -> bool:
    return type(value) is int and abs(value) < 2**63


def _is_number(value: object) -> bool:
    # NaN and infinity fail the comparison; 1e9 px is beyond any image
    return type(value) in (int, float) and abs(value) < 1e9


def _checked(records: list, what: str, check: Callable, problems: list) -> Iterator[dict]:
    """The usable records of a list; what is wrong with the others goes to `problems`.

    Of images with the same id none is usable: nobody knows whose boxes are whose.
    """
    ids = Counter(r["id"] for r in records if isinstance(r, dict) and _is_id(r.get("id")))
    seen = {key for key, n in ids.items() if n > 1} if what == "image" else set()
    for place, record in enumerate(records):
        if not isinstance(record, dict) or not _is_id(record.get("id")):
            found = repr(record["id"]) if isinstance(record, dict) and "id" in record else "nothing"
            detail = f"entry {place}: {found} under 'id', no whole number"
            problems.append((f"{what} without id", detail))
            continue
        wrong = check(record)
        if record["id"] in seen:
            wrong = (f"duplicate {what} id", "the id occurs more than once")
        if wrong:
            kind, detail = wrong
            problems.append((kind, f"{what} {record['id']}: {detail}"))
            continue
        seen.add(record["id"])
        yield record


def _check_category(record: dict) -> tuple[str, str] | None:
    if not isinstance(record.get("name"), str):
        return "category without name", f"{record.get('name')!r} under 'name', no text"


def _check_image(record: dict) -> tuple[str, str] | None:
    if not isinstance(record.get("file_name"), str) or not record["file_name"]:
        return "image without file_name", "no text under 'file_name'"
    if "\0" in record["file_name"]:
        return "file_name with a zero byte", repr(record["file_name"])
    for side in ("width", "height"):
        value = record.get(side)
        if type(value) is not int or not 0 < value < 2**31:
            return f"image without {side}", f"{record['file_name']}: {side} is {value!r}"


def usable(coco: dict, categories: list[dict]) -> tuple[list[dict], list[dict], list[tuple]]:
    """What can be used of the images and annotations of a COCO dict.

    Args:
        categories: the known ones, each with its id.

    Returns:
        Images, annotations, and (kind, detail) of everything that is wrong with the others.
    """
    problems = []
    images = list(_checked(coco["images"], "image", _check_image, problems))
    if not images:
        return [], [], [*problems, ("empty split", "no usable images")]
    ids, known = {image["id"] for image in images}, {category["id"] for category in categories}
    stated = {i["id"] for i in coco["images"] if isinstance(i, dict) and _is_id(i.get("id"))}

    def check(record: dict) -> tuple[str, str] | None:
        image, category, box = (record.get(k) for k in ("image_id", "category_id", "bbox"))
        for key in ("image_id", "category_id", "bbox"):
            if key not in record:
                return f"annotation without {key}", "the key is missing"
        if not _is_id(image) or image not in ids:
            lost = _is_id(image) and image in stated
            return (
                "annotation of a broken image" if lost else "unknown image",
                f"image_id {image!r}",
            )
        if not _is_id(category):
            return "category_id is no whole number", f"image {image}: category_id {category!r}"
        if category not in known:
            return "unknown category", f"image {image}: category_id {category!r}"
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
            return "box is not four finite numbers", f"image {image}: bbox {box}"
        if box[2] < 0 or box[3] < 0:
            return "box of negative size", f"image {image}: bbox {box}"
        for key in ("iscrowd", "ignore"):
            if record.get(key, 0) not in (0, 1):
                return f"{key} is not 0 or 1", f"image {image}: {key} {record[key]!r}"

    annotations = list(_checked(coco["annotations"], "annotation", check, problems))
    return images, annotations, problems


def read_annotations(
    path: Path, skip_broken: bool = False, classes: tuple[str, ...] = ()
) -> Annotations:
    """Reads and checks a COCO annotation file.

    Boxes wholly outside of their image, without extent or less than 1 px wide or high (also
    after clipping) are dropped, boxes that stick out are clipped; `drops` counts each rule.
    Evaluation has the same boxes and those under 1 px, as COCO's own does. Objects with `ignore`
    (VOC's difficult ones) count as crowds. Labels are the places of the ids in ascending order.

    Args:
        skip_broken: drop broken images and annotations, counted in `drops`, instead of raising.
        classes: names of the categories to keep, none for all. The other boxes are left out,
            counted in `drops` as are the images that thereby lose all of theirs: these stay, to
            teach what background is.

    Raises:
        DataError: lists everything that is wrong.
    """
    coco, drops = read_coco(path), Counter()
    categories, problems = _categories(coco, drops)
    # labels cannot be trusted
    complain(path, problems, "repair them; categories are never dropped as broken")
    images, kept, problems = usable(coco, categories)
    remedy = _known(categories, problems) + (SKIP if kept else "repair them")
    complain(path, [] if skip_broken and images else problems, remedy)
    drops.update(kind for kind, _ in problems)
    examples = first_few(problems)
    drops |= _emptied(coco, images, kept) | doubles(images, kept)
    if classes:
        categories, kept = _chosen(path, classes, categories, kept, drops)
    row = {image["id"]: i for i, image in enumerate(images)}
    label = {category["id"]: i for i, category in enumerate(categories)}
    sizes = np.array([(i["width"], i["height"]) for i in images], np.int64)
    rows = np.array([row[a["image_id"]] for a in kept], np.int64)
    labels = np.array([label[a["category_id"]] for a in kept], np.int64)
    crowd = np.array([a.get("iscrowd", 0) or a.get("ignore", 0) for a in kept], bool)
    drops["boxes with `ignore` that count as crowds"] = sum(a.get("ignore", 0) for a in kept)
    boxes = np.array([a["bbox"] for a in kept], np.float64).reshape(-1, 4)
    check_form(path, boxes, sizes[rows])
    keep, boxes, cut, gone, rules = _clip(boxes, sizes[rows])
    for rule, found in rules.items():
        drops[rule] = int(found.sum())
        examples |= first_few((rule, f"annotation {kept[i]['id']}") for i in np.flatnonzero(found))
    truth = {
        "images": [_only(image, ("id", "file_name", "width", "height")) for image in images],
        "annotations": _true(kept, boxes, crowd, cut, gone, drops),
        "categories": categories,
    }
    del coco, kept
    order = np.argsort(rows[keep], kind="stable")
    return Annotations(
        np.array([i["id"] for i in images], np.int64),
        np.array([i["file_name"] for i in images]),
        sizes,
        np.bincount(rows[keep], minlength=len(images)),
        boxes[keep][order],
        labels[keep][order],
        crowd[keep][order],
        categories,
        dict(+drops),
        truth,
        examples,
    )


def first_few(found: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The first of each kind: (kind, detail) -> kind: details."""
    few = defaultdict(list)
    for kind, detail in found:
        if len(few[kind]) < FEW:
            few[kind].append(detail)
    return dict(few)


def _known(categories: list[dict], problems: list[tuple[str, str]]) -> str:
    """Which categories there are, where annotations have others."""
    if all(kind != "unknown category" for kind, _ in problems):
        return ""
    known = [f"{category['id']} {category['name']}" for category in categories]
    more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
    return f"its categories are {', '.join(known[:SHOWN])}{more}; "


def _categories(coco: dict, drops: Counter) -> tuple[list[dict], list[tuple[str, str]]]:
    """Ids and names, sorted by id, and what is wrong with them.

    Of categories of the same name, such as the root that some tools add, those are left out that
    no annotation has, but one.
    """
    problems = []
    found = _checked(coco["categories"], "category", _check_category, problems)
    found = sorted(found, key=lambda c: c["id"])
    used = {a.get("category_id") for a in coco["annotations"] if _is_id(_of(a, "category_id"))}
    alike = defaultdict(list)  # ids by name
    for category in found:
        alike[category["name"]].append(category["id"])
    needed = {ids[-1] for ids in alike.values() if not used.intersection(ids)} | used
    kept = []
    for category in found:
        identity, name = category["id"], category["name"]
        if len(alike[name]) > 1 and identity not in needed:
            drops[f"category {identity}, another {name!r} without annotations, left out"] = 1
        else:
            kept.append({"id": identity, "name": name})
    twice = [name for name, n in Counter(c["name"] for c in kept).items() if n > 1]
    problems += [("duplicate category name", repr(name)) for name in twice]
    if not kept and not problems:
        problems.append(("no categories", "the list is empty"))
    return kept, problems


def _emptied(coco: dict, images: list[dict], kept: list[dict]) -> dict[str, int]:
    """How many images are background now because what they had was broken."""
    had = {a.get("image_id") for a in coco["annotations"] if _is_id(_of(a, "image_id"))}
    lost = had.intersection(i["id"] for i in images) - {a["image_id"] for a in kept}
    return {"images left without objects, all of which were broken": len(lost)}


def _of(record: object, key: str) -> object:
    return record.get(key) if isinstance(record, dict) else None


def _true(
    kept: list[dict],
    boxes: np.ndarray,
    crowd: np.ndarray,
    cut: np.ndarray,
    gone: np.ndarray,
    drops: Counter,
) -> list[dict]:
    """The annotations (M) for evaluation: clipped where they are cut, without those outside.

    An area that no mask in the box can have is the box's, as where none is stated.
    """
    found = []
    for record, box, is_crowd, is_cut in zip(kept, boxes, crowd, cut, strict=True):
        one = _only(record, ("id", "image_id", "category_id", "bbox", "area"))
        if is_cut:
            one["bbox"] = [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()]
        area = true_area(one)
        drops["impossible areas, taken from the box"] += (
            not is_cut and one.get("area", area) != area
        )
        found.append(one | {"area": area, "iscrowd": int(is_crowd)})
    return [one for one, lost in zip(found, gone, strict=True) if not lost]


def _only(record: dict, keys: tuple[str, ...]) -> dict:
    return {key: record[key] for key in keys if key in record}


def _chosen(
    path: Path, classes: tuple[str, ...], categories: list[dict], boxes: list[dict], drops: Counter
) -> tuple[list[dict], list[dict]]:
    """The categories with these names and the annotations of them; `drops` counts the rest."""
    names = [category["name"] for category in categories]
    if unknown := [name for name in classes if name not in names]:
        raise DataError(
            f"{path}: data.classes: {', '.join(unknown)}: not in it; its classes are "
            f"{', '.join(names)}"
        )
    categories = [category for category in categories if category["name"] in classes]
    known = {category["id"] for category in categories}
    own = [box for box in boxes if box["category_id"] in known]
    before, after = ({box["image_id"] for box in some} for some in (boxes, own))
    drops["boxes of other classes left out"] = len(boxes) - len(own)
    drops["images left without objects"] = len(before) - len(after)
    return categories, own


def _clip(boxes: np.ndarray, sizes: np.ndarray) -> tuple:
    """xywh (M,4), image sizes (M,2) -> which to keep (M,), xyxy clipped to the image (M,4), which
    were cut (M,), which are no objects in any sense (M,), and {rule: whom it concerns (M,)}."""
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    clipped = np.concatenate([low, high], 1).clip(0, np.tile(sizes, 2))
    flat = (boxes[:, 2:] == 0).any(1)  # stray clicks
    gone = ((low >= sizes) | (high <= 0)).any(1) & ~flat
    small = (clipped[:, 2:] - clipped[:, :2] < 1).any(1)
    # 0.01 px: COCO's own rounding is no defect
    cut = ((low < -0.01) | (high > sizes + 0.01)).any(1)
    rules = {
        "boxes without extent dropped": flat,
        "boxes under 1 px, evaluated but not learnt": small & ~gone & ~flat,
        "boxes outside of the image dropped": gone,
        "boxes clipped to the image": cut & ~small,
    }
    return ~small, clipped, cut, gone | flat, rules
