import json

import pytest

from lightdet_core.machinery.files import replacing, write_json, write_text


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "table.csv"
    write_text(path, "ä\r\n")
    assert path.read_bytes() == b"\xc3\xa4\r\n"
    with pytest.raises(RuntimeError), replacing(path) as aside:
        aside.write_text("half")
        assert path.read_bytes() == b"\xc3\xa4\r\n" and aside.suffix == ".csv"
        raise RuntimeError
    assert path.read_bytes() == b"\xc3\xa4\r\n"
    assert [found.name for found in path.parent.iterdir()] == ["table.csv"]


def test_json_ends_with_a_line_end_and_what_is_none_leaves_the_old(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"b": [1, 2]}, indent=1)
    text = path.read_text()
    assert text.endswith("}\n") and json.loads(text) == {"b": [1, 2]}
    with pytest.raises(TypeError):
        write_json(path, {"b": object()})
    assert path.read_text() == text and len(list(tmp_path.iterdir())) == 1
