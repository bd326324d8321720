"""Images that splits share are found by content, or by row number if they stay in their file."""

import pytest
import torch

from lt_sweeps.data import Split
from lt_sweeps.data.split_overlap import Shared, shared_examples


def split(images: torch.Tensor, rows: list[int] | None = None) -> Split:
    count = len(images) if rows is None else len(rows)
    return Split(images, torch.zeros(count), None if rows is None else torch.tensor(rows))


def test_equal_images_are_found_whatever_their_place() -> None:
    images = torch.arange(12.0).view(6, 1, 1, 2)
    splits = {"train": split(images[:3]), "val": split(images[3:5]), "test": split(images[[5, 1]])}
    assert list(shared_examples(splits)) == [Shared("test", "train", 1, 2)]


def test_images_in_their_file_are_told_apart_by_their_rows() -> None:
    file = torch.zeros(6, 1, 1, 2)  # equal content, which is not read
    splits = {"train": split(file, [0, 1, 2]), "val": split(file, [2, 3]), "test": split(file, [4])}
    assert list(shared_examples(splits)) == [Shared("val", "train", 1, 2)]


@pytest.mark.parametrize(
    ("count", "size", "is_one"), [(2, 10, False), (3, 10, True), (40, 10_000, False)]
)
def test_more_than_a_few_are_a_mistake(count: int, size: int, is_one: bool) -> None:
    assert Shared("test", "train", count, size).is_a_mistake is is_one


def test_rows_that_a_table_repeats_are_no_mistake_and_a_split_taken_from_another_is() -> None:
    """Rows of three bits have only eight values, so any two splits share most of them."""
    draws = torch.Generator().manual_seed(0)
    few = torch.randint(0, 2, (300, 3), generator=draws)
    many = torch.rand(300, 3, generator=draws)
    doubled = torch.cat([many, many[:120]])
    for train, val, is_one in (
        *[(few[:250], few[250:], False), (many, many[:50], True)],
        (doubled, many[:50], True),  # most training examples stand there twice
    ):
        splits = {"train": split(train), "val": split(val), "test": split(val)}
        shared = next(shared_examples(splits))
        assert (shared.count, shared.size, shared.is_a_mistake) == (50, 50, is_one)
