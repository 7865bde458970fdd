import pickle

import numpy as np
import torch
from torch.utils.data import DataLoader
from torchvision import tv_tensors

from zoo.data.datasets import LabeledImages, UnlabeledImages
from zoo.data.shapes import ShapesSource

SOURCE = ShapesSource()
IDS = SOURCE.ids("train")[3:7]


def test_a_labeled_image_comes_with_its_mask():
    image, mask = LabeledImages(SOURCE, IDS)[2]
    assert isinstance(image, tv_tensors.Image)
    assert isinstance(mask, tv_tensors.Mask)
    assert (image.shape, image.dtype) == ((3, 96, 96), torch.uint8)
    assert (mask.shape, mask.dtype) == ((96, 96), torch.uint8)
    assert np.array_equal(image.permute(1, 2, 0).numpy(), SOURCE.read_image(IDS[2]))
    assert np.array_equal(mask.numpy(), SOURCE.read_mask(IDS[2]))


def test_an_unlabeled_image_comes_alone():
    dataset = UnlabeledImages(SOURCE, IDS)
    assert len(dataset) == 4
    assert isinstance(dataset[0], tv_tensors.Image)
    assert torch.equal(dataset[1], LabeledImages(SOURCE, IDS)[1][0])


def test_a_loader_batches_them():
    image, mask = next(iter(DataLoader(LabeledImages(SOURCE, IDS), batch_size=4)))
    assert image.shape == (4, 3, 96, 96)
    assert mask.shape == (4, 96, 96)


def test_data_sets_travel_to_worker_processes():
    copy = pickle.loads(pickle.dumps(UnlabeledImages(SOURCE, IDS)))
    assert torch.equal(copy[0], UnlabeledImages(SOURCE, IDS)[0])
