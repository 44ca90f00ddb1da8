import torch

from tests.data.refusals import refused
from train.data.batches import Batches


def test_an_epoch_has_each_example_once():
    batches = Batches((torch.zeros(12),), batch_size=3, seed=0, device="cpu")
    for epoch in range(3):
        drawn = torch.cat([batches.indices(4 * epoch + step) for step in range(4)])
        assert drawn.dtype == torch.int64
        assert drawn.sort().values.tolist() == list(range(12))


def test_examples_left_over_are_drawn_in_other_epochs():
    batches = Batches((torch.zeros(11),), batch_size=4, seed=0, device="cpu")
    drawn_once = set()
    for epoch in range(20):
        drawn = torch.cat([batches.indices(2 * epoch + step) for step in range(2)]).tolist()
        assert len(set(drawn)) == 8
        drawn_once |= set(drawn)
    assert drawn_once == set(range(11))


def test_a_batch_depends_on_its_step_alone():
    straight = Batches((torch.zeros(20),), batch_size=6, seed=3, device="cpu")
    history = [straight.indices(step).clone() for step in range(10)]
    for step in (9, 0, 5, 4):
        resumed = Batches((torch.zeros(20),), batch_size=6, seed=3, device="cpu")
        assert torch.equal(resumed.indices(step), history[step])
        assert torch.equal(straight.indices(step), history[step])


def test_epochs_and_seeds_differ():
    batches = Batches((torch.zeros(100),), batch_size=100, seed=0, device="cpu")
    other = Batches((torch.zeros(100),), batch_size=100, seed=1, device="cpu")
    assert not torch.equal(batches.indices(0), batches.indices(1))
    assert not torch.equal(batches.indices(0), other.indices(0))
    # The seed is not the sum of seed and epoch.
    assert not torch.equal(batches.indices(1), other.indices(0))


def test_batches_do_not_depend_on_the_global_seed():
    torch.manual_seed(1)
    first = Batches((torch.zeros(50),), batch_size=50, seed=0, device="cpu").indices(0)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = Batches((torch.zeros(50),), batch_size=50, seed=0, device="cpu").indices(0)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_batch_larger_than_the_data_is_refused():
    with refused(
        "--batch-size 64 is larger than the 40 training examples: give 40 or less",
    ):
        Batches((torch.zeros(40),), batch_size=64, seed=0, device="cpu")


def test_an_empty_batch_is_refused():
    with refused("--batch-size is 0", "1 or more"):
        Batches((torch.zeros(40),), batch_size=0, seed=0, device="cpu")


def test_a_batch_has_rows_of_each_tensor_and_scales_bytes():
    images = torch.arange(20, dtype=torch.uint8).reshape(10, 1, 2)
    labels = torch.arange(10)
    batches = Batches((images, labels), batch_size=4, seed=0, device="cpu")
    rows = batches.indices(3)
    x, y = batches(3)
    assert torch.equal(y, rows)
    assert x.dtype == torch.float32
    assert torch.equal(x, images[rows] / 255)
