"""Gradients: what the loss at a ticket says of each weight, for criteria that ask for it."""

from __future__ import annotations

import torch

from lt_sweeps.batches import first_images
from lt_sweeps.network import Network
from lt_sweeps.seeds import Seed, draw
from lt_sweeps.stack import Stack
from lt_sweeps.stages import Training
from lt_sweeps.ticket import State, Ticket


def gradient(
    ticket: Ticket, network: Network, training: Training, seed: Seed, examples: int
) -> State:
    """The gradient of the mean loss on the first training images, by prunable layer: `[1, *shape]`.

    The images are those that the seed's first epoch begins with, without augmentation; it is
    computed on the CPU, so that a mask does not depend on the device. Pruned weights have a
    gradient too: the loss is that of the weights as they are.
    """
    stack = Stack(network.module(), 1)
    stack.load(ticket.state)
    images, labels = first_images(training.task.dataset, seed, examples)
    seeds = [draw(seed.role("noise"), "gradient")] if stack.stochastic else None
    stack.loss(images[None], labels[None], seeds)
    views = stack.views(stack.grads)
    return {layer.name: torch.clone(views[layer.name]) for layer in network.layers}
