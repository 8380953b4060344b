import json
import logging
import os
import stat
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from nbrl.checkpoint import CheckpointError, checkpoint_path, newest, read_tensors, replace_file, write_tensors

DTYPES = ["?", "u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8"]
names = st.text(min_size=1, max_size=12).filter(lambda name: name != "__metadata__")
any_array = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays_of.arrays(dtype, arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)
any_arrays = st.dictionaries(names, any_array, max_size=5)
any_metadata = st.dictionaries(
    st.text(max_size=12).filter(lambda name: name != "sha256"), st.text(max_size=20), max_size=3
)


def written(arrays, metadata=None) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tensors.safetensors"
        write_tensors(path, arrays, metadata or {})
        assert [entry.name for entry in path.parent.iterdir()] == [path.name]
        return path.read_bytes()


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].shape == array.shape
        assert found[name].dtype == array.dtype
        assert found[name].tobytes() == array.tobytes()


@given(any_arrays, any_metadata)
def test_what_is_written_is_read(arrays, metadata):
    found, found_metadata = read_tensors(written(arrays, metadata))
    assert_same(found, arrays)
    assert found_metadata == metadata


@given(any_arrays, any_metadata, st.data())
def test_a_file_cut_short_anywhere_is_refused(arrays, metadata, data):
    whole = written(arrays, metadata)
    length = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(CheckpointError):
        read_tensors(whole[:length])


