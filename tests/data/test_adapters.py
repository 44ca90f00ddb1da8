"""Data sets that are given from Python: what is read of them, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, StackDataset, Subset, TensorDataset

from tests.data.refusals import refused
from train.data.fingerprint import fingerprint
from train.data.images import as_images
from train.data.labelled import Images, Split
from train.data.options import DataOptions
from train.data.streaming.adapters import as_split
from train.data.streaming.items import DatasetImages
from train.data.streaming.stored import StoredImages

GREY = np.random.default_rng(0).integers(0, 256, (60, 9, 8), dtype=np.uint8)
LABELS = np.arange(60) % 3


HERE, AHEAD = DataOptions(workers=0), DataOptions(workers=1)


class Items(Dataset):
    """Items that a function makes of an index."""

    def __init__(self, make, number=60):
        self.make = make
        self.number = number

    def __len__(self):
        return self.number

    def __getitem__(self, i):
        if i >= self.number:
            raise IndexError(i)
        return self.make(i)


class Table:
    """A table with the interface of Hugging Face's data sets."""

    def __init__(self, columns):
        self.columns = columns
        self.images_read = 0

    @property
    def column_names(self):
        return list(self.columns)

    def __len__(self):
        return len(self.columns["label"])

    def __getitem__(self, key):
        if isinstance(key, str):
            return list(self.columns[key])
        self.images_read += 1
        return {name: column[key] for name, column in self.columns.items()}

    def __getitems__(self, keys):
        return [self[key] for key in keys]


def table(rows=range(60)):
    rows = list(rows)
    images = [Image.fromarray(GREY[row]) for row in rows]
    return Table({"img": images, "label": LABELS[rows].tolist(), "name": [f"n{r}" for r in rows]})


