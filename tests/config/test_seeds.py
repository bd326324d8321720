"""A draw depends only on its seed, purpose and index."""

import pytest
import torch

from lt_sweeps.config.seeds import Seed, draw, draws, generator, global_draws, repeated


def test_a_draw_is_made_again_from_its_name() -> None:
    torch.manual_seed(1)
    first = torch.randperm(9, generator=generator(3, "order", 7))
    torch.manual_seed(2)
    assert torch.equal(first, torch.randperm(9, generator=generator(3, "order", 7)))


@pytest.mark.parametrize("other", [(4, "order", 7), (3, "noise", 7), (3, "order", 8)])
def test_seed_purpose_and_index_each_change_a_draw(other: tuple) -> None:
    first = torch.rand(4, generator=generator(3, "order", 7))
    assert not torch.equal(first, torch.rand(4, generator=generator(*other)))


def test_many_draws_at_once_are_those_drawn_one_by_one() -> None:
    assert draws(3, "sample", 1, last=range(99)).tolist() == [
        draw(3, "sample", 1, i) for i in range(99)
    ]


def test_roles_can_be_set_apart_and_the_label_says_so() -> None:
    seed = Seed.of(3, {"order": 9, "noise": None, "init": 3})
    assert (seed.role("order"), seed.role("init"), str(seed)) == (9, 3, "3-order9")


@pytest.mark.parametrize("wrong", ["abc", 1.5, -1, True, None])
def test_a_seed_is_a_whole_number_from_0_up(wrong: object) -> None:
    with pytest.raises(ValueError, match="give a whole number from 0 up"):
        Seed.of(wrong)


def test_the_global_draws_are_those_of_torchs_own_seed() -> None:
    torch.manual_seed(5)
    usual = torch.rand(4)
    torch.manual_seed(6)
    with global_draws(5):
        assert torch.equal(torch.rand(4), usual)
    torch.manual_seed(6)
    kept = torch.rand(4)
    torch.manual_seed(6)
    with global_draws(5):
        torch.rand(4)
    assert torch.equal(torch.rand(4), kept)


def test_an_orthogonal_matrix_is_drawn_alike_in_a_process_of_more_threads() -> None:
    """A worker has one thread, while an audit draws the initial weights again with all threads."""

    def drawn() -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        return {"weight": torch.nn.init.orthogonal_(torch.empty(300, 200))}

    alone = repeated(drawn, "model")["weight"]
    for tensor, kind in ((alone.to_sparse(), "sparse_coo"), (alone.to("meta"), "meta")):
        with pytest.raises(ValueError, match=f"^model gives a {kind} tensor for a; give a dense"):
            repeated(lambda tensor=tensor: {"a": tensor}, "model")
    torch.set_num_threads(2)
    assert torch.equal(repeated(drawn, "model")["weight"], alone)
    assert torch.get_num_threads() == 2
