"""Data sets: splits as in the papers, content if it is on this machine, and errors."""

import errno
import hashlib
import io
import os
import pickle
import socket
import warnings
import zlib
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from fixtures.small_disk import mounted
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100, MNIST

from lt_sweeps.cli.command_line import main
from lt_sweeps.config.recipes import recipe
from lt_sweeps.config.seeds import Seed
from lt_sweeps.data import (
    batches,
    bundled,
    cifar10,
    cifar100,
    decoded_images,
    digits,
    downloaded,
    fashion_mnist,
    folders,
    image_files,
    image_folder,
    mnist,
    synthetic,
    text,
)
from lt_sweeps.data.batches import Batches
from lt_sweeps.data.dataset import Dataset, Split, check_split
from lt_sweeps.data.downloaded import _held_out, _held_out_per_class, _tensors
from lt_sweeps.data.kept_images import read_once

GRAYS = {"cat": 10, "dog": 200}


@pytest.fixture
def offline(monkeypatch):
    """Let torchvision download from a local port on which no server listens."""
    with socket.socket() as silent:  # bound, so that no other process listens on it
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{port}/"])
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{port}/cifar.tar.gz")
        yield


@pytest.fixture(scope="module")
def numbered_mnist(tmp_path_factory):
    """MNIST's files with images that hold their own number, and its last digit as their label."""
    root = tmp_path_factory.mktemp("data")
    raw, known = root / "MNIST" / "raw", []
    raw.mkdir(parents=True)
    for name, count in (("train", 60_000), ("t10k", 10_000)):
        number = np.arange(count, dtype=np.int32)
        images = np.zeros((count, 784), np.uint8)
        images[:, :4] = number.view(np.uint8).reshape(count, 4)
        header = np.array([0x803, count, 28, 28], ">i4").tobytes()
        (raw / f"{name}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = np.array([0x801, count], ">i4").tobytes()
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(header + bytes((number % 10).tolist()))
    for name in downloaded._IDX_FILES:
        known.append(hashlib.md5((raw / f"{name}-ubyte").read_bytes()).hexdigest())
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(downloaded._IDX_MD5, "MNIST", tuple(known))
        yield root


def draw_tree(root, *, count=10, parts=("",), side=8):
    """Write `count` images per class into every part; all images of a class have one gray value."""
    for part in parts:
        for name, gray in GRAYS.items():
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                Image.new("L", (side, side), gray).save(folder / f"{index:03}.png")
    return root


def prepared(dataset):
    dataset.prepare()
    return dataset.load()


@pytest.mark.parametrize(
    ("dataset", "input_shape", "classes", "train_size"),
    [
        (digits(), (1, 8, 8), 10, 1_137),
        (mnist(), (1, 28, 28), 10, 55_000),
        (fashion_mnist(validation=10_000), (1, 28, 28), 10, 50_000),
        (cifar10(), (3, 32, 32), 10, 45_000),
        (cifar100(), (3, 32, 32), 100, 45_000),
        (synthetic(shape=[3, 4, 5], classes=7, train=21), (3, 4, 5), 7, 21),
    ],
    ids=["digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "synthetic"],
)
def test_shape_and_sizes_are_known_before_the_data(dataset, input_shape, classes, train_size):
    assert (dataset.input_shape, dataset.classes, dataset.train_size) == (
        input_shape,
        classes,
        train_size,
    )


def test_the_shape_of_an_input_may_be_a_list():
    assert replace(dataset := digits(), input_shape=[1, 8, 8]) == dataset


def test_only_normalized_cifar_has_a_mean_and_std():
    assert (cifar10().mean, cifar10().std, mnist().mean) == ((), (), ())
    normalized = cifar10(normalize=True)
    assert normalized.mean == (125.3 / 255, 123.0 / 255, 113.9 / 255)
    assert normalized.std == (63.0 / 255, 62.1 / 255, 66.7 / 255)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: replace(digits(), scale=0), "dataset: scale=0; give a number above 0"),
        (lambda: replace(digits(), prepare=None), "dataset: give functions as `load`"),
        (lambda: mnist(validation=0), "mnist: validation=0; it takes 1 to 59999 examples"),
        (lambda: cifar10(validation=50_000), "cifar10: validation=50000; it takes 1 to 49999"),
        (lambda: digits(validation=1500), "digits: validation=1500; it takes 1 to 1436 examples"),
        (lambda: cifar100(validation=50, stratified=True), "give a multiple of 100"),
        (lambda: synthetic(shape=[8, 8]), r"shape=\[8, 8\]; it takes \[channels, height, width"),
        (lambda: synthetic(test=0), "synthetic: test=0; it takes 1 or more images"),
        (lambda: synthetic(seed=-1), "synthetic: seed=-1; it takes 0 to 4294967295"),
        (lambda: image_folder("pets", seed=2**32), "image_folder: seed=4294967296; it takes 0"),
        (lambda: image_folder("pets", size=0), "image_folder: size=0; it takes 1 pixel or more"),
        (lambda: text(path="nowhere.txt"), "text: cannot read path=`nowhere.txt`: No such file"),
        (lambda: text(path="/"), "text: cannot read path=`/`: Is a directory"),
    ],
)
def test_impossible_sizes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("images", "first", "digest"),
    [
        (60_000, [3048, 19563, 58303, 8870], "9a6320f589a31db9"),
        (50_000, [11841, 19602, 45519, 25747], "7580bdab922dd449"),
    ],
    ids=["mnist", "cifar"],
)
def test_validation_images_are_those_of_the_paper(images, first, digest):
    held = _held_out(5000, np.zeros(images))
    assert held[:4].tolist() == first
    assert hashlib.sha256(np.sort(held).astype("<i8").tobytes()).hexdigest().startswith(digest)