SOURCES = {
    "tensors": lambda: TensorDataset(torch.from_numpy(GREY), torch.from_numpy(LABELS)),
    "floats with a channel": lambda: Items(
        lambda i: (torch.from_numpy(GREY[i])[None] / 255, LABELS[i])
    ),
    "pictures": lambda: Items(lambda i: (Image.fromarray(GREY[i]), int(LABELS[i]))),
    "mappings": lambda: Items(lambda i: {"image": GREY[i], "label": LABELS[i], "mask": GREY[i]}),
    "stacked": lambda: StackDataset(image=torch.from_numpy(GREY), label=torch.from_numpy(LABELS)),
    "a table": table,
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_data_set_is_split_as_images_in_memory_are(name):
    expected = Images.of_columns(as_images(GREY), {"label": LABELS}).hold_out()
    split = as_split(SOURCES[name](), options=HERE)
    for part, wanted in zip(split, expected, strict=True):
        assert isinstance(part.images, StoredImages)
        assert part.images.workers == 0
        assert torch.equal(part.images[:], wanted.images)
        assert torch.equal(part.labels, wanted.labels)
        assert part.column("label").tolist() == wanted.column("label").tolist()


def test_images_that_are_read_once_stay_in_memory():
    split = as_split(SOURCES["tensors"](), options=DataOptions(in_memory="always"))
    assert isinstance(split.train.images, torch.Tensor)
    lazy = as_split(SOURCES["tensors"](), options=HERE)
    assert torch.equal(split.train.images, lazy.train.images[:])


def test_columns_of_a_table_are_read_without_its_images():
    data = table()
    split = as_split(data, options=HERE)
    # Those that show shape and type.
    assert data.images_read <= 32
    assert set(split.train.columns) == {"label", "name"}
    assert sorted(split.train.column("name").tolist() + split.held_out.column("name").tolist()) == (
        sorted(f"n{i}" for i in range(60))
    )


class Targets(Items):
    """A data set with torchvision's list of labels, which counts what is read."""

    def __init__(self, targets, number=60):
        self.read = 0
        super().__init__(self.item, number)
        self.targets = targets

    def item(self, i):
        self.read += 1
        return GREY[i], int(LABELS[i])


def test_targets_save_reading_the_items():
    data = Targets(LABELS.tolist())
    expected = as_split(SOURCES["tensors"](), options=HERE)
    assert torch.equal(as_split(data, options=HERE).train.labels, expected.train.labels)
    assert data.read <= 2 * 32
    rows = np.arange(0, 60, 2)
    subset = as_split(Subset(data, rows.tolist()), options=HERE)
    assert data.read <= 6 * 32
    wanted = Images(as_images(GREY[rows]), torch.from_numpy(LABELS[rows])).hold_out()
    assert torch.equal(subset.train.labels, wanted.train.labels)
    # A transform of labels makes others of them.
    renamed = as_split(Targets((LABELS + 1).tolist()), options=HERE)
    assert sorted(set(renamed.train.values.tolist())) == [0, 1, 2]


def test_a_pair_and_a_mapping_are_given_splits():
    train, test = (SOURCES["tensors"]() for _ in range(2))
    train, test = Subset(train, range(50)), Subset(test, range(50, 60))
    pair = as_split((train, test), options=HERE)
    assert torch.equal(pair.train.images[:], as_images(GREY[:50]))
    assert torch.equal(pair.held_out.images[:], as_images(GREY[50:]))
    named = as_split({"train": train, "test": test}, options=HERE)
    assert fingerprint(*named) == fingerprint(*pair)
    validation = as_split((train, test), "validation", HERE)
    assert [len(part) for part in validation] == [40, 10]
    both = {"train": train, "test": test, "validation": Subset(train, range(7))}
    assert [len(x) for x in as_split(both, "validation", HERE)] == [50, 7]
    alone = as_split({"train": train}, options=HERE)
    assert [len(part) for part in alone] == [40, 10]


def test_classes_of_a_pair_have_common_indices():
    """Though one of them is not held out."""
    train = Items(lambda i: (GREY[i], ["a", "b", "c"][i % 3]))
    test = Items(lambda i: (GREY[i], ["a", "c"][i % 2]), 10)
    split = as_split((train, test), options=HERE)
    assert split.held_out.labels.tolist() == [0, 2] * 5
    assert split.train.labels[:3].tolist() == [0, 1, 2]
    with refused("of two kinds"):
        as_split((train, Items(lambda i: (GREY[i], i % 2), 10)), HERE)


def test_splits_and_images_are_taken_as_they_are():
    images = Images(as_images(GREY), torch.from_numpy(LABELS))
    split = images.hold_out()
    assert as_split(split) == split
    assert fingerprint(*as_split(images)) == fingerprint(*split)
    assert isinstance(as_split(split, "validation"), Split)


def test_a_dark_image_is_not_black_and_white():
    """Zeros and ones are black and white if all images have them, and grey levels otherwise."""
    dark = GREY.copy()
    dark[1] = dark[1] > 127
    images = as_split(Items(lambda i: dark[i]), options=HERE)
    assert sorted(int(image.max()) for image in images.train.images[:])[0] in (1, 255)
    read = torch.cat([part.images[:] for part in images])
    assert int(read.flatten(1).amax(1).min()) == 1
    binary = as_split(Items(lambda i: (GREY[i] > 127).astype(int)), options=HERE)
    assert binary.train.images[:].unique().tolist() == [0, 255]


def test_the_fingerprint_is_of_contents_and_number():
    changed = GREY.copy()
    changed[0, 0, 0] ^= 1
    arrays = (GREY, GREY.copy(), changed, GREY[:50])
    prints = [
        fingerprint(*as_split(TensorDataset(torch.from_numpy(array)), options=HERE))
        for array in arrays
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def at(bad, value):
    return Items(lambda i: (value if i == bad else GREY[i], 0))


def failing(i):
    if i == 7:
        raise OSError("truncated")
    return GREY[i]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (Items(lambda i: GREY[i], 0), "is empty"),
        (Items(lambda i: GREY[i], 9), "has 9 images"),
        (Items(lambda i: {"picture": GREY[i]}), "has the keys picture"),
        (Items(lambda i: GREY[i] * 1000.0), "item 0 runs from"),
        (Items(lambda i: "text"), "item 0"),
        (GREY, "is of type ndarray"),
        (7, "is of type int"),
        ({"test": Items(lambda i: GREY[i])}, "name one train"),
    ],
)
def test_data_that_cannot_be_used_are_refused(data, words):
    with refused("data", words):
        as_split(data, options=HERE)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (at(7, GREY[0][:5]), "item 7 is 5x8, but others are 9x8"),
        (at(7, GREY[0] * 2.0), "item 7 runs from"),
        (at(7, GREY[0].astype(int) - 9), "item 7 has integers from"),
        (at(7, np.stack([GREY[0]] * 3)), "item 7 is 3x9x8"),
        (Items(failing), "item 7 cannot be read (OSError: truncated)"),
    ],
)
def test_an_item_that_cannot_be_used_is_named(monkeypatch, data, words):
    # The first and the last item show shape and type.
    monkeypatch.setattr("train.data.streaming.items.PROBES", 2)
    images = DatasetImages(data)
    images.read(np.array([0, 1, 59, 3]))
    with refused(words):
        images.read(np.array([0, 1, 59, 7, 3]))


