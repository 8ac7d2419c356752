"""How far a patient's diabetes has got a year later: columns of numbers, one of categories."""

import torch
from torch import Tensor, nn

from py_authoring.learnt import Learnt
from py_authoring.preprocessing import Categories, standardize_columns, standardize_target


class Progression(nn.Module):
    """Two linear layers over standardized numbers and an embedded category.

    Each column is an input of its own, so that a host runs the rows of a CSV file as they are: means, deviations and
    the list of categories lie in the exported file.

    Args:
        learnt: what the training rows taught.
        hidden: size of the layer between.
    """

    def __init__(self, learnt: Learnt, hidden: int = 32) -> None:
        super().__init__()
        self.scale = standardize_columns(learnt)
        self.sexes = Categories(learnt.categories["sex"])
        self.embedding = nn.Embedding(self.sexes.size, 2)
        self.layers = nn.Sequential(
            nn.Linear(len(learnt.numbers) + 2, hidden), nn.ReLU(), nn.Dropout(0.2), nn.Linear(hidden, 1)
        )
        self.target = standardize_target(learnt)

    def forward(
        self,
        age: Tensor,
        sex: Tensor,
        bmi: Tensor,
        bp: Tensor,
        s1: Tensor,
        s2: Tensor,
        s3: Tensor,
        s4: Tensor,
        s5: Tensor,
        s6: Tensor,
    ) -> Tensor:
        """Predicts from a row.

        Args:
            age: years, as all that follow float32 `[batch]`.
            sex: 1 or 2, int64 `[batch]`; any other counts as unknown.
            bmi: body mass index.
            bp: mean blood pressure.
            s1: total cholesterol; s2 to s6 are further blood values.

        Returns:
            The progression, float32 `[batch, 1]`, between 25 and 346 in the data.
        """
        numbers = self.scale(torch.stack([age, bmi, bp, s1, s2, s3, s4, s5, s6], dim=1))
        both = torch.cat([numbers, self.embedding(self.sexes(sex))], dim=1)
        return self.target.undo(self.layers(both))