def test_a_stratified_validation_split_has_equally_many_of_each_class():
    labels = np.random.RandomState(1).permutation(np.repeat(np.arange(10), 50))
    held = _held_out_per_class(100, labels)
    assert len(set(held)) == 100
    assert np.bincount(labels[held]).tolist() == [10] * 10


def test_digits_splits_are_disjoint_and_complete():
    from sklearn.datasets import load_digits

    splits = prepared(digits())
    assert {k: len(s.targets) for k, s in splits.items()} == {
        "train": 1137,
        "val": 300,
        "test": 360,
    }
    ours = torch.cat([s.inputs.flatten(1).double() for s in splits.values()])
    theirs = torch.from_numpy(load_digits(return_X_y=True)[0])
    assert sorted(ours.tolist()) == sorted(theirs.tolist())


def test_the_digits_test_images_do_not_depend_on_the_validation_split():
    a, b = digits().load()["test"], digits(validation=10).load()["test"]
    assert torch.equal(a.inputs, b.inputs)


def test_digits_fill_the_range_that_their_scale_says():
    images = digits().load()["train"].inputs
    assert images.dtype == torch.uint8
    assert images.max() / digits().scale == 1


def test_mnist_splits_keep_the_original_order_and_lose_nothing(numbered_mnist):
    splits = prepared(mnist(data_dir=str(numbered_mnist)))
    number = {
        k: s.inputs.flatten(1)[:, :4].contiguous().view(torch.int32).flatten()
        for k, s in splits.items()
    }
    assert (number["train"].diff() > 0).all()
    both = torch.cat([number["train"], number["val"]])
    assert torch.equal(both.sort().values, torch.arange(60_000, dtype=torch.int32))
    assert torch.equal(number["test"], torch.arange(10_000, dtype=torch.int32))
    assert torch.equal(splits["val"].targets, number["val"] % 10)


def test_colour_images_become_channels_first():
    class Picture:
        data = np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3)
        targets = (1,)

    split = _tensors(Picture)
    assert split.inputs.shape == (1, 3, 2, 4)
    assert split.inputs[0, :, 1, 2].tolist() == [18, 19, 20]