@given(any_arrays, any_metadata, st.data())
def test_one_wrong_byte_of_data_is_refused(arrays, metadata, data):
    whole = bytearray(written({**arrays, "a": np.arange(3.0)}, metadata))
    header = 8 + int.from_bytes(whole[:8], "little")
    place = data.draw(st.integers(header, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CheckpointError, match="checksum"):
        read_tensors(bytes(whole))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(junk):
    with pytest.raises(CheckpointError):
        read_tensors(junk)


@given(any_arrays, st.binary(min_size=1, max_size=20))
def test_bytes_after_the_end_are_refused(arrays, more):
    with pytest.raises(CheckpointError):
        read_tensors(written(arrays) + more)


def test_changed_metadata_is_refused():
    whole = written({"a": np.zeros(3, np.float32)}, {"steps": "1000"})
    assert whole.count(b'"1000"') == 1
    with pytest.raises(CheckpointError, match="checksum"):
        read_tensors(whole.replace(b'"1000"', b'"9000"'))


def test_arrays_that_are_views_or_of_the_other_byte_order():
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    swapped = base.astype(">f4")
    found, _ = read_tensors(written({"transposed": base.T, "strided": base[::2, 1:4], "swapped": swapped}))
    np.testing.assert_array_equal(found["transposed"], base.T)
    np.testing.assert_array_equal(found["strided"], base[::2, 1:4])
    np.testing.assert_array_equal(found["swapped"], base)
    found["transposed"][0, 0] = 7  # each array is its own


@pytest.mark.parametrize(
    ("arrays", "metadata", "sentence"),
    [
        ({"a": np.zeros(2, complex)}, {}, "array 'a' has the dtype complex128"),
        ({"a": np.array(["text"])}, {}, "array 'a' has the dtype"),
        ({"a": np.array([object()])}, {}, "array 'a' has the dtype object"),
        ({"__metadata__": np.zeros(2)}, {}, "cannot have the name '__metadata__'"),
        ({}, {"steps": 3}, "metadata 'steps' is 3: names and values must be text"),
        ({}, {"sha256": "0"}, "which is taken by the checksum"),
    ],
)
def test_what_does_not_fit_is_not_written(tmp_path, arrays, metadata, sentence):
    with pytest.raises(ValueError, match=sentence):
        write_tensors(tmp_path / "a.safetensors", arrays, metadata)
    assert not any(tmp_path.iterdir())


def encoded(header, data=b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(begin=0, end=4, dtype="F32", shape=(1,)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("contents", "sentence"),
    [
        (b"", "cut short or is not a safetensors file"),
        ((2**63).to_bytes(8, "little") + b"{}", "cut short or is not a safetensors file"),
        (encoded(b"[]"), "not a JSON object"),
        (encoded(b"{"), "not valid JSON"),
        (encoded(b"\xff\xff"), "not valid JSON"),
        (encoded(b'{"a": NaN}'), "not valid JSON"),
        (encoded(b"[" * 60_000), "not valid JSON"),
        (encoded(b"[" * 5_000_000), "a header of 5,000,000 bytes: it must be at most 4,194,304"),
        (encoded(b'{"a": 1, "a": 1}'), "not valid JSON"),
        (encoded({"__metadata__": {"steps": 3}}), "not text"),
        (encoded({"__metadata__": []}), "not a JSON object"),
        (encoded({"a": 3}), "needs a dtype, a shape and data offsets"),
        (encoded({"a": {"dtype": "F32", "shape": [1]}}, b"1234"), "needs a dtype, a shape and data offsets"),
        (encoded({"a": entry(dtype="BF16", end=2)}, b"12"), "unknown dtype 'BF16'"),
        (encoded({"a": entry(dtype=["F32"])}, b"1234"), "unknown dtype"),
        (encoded({"a": entry(shape=(-1,))}, b"1234"), "not counts"),
        (encoded({"a": entry(shape=(True,))}, b"1234"), "not counts"),
        (encoded({"a": entry(shape=(1.0,))}, b"1234"), "not counts"),
        (encoded({"a": {**entry(), "data_offsets": [0, 4, 8]}}, b"1234"), "not counts"),
        (encoded({"a": entry(shape=(2,))}, b"1234"), "does not fill its place"),
        (encoded({"a": entry(shape=(2**62, 2**62))}, b"1234"), "does not fill its place"),
        (encoded({"a": entry(4, 0)}, b"1234"), "does not fill its place"),
        (encoded({"a": entry(0, 2**50, shape=(2**48,))}, b"1234"), "it has 4 bytes of data"),
        (encoded({"a": entry(), "b": entry(2, 6)}, b"123456"), "gap or overlaps"),
        (encoded({"a": entry(), "b": entry()}, b"1234"), "gap or overlaps"),
        (encoded({"a": entry(4, 8)}, b"12345678"), "gap or overlaps"),
        (encoded({"a": entry(0, 0, shape=(0, 2**80))}), "impossible shape"),
        (encoded({"a": entry(0, 4, shape=(1,) * 100)}, b"1234"), "impossible shape"),
        (encoded({"a": entry()}, b"12345678"), "it has 8 bytes of data, its header announces 4"),
    ],
)
def test_damaged_files_are_refused_in_a_sentence(tmp_path, contents, sentence):
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(contents)
    for source in (path, str(path), contents):
        with pytest.raises(CheckpointError, match=sentence) as caught:
            read_tensors(source)
        assert "\n" not in str(caught.value)


def test_absent_files_and_folders_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        read_tensors(tmp_path / "absent.safetensors")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_tensors(tmp_path)


@given(any_arrays, any_metadata)
def test_the_safetensors_package_reads_ours(arrays, metadata):
    safetensors = pytest.importorskip("safetensors")
    from safetensors import numpy as theirs

    whole = written(arrays, metadata)
    loaded = theirs.load(whole)
    assert_same({name: loaded[name] for name in arrays}, arrays)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ours.safetensors"
        path.write_bytes(whole)
        with safetensors.safe_open(path, framework="numpy") as file:
            found = file.metadata()
    assert {name: found[name] for name in metadata} == metadata
    assert set(found) - set(metadata) == {"sha256"}


@given(any_arrays.filter(bool), any_metadata)  # without an array the package writes a header that is not JSON
def test_we_read_the_safetensors_packages(arrays, metadata):
    pytest.importorskip("safetensors")
    from safetensors import numpy as theirs

    found, found_metadata = read_tensors(theirs.save(arrays, metadata=metadata))
    assert_same({name: found[name] for name in arrays}, arrays)
    assert set(found) == set(arrays)
    assert found_metadata == metadata


def test_a_failed_write_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": np.zeros(3)}, {})
    before = path.read_bytes()

    def broken():
        yield b"half"
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        replace_file(path, broken())
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_permissions_follow_the_users_mask(tmp_path):
    mask = os.umask(0o027)
    try:
        write_tensors(tmp_path / "a.safetensors", {}, {})
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == 0o640


def test_newest_passes_over_damaged_files(tmp_path, caplog):
    assert newest(tmp_path) is None
    assert newest(tmp_path / "absent") is None
    for steps in (5, 1000, 200):
        write_tensors(checkpoint_path(tmp_path, steps), {"a": np.arange(9.0)}, {"steps": str(steps)})
    (tmp_path / ".step-000000009999.safetensors.tmp").write_bytes(b"half")
    assert newest(tmp_path) == checkpoint_path(tmp_path, 1000)
    damaged = checkpoint_path(tmp_path, 1000)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING, logger="nbrl"):
        assert newest(tmp_path) == checkpoint_path(tmp_path, 200)
    assert "passing over a damaged checkpoint" in caplog.text
