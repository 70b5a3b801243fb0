import numpy as np
import pytest
from conftest import tree

from lightdet_core.config import DataError
from lightdet_core.machinery.packs import open_pack


def test_open_pack_errors(made, tmp_path):
    _, _, out = made
    with pytest.raises(FileNotFoundError, match=r"nothing: no pack here; run lightdet pack --prof"):
        open_pack(tmp_path / "nothing")
    good = {name: (out / name).read_bytes() for name in tree(out)}

    def fails(kind: type, message: str) -> None:
        with pytest.raises(kind, match=message):
            open_pack(out)
        for name, content in good.items():
            (out / name).write_bytes(content)

    (out / "pack.json").unlink()
    fails(FileNotFoundError, "train-32: incomplete pack; run lightdet pack --profile ")
    (out / "gt_boxes.npy").unlink()
    fails(FileNotFoundError, r"gt_boxes\.npy: missing")
    (out / "images.npy").write_bytes(good["images.npy"][:2000])
    fails(DataError, r"images\.npy: damaged")
    (out / "pack.json").write_text("{")
    fails(DataError, "damaged pack.json")
    (out / "pack.json").write_text('{"format": 0}')
    fails(DataError, "another format")
    np.save(out / "counts.npy", np.zeros(7, np.int64))
    fails(DataError, r"counts\.npy: damaged: int64 \(7,\), expected \(3,\)")
    np.save(out / "gt_labels.npy", np.zeros((3, 2), np.int32))
    fails(DataError, r"gt_labels\.npy: damaged: int32")
    np.save(out / "sizes.npy", np.array([{"a": 1}], object), allow_pickle=True)
    fails(DataError, r"sizes\.npy: damaged: .*Python objects")
    open_pack(out)
