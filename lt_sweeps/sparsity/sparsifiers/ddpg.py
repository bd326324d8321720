"""DDPG: an agent that chooses one number in [0, 1] per step of an episode (arXiv:1509.02971).

The settings are those of AMC (arXiv:1802.03494): two hidden layers of 300 units, exploration noise
that shrinks with every episode, and rewards minus their moving average.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lt_sweeps.config.seeds import seed_torch

_HIDDEN = 300
_BATCH = 64
_SLOW = 0.01  # how far the target networks move towards the trained ones in an update
_AVERAGED = 0.5  # weight of a batch's mean reward in the moving average
_SIGMA, _DECAY = 0.5, 0.95  # std of the exploration noise, and its factor per episode


class Agent:
    """An actor and a critic on states `[S]`. All draws come from the agent's own generator.

    Args:
        warmup: the number of first episodes, with random actions and without updates.
        memory: how many steps the agent remembers; each update draws a batch of them.
    """

    def __init__(self, states: int, draws: torch.Generator, *, warmup: int, memory: int) -> None:
        with torch.random.fork_rng(devices=[]):
            seed_torch(int(torch.randint(2**31, (), generator=draws)))
            self.actor = nn.Sequential(_network(states), nn.Sigmoid())
            self.critic = _network(states + 1)
        self._slow_actor, self._slow_critic = map(copy.deepcopy, (self.actor, self.critic))
        self._actor_step = torch.optim.Adam(self.actor.parameters(), lr=1e-4)
        self._critic_step = torch.optim.Adam(self.critic.parameters(), lr=1e-3)
        self._draws, self._warmup, self._memory = draws, warmup, memory
        self._steps: list[Tensor] = []  # state, action, reward, next state, whether it is the last
        self._average: float | None = None
        self.episode = 0

    def act(self, state: Tensor) -> float:
        """The actor's action with normal noise, truncated to [0, 1]; uniform during the warmup."""
        uniform = torch.rand((), generator=self._draws, dtype=torch.float64)
        if self.episode < self._warmup:
            return float(uniform)
        with torch.no_grad():
            mean = self.actor(state)[0].double()
        sigma = _SIGMA * _DECAY ** (self.episode - self._warmup)
        low, high = (torch.special.ndtr((edge - mean) / sigma) for edge in (0.0, 1.0))
        drawn = mean + sigma * torch.special.ndtri(low + uniform * (high - low))
        return float(drawn.nan_to_num(float(mean)).clamp(0, 1))

    def learn(self, states: Sequence[Tensor], actions: Sequence[float], reward: float) -> None:
        """End an episode: remember its steps, each with the reward, and update the networks."""
        after = [*states[1:], states[-1]]
        for step, (state, action, then) in enumerate(zip(states, actions, after, strict=True)):
            last = float(step == len(states) - 1)
            row = torch.cat([state, torch.tensor([action, reward]), then, torch.tensor([last])])
            self._steps.append(row)
            del self._steps[: -self._memory]
            if self.episode >= self._warmup:
                self._update()
        self.episode += 1

    def _update(self) -> None:
        chosen = torch.randint(len(self._steps), (_BATCH,), generator=self._draws)
        rows = torch.stack([self._steps[i] for i in chosen])
        size = (rows.shape[1] - 3) // 2
        state, action, reward, then, last = rows.split([size, 1, 1, size, 1], 1)
        mean = float(reward.mean())
        before = mean if self._average is None else self._average
        self._average = before + _AVERAGED * (mean - before)
        with torch.no_grad():
            later = self._slow_critic(torch.cat([then, self._slow_actor(then)], 1))
            goal = reward - self._average + (1 - last) * later
        with torch.enable_grad():
            error = (self.critic(torch.cat([state, action], 1)) - goal).square().mean()
            _descend(self._critic_step, error)
            value = self.critic(torch.cat([state, self.actor(state)], 1)).mean()
            _descend(self._actor_step, -value)
        _follow(self._slow_actor, self.actor)
        _follow(self._slow_critic, self.critic)


def _network(inputs: int) -> nn.Sequential:
    hidden = [nn.Linear(inputs, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, _HIDDEN), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(_HIDDEN, 1))


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@torch.no_grad()
def _follow(slow: nn.Module, fast: nn.Module) -> None:
    for target, trained in zip(slow.parameters(), fast.parameters(), strict=True):
        target.lerp_(trained, _SLOW)
