"""Arrays and pictures that are damaged, of another kind, or not what they seem."""

import io
import zipfile
from pathlib import Path

import numpy as np

from benchmarks.faults.spoil import both, copied, cut, flipped, folder, npy, npz, picture, removed, text, zipped

NPZ = "TEST --data NPZ --data.path bad.npz"
FOLDER = "TEST --data ImageFolder --data.root bad --data.channels 1 --data.image_size 8"
CLASSES = copied("classes", "bad")
ARRAY = "purify bad.npz out --purifier purifier.yaml --score_model configs/score_model/digits.yaml"
ONE = ARRAY.replace("bad.npz", "bad.npy")
PHOTOS = ARRAY.replace("bad.npz", "bad")
GREY = np.zeros((12, 8, 8), np.uint8)
TILE = np.zeros((8, 8), np.uint8)
CAT = "bad/test/cat/0.png"


def member(name: str, content: bytes) -> "object":
    """An .npz with one entry of any name and content beside the others."""

    def setup(place: Path) -> None:
        with zipfile.ZipFile(place / "small.npz") as whole, zipfile.ZipFile(place / "bad.npz", "w") as archive:
            for entry in whole.namelist():
                archive.writestr(entry, whole.read(entry))
            archive.writestr(name, content)

    return setup


def array(content: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, content)
    return file.getvalue()


def claims(shape: tuple[int, ...]) -> bytes:
    """An .npy whose header claims a shape that is not there."""
    return array(GREY).replace(b"(12, 8, 8)", str(shape).encode().ljust(10))


