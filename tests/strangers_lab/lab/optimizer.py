"""Lion (arXiv:2302.06675) as a lab would write it: an ordinary torch optimizer."""

import torch


class Lion(torch.optim.Optimizer):
    def __init__(self, params, lr, betas=(0.9, 0.99)):
        super().__init__(params, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            first, second = group["betas"]
            for weight in group["params"]:
                state = self.state[weight]
                mean = state.setdefault("mean", torch.zeros_like(weight))
                update = mean.mul(first).add(weight.grad, alpha=1 - first).sign()
                weight.sub_(update, alpha=group["lr"])
                mean.lerp_(weight.grad, 1 - second)
