"""Publishing: whole or not at all, resumable, refused when the inputs changed."""

import pytest

from espnet_musa import stamp
from espnet_musa.errors import UserError


def make(out, fields, text="x", force=False):
    partial = stamp.begin(out, "test", fields, force=force)
    if partial is not None:
        (partial / "file").write_text(text)
        stamp.finish(out, "test", counts={"files": 1}, seconds=0.1)
    return partial


def test_up_to_date(tmp_path):
    out = tmp_path / "out"
    assert make(out, {"a": 1}) is not None
    assert stamp.read(out)["counts"] == {"files": 1}
    assert make(out, {"a": 1}) is None
    assert not stamp.partial_of(out).exists()


def test_changed_inputs_are_refused_by_name(tmp_path):
    out = tmp_path / "out"
    make(out, {"a": 1, "b": 2})
    with pytest.raises(UserError, match=r"changed: b \(2 -> 3\).*--force true"):
        make(out, {"a": 1, "b": 3})
    assert stamp.read(out)["fields"] == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("stage", "another"), [("format", ""), ("anonymize", "system"), ("score", "evaluator")]
)
def test_another_name_is_offered_where_there_is_one(tmp_path, stage, another):
    stamp.begin(tmp_path / "out", stage, {"a": 1})
    stamp.finish(tmp_path / "out", stage, counts={}, seconds=0.0)
    with pytest.raises(UserError) as error:
        stamp.begin(tmp_path / "out", stage, {"a": 2})
    end = f"; a new {another} name keeps both" if another else ""
    assert str(error.value).endswith(f"--force true makes it anew{end}")


def test_force_replaces(tmp_path):
    out = tmp_path / "out"
    make(out, {"a": 1}, "old")
    make(out, {"a": 2}, "new", force=True)
    assert (out / "file").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_partial_is_resumed_only_with_the_same_plan(tmp_path):
    out = tmp_path / "out"
    partial = stamp.begin(out, "test", {"a": 1})
    (partial / "half").touch()
    assert (stamp.begin(out, "test", {"a": 1}) / "half").exists()
    assert not (stamp.begin(out, "test", {"a": 2}) / "half").exists()


@pytest.mark.parametrize("killed", ["before new is in place", "before old is gone"])
def test_killed_between_the_renames(tmp_path, killed):
    out = tmp_path / "out"
    make(out, {"a": 1}, "old")
    if killed == "before new is in place":
        out.rename(tmp_path / "out.old")
    else:
        (tmp_path / "out.old").mkdir()
    assert stamp.require(out, "test")["fields"] == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_missing_input_names_its_stage(tmp_path):
    with pytest.raises(UserError, match="run stage 'format' first"):
        stamp.require(tmp_path / "nowhere", "format")


def test_foreign_directory_is_not_touched(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="without a stamp"):
        stamp.begin(tmp_path / "out", "test", {})


def test_damaged_stamp(tmp_path):
    make(tmp_path / "out", {})
    (tmp_path / "out" / stamp.DONE).write_text("{")
    with pytest.raises(UserError, match="damaged stamp"):
        stamp.read(tmp_path / "out")


def test_of_changed_inputs_only_the_names_are_told(tmp_path):
    out = tmp_path / "out"
    before = {f"set{i}": i for i in range(9)}
    stamp.begin(out, "score", {"inputs": before})
    stamp.finish(out, "score", counts={}, seconds=0)
    with pytest.raises(UserError, match=r"changed: inputs \(set3, set9\)"):
        stamp.begin(out, "score", {"inputs": {**before, "set3": 0, "set9": 9}})
    with pytest.raises(UserError, match=r"\(set0, set1, set2, set3, set4 and 4 more\)"):
        stamp.begin(out, "score", {"inputs": {}})