class Stream(IterableDataset):
    """A stream of the images, with their labels; each pass may be shuffled or exhausted."""

    def __init__(self, number=60, shuffled=False, stateful=False):
        self.number = number
        self.shuffled = shuffled
        self.passes = 0

    def __iter__(self):
        self.passes += 1
        order = torch.randperm(self.number).tolist() if self.shuffled else range(self.number)
        for i in order:
            yield GREY[i % 60] ^ np.uint8(i // 60), int(LABELS[i % 60])


def test_the_first_items_of_a_stream_are_held_out(monkeypatch):
    monkeypatch.setattr("train.data.streaming.streams.HELD_OUT", 10)
    split = as_split(Stream(), options=HERE)
    assert torch.equal(split.held_out.images, as_images(GREY[:10]))
    assert split.held_out.labels.tolist() == LABELS[:10].tolist()
    # The sample, for probes.
    assert torch.equal(split.train.images, as_images(GREY[10:]))
    batches = split.train.batches(8, 0, "cpu")
    # Six batches of the fifty, and again from the beginning.
    for step in (0, 1, 5, 6, 7, 3, 13, 14, 0):
        start = 10 + 8 * (step % 6)
        (images,) = batches.local(step)
        wanted = as_images(GREY[start : start + 8]).float() / 255
        assert torch.equal(images, wanted), step
        assert torch.equal(batches(step)[0], wanted)
    validation = split.train.hold_out(12)
    assert torch.equal(validation.held_out.images, as_images(GREY[10:20]))
    assert torch.equal(
        validation.train.batches(8, 0, "cpu").local(0)[0], as_images(GREY[20:28]).float() / 255
    )


def test_a_stream_beside_held_out_data():
    held_out = TensorDataset(torch.from_numpy(GREY[:20]), torch.from_numpy(LABELS[:20]))
    split = as_split((Stream(), held_out), options=HERE)
    assert len(split.held_out) == 20
    images = split.train.batches(30, 0, "cpu").local(1)[0]
    assert torch.equal(images, as_images(GREY[30:]).float() / 255)


def test_a_stream_is_shared_by_two_processes(monkeypatch):
    held_out = TensorDataset(torch.from_numpy(GREY[:20]))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        batches = as_split((Stream(), held_out), options=HERE).train.batches(8, 0, "cpu")
        start = 16 + 4 * rank
        wanted = as_images(GREY[start : start + 4]).float() / 255
        assert torch.equal(batches.local(2)[0], wanted)
        assert len(batches(2)[0]) == 8


def test_a_shuffled_stream_is_the_same_in_every_run():
    """Though it draws from the global generator; its passes differ."""
    held_out = TensorDataset(torch.from_numpy(GREY[:20]))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    straight = as_split((Stream(shuffled=True), held_out), options=HERE).train.batches(20, 0, "cpu")
    drawn = [straight.local(step)[0] for step in range(6)]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    resumed = as_split((Stream(shuffled=True), held_out), options=AHEAD).train.batches(20, 0, "cpu")
    for step in (4, 5, 1):
        assert torch.equal(resumed.local(step)[0], drawn[step])
    resumed.close()
    assert not torch.equal(drawn[0], drawn[3])


class Stateful(Stream):
    """A stream that says where it is, and counts the items that it yields."""

    def __init__(self, number=60):
        super().__init__(number)
        self.position = 0
        self.yielded = 0
        self.begin = 0

    def __iter__(self):
        items = super().__iter__()
        self.position = 0
        for item in items:
            self.position += 1
            if self.position > self.begin:
                self.yielded += 1
                yield item
        self.begin = 0

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.begin = state["position"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_with_a_state_need_not_be_read_anew(workers):
    held_out = TensorDataset(torch.from_numpy(GREY[:20]))

    def batches():
        stream = Stateful()
        return stream, as_split(
            (stream, held_out), options=DataOptions(workers=workers)
        ).train.batches(8, 0, "cpu")

    _, straight = batches()
    drawn = []
    for step in range(12):
        drawn.append(straight.local(step)[0])
        if step == 4:
            state = straight.state_dict()
    straight.close()
    assert state["step"] == 5
    stream, resumed = batches()
    resumed.load_state_dict(state)
    before = stream.yielded
    for step in range(5, 12):
        assert torch.equal(resumed.local(step)[0], drawn[step]), step
        if step == 5 and not workers:
            assert stream.yielded - before == 8
    resumed.close()


def test_streams_that_cannot_be_used_are_refused(monkeypatch):
    monkeypatch.setattr("train.data.streaming.streams.HELD_OUT", 10)
    with refused("is empty"):
        as_split(Stream(0), options=HERE)
    with refused("has no more than 9 items, which are held out: give held-out data"):
        as_split(Stream(9), options=HERE)
    with refused(
        "--batch-size 64 is larger than a pass through data (Stream), without the first 10"
    ):
        as_split(Stream(), options=HERE).train.batches(64, 0, "cpu").local(0)
    with refused("another pass begins with other ones"):
        as_split(Stream(shuffled=True), options=HERE).train.batches(8, 0, "cpu").local(0)
    with refused("--workers 2", "give 1 or 0"):
        as_split(Stream(), options=DataOptions(workers=2))
    with refused("needs them: give a map-style data set"):
        as_split(Stream(), options=HERE).train.batches(8, 0, "cpu", torch.zeros(50, 3))
    labels = (
        as_split(Stream(), options=HERE).train.batches(8, 0, "cpu", torch.zeros(50, 0)).local(0)
    )
    assert labels[1].shape == (8, 0)


def test_a_stream_that_fails_names_its_item():
    class Failing(Stream):
        def __iter__(self):
            for i, item in enumerate(super().__iter__()):
                if i == 5000:
                    raise OSError("gone")
                yield item

    held_out = TensorDataset(torch.from_numpy(GREY[:20]))
    batches = as_split((Failing(6000), held_out), options=AHEAD).train.batches(1000, 0, "cpu")
    for step in range(5):
        batches.local(step)
    with refused("data (Failing): item 5000 cannot be read (OSError: gone)"):
        batches.local(5)
    batches.close()
