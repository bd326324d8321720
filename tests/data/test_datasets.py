"""The data sets: their splits against the papers, their content where it is here, their errors."""

import errno
import hashlib
import pickle
import socket

import numpy as np
import psutil
import pytest
import torch
from fixtures.small_disk import mounted
from PIL import Image
from torchvision.datasets import CIFAR10, MNIST

from lt_sweeps.config.recipes import recipe
from lt_sweeps.config.seeds import Seed
from lt_sweeps.data import (
    cifar10,
    cifar100,
    digits,
    fashion_mnist,
    image_folder,
    mnist,
    synthetic,
)
from lt_sweeps.data.batches import Batches
from lt_sweeps.data.downloaded import _held_out, _held_out_per_class, _tensors

GRAYS = {"cat": 10, "dog": 200}


@pytest.fixture
def offline(monkeypatch):
    """Point torchvision at a port of this machine on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{port}/"])
    monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{port}/cifar.tar.gz")


@pytest.fixture(scope="module")
def numbered_mnist(tmp_path_factory):
    """MNIST's files, where each image holds its number and each label the last digit of it."""
    root = tmp_path_factory.mktemp("data")
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, count in (("train", 60_000), ("t10k", 10_000)):
        number = np.arange(count, dtype=np.int32)
        images = np.zeros((count, 784), np.uint8)
        images[:, :4] = number.view(np.uint8).reshape(count, 4)
        header = np.array([0x803, count, 28, 28], ">i4").tobytes()
        (raw / f"{name}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = np.array([0x801, count], ">i4").tobytes()
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(header + bytes((number % 10).tolist()))
    return root


def draw_tree(root, *, count=10, parts=("",), side=8):
    """`count` images of one gray per class, in every part."""
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


# What the arguments alone tell.


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


def test_only_normalized_cifar_has_a_mean_and_std():
    assert (cifar10().mean, cifar10().std, mnist().mean) == ((), (), ())
    normalized = cifar10(normalize=True)
    assert normalized.mean == (125.3 / 255, 123.0 / 255, 113.9 / 255)
    assert normalized.std == (63.0 / 255, 62.1 / 255, 66.7 / 255)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mnist(validation=0), "mnist: validation=0; it takes 1 to 59999 images"),
        (lambda: cifar10(validation=50_000), "cifar10: validation=50000; it takes 1 to 49999"),
        (lambda: digits(validation=1500), "digits: validation=1500; it takes 1 to 1436 images"),
        (lambda: cifar100(validation=50, stratified=True), "it takes a multiple of 100"),
        (lambda: synthetic(shape=[8, 8]), r"shape=\[8, 8\]; it takes \[channels, height, width"),
        (lambda: synthetic(test=0), "synthetic: test=0; it takes 1 or more images"),
    ],
)
def test_sizes_that_cannot_be_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Splits.


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
    assert {k: len(s.labels) for k, s in splits.items()} == {"train": 1137, "val": 300, "test": 360}
    ours = torch.cat([s.images.flatten(1).double() for s in splits.values()])
    theirs = torch.from_numpy(load_digits(return_X_y=True)[0])
    assert sorted(ours.tolist()) == sorted(theirs.tolist())


def test_the_digits_test_images_do_not_depend_on_the_validation_split():
    a, b = digits().load()["test"], digits(validation=10).load()["test"]
    assert torch.equal(a.images, b.images)


def test_digits_fill_the_range_that_their_scale_says():
    images = digits().load()["train"].images
    assert images.dtype == torch.uint8
    assert images.max() / digits().scale == 1


def test_mnist_splits_keep_the_original_order_and_lose_nothing(numbered_mnist):
    splits = prepared(mnist(data_dir=str(numbered_mnist)))
    number = {
        k: s.images.flatten(1)[:, :4].contiguous().view(torch.int32).flatten()
        for k, s in splits.items()
    }
    assert (number["train"].diff() > 0).all()
    both = torch.cat([number["train"], number["val"]])
    assert torch.equal(both.sort().values, torch.arange(60_000, dtype=torch.int32))
    assert torch.equal(number["test"], torch.arange(10_000, dtype=torch.int32))
    assert torch.equal(splits["val"].labels, number["val"] % 10)


def test_colour_images_become_channels_first():
    class Picture:
        data = np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3)
        targets = (1,)

    split = _tensors(Picture)
    assert split.images.shape == (1, 3, 2, 4)
    assert split.images[0, :, 1, 2].tolist() == [18, 19, 20]


# Offline.


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
    assert splits["train"].images.shape == (55_000, 1, 28, 28)
    assert splits["train"].images.dtype == torch.uint8
    assert splits["test"].labels.dtype == torch.int64
    assert capsys.readouterr() == ("", "")


