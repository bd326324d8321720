"""Gradients of the loss at a ticket, for the criteria that need them."""

from __future__ import annotations

import torch

from lt_sweeps.config.seeds import Seed, draw, seed_torch
from lt_sweeps.data.batches import first_images
from lt_sweeps.models.functional import picked, plain_attention
from lt_sweeps.models.network import Network
from lt_sweeps.plan.stages import Task
from lt_sweeps.sparsity.pruning import checked_evidence
from lt_sweeps.storage.ticket import State, Ticket
from lt_sweeps.training.arithmetic import FLOAT32
from lt_sweeps.training.stack import Stack
from lt_sweeps.training.task_loss import TaskLoss


def gradient(ticket: Ticket, network: Network, task: Task, seed: Seed, examples: int) -> State:
    """The gradient of the mean loss on the first training images, by prunable layer: `[1, *shape]`.

    The images are the first ones of the seed's first epoch, without augmentation. The gradient is
    computed on the CPU, so that a mask does not depend on the device. Pruned weights have a
    gradient too: it says how the loss would change if the weight moved from its pinned value.
    """
    stack = Stack(network.module(), 1, task_loss=TaskLoss(task.kind))
    stack.load(ticket.state)
    images, labels = first_images(task.dataset, seed, examples)
    seeds = [draw(seed.role("noise"), "gradient")] if stack.stochastic else None
    stack.loss(images[None], labels[None], seeds)
    views = stack.views(stack.grads)
    grads = {layer.name: torch.clone(views[layer.name]) for layer in network.layers}
    return checked_evidence("grad", grads, ticket)


def hessian_gradient(
    ticket: Ticket,
    network: Network,
    task: Task,
    seed: Seed,
    examples: int,
    temperature: float,
) -> State:
    """The Hessian times the gradient, both with respect to the prunable layers: `[1, *shape]`.

    The loss is the mean on the same images as in `gradient`, with outputs divided by `temperature`.
    """
    images, labels = first_images(task.dataset, seed, examples)
    module = network.holding({name: tensor[0] for name, tensor in ticket.state.items()})
    parameters, names = dict(module.named_parameters()), [layer.name for layer in network.layers]
    weights = [parameters[name] for name in names]
    exact = FLOAT32.set(torch.device("cpu"))  # a user-defined module may have set another precision
    noise = torch.random.fork_rng(devices=[])
    with torch.enable_grad(), noise, plain_attention(), exact:
        seed_torch(draw(seed.role("noise"), "gradient"))
        outputs = picked(module(images))
        loss = TaskLoss(task.kind).mean(outputs / temperature, labels)
        grads = torch.autograd.grad(loss, weights, create_graph=True)
        # One factor g is detached, so the derivative of g.g is Hg instead of 2Hg.
        squared = torch.stack([(grad * grad.detach()).sum() for grad in grads]).sum()
        products = torch.autograd.grad(squared, weights)
    hessian_grads = {name: p[None] for name, p in zip(names, products, strict=True)}
    return checked_evidence("hessian_grad", hessian_grads, ticket)
