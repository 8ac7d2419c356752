"""Our training of models/mnist beside a loop written by hand, and beside Lightning's Trainer, in one process.

usage: training.py [EPOCHS]      default 20; about four minutes on one quiet core

Same model, optimizer, batch size and samples; an epoch of each in turn, in another order each time. Ours runs with all
handlers that `py-authoring train` has. `steps` is the loop over the batches; `epoch` is that, validation and both
checkpoints (by hand: loss and accuracy, and torch.save without fsync). Seconds are the processor's, of one thread, so
that what else the machine does counts less, and the faster half of the epochs counts. A figure is the other's seconds
by ours: above 1, ours is faster.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import logging
import random
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from ignite.engine import Events
from torch.utils.data import DataLoader, TensorDataset

from py_authoring import training
from py_authoring.data import ArrayDataset, load_splits
from py_authoring.model_file import build_model
from py_authoring.recipe import ResolvedRecipe, load_recipe

ROOT = Path(__file__).parents[1]
Block = Callable[[], dict[str, float]]


def tensors(samples: Any) -> TensorDataset:
    assert isinstance(samples, ArrayDataset)
    pictures = samples.inputs["image"]
    assert isinstance(pictures, torch.Tensor)
    return TensorDataset(pictures.float() / 255 if pictures.dtype == torch.uint8 else pictures, samples.target)


def by_hand(resolved: ResolvedRecipe, folder: Path) -> Block:
    """The loop of every PyTorch tutorial."""
    splits = load_splits(resolved)
    size = resolved.recipe.training.batch_size
    train_loader = DataLoader(tensors(splits.train), batch_size=size, shuffle=True)
    validation_loader = DataLoader(tensors(splits.validation), batch_size=size)
    model = build_model(resolved)
    optimizer = torch.optim.Adam(model.parameters(), lr=resolved.recipe.optimizer.lr)

    def epoch() -> dict[str, float]:
        start = time.process_time()
        model.train()
        total = 0.0
        for image, target in train_loader:
            optimizer.zero_grad()
            loss = F.nll_loss(model(image), target)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(target)
        steps = time.process_time() - start
        model.eval()
        loss_sum, right = 0.0, 0
        with torch.no_grad():
            for image, target in validation_loader:
                output = model(image)
                loss_sum += F.nll_loss(output, target, reduction="sum").item()
                right += int((output.argmax(1) == target).sum())
        torch.save(model.state_dict(), folder / "best.pt")
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, folder / "last.pt")
        return {"steps": steps, "epoch": time.process_time() - start}

    return epoch


def with_lightning(resolved: ResolvedRecipe) -> Block | None:
    """Its Trainer with everything off that can be; None where it is not installed."""
    try:
        import lightning
    except ImportError:
        return None
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    net = build_model(resolved)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            image, target = batch
            loss = F.nll_loss(self.net(image), target)
            self.log("loss", loss, on_step=False, on_epoch=True)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=resolved.recipe.optimizer.lr)

        def on_train_epoch_start(self) -> None:
            self.start = time.process_time()

        def on_train_epoch_end(self) -> None:
            self.steps = time.process_time() - self.start

    module = Module()
    size = resolved.recipe.training.batch_size
    loader = DataLoader(tensors(load_splits(resolved).train), batch_size=size, shuffle=True)

    def epoch() -> dict[str, float]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
            trainer = lightning.Trainer(
                max_epochs=1,
                accelerator="cpu",
                enable_model_summary=False,
                **quiet,  # type: ignore[arg-type]
            )
            trainer.fit(module, loader)
        return {"steps": module.steps}

    return epoch


def main() -> None:
    epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(ROOT / "models/mnist", folder / "mnist", ignore=shutil.ignore_patterns("runs", "[0-9]*"))
        resolved = load_recipe(folder / "mnist")
        others: dict[str, Block] = {"by hand": by_hand(resolved, folder)}
        lightning = with_lightning(resolved)
        if lightning is not None:
            others["Lightning"] = lightning
        seconds: dict[tuple[str, str], list[float]] = {}
        clock = {"whole": 0.0, "steps": 0.0}
        open_session = training.open_session

        def open_and_watch(*given: Any, **named: Any) -> Any:
            session = open_session(*given, **named)
            trainer = session.trainer
            trainer.add_event_handler(Events.EPOCH_STARTED, lambda: clock.update(steps=time.process_time()))
            # before any handler of ours, since train() attaches them later
            trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: keep("ours", "steps", clock["steps"]))
            return session

        def keep(who: str, what: str, start: float) -> None:
            seconds.setdefault((who, what), []).append(time.process_time() - start)

        def say(text: str) -> None:
            if text.startswith("epoch ") and " left " in text:  # and not the line of a long epoch
                keep("ours", "epoch", clock["whole"])
                for who in random.sample(list(others), len(others)):
                    for what, each in others[who]().items():
                        seconds.setdefault((who, what), []).append(each)
                print(text, file=sys.stderr, flush=True)
            clock["whole"] = time.process_time()

        training.open_session = open_and_watch
        random.seed(0)
        training.train(folder / "mnist", epochs=epochs, say=say)
    print("| beside | steps | epoch |\n|---|---|---|")
    fast = {key: statistics.median(sorted(each[1:])[: max(1, len(each) // 2)]) for key, each in seconds.items()}
    for who in others:
        cells = (
            f"{fast[who, what] / fast['ours', what]:.3f}" if (who, what) in fast else "" for what in ("steps", "epoch")
        )
        print(f"| {who} | {' | '.join(cells)} |")
    print("\n" + "  ".join(f"{who} {what} {each:.3f} s" for (who, what), each in fast.items()))


if __name__ == "__main__":
    main()
