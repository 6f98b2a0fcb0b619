"""Whatever bytes a file of an array holds, it is read or refused; by every reader in the way that is its own."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from lit_pursamere.data import NPZ
from lit_pursamere.purify.arrays import read_arrays
from lit_pursamere.store.gallery import Gallery
from lit_pursamere.store.npy import read_header

HOSTILE = {  # headers at which NumPy's parser stumbles
    "a bracket that never closes": b"{'descr': '|u1', 'fortran_order': (",
    "keys of two kinds": b"{'descr': '|u1', b'fortran_order': False, 'shape': (1,)}",
    "a type of nothing": b"{'descr': ((),), 'fortran_order': False, 'shape': (1,)}",
    "very many signs": b"-" * 9000 + b"1",
    "a comma": b",",
}


def content(header):
    header += b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64)


def test_shape_order_and_type():
    file = io.BytesIO()
    np.save(file, np.zeros((2, 3), ">f4").T)
    file.seek(0)
    assert read_header(file) == ((3, 2), True, np.dtype(">f4"))
    assert len(file.read()) == 24


@pytest.mark.filterwarnings("ignore")
def test_any_byte_may_have_changed():
    whole = io.BytesIO()
    np.save(whole, np.zeros((2, 4), np.uint8))
    refused = 0
    for place in range(80):
        for value in b"\x00('B,-{\xff":
            changed = bytearray(whole.getvalue())
            changed[place] = value
            try:
                read_header(io.BytesIO(changed))
            except ValueError:
                refused += 1
    assert refused > 200


@pytest.mark.parametrize("name", HOSTILE)
def test_every_reader_refuses_it(name, tmp_path):
    bad = content(HOSTILE[name])
    with pytest.raises(ValueError, match="header"):
        read_header(io.BytesIO(bad))
    (tmp_path / "x.npy").write_bytes(bad)
    for file in ("x.npz", "pictures.npz"):
        with zipfile.ZipFile(tmp_path / file, "w") as archive:
            for array in ("test_images", "test_labels", "0"):
                archive.writestr(f"{array}.npy", bad)
    with pytest.raises(OSError, match=r"x\.npy cannot be read"):
        read_arrays(tmp_path / "x.npy")
    with pytest.raises(OSError, match=r"x\.npz is not a whole \.npz file"):
        NPZ(str(tmp_path / "x.npz"))
    assert Gallery(tmp_path).images == {}
