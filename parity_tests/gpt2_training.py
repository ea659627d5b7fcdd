"""A GPT-2 of 4 blocks trained 20 steps as a block, as a module by torch.optim, and as one ONNX file.

`python -m parity_tests.gpt2_training` prints the losses of all three and the verdict on the file, which judges the
module, too. All clip by the global norm, decay matrices only, warm up and follow a cosine, average the parameters
exponentially, and run the forward pass under `torch.autocast` in float16 with a dynamic loss scale.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import export
import pure
from parity_tests.language_models import NONE
from parity_tests.libraries import transformers
from pure import optim, tree
from pure.interop.checkpoints import from_state_dict, to_state_dict
from pure.nets.transformers.gpt2 import gpt2

__all__ = ["Training"]

PEAK, WARMUP, CLIP, DECAY, MEAN, SCALE = 1e-2, 5, 1.0, 0.1, 0.9, 2.0**10


@dataclass(frozen=True)
class Training:
    """One training, by each of the three.

    Attributes:
        depth: how many blocks.
        features: size of a token.
        steps: how many batches.
        dtype: of autocast; None for float32.
        precision: of parameters.
    """

    depth: int = 4
    features: int = 16
    steps: int = 20
    dtype: torch.dtype | None = torch.float16
    precision: torch.dtype = torch.float32
    vocabulary: int = 32
    positions: int = 8
    batch: int = 4

    @property
    def block(self) -> pure.Block:
        """The network without dropout."""
        return gpt2(
            vocab_size=self.vocabulary,
            positions=self.positions,
            features=self.features,
            depth=self.depth,
            heads=2,
            dropout=0.0,
            attention_dropout=0.0,
            embedding_dropout=0.0,
        )

    def args(self) -> tuple[Any, Tensor]:
        """Return initial parameters and the batches (steps, batch, positions) of a repeating text."""
        generator = torch.Generator().manual_seed(0)
        params, _ = self.block.init(generator, self.precision)
        start = torch.randint(self.vocabulary, (self.steps, self.batch, 1), generator=generator)
        return params, (start + 3 * torch.arange(self.positions)) % self.vocabulary

    @property
    def schedule(self) -> Any:
        """The rate at each step."""
        return optim.warmup_cosine_decay_schedule(0.0, PEAK, WARMUP, self.steps, PEAK / 10)

    def loss(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """Return the cross-entropy of each next token."""
        scores = logits[:, :-1].to(self.precision)
        return F.cross_entropy(scores.flatten(0, 1), tokens[:, 1:].flatten())

    def autocast(self) -> Any:
        """Return autocast, off if there is no dtype."""
        return torch.autocast("cpu", dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None)

    def by_block(self, params: Any, batches: Tensor) -> dict[str, Any]:
        """Return the parameters, their average, and the losses: a pure function of its arguments."""
        block = self.block
        optimizer = optim.dynamic_loss_scale(
            optim.chain(
                optim.clip_by_global_norm(CLIP),
                optim.adamw(self.schedule, weight_decay=DECAY, mask=lambda name, leaf: leaf.ndim > 1),
            ),
            SCALE,
            interval=self.steps,
        )
        average = optim.ema(MEAN, debias=True)

        def step(carry: Any, tokens: Tensor) -> Any:
            params, opt_state, averaged = carry["params"], carry["optimizer"], carry["average"]

            def scaled(params: Any) -> Tensor:
                with self.autocast():
                    logits = block(params, tokens)
                return self.loss(logits, tokens) * opt_state["scale"].to(self.precision)

            gradient, value = torch.func.grad_and_value(scaled)(params)
            params, new_state = optimizer.step(gradient, opt_state, params)
            mean, averaged = average.update(params, averaged, params)
            carry = {"params": params, "optimizer": new_state, "average": averaged, "mean": mean}
            return carry, value / opt_state["scale"].to(self.precision)

        start = {"params": params, "optimizer": optimizer.init(params), "average": average.init(params), "mean": params}
        end, losses = pure.scan(step, start, batches)
        return {"params": end["params"], "mean": end["mean"], "losses": losses}

    def by_module(self, params: Any, batches: Tensor) -> dict[str, Any]:
        """Return the same of the module of transformers, by torch.optim and torch.amp."""
        block = self.block
        config = transformers.GPT2Config(
            vocab_size=self.vocabulary,
            n_positions=self.positions,
            n_embd=self.features,
            n_layer=self.depth,
            n_head=2,
            resid_pdrop=0.0,
            attn_pdrop=0.0,
            embd_pdrop=0.0,
            **NONE,
        )
        module: nn.Module = transformers.GPT2LMHeadModel(config).to(self.precision)
        module.load_state_dict(to_state_dict(block, params, {}, source="transformers"), strict=False)
        leaves = list(module.parameters())
        groups = [
            {"params": [leaf for leaf in leaves if leaf.ndim > 1], "weight_decay": DECAY},
            {"params": [leaf for leaf in leaves if leaf.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=1.0)
        rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: float(self.schedule(step)))
        scaler = torch.amp.GradScaler("cpu", init_scale=SCALE, growth_interval=self.steps)
        means, losses = [torch.zeros_like(leaf) for leaf in leaves], []
        for tokens in batches:
            optimizer.zero_grad()
            with self.autocast():
                logits = module(tokens).logits
            value = self.loss(logits, tokens)
            scaler.scale(value).backward()
            scaler.unscale_(optimizer)
            slopes = [leaf.grad for leaf in leaves if leaf.grad is not None]
            norm = nn.utils.get_total_norm(slopes)  # clip_grad_norm_ adds 1e-6 to it, which shows in float64
            torch._foreach_mul_(slopes, (CLIP / norm).clamp(max=1.0))
            scaler.step(optimizer)
            scaler.update()
            rates.step()
            for mean, leaf in zip(means, leaves, strict=True):
                mean.lerp_(leaf.detach(), 1 - MEAN)
            losses.append(value.detach())
        trained = self._tree(module)
        with torch.no_grad():
            for leaf, mean in zip(leaves, means, strict=True):
                leaf.copy_(mean / (1 - MEAN**self.steps))
        return {"params": trained, "mean": self._tree(module), "losses": torch.stack(losses)}

    def _tree(self, module: nn.Module) -> Any:
        found, _ = from_state_dict(self.block, module.state_dict(), source="transformers")
        return tree.tree_map(torch.clone, found)


def main() -> int:
    """Print the losses and the verdict; return 1 if it fails."""
    training = Training()
    args = training.args()
    verdict = export.verify(training.by_block, args, against=training.by_module, device="cpu")
    block, module = training.by_block(*args), training.by_module(*args)
    for step in range(0, training.steps, 3):
        print(
            f"step {step:2}: loss of the block {block['losses'][step]:.5f}, of the module {module['losses'][step]:.5f}"
        )
    print(verdict.table())
    return int(not verdict)


if __name__ == "__main__":
    sys.exit(main())