BOMB = io.BytesIO()
with zipfile.ZipFile(BOMB, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("test_images.npy", b"\0" * 50_000_000)

ROWS = [
    # .npz
    (NPZ, "bad.npz"),
    (NPZ, "bad.npz", text("bad.npz", "")),
    (NPZ, "bad.npz", text("bad.npz", "no zip")),
    (NPZ, "bad.npz", folder("bad.npz")),
    (NPZ, "bad.npz", both(copied("small.npz", "bad.npz"), cut("bad.npz", 500))),
    (NPZ, "bad.npz", both(copied("small.npz", "bad.npz"), flipped("bad.npz", 200))),
    (NPZ, "bad.npz", zipped("bad.npz", readme=b"hello")),
    (NPZ, "test.images", npz(test_images=None)),
    (NPZ, "test.(labels|images)", npz(test_labels=None)),
    (NPZ, "test_labels|labels", npz(test_labels=np.arange(3))),
    (NPZ, "test_labels|labels", npz(test_labels=np.full(12, -1))),
    (NPZ, "test_labels|labels|1000000000", npz(test_labels=np.full(12, 10**9))),
    (NPZ, "test_labels|labels", npz(test_labels=np.full(12, 0.5))),
    (NPZ, "test_labels|labels", npz(test_labels=np.array(["cat"] * 12))),
    (NPZ, "test_labels|labels", npz(test_labels=np.zeros((12, 2), int))),
    (NPZ, "test_labels|class", npz(test_labels=np.arange(12) + 20)),
    (NPZ, "test_images|shape", npz(test_images=np.zeros((12,), np.uint8))),
    (NPZ, "test_images|shape", npz(test_images=np.zeros((12, 8, 9), np.uint8))),
    (NPZ, "test_images|shape|channel", npz(test_images=np.zeros((12, 8, 8, 2), np.uint8))),
    (NPZ, "test_images|shape|size", npz(test_images=np.zeros((12, 16, 16), np.uint8))),
    (NPZ, "test_images|shape|empty|no ", npz(test_images=np.zeros((0, 8, 8), np.uint8), test_labels=np.zeros(0, int))),
    (NPZ, r"bad.npz|test_images|\[0, 1\]", npz(test_images=GREY + 2.0)),
    (NPZ, r"bad.npz|test_images|\[0, 1\]", npz(test_images=GREY - 1.0)),
    (NPZ, "nan|test_images", npz(test_images=GREY * np.nan)),
    (NPZ, "inf|test_images", npz(test_images=GREY + np.inf)),
    (NPZ, "test_images|int32", npz(test_images=GREY.astype(np.int32))),
    (NPZ, "test_images|bool", npz(test_images=GREY.astype(bool))),
    (NPZ, "test_images|uint16", npz(test_images=GREY.astype(np.uint16))),
    (NPZ, "test_images|complex", npz(test_images=GREY.astype(complex))),
    (NPZ, "bad.npz|test_images|object|pickle", npz(test_images=np.array([{}] * 12, dtype=object))),
    (NPZ, "classes", npz(classes=np.array(["one"]))),
    (NPZ, "classes", npz(classes=np.arange(10) / 3)),
    (NPZ, "classes", npz(classes=np.array(["same"] * 10))),
    (NPZ, "bad.npz|test_images", member("test_images.npy", claims((10**6, 900, 900)))),
    (NPZ, "bad.npz", lambda place: (place / "bad.npz").write_bytes(BOMB.getvalue())),
    (f"{NPZ} --model.classifier.network.channels 3", "channel|shape|fit|checkpoint", copied("small.npz", "bad.npz")),
    ("TEST --data NPZ --data.path small.npz --data.test_size 13", "13"),
    ("FIT --data NPZ --data.path bad.npz", "train.images|train_labels", npz(train_images=None, train_labels=None)),
    ("FIT --data NPZ --data.path bad.npz --data.val_size 2", "label|class|30", npz(train_labels=np.arange(12) + 30)),
    # folders of pictures
    (FOLDER, "bad"),
    (FOLDER, "bad", folder("bad")),
    (FOLDER, "bad", text("bad", "a file")),
    (FOLDER, "test", both(CLASSES, removed("bad/test"))),
    (FOLDER, "test", both(CLASSES, removed("bad/test"), folder("bad/test"))),
    (FOLDER, "0.png", both(CLASSES, text(CAT, ""))),
    (FOLDER, "0.png", both(CLASSES, text(CAT, "no picture"))),
    (FOLDER, "0.png", both(CLASSES, cut(CAT, 60))),
    (FOLDER, "0.png", both(CLASSES, removed(CAT), lambda place: (place / CAT).symlink_to("gone.png"))),
    (FOLDER, "0.png", both(CLASSES, text(CAT, "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"))),
    (FOLDER, "0.png", both(CLASSES, picture(CAT, np.zeros((8, 8), np.uint16)))),
    (FOLDER, "0.png", both(CLASSES, picture(CAT, np.zeros((8, 8), np.float32), "TIFF"))),
    (FOLDER, "0.png", both(CLASSES, picture(CAT, np.zeros((1, 50_000_000), np.uint8)))),
    (FOLDER, "dog", both(CLASSES, removed("bad/test/dog"))),
    (FOLDER, "mouse", both(CLASSES, picture("bad/test/mouse/0.png", TILE))),
    (f"{FOLDER} --data.num_workers 1", "0.png", both(CLASSES, text(CAT, "no picture"))),
    (f"{FOLDER} --data.channels 2", "channels|2", CLASSES),
    (f"{FOLDER} --data.image_size 0", "image_size", CLASSES),
    (f"{FOLDER} --data.image_size -8", "image_size|-8", CLASSES),
    (f"{FOLDER} --data.image_size 1000000", "image_size", CLASSES),
    (f"{FOLDER} --data.classes '[cat]'", "class", CLASSES),
    # purify: arrays
    (ARRAY, "bad.npz", text("bad.npz", "no zip")),
    (ARRAY, "bad.npz", zipped("bad.npz", readme=b"hello")),
    (ARRAY, "bad.npz", lambda place: np.savez(place / "bad.npz", labels=np.arange(4))),
    (ARRAY, r"\.\./", member("../escaped.npy", array(GREY))),
    (ARRAY, "/tmp/escaped", member("/tmp/escaped.npy", array(GREY))),
    (ARRAY, "bad.npz|object|pickle", npz(test_images=np.array([{}] * 12, dtype=object))),
    (ARRAY, "bad.npz|big", member("big.npy", claims((10**6, 900, 900)))),
    (ARRAY, "test_images|5", npz(test_images=np.zeros((12, 8, 8, 5), np.uint8))),
    (ONE, "bad.npy", text("bad.npy", "")),
    (ONE, "bad.npy", text("bad.npy", "no array")),
    (ONE, "bad.npy", npy("bad.npy", np.zeros((3, 8, 8, 5), np.uint8))),
    (ONE, "bad.npy", npy("bad.npy", np.zeros((0, 8, 8), np.uint8))),
    (ONE, "bad.npy", npy("bad.npy", np.zeros(5, np.uint8))),
    (ONE, "bad.npy", npy("bad.npy", GREY.astype(np.int64))),
    (ONE, "bad.npy", npy("bad.npy", GREY * np.nan)),
    (ONE, "bad.npy", npy("bad.npy", GREY + 7.0)),
    (ONE, "bad.npy", npy("bad.npy", np.array([{}], dtype=object), allow_pickle=True)),
    (ONE, "bad.npy", text("bad.npy", claims((10**6, 900, 900)))),
    (ONE, "bad.npy", both(npy("bad.npy", GREY), cut("bad.npy", 150))),
    # purify: pictures
    (PHOTOS, "bad", folder("bad")),
    (PHOTOS, "bad", text("bad/readme.txt", "hello")),
    (PHOTOS, "a.png", text("bad/a.png", "no picture")),
    (PHOTOS, "a.png", text("bad/a.png", "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")),
    (PHOTOS, "a.png", picture("bad/a.png", np.zeros((1, 1), np.uint8))),
    (PHOTOS, "a.png", picture("bad/a.png", np.zeros((8, 8, 3), np.uint8))),
    (PHOTOS, "a.png", picture("bad/a.png", np.zeros((8, 8), np.uint16))),
    (PHOTOS, "a.png", picture("bad/a.png", np.zeros((8, 8, 2), np.uint8), "PNG")),
    (PHOTOS, "a.jpg|a.png", both(picture("bad/a.jpg", TILE), picture("bad/a.png", TILE))),
    (PHOTOS, "a.png", both(picture("bad/a.png", TILE), cut("bad/a.png", 40))),
    (PHOTOS, "a.png", both(picture("bad/a.png", np.zeros((20000, 20000), np.uint8)))),
    (PHOTOS, "a.gif|bad", picture("bad/a.gif", TILE, "GIF")),
]
