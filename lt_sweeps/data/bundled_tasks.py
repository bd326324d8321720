"""Data sets without a download for tasks other than image classification: a table and a text."""

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
import torch

from lt_sweeps.config.identity import ANY, omitted_at
from lt_sweeps.data.bundled import CURE, check_content, nothing, read_table, sklearn_folder
from lt_sweeps.data.dataset import Dataset, Split, check_held_out, held_out_rows
from lt_sweeps.storage.atomic_write import passes

_DIABETES = "70a45af6bc04fb77f713e6aca86019c4707501ef0cbd17c743d74f7a9ca8bf11"
_BYTES = 256


def diabetes(*, validation: int = 66, test: int = 88) -> Dataset:
    """442 patients, bundled with scikit-learn: ten measurements, and the progress of the disease.

    Measurements and targets are in standard deviations from the mean of the training split.
    """
    check_held_out("diabetes", 442, validation, test)
    return Dataset(
        input_shape=(10,),
        classes=None,
        outputs=1,
        train_size=442 - test - validation,
        prepare=nothing,
        load=partial(_load_diabetes, validation, test),
        scale=1.0,
    )


@omitted_at(path=ANY)
def text(
    *, path: str | None = None, length: int = 64, validation: float = 0.1, test: float = 0.1
) -> Dataset:
    """The bytes of a text in windows of `length`; the target of each byte is the next byte.

    Args:
        path: a text file. With null, the text is the descriptions of data sets that ship with
            scikit-learn, 37,000 bytes of English. Stage keys contain its content, not its path.
        validation: the fraction of the text held out for validation, just before the test part.
        test: the fraction held out for testing, at the end of the text.
    """
    content = _bytes_of(Path(path)) if path is not None else _descriptions()
    count = (len(content) - 1) // max(1, length)
    held = {"val": round(validation * count), "test": round(test * count)}
    train = count - sum(held.values())
    if length < 1 or min(train, *held.values()) < 1:
        raise ValueError(
            f"text: length={length}, validation={validation}, test={test} cut {len(content)} bytes "
            f"into windows: {train} to train on, {held['val']} to validate, {held['test']} to "
            "test; each number is 1 or more"
        )
    return Dataset(
        input_shape=(length,),
        classes=_BYTES,
        train_size=train,
        prepare=nothing,
        load=partial(_cut, content, length, (train, held["val"], held["test"])),
        scale=1.0,
        fingerprint=hashlib.sha256(content).hexdigest(),
        input_dtype=torch.int64,
    )


def _load_diabetes(validation: int, test: int) -> dict[str, Split]:
    folder = sklearn_folder() / "data"
    table = read_table(folder / "diabetes_data_raw.csv.gz")
    target = read_table(folder / "diabetes_target.csv.gz")
    content = table.astype("<f4").tobytes() + target.astype("<f4").tobytes()
    check_content("diabetes", content, _DIABETES)
    rows = held_out_rows(len(target), validation, test)
    inputs, targets = (_standardised(part, rows["train"]) for part in (table, target[:, None]))
    return {name: Split(inputs[index], targets[index]) for name, index in rows.items()}


def _standardised(values: np.ndarray, train: np.ndarray) -> torch.Tensor:
    mean, std = values[train].mean(0), values[train].std(0)
    return torch.from_numpy(((values - mean) / std).astype(np.float32))


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        if passes(error):
            raise
        raise ValueError(f"text: cannot read path=`{path}`: {error.strerror}") from None


def _descriptions() -> bytes:
    files = sorted((sklearn_folder() / "descr").glob("*.rst"))
    if not files:
        raise ValueError(f"text: scikit-learn has no descriptions of its data sets; {CURE}")
    return b"\n".join(file.read_bytes() for file in files)


def _cut(content: bytes, length: int, sizes: tuple[int, int, int]) -> dict[str, Split]:
    tokens = torch.frombuffer(bytearray(content), dtype=torch.uint8).long()
    count = sum(sizes) * length
    inputs, targets = (part.view(-1, length) for part in (tokens[:count], tokens[1 : count + 1]))
    pairs = zip(inputs.split(sizes), targets.split(sizes), strict=True)
    return {name: Split(*pair) for name, pair in zip(("train", "val", "test"), pairs, strict=True)}
