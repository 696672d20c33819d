"""A character-level LSTM as tutorials have it: its own loop, SGD, clipping, decay on plateau.

Run it with `python examples/char_lstm.py`; the text is Python's own help. Beside it lies
`char_lstm_large.py`, which is this file at 16 times the batch.
"""

from pydoc_data.topics import topics

import torch
from torch import nn

WINDOW, EPOCHS, LR = 32, 16, 4.0
BATCH = 8

torch.manual_seed(0)
text = "\n".join(topics[name] for name in sorted(topics))
chars = sorted(set(text))
ids = torch.tensor([chars.index(char) for char in text])
windows = ids[: len(ids) // (WINDOW + 1) * (WINDOW + 1)].view(-1, WINDOW + 1)
windows = windows[torch.randperm(len(windows))]
valid, train = windows[:480], windows[480:14048]  # 13,568 windows to train on


class CharLSTM(nn.Module):
    def __init__(self, vocabulary, hidden=96):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, 32)
        self.lstm = nn.LSTM(32, hidden, batch_first=True)
        self.head = nn.Linear(hidden, vocabulary)

    def forward(self, ids):
        return self.head(self.lstm(self.embed(ids))[0])


def loss_of(model, batch):
    return nn.functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())


model = CharLSTM(len(chars))
optimizer = torch.optim.SGD(model.parameters(), lr=LR)
plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
for epoch in range(EPOCHS):
    for batch in train[torch.randperm(len(train))].split(BATCH):
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        valid_loss = loss_of(model, valid).item()
    plateau.step(valid_loss)
    rate = optimizer.param_groups[0]["lr"]
    print(f"epoch {epoch + 1}   rate {rate:.3f}   validation loss {valid_loss:.3f}", flush=True)
