"""From features of frames to scores of clips: dropout, a linear classifier, average (docs/method.md, section 7)."""

from torch import Tensor, nn


class AverageConsensus(nn.Module):
    """Features [B*T, F] -> logits [B, classes], the mean of the segments' scores."""

    def __init__(self, num_features: int, num_classes: int, *, dropout: float = 0.5) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(num_features, num_classes)
        nn.init.normal_(self.fc.weight, std=0.001)
        nn.init.zeros_(self.fc.bias)

    def forward(self, features: Tensor, num_segments: int) -> Tensor:
        return self.fc(self.dropout(features)).unflatten(0, (-1, num_segments)).mean(1)
