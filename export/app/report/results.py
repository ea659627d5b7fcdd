"""Everything that one report found, and its plain-data form for report.json."""

from __future__ import annotations

import dataclasses
from typing import Any

import pure
from export.app.report.digits import Digits, Network
from export.app.report.folder import MARK
from export.app.report.judging import Judged
from export.app.report.measuring import Flow
from export.app.report.photographs import Enhanced
from export.app.report.settings import Settings
from export.app.report.training import Trained

__all__ = ["NetworkResult", "Results"]

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class NetworkResult:
    """One network's way through the report.

    Attributes:
        network: the network.
        before: its gradient flow at initialisation.
        trained: its training from the report's seed; this one is measured and exported.
        others: its trainings from other seeds.
        after: its gradient flow after training, on the same digits.
        judged: its file.
    """

    network: Network
    before: Flow
    trained: Trained
    others: tuple[Trained, ...]
    after: Flow
    judged: Judged

    @property
    def parameters(self) -> int:
        """How many numbers the network learns."""
        return pure.count(self.trained.params)

    @property
    def accuracy(self) -> float:
        """Part of the held-out digits that the trained eager function reads rightly."""
        return self.judged.eager_accuracy

    @property
    def trainings(self) -> tuple[Trained, ...]:
        """All trainings, the exported one first."""
        return (self.trained, *self.others)

    @property
    def accuracies(self) -> tuple[float, ...]:
        """Held-out accuracy after each training, in the order of the seeds."""
        return tuple(training.test_accuracy[-1] for training in self.trainings)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "title": self.network.title,
            "formula": self.network.formula,
            "reference": self.network.reference,
            "parameters": self.parameters,
            "held_out_accuracy": self.accuracy,
            "trainings": [
                {
                    "seed": training.seed,
                    "train_loss_nats": list(training.train_loss),
                    "held_out_accuracy": list(training.test_accuracy),
                    "steps": training.steps,
                    "seconds": training.seconds,
                }
                for training in self.trainings
            ],
            "gradient_flow": {"at_initialisation": self.before.to_dict(), "after_training": self.after.to_dict()},
            "onnx": self.judged.to_dict(),
        }


@dataclasses.dataclass(frozen=True)
class Results:
    """Everything that one report found.

    Attributes:
        settings: what decided it.
        digits: the data.
        networks: one result a network, references last.
        enhanced: the photographs.
        environment: where it ran.
        seconds: {stage: duration}.
    """

    settings: Settings
    digits: Digits
    networks: tuple[NetworkResult, ...]
    enhanced: Enhanced
    environment: dict[str, Any]
    seconds: dict[str, float]

    @property
    def compared(self) -> tuple[NetworkResult, ...]:
        """The networks without those that are only a reference."""
        return tuple(result for result in self.networks if not result.network.reference)

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that a report has, but for report.json."""
        names = [name for r in self.networks for name in (r.judged.file, r.judged.params_file)]
        return ("index.html", *names, self.enhanced.file, self.enhanced.params_file)

    @property
    def passed(self) -> bool:
        """Whether every verdict passed, the file reads each digit as eager does, and both branches were taken."""
        files = all(r.judged.verdict.passed and not r.judged.differing_answers for r in self.networks)
        shots = self.enhanced.shots
        pictures = all(shot.verdict.passed and shot.enhanced == shot.eager_enhanced for shot in shots)
        return files and pictures and len({shot.enhanced for shot in shots}) == 2

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        settings = dataclasses.asdict(self.settings)
        return {
            MARK: FORMAT,
            "passed": self.passed,
            "settings": settings,
            "environment": self.environment,
            "seconds": self.seconds,
            "digits": {"training": len(self.digits.train_y), "held_out": len(self.digits.test_y)},
            "networks": {result.network.name: result.to_dict() for result in self.networks},
            "photographs": self.enhanced.to_dict(),
        }