def test_mnist_offline_names_the_files_and_where_to_put_them(offline, tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        mnist(data_dir=str(tmp_path)).prepare()
    raw, message = tmp_path / "MNIST" / "raw", str(error.value)
    start = f"mnist: missing `{raw}/train-images-idx3-ubyte`, `{raw}/train-labels-idx1-ubyte`, "
    assert message.startswith(start)
    assert "place the files there or set `data_dir`" in message
    assert "\n" not in message


def test_cifar10_offline_names_the_files_and_where_to_put_them(offline, tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        cifar10(data_dir=str(tmp_path)).prepare()
    assert f"`{tmp_path}/cifar-10-batches-py/data_batch_5`" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_download_onto_a_full_disk_can_be_waited_for(monkeypatch, tmp_path):
    def full(_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(MNIST, "download", full)
    with pytest.raises(OSError, match="No space left on device") as raised:
        mnist(data_dir=str(tmp_path)).prepare()
    assert raised.value.errno == errno.ENOSPC, "and not a file that is missing"


def test_nothing_is_downloaded_when_the_files_are_there(offline, numbered_mnist, capsys):
    splits = prepared(mnist(data_dir=str(numbered_mnist)))
    assert splits["train"].inputs.shape == (55_000, 1, 28, 28)
    assert splits["train"].inputs.dtype == torch.uint8
    assert splits["test"].targets.dtype == torch.int64
    assert capsys.readouterr() == ("", "")


MNIST_FILE = "train-images-idx3-ubyte"


@pytest.fixture
def copied_mnist(numbered_mnist, tmp_path):
    """A copy of the files, which a test may damage."""
    for path in (numbered_mnist / "MNIST" / "raw").iterdir():
        (tmp_path / "MNIST" / "raw").mkdir(parents=True, exist_ok=True)
        (tmp_path / "MNIST" / "raw" / path.name).write_bytes(path.read_bytes())
    return tmp_path


def blackened(path):
    with path.open("r+b") as file:
        file.seek(1_000_000)
        file.write(bytes(range(200)))


@pytest.mark.parametrize(
    "damage",
    [
        blackened,
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes() + b"0"),
    ],
)
def test_a_file_of_other_content_is_refused_before_a_training_and_within_it(
    offline, copied_mnist, damage
):
    dataset = mnist(data_dir=str(copied_mnist))
    prepared(dataset)
    damage(copied_mnist / "MNIST" / "raw" / MNIST_FILE)
    message = f"mnist: `.*{MNIST_FILE}` is not the published file .md5 .*; delete it, and"
    for read in (dataset.prepare, dataset.load):
        with pytest.raises(ValueError, match=message):
            read()


def test_fashion_mnist_in_the_place_of_mnist_is_told_apart(offline, copied_mnist, monkeypatch):
    known = downloaded._IDX_MD5["MNIST"]
    monkeypatch.setitem(downloaded._IDX_MD5, "FashionMNIST", known)
    monkeypatch.setitem(downloaded._IDX_MD5, "MNIST", ("0", "1", "2", "3"))
    with pytest.raises(ValueError, match="mnist: .* published file .it belongs to FashionMNIST"):
        mnist(data_dir=str(copied_mnist)).prepare()


def test_the_checksums_of_the_two_data_sets_have_nothing_in_common():
    names = [md5 for known in downloaded._IDX_MD5.values() for md5 in known]
    assert len({*names}) == 8


@pytest.mark.parametrize("source", [CIFAR10, CIFAR100], ids=["cifar10", "cifar100"])
def test_the_files_of_cifar_are_those_that_torchvision_reads(source):
    names = [name for name, _ in (*source.train_list, *source.test_list)]
    known = downloaded._CIFAR_FILES[source.__name__]
    assert known == (source.base_folder, (*names, source.meta["filename"]))


@pytest.mark.parametrize("stranger", ["folder", "pipe"])
def test_a_folder_in_the_place_of_a_file_counts_as_missing(offline, copied_mnist, stranger):
    path = copied_mnist / "MNIST" / "raw" / MNIST_FILE
    path.unlink()
    path.mkdir() if stranger == "folder" else os.mkfifo(path)
    with pytest.raises(FileNotFoundError, match=f"missing `.*{MNIST_FILE}`; place the files"):
        mnist(data_dir=str(copied_mnist)).prepare()


def test_another_copy_of_the_digits_is_refused(monkeypatch):
    monkeypatch.setattr(bundled, "_DIGITS", "other")
    with pytest.raises(ValueError, match="digits: scikit-learn's copy of the data is damaged"):
        digits().load()


def test_synthetic_is_a_function_of_its_seed():
    first, again, other = (synthetic(seed=seed).load()["train"].inputs for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_synthetic_splits_have_streams_of_their_own():
    short, long = synthetic(train=10).load(), synthetic(train=20).load()
    assert torch.equal(short["test"].inputs, long["test"].inputs)


def test_synthetic_without_noise_is_its_prototypes():
    splits = synthetic(classes=2, train=4, noise=0.0).load()
    assert torch.equal(splits["train"].inputs[0], splits["train"].inputs[2])
    assert torch.equal(splits["train"].inputs[1], splits["test"].inputs[1])


def test_synthetic_classes_are_equally_frequent():
    assert synthetic(classes=4, train=20).load()["train"].targets.bincount().tolist() == [5] * 4


def test_an_image_folder_is_drawn_into_disjoint_complete_splits(tmp_path):
    root = draw_tree(tmp_path / "pets")
    for index, path in enumerate(sorted(root.rglob("*.png"))):
        Image.new("L", (8, 8), index).save(path)
    dataset = image_folder(str(root), data_dir=str(tmp_path), size=8, channels=1)
    splits = prepared(dataset)
    assert {k: len(s.targets) for k, s in splits.items()} == {"train": 14, "val": 2, "test": 4}
    grays = torch.cat([s.inputs[:, 0, 0, 0] for s in splits.values()])
    assert grays.sort().values.tolist() == list(range(20))
    for split in splits.values():
        assert torch.equal(split.targets, (split.inputs[:, 0, 0, 0] >= 10).long())


def test_dark_images_are_taken_with_their_mean_and_std(tmp_path):
    """A user with a folder of images can follow the hint of the refusal."""
    root = draw_tree(tmp_path / "stars")
    for index, path in enumerate(sorted(root.rglob("*.png"))):
        Image.new("L", (8, 8), index % 5).save(path)
    how = {"data_dir": str(tmp_path), "size": 8, "channels": 1}
    dark = image_folder(str(root), **how)
    with pytest.raises(ValueError, match=r"from 0 to 4, .* if they are dark pictures `mean` and"):
        check_split(dark, "train", prepared(dark)["train"])
    scaled = image_folder(str(root), **how, mean=[2 / 255], std=[1.4 / 255])
    check_split(scaled, "train", prepared(scaled)["train"])
    squashed = image_folder(str(root), **how, mean=[2], std=[1.4])  # on the scale up to 255
    with pytest.raises(ValueError, match=r"of their pixels in \[0, 1\]"):
        check_split(squashed, "train", prepared(squashed)["train"])


def test_a_number_of_images_is_a_whole_one(tmp_path, capsys):
    """1.0 used to mean one image, while 0.99 means nearly all."""
    root = draw_tree(tmp_path / "pets")
    for name, size in (("validation", 2.5), ("validation", 1.0), ("test", 1.0)):
        said = f"image_folder: {name}={size}; give a number of images without a decimal point"
        with pytest.raises(ValueError, match=said):
            image_folder(str(root), data_dir=str(tmp_path), **{name: size})
    words = ["dataset=image_folder", f"dataset.path={root}", "dataset.test=1.0"]
    assert main(["plan", *words, f"data_dir={tmp_path}", f"root={tmp_path}"]) == 1
    assert "image_folder: test=1.0; give a number of images" in capsys.readouterr().err
    with pytest.raises(ValueError, match="validation=17 is 17 of 20 images; it takes 1 to 15 of"):
        image_folder(str(root), data_dir=str(tmp_path), validation=17)
    assert len(image_folder(str(root), data_dir=str(tmp_path), test=1).load.args[2]["test"]) == 1


def test_train_and_test_folders_are_used_as_such(tmp_path):
    root = draw_tree(tmp_path / "pets", parts=("train", "test"))
    splits = prepared(image_folder(str(root), data_dir=str(tmp_path), size=8, validation=5))
    assert {k: len(s.targets) for k, s in splits.items()} == {"train": 15, "val": 5, "test": 20}
    assert splits["test"].targets.tolist() == [0] * 10 + [1] * 10
    assert splits["test"].inputs[10:].unique().tolist() == [200]


def test_a_val_folder_without_a_test_folder_is_the_test_set(tmp_path):
    """ImageNet usually has `train/` and `val/`, and papers report results on `val/`."""
    root = draw_tree(tmp_path / "pets", count=5, parts=("train", "val"))
    dataset = image_folder(str(root), data_dir=str(tmp_path), size=8, validation=3)
    splits = prepared(dataset)
    assert {k: len(s.targets) for k, s in splits.items()} == {"train": 7, "val": 3, "test": 10}
    held = splits["test"].inputs
    # in a folder `test` they are the same images, but another data set than train and val of old
    (root / "val").rename(root / "test")
    renamed = image_folder(str(root), data_dir=str(tmp_path), size=8, validation=3)
    assert torch.equal(prepared(renamed)["test"].inputs, held)
    assert renamed.fingerprint != dataset.fingerprint


def test_a_val_folder_is_for_validation_where_a_test_set_is_drawn(tmp_path):
    root = draw_tree(tmp_path / "pets", count=5, parts=("train", "val"))
    drawn = image_folder(str(root), data_dir=str(tmp_path), size=8, test=4)
    sizes = {k: len(s.targets) for k, s in prepared(drawn).items()}
    assert sizes == {"train": 6, "val": 10, "test": 4}
    assert drawn.fingerprint != image_folder(str(root)).fingerprint
    with pytest.raises(ValueError, match=r"validation=2 and `.*val` exists; use one of them"):
        image_folder(str(root), validation=2, test=4)


def test_a_val_folder_is_the_validation_split(tmp_path):
    root = draw_tree(tmp_path / "pets", count=3, parts=("train", "val", "test"))
    dataset = image_folder(str(root), data_dir=str(tmp_path))
    assert dataset.train_size == 6
    assert len(prepared(dataset)["val"].targets) == 6
    with pytest.raises(ValueError, match=r"validation=2 and `.*val` exists; use one of them"):
        image_folder(str(root), validation=2)


def test_a_class_may_be_called_train(tmp_path):
    root = draw_tree(tmp_path / "vehicles")
    (root / "cat").rename(root / "train")
    assert image_folder(str(root)).classes == 2


def test_gray_and_colour_images_get_the_channels_and_size_asked_for(tmp_path):
    root = draw_tree(tmp_path / "pets", side=16)
    Image.new("RGBA", (20, 10), (1, 2, 3, 255)).save(root / "cat" / "000.png")
    splits = prepared(image_folder(str(root), data_dir=str(tmp_path), size=8))
    images = torch.cat([split.inputs for split in splits.values()])
    assert images.shape == (20, 3, 8, 8)
    assert images[:, :, 4, 4].tolist().count([1, 2, 3]) == 1


def afresh(root, data_dir, **how):
    """The data set as a new process would read it."""
    folders._scanned.cache_clear()
    return image_folder(str(root), data_dir=str(data_dir), size=8, **how)


def cache_of(data_dir):
    [cache] = (data_dir / "image_folder").glob("*.npy")
    return cache


def test_images_are_decoded_once(tmp_path, monkeypatch):
    root = draw_tree(tmp_path / "pets")
    first = prepared(afresh(root, tmp_path))
    monkeypatch.setattr(Image, "open", None)
    again = prepared(afresh(root, tmp_path, validation=1))
    assert torch.equal(first["test"].inputs, again["test"].inputs)


def test_an_image_that_is_drawn_over_is_decoded_again(tmp_path):
    """The new BMP file has the same size and the same time as the old one."""
    for gray, name in enumerate(("cat", "dog")):
        for index in range(10):
            path = tmp_path / "pets" / name / f"{index}.bmp"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 100 * gray + index).save(path)
    root = tmp_path / "pets"
    before = afresh(root, tmp_path)
    prepared(before)
    path = root / "cat" / "3.bmp"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes((root / "dog" / "3.bmp").read_bytes())
    os.utime(path, ns=times)
    after = afresh(root, tmp_path)
    assert after.fingerprint != before.fingerprint
    images = torch.cat([split.inputs for split in prepared(after).values()])
    assert images[:, 0, 0, 0].tolist().count(103) == 2


def test_files_are_read_again_only_when_one_has_changed(tmp_path, monkeypatch):
    root, reads = draw_tree(tmp_path / "pets"), []
    real = image_files.content_of
    monkeypatch.setattr(image_files, "content_of", lambda path: reads.append(path) or real(path))
    monkeypatch.setattr(image_files, "_CLOCK_SECONDS", -1e9)
    first = afresh(root, tmp_path)
    assert len(reads) == 20
    assert afresh(root, tmp_path).fingerprint == first.fingerprint and len(reads) == 20
    os.utime(root / "cat" / "001.png", (5, 5))  # the clock may not have ticked since it was drawn
    assert afresh(root, tmp_path).fingerprint == first.fingerprint and len(reads) == 40
    for note in (tmp_path / "image_folder").glob("*.content"):
        note.write_text(note.read_text().replace(first.fingerprint[:6], "000000"))
    assert afresh(root, tmp_path).fingerprint == first.fingerprint  # a damaged note is not used


def test_a_file_that_is_written_at_this_moment_is_read_again(tmp_path):
    afresh(draw_tree(tmp_path / "pets"), tmp_path)
    assert not list(tmp_path.rglob("*.content"))


def test_a_file_that_was_written_just_before_it_was_read_is_read_again(tmp_path, monkeypatch):
    """It may have changed within the same tick, although the clock has ticked since."""
    root, real = draw_tree(tmp_path / "pets"), image_files.content_of
    now = [max(path.stat().st_mtime for path in root.rglob("*.png"))]

    def slow(path):
        now[0] += 60
        return real(path)

    monkeypatch.setattr(image_files, "time", SimpleNamespace(time=lambda: now[0]))
    monkeypatch.setattr(image_files, "content_of", slow)
    afresh(root, tmp_path)
    assert not list(tmp_path.rglob("*.content"))
    afresh(root, tmp_path)
    assert list(tmp_path.rglob("*.content"))


def test_a_file_that_changes_while_it_is_decoded_stops_it(tmp_path):
    root = draw_tree(tmp_path / "pets")
    dataset = afresh(root, tmp_path)
    Image.new("L", (8, 8), 77).save(root / "dog" / "004.png")
    with pytest.raises(ValueError, match="files of `.*pets` were changed while they were read"):
        dataset.prepare()
    assert not list((tmp_path / "image_folder").glob("*.npy"))
    assert not list((tmp_path / "image_folder").glob("*.part"))


def flipped(path):
    with path.open("r+b") as file:
        file.seek(500)
        byte = file.read(1)[0]
        file.seek(500)
        file.write(bytes([byte ^ 1]))
    os.utime(path, (5, 5))  # the clock may not have ticked since the file was written


DAMAGES = {
    "flipped": flipped,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "emptied": lambda path: path.write_bytes(b""),
    "deleted": lambda path: path.unlink(),
    "pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "unnoted": lambda path: path.with_suffix(".sha256").unlink(),
    "noted wrong": lambda path: path.with_suffix(".sha256").write_bytes(b"\xff 1 2 3 4"),
}


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("damage", list(DAMAGES))
def test_damaged_decoded_images_are_refused_and_then_decoded_anew(
    tmp_path, monkeypatch, damage, mapped
):
    dataset = afresh(draw_tree(tmp_path / "pets"), tmp_path)
    good = prepared(dataset)
    if mapped:
        free = psutil.virtual_memory()._replace(available=0)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    DAMAGES[damage](cache_of(tmp_path))
    with pytest.raises(ValueError, match=r"image_folder: `.*npy` is missing or damaged; run the"):
        dataset.load()
    again = prepared(dataset)
    everything = torch.arange(len(good["train"].targets))
    assert torch.equal(again["train"].take(everything), good["train"].take(everything))


def test_decoded_images_that_fit_are_read_in_full_whatever_their_time_says(tmp_path):
    dataset = afresh(draw_tree(tmp_path / "pets"), tmp_path)
    dataset.prepare()
    cache = cache_of(tmp_path)
    times = cache.stat().st_atime_ns, cache.stat().st_mtime_ns
    flipped(cache)
    os.utime(cache, ns=times)
    with pytest.raises(ValueError, match="is missing or damaged"):
        dataset.load()


def test_a_copy_of_decoded_images_is_used_as_it_is(tmp_path, monkeypatch):
    dataset = afresh(draw_tree(tmp_path / "pets"), tmp_path)
    dataset.prepare()
    os.utime(cache_of(tmp_path), ns=(5, 5))
    monkeypatch.setattr(Image, "open", None)
    assert len(prepared(dataset)["train"].targets) == 14
    assert cache_of(tmp_path).with_suffix(".sha256").read_text().endswith(" 5")


def decode(dataset, results):
    try:
        dataset.prepare()
    except OSError as error:
        results.put(error.errno)


def test_decoding_onto_a_full_disk_is_an_error_that_can_be_waited_for(tmp_path, command_line):
    # In a process of its own: a file with holes, mapped on a full disk, would kill it.
    tree = draw_tree(tmp_path / "pets")
    with mounted(tmp_path / "disk", "64k") as disk:
        dataset = image_folder(str(tree), data_dir=str(disk.folder), size=64)
        results = command_line.processes.SimpleQueue()
        process = command_line.processes.Process(target=decode, args=(dataset, results))
        process.start()
        process.join()
        assert process.exitcode == 0
        assert results.get() == errno.ENOSPC
        assert not list(disk.folder.rglob("*.part")), "it takes no room while it waits"


def test_images_that_do_not_fit_into_memory_stay_in_their_file(tmp_path, monkeypatch):
    dataset = image_folder(str(draw_tree(tmp_path / "pets")), data_dir=str(tmp_path))
    copied = prepared(dataset)
    free = psutil.virtual_memory()._replace(available=0)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    mapped = dataset.load()
    for name, split in mapped.items():
        everything = torch.arange(len(split.targets))
        assert split.rows is not None and len(split.inputs) == 20 and copied[name].rows is None
        assert torch.equal(split.take(everything), copied[name].take(everything))
        assert torch.equal(split.targets, copied[name].targets)


def test_a_training_from_a_file_equals_one_from_memory(tmp_path, monkeypatch):
    dataset = image_folder(str(draw_tree(tmp_path / "pets")), data_dir=str(tmp_path), size=8)
    dataset.prepare()
    how = {"optimizer": "sgd", "lr": 0.1, "batch_size": 7, "length": "1ep"}
    asked = recipe(dataset.train_size, augment="resized_crop_flip", **how)
    free, got = psutil.virtual_memory(), []
    for available in (free.available, 0):
        monkeypatch.setattr(
            psutil, "virtual_memory", lambda left=available: free._replace(available=left)
        )
        batches = Batches(dataset, asked, [Seed.of(0)], [()], torch.device("cpu"))
        got.append((*batches.take(batches.index(0)), *next(batches.evaluation("test"))))
    for copied, mapped in zip(*got, strict=True):
        assert torch.equal(copied, mapped)


def test_the_fingerprint_moves_with_the_content_and_not_with_the_place(tmp_path):
    here = draw_tree(tmp_path / "here")
    before = image_folder(str(here)).fingerprint
    there = here.rename(tmp_path / "there")
    assert image_folder(str(there), size=16).fingerprint == before
    (there / "cat" / "000.png").unlink()
    assert image_folder(str(there)).fingerprint != before


def test_an_image_folder_can_be_sent_to_another_process(tmp_path):
    dataset = image_folder(str(draw_tree(tmp_path / "pets")), data_dir=str(tmp_path))
    assert len(prepared(pickle.loads(pickle.dumps(dataset)))["train"].targets) == 14


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "`.*` has 0 class folders; it takes two or more"),
        (["a.png", "b.png"], "`.*` has 0 class folders"),
        (["cat/a.png"], "`.*` has 1 class folders"),
        (["cat/a.png", "dog/notes.txt"], "no images in `.*dog`; it takes files that end in .bmp"),
        (["train/cat/a.png", "train/dog/a.png", "test/cow/a.png"], r"has classes cow"),
        (["cat/a.png", "dog/a.png"], "test=0.2 is 0 of 2 images; it takes 1 to 1 of them"),
    ],
)
def test_a_folder_that_is_no_dataset_is_refused(tmp_path, files, message):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    with pytest.raises(ValueError, match=message):
        image_folder(str(tmp_path))


