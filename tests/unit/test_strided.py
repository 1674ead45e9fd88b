"""Views of storages: the values that torch would give, without torch."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptdoctor.errors import CorruptCheckpoint, LimitExceeded
from ckptdoctor.files import SourceFile
from ckptdoctor.model import DTYPES, DType, Layout, packed, packed_stride
from ckptdoctor.strided import gather, swapped
from tests import builders as b

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf")


def layout_of(tensor: Any) -> Layout:
    dtype = DTYPES[str(tensor.dtype).removeprefix("torch.")]
    return Layout(
        dtype, tuple(tensor.shape), tensor.stride(), tensor.storage_offset(), tensor.is_conj(), tensor.is_neg()
    )


def storage_bytes(tensor: Any) -> bytes:
    whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
    return whole.numpy().tobytes()


def gathered(path: Path, tensor: Any, *, start: int = 3, big_endian: bool = False) -> bytes:
    layout, raw = layout_of(tensor), storage_bytes(tensor)
    if big_endian:
        raw = swapped(raw, layout.dtype.itemsize // (2 if layout.dtype.family == "complex" else 1))
    b.written(path, b"\xee" * start + raw + b"\xee")
    with SourceFile(path) as source:
        return b"".join(gather(source, start, len(raw), layout, big_endian=big_endian))


NAMES = [name for name in b.DTYPE_NAMES if name != "float4_e2m1fn_x2"]
VIEWS = b.awkward_views()


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("name", VIEWS)
def test_every_awkward_view(tmp_path, name, big_endian):
    assert gathered(tmp_path / "f", VIEWS[name], big_endian=big_endian) == b.values_of(VIEWS[name])


@pytest.mark.parametrize("name", NAMES)
def test_every_dtype_in_both_byte_orders(tmp_path, name):
    whole = b.patterned(name, 4, 6)
    for view in (whole, whole.T, whole[1:3, 2:5], whole[:, ::2], whole[0, 0].expand(2, 3), whole[3, 5]):
        assert gathered(tmp_path / "f", view) == b.values_of(view)
        assert gathered(tmp_path / "f", view, big_endian=True) == b.values_of(view)


@st.composite
def views(draw):
    """A tensor of any dtype after some slicing, turning and broadcasting."""
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    view = b.patterned(draw(st.sampled_from(NAMES)), *shape)
    for step in draw(
        st.lists(st.sampled_from(["slice", "turn", "expand", "select", "new", "conj", "diagonal"]), max_size=5)
    ):
        axes = st.integers(0, view.dim() - 1) if view.dim() else st.nothing()
        if step == "slice" and view.dim():
            axis = draw(axes)
            begin, by = draw(st.integers(0, 3)), draw(st.integers(1, 3))
            view = view[(slice(None),) * axis + (slice(begin, None, by),)]
        elif step == "turn" and view.dim():
            view = view.transpose(draw(axes), draw(axes))
        elif step == "expand":
            view = view.unsqueeze(0).expand(draw(st.integers(0, 3)), *view.shape)
        elif step == "new":
            view = view.unsqueeze(draw(st.integers(0, view.dim())))
        elif step == "select" and view.dim() and view.shape[-1]:
            view = view.select(-1, draw(st.integers(0, view.shape[-1] - 1)))
        elif step == "diagonal" and view.dim() > 1:
            view = view.diagonal()
        elif step == "conj" and view.is_complex():
            view = view.conj()
    return view


@settings(max_examples=400)
@given(view=views(), big_endian=st.booleans())
def test_any_view(tmp_path_factory, view, big_endian):
    path = tmp_path_factory.getbasetemp() / "any view"
    layout = layout_of(view)
    assert layout.contiguous == view.is_contiguous()
    assert layout.reach * layout.dtype.itemsize <= view.untyped_storage().nbytes() or 0 in layout.shape
    assert gathered(path, view, big_endian=big_endian) == b.values_of(view)


def test_values_come_in_chunks(tmp_path):
    path = b.written(tmp_path / "f", bytes(3_000_001))
    with SourceFile(path) as source:
        sizes = [len(chunk) for chunk in gather(source, 1, 3_000_000, packed(DTYPES["uint8"], (3_000_000,)))]
    assert sum(sizes) == 3_000_000
    assert max(sizes) <= 1 << 20


def test_a_broadcast_costs_its_storage_and_a_chunk(tmp_path):
    path = b.written(tmp_path / "f", b"\x01\x02")
    layout = Layout(DTYPES["uint8"], (2, 50_000_000), (1, 0))
    tracemalloc.start()
    with SourceFile(path) as source:
        sizes = dict.fromkeys((1, 2), 0)
        for chunk in gather(source, 0, 2, layout):
            assert chunk.count(chunk[:1]) == len(chunk)
            sizes[chunk[0]] += len(chunk)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sizes == {1: 50_000_000, 2: 50_000_000}
    assert peak < 8 << 20


def test_a_view_far_larger_than_its_storage_is_refused(tmp_path):
    path = b.written(tmp_path / "f", bytes(16))
    with (
        SourceFile(path) as source,
        pytest.raises(LimitExceeded, match=r"4,398,046,511,104 bytes on a storage of 16"),
    ):
        next(gather(source, 0, 16, Layout(DTYPES["float32"], (1 << 40,), (0,))))


def test_a_storage_that_the_file_does_not_hold_is_refused(tmp_path):
    path = b.written(tmp_path / "f", bytes(16))
    with SourceFile(path) as source, pytest.raises(CorruptCheckpoint, match="ends before byte 24"):
        b"".join(gather(source, 8, 16, packed(DTYPES["float32"], (4,))))


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_packed_is_contiguous_and_reaches_to_the_end(dtype: DType):
    for shape in ((), (3,), (2, 3, 4), (1, 5, 1)):
        layout = packed(dtype, shape)
        assert layout.contiguous
        assert layout.reach == torch.Size(shape).numel()
        assert packed_stride(shape) == torch.empty(shape).stride()


@given(st.binary(max_size=40), st.sampled_from([1, 2, 4, 8]))
def test_swapping_twice_is_nothing(raw, width):
    raw = raw[: len(raw) // width * width]
    once = swapped(raw, width)
    assert swapped(once, width) == raw
    assert once == b"".join(raw[at : at + width][::-1] for at in range(0, len(raw), width))