def test_a_truncated_file_counts_as_missing(offline, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images", "t10k-images"):
        (raw / f"{name}-idx3-ubyte").write_bytes(b"short")
    with pytest.raises(FileNotFoundError, match=r"missing `.*/train-images-idx3-ubyte`"):
        mnist(data_dir=str(tmp_path)).prepare()


# Synthetic.


def test_synthetic_is_a_function_of_its_seed():
    first, again, other = (synthetic(seed=seed).load()["train"].images for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_synthetic_splits_have_streams_of_their_own():
    short, long = synthetic(train=10).load(), synthetic(train=20).load()
    assert torch.equal(short["test"].images, long["test"].images)


def test_synthetic_without_noise_is_its_prototypes():
    splits = synthetic(classes=2, train=4, noise=0.0).load()
    assert torch.equal(splits["train"].images[0], splits["train"].images[2])
    assert torch.equal(splits["train"].images[1], splits["test"].images[1])


def test_synthetic_classes_are_equally_frequent():
    assert synthetic(classes=4, train=20).load()["train"].labels.bincount().tolist() == [5] * 4


# Image folders.


def test_an_image_folder_is_drawn_into_disjoint_complete_splits(tmp_path):
    root = draw_tree(tmp_path / "pets")
    for index, path in enumerate(sorted(root.rglob("*.png"))):
        Image.new("L", (8, 8), index).save(path)
    dataset = image_folder(str(root), data_dir=str(tmp_path), size=8, channels=1)
    splits = prepared(dataset)
    assert {k: len(s.labels) for k, s in splits.items()} == {"train": 14, "val": 2, "test": 4}
    grays = torch.cat([s.images[:, 0, 0, 0] for s in splits.values()])
    assert grays.sort().values.tolist() == list(range(20))
    for split in splits.values():
        assert torch.equal(split.labels, (split.images[:, 0, 0, 0] >= 10).long())


def test_train_and_test_folders_are_used_as_such(tmp_path):
    root = draw_tree(tmp_path / "pets", parts=("train", "test"))
    splits = prepared(image_folder(str(root), data_dir=str(tmp_path), size=8, validation=5))
    assert {k: len(s.labels) for k, s in splits.items()} == {"train": 15, "val": 5, "test": 20}
    assert splits["test"].labels.tolist() == [0] * 10 + [1] * 10
    assert splits["test"].images[10:].unique().tolist() == [200]


def test_a_val_folder_is_the_validation_split(tmp_path):
    root = draw_tree(tmp_path / "pets", count=3, parts=("train", "val", "test"))
    dataset = image_folder(str(root), data_dir=str(tmp_path))
    assert dataset.train_size == 6
    assert len(prepared(dataset)["val"].labels) == 6
    with pytest.raises(ValueError, match=r"validation=2 and `.*val` exists; it takes one of them"):
        image_folder(str(root), validation=2)


def test_a_class_may_be_called_train(tmp_path):
    root = draw_tree(tmp_path / "vehicles")
    (root / "cat").rename(root / "train")
    assert image_folder(str(root)).classes == 2


def test_gray_and_colour_images_get_the_channels_and_size_asked_for(tmp_path):
    root = draw_tree(tmp_path / "pets", side=16)
    Image.new("RGBA", (20, 10), (1, 2, 3, 255)).save(root / "cat" / "000.png")
    splits = prepared(image_folder(str(root), data_dir=str(tmp_path), size=8))
    images = torch.cat([split.images for split in splits.values()])
    assert images.shape == (20, 3, 8, 8)
    assert images[:, :, 4, 4].tolist().count([1, 2, 3]) == 1


def test_images_are_decoded_once(tmp_path):
    root = draw_tree(tmp_path / "pets")
    first = prepared(image_folder(str(root), data_dir=str(tmp_path)))
    for path in root.rglob("*.png"):
        path.write_bytes(bytes(path.stat().st_size))
    again = prepared(image_folder(str(root), data_dir=str(tmp_path), validation=1))
    assert torch.equal(first["test"].images, again["test"].images)


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
        everything = torch.arange(len(split.labels))
        assert split.rows is not None and len(split.images) == 20 and copied[name].rows is None
        assert torch.equal(split.take(everything), copied[name].take(everything))
        assert torch.equal(split.labels, copied[name].labels)


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
        batches = Batches(dataset, asked, [Seed.of(0)], [0], torch.device("cpu"))
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
    assert len(prepared(pickle.loads(pickle.dumps(dataset)))["train"].labels) == 14


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "`.*` has 0 class folders; it takes two or more"),
        (["a.png", "b.png"], "`.*` has 0 class folders"),
        (["cat/a.png"], "`.*` has 1 class folders"),
        (["cat/a.png", "dog/notes.txt"], "no images in `.*dog`; it takes files that end in .bmp"),
        (["train/cat/a.png", "train/dog/a.png", "test/cow/a.png"], r"has classes \['cow'\]"),
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
    with pytest.raises(ValueError, match="nowhere` is not a folder"):
        image_folder(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("kind", ["broken", "16 bits"])
def test_an_image_that_cannot_be_read_is_named(tmp_path, kind):
    path = draw_tree(tmp_path / "pets") / "dog" / "003.png"
    if kind == "broken":
        path.write_bytes(b"no image")
    else:
        Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(path)
    with pytest.raises(ValueError, match=r"image_folder: cannot read `.*dog.003.png`: "):
        image_folder(str(tmp_path / "pets"), data_dir=str(tmp_path)).prepare()


def test_a_folder_beside_train_that_is_no_split_is_refused(tmp_path):
    root = tmp_path / "parted"
    draw_tree(root / "train")
    draw_tree(root / "valid")
    with pytest.raises(ValueError, match=r"has \['valid'\] beside `train`; it takes"):
        image_folder(str(root))