def test_a_path_that_is_no_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nowhere` is not a folder.* folders train and val"):
        image_folder(str(tmp_path / "nowhere"))


def bomb(path):
    """A file of a few bytes that claims to be an image of 40,000 x 40,000 pixels."""
    blob = bytearray(path.read_bytes())
    blob[16:24] = (40_000).to_bytes(4, "big") * 2
    blob[29:33] = zlib.crc32(blob[12:29]).to_bytes(4, "big")
    path.write_bytes(blob)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b"no image"),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:40]),
        lambda path: Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(path),
        bomb,
    ],
    ids=["broken", "empty", "cut", "16 bits", "bomb"],
)
def test_an_image_that_cannot_be_read_is_named(tmp_path, spoil):
    spoil(draw_tree(tmp_path / "pets") / "dog" / "003.png")
    with pytest.raises(ValueError, match=r"image_folder: cannot read `.*dog.003.png`: ") as error:
        afresh(tmp_path / "pets", tmp_path).prepare()
    assert "\n" not in str(error.value) and "BytesIO" not in str(error.value)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
        (lambda path: path.symlink_to(path.parent / "nothing"), "No such file"),
        (os.mkfifo, "it is not a file"),
        (lambda path: path.with_suffix("").symlink_to(path.parent), "it is a link to a folder"),
    ],
    ids=["loop", "dangling", "pipe", "circle"],
)
def test_a_file_that_is_not_an_image_is_named(tmp_path, spoil, reason):
    spoil(draw_tree(tmp_path / "pets") / "dog" / "more.png")
    with pytest.raises(ValueError, match=f"image_folder: cannot read `.*dog.more.*`: {reason}"):
        afresh(tmp_path / "pets", tmp_path)


def test_images_in_hidden_folders_are_no_images_of_a_class(tmp_path):
    """Notebooks and file servers keep copies of images there, which would be in other splits."""
    root = draw_tree(tmp_path / "pets")
    hidden = root / "cat" / "more" / ".ipynb_checkpoints"
    hidden.mkdir(parents=True)
    (hidden / "000-checkpoint.png").write_bytes((root / "cat" / "000.png").read_bytes())
    assert len(prepared(afresh(root, tmp_path))["train"].targets) == 14


def test_a_class_may_be_a_link_to_a_folder(tmp_path):
    root = draw_tree(tmp_path / "pets")
    (root / "cat").rename(tmp_path / "elsewhere")
    (root / "cat").symlink_to(tmp_path / "elsewhere")
    assert len(prepared(afresh(root, tmp_path))["train"].targets) == 14


def test_names_that_are_no_text_are_taken(tmp_path):
    root = draw_tree(tmp_path / "pets")
    os.rename(os.fsencode(root / "cat" / "000.png"), os.fsencode(root / "cat") + b"/\xff.png")
    assert len(prepared(afresh(root, tmp_path))["train"].targets) == 14


def test_random_damage_to_image_files_is_answered_in_one_line(tmp_path):
    draws, root = np.random.RandomState(0), draw_tree(tmp_path / "pets", side=16)
    path = root / "dog" / "005.png"
    whole = {}
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM"):
        target = io.BytesIO()
        Image.fromarray(draws.randint(0, 255, (16, 16, 3), np.uint8)).save(target, kind)
        whole[kind] = target.getvalue()
    read = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own warning
        for turn in range(210):
            blob = bytearray(whole[list(whole)[turn % 7]])
            for _ in range(draws.randint(1, 6)):
                blob[draws.randint(len(blob))] = draws.randint(256)
            blob = blob[: draws.randint(len(blob))] if turn % 3 == 0 else blob
            try:
                read += decoded_images._pixels(path, bytes(blob), 3, 8).shape == (3, 8, 8)
            except ValueError as error:
                assert str(error).startswith(f"image_folder: cannot read `{path}`: ")
                assert "\n" not in str(error)
    assert 0 < read < 210


def test_a_folder_beside_train_that_is_no_split_is_refused(tmp_path):
    root = tmp_path / "parted"
    draw_tree(root / "train")
    draw_tree(root / "valid")
    with pytest.raises(ValueError, match=r"has valid beside `train`; it takes"):
        image_folder(str(root))


def test_data_that_a_process_keeps_are_checked_once(monkeypatch):
    """A check reads all inputs, which may be gigabytes, so it is not repeated per training."""
    checked = []
    monkeypatch.setattr(batches, "check_split", lambda dataset, name, split: checked.append(name))
    dataset = synthetic(train=8, validation=4, test=4)
    kept = replace(dataset, load=partial(read_once, "checked once", dataset.load))
    asked = recipe(8, optimizer="sgd", lr=0.1, batch_size=4, length="2it")
    for _ in range(2):
        Batches(kept, asked, [Seed.of(0)], [()], torch.device("cpu"))
    assert checked == ["train", "val", "test"]


CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("inputs", "about"),
    [
        (
            torch.arange(48).view(4, 3, 2, 2).byte() * 5,
            {"mean": (0.4, 0.5, 0.6), "std": (0.2,) * 3},
        ),
        (torch.linspace(0, 200, 48).view(4, 3, 2, 2), {}),
        (torch.linspace(-3, 3, 48).view(4, 3, 2, 2), {"scale": 0.7}),
        (torch.arange(48).view(4, 12).byte(), {"input_dtype": torch.int64}),
    ],
    ids=["bytes", "floats", "own scale", "tokens"],
)
def test_inputs_scaled_once_are_those_that_are_scaled_in_each_batch(
    inputs: torch.Tensor, about: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU with enough memory scales inputs once; here the CPU takes its place."""
    split, before = Split(inputs, torch.zeros(4, dtype=torch.long)), inputs.clone()
    shape, asked = tuple(inputs.shape[1:]), {"prepare": lambda: None, "load": dict, **about}
    dataset = Dataset(shape, 2, 4, **asked)
    size = 48 * dataset.input_dtype.itemsize
    ends = []
    for free in (16 * size, 16 * size - 1):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, free))
        there = batches._checked(dataset, "train", split, CPU, scales=True)
        scaled = isinstance(there, batches._Scaled)
        assert scaled == (free == 16 * size)
        x = there.take(torch.tensor([2, 0]))
        ends.append(x if scaled else batches._normalised(x, dataset, *dataset.scaling))
    assert torch.equal(*ends) and ends[0].dtype == dataset.input_dtype
    assert torch.equal(inputs, before)
