"""Muon in other frameworks' loops: the rates of both its parts, and the weights, at each update.

Each loop trains a small recurrent network in micro-batches, in the order of the data. What it
must come to is written out below: gradients of whole batches, one step, the next rate.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import DataLoader

from adapters.test_examples import need
from legw import AdamW, Muon, Polynomial, Recipe, RecipeError, updates
from legw.train import Muon as TorchMuon
from legw.train import RecipeLR, muon_choices, muon_groups
from legw.train.optim import build
from threads import threads

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries, about themselves

BIG = Recipe(
    name="small", batch_size=24, lr=0.02, epochs=2, warmup_epochs=0.5, num_examples=96,
    decay=Polynomial(power=1), clip_norm=1.0,
    optimizer=Muon(adamw_lr_ratio=0.25, weight_decay=0.1, adamw_weight_decay=0.1),
)  # fmt: skip
MICRO = 8
"""Examples of a micro-batch: three make an update."""


class Network(nn.Module):
    """Predicts a class from tokens; its output layer is not the last linear one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.classify = nn.Linear(8, 3)
        self.lstm = nn.LSTM(6, 8, batch_first=True)
        self.mix = nn.Linear(8, 8)

    def forward(self, ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        hidden_BTH, _ = self.lstm(self.embed(ids))
        return {"loss": cross_entropy(self.classify(self.mix(hidden_BTH[:, -1]).tanh()), labels)}


def network() -> Network:
    torch.manual_seed(0)
    return Network()


def examples() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 11, (96, 5), generator=generator)
    return [{"ids": row, "labels": row.sum() % 3} for row in ids]


def micro_batches() -> DataLoader[Any]:
    return DataLoader(examples(), batch_size=MICRO)  # type: ignore[arg-type]


def expected(autocast: bool = False) -> tuple[list[list[float]], dict[str, Tensor]]:
    """Return the rates of all groups at each update, and the weights at the end."""
    model, rates = network(), []
    optimizer = build(BIG.optimizer, model, BIG.lr, output="classify", exclude=["mix"])
    schedule = RecipeLR(optimizer, BIG)
    batches = list(micro_batches())
    for update in range(updates(BIG)):
        optimizer.zero_grad()
        for part in range(3):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = model(**batches[(3 * update + part) % len(batches)])["loss"]
            (loss / 3).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return rates, model.state_dict()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


@pytest.fixture
def seen() -> Iterator[list[list[float]]]:
    """Rates of all groups of Muon, at each of its steps."""
    rates: list[list[float]] = []

    def note(optimizer: Any, args: Any, kwargs: Any) -> None:
        if isinstance(optimizer, TorchMuon):
            rates.append([float(group["lr"]) for group in optimizer.param_groups])

    handle = register_optimizer_step_pre_hook(note)
    yield rates
    handle.remove()


def check(rates: list[list[float]], model: nn.Module, autocast: bool = False) -> None:
    made = list(rates)  # what follows is seen as well
    wanted, weights = expected(autocast)
    assert len(made) == 8
    for found, each in zip(made, wanted, strict=True):
        assert found == pytest.approx(each, rel=1e-6)
        assert found[1] == pytest.approx(found[0] / 4), "AdamW has its share of Muon's rate"
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, weights[name], rtol=0, atol=2e-5, msg=name)


def test_the_schedule_above_has_two_rates() -> None:
    rates, _ = expected()
    assert [len(each) for each in rates] == [3] * 8
    assert rates[0] == pytest.approx([0.01, 0.0025, 0.0025]), "half way up the warmup"


@pytest.mark.ci
def test_transformers(seen: list[list[float]], tmp_path: Path) -> None:
    need("transformers", "accelerate")
    from torch.utils.data import SequentialSampler
    from transformers import Trainer, TrainingArguments

    from legw.adapters.transformers import trainer_arguments, trainer_optimizers

    class InOrder(Trainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return SequentialSampler(range(96))

    for bf16 in (False, True):
        seen.clear()
        model = network()
        arguments = TrainingArguments(
            str(tmp_path), **trainer_arguments(BIG, micro_batch_size=MICRO), use_cpu=True,
            report_to=[], save_strategy="no", disable_tqdm=True, bf16=bf16,
        )  # fmt: skip
        ours = trainer_optimizers(model, BIG, output="classify", exclude=["mix"])
        InOrder(model, arguments, train_dataset=examples(), optimizers=ours).train()
        check(seen, model, bf16)


def gpt2(**settings: Any) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_layer": 1, "n_embd": 16, "n_head": 2, "vocab_size": 30, "n_positions": 8,
             "bos_token_id": 0, "eos_token_id": 0}  # fmt: skip
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(**sizes, **settings))


@pytest.mark.ci
def test_gpt2s_transposed_layers_are_hidden_ones() -> None:
    """Its `Conv1D` is a linear layer of shape (in, out); its tied output layer an embedding."""
    need("transformers")
    choices = {each.name: each for each in muon_choices(gpt2(add_cross_attention=True))}
    block = "transformer.h.0."
    taken = {name.removeprefix(block): (c.split, c.transposed)
             for name, c in choices.items() if c.use_muon}  # fmt: skip
    assert taken == {
        "attn.c_attn.weight": (3, True), "attn.c_proj.weight": (1, True),
        "crossattention.c_attn.weight": (2, True), "crossattention.q_attn.weight": (1, True),
        "crossattention.c_proj.weight": (1, True),
        "mlp.c_fc.weight": (1, True), "mlp.c_proj.weight": (1, True),
    }  # fmt: skip
    assert {c.why for c in choices.values() if not c.use_muon} == {"embedding", "bias or norm"}


@pytest.mark.parametrize("split_gates", [True, False])
def test_gpt2_steps_as_with_linear_layers(split_gates: bool) -> None:
    """The same network with `nn.Linear`, its weights turned, whose q, k and v are split by name."""
    need("transformers")
    from transformers.pytorch_utils import Conv1D

    class Turned(nn.Linear):
        def __init__(self, of: Conv1D) -> None:
            super().__init__(of.nx, of.nf)
            self.weight.data, self.bias.data = of.weight.data.mT.clone(), of.bias.data.clone()

    ours, theirs = gpt2(attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0), gpt2(
        attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0)  # fmt: skip
    for name, module in list(theirs.named_modules()):
        if isinstance(module, Conv1D):
            place, _, last = name.rpartition(".")
            setattr(theirs.get_submodule(place), last, Turned(module))
    data = Muon(weight_decay=0.1, split_gates=split_gates)
    optimizers = [
        TorchMuon(muon_groups(ours, data, 0.02), lr=0.02, weight_decay=0.1),
        TorchMuon(
            muon_groups(theirs, data, 0.02, split={"*.c_attn.weight": 3}), lr=0.02, weight_decay=0.1
        ),
    ]
    ids = torch.randint(0, 30, (4, 8), generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
    found = dict(theirs.named_parameters())
    for name, weight in ours.named_parameters():
        other = found[name]
        turned = "c_" in name and weight.ndim == 2
        torch.testing.assert_close(
            weight, other.mT if turned else other, rtol=0, atol=2e-5, msg=name
        )


@pytest.mark.ci
def test_lightning(seen: list[list[float]]) -> None:
    need("lightning")
    import lightning

    from legw.adapters.lightning import recipe_optimizers

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def training_step(self, batch: Any, index: int) -> Any:
            return self.net(**batch)["loss"]

        def configure_optimizers(self) -> Any:
            return recipe_optimizers(self, BIG, output="net.classify", exclude=["net.mix"])

    for precision in ("32-true", "bf16-mixed"):
        seen.clear()
        module = Module()
        trainer = lightning.Trainer(
            max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, accumulate_grad_batches=3,
            gradient_clip_val=1.0, precision=precision,
        )  # fmt: skip
        trainer.fit(module, micro_batches())
        check(seen, module.net, precision != "32-true")


@pytest.mark.parametrize("bf16", [False, True])
def test_accelerate(seen: list[list[float]], bf16: bool, tmp_path: Path) -> None:
    """Its wrapper loads the optimizer's state into it, and saves and restores it."""
    need("accelerate")
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState

    from legw.adapters.accelerate import recipe_scheduler

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    accelerator = Accelerator(
        cpu=True, gradient_accumulation_steps=3, mixed_precision="bf16" if bf16 else "no"
    )
    model = network()
    optimizer = build(BIG.optimizer, model, BIG.lr, output="classify", exclude=["mix"])
    wrapped, prepared, loader = accelerator.prepare(model, optimizer, micro_batches())
    scheduler = recipe_scheduler(accelerator, prepared, BIG)
    for epoch in range(2):
        for batch in loader:
            with accelerator.accumulate(wrapped):
                accelerator.backward(wrapped(**batch)["loss"])
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(wrapped.parameters(), 1.0)
                prepared.step()
                scheduler.step()
                prepared.zero_grad()
        if epoch == 0:  # what was saved is restored: weights, momenta and position
            accelerator.save_state(str(tmp_path))
            with torch.no_grad():
                for state in optimizer.state.values():
                    for value in state.values():
                        value.zero_()
            accelerator.load_state(str(tmp_path))
    check(seen, model, bf16)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def test_timm(seen: list[list[float]]) -> None:
    """With a loop as timm's training script has it, and the averages of weights that it keeps."""
    need("timm")
    from timm.utils import ModelEmaV3

    from legw.adapters.timm import RecipeScheduler

    model = network()
    optimizer = build(BIG.optimizer, model, BIG.lr, output="classify", exclude=["mix"])
    scheduler = RecipeScheduler(optimizer, BIG)
    average = ModelEmaV3(model, decay=0.5)
    num_updates = 0
    for _ in range(2):
        for index, batch in enumerate(micro_batches()):
            (model(**batch)["loss"] / 3).backward()
            if index % 3 == 2:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                average.update(model)
                num_updates += 1
                scheduler.step_update(num_updates)
    check(seen, model)
    assert not torch.equal(average.module.mix.weight, model.mix.weight)


def test_timm_wraps_it_in_lookahead(seen: list[list[float]]) -> None:
    """Every sixth step goes half way back; the rates go on as they are."""
    need("timm")
    from timm.optim import Lookahead

    from legw.adapters.timm import RecipeScheduler

    model = network()
    optimizer = Lookahead(build(BIG.optimizer, model, BIG.lr, output="classify", exclude=["mix"]))
    scheduler = RecipeScheduler(optimizer, BIG)
    for update in range(8):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        scheduler.step_update(update + 1)
    made = list(seen)
    wanted, _ = expected()
    for found, each in zip(made, wanted, strict=True):
        assert found == pytest.approx(each, rel=1e-6)


def test_names_are_told_where_they_choose_nothing() -> None:
    from legw.adapters.lightning import recipe_optimizers

    model = network()
    with pytest.raises(RecipeError, match="small: output, exclude and split choose the"):
        recipe_optimizers(build(BIG.optimizer, model, 0.1), BIG, output="classify")
    with pytest.raises(RecipeError, match="muon: output layer 'clasify' is unknown; did you mean"):
        recipe_optimizers(model, BIG, output="clasify")
    with pytest.raises(RecipeError, match=r"adamw: exclude=\['mix'\]: is for muon; leave it out"):
        build(AdamW(), model, 0.1, exclude=["mix"])
    with pytest.raises(RecipeError, match="small: output, exclude and split choose the"):
        recipe_optimizers(build(BIG.optimizer, model, 0.1), BIG, split={"mix.weight": 2})
    with pytest.raises(RecipeError, match=r"adamw: split=\{'mix.weight': 2\}: is for muon; leave"):
        build(AdamW(), model, 0.1, split={"mix.weight": 2})


def test_a_split_reaches_muons_groups() -> None:
    from legw.adapters.lightning import recipe_optimizers
    from legw.adapters.transformers import trainer_optimizers

    def parts(optimizer: Any, model: Network) -> list[int]:
        return [group["split"] for group in optimizer.param_groups
                if any(each is model.mix.weight for each in group["params"])]  # fmt: skip

    model, names = network(), {"mix.weight": 2}
    assert parts(build(BIG.optimizer, model, 0.1, output="classify"), model) == [1]
    assert parts(build(BIG.optimizer, model, 0.1, output="classify", split=names), model) == [2]
    ours = recipe_optimizers(model, BIG, output="classify", split=names)
    assert parts(ours["optimizer"], model) == [2]
    assert parts(trainer_optimizers(model, BIG, output="classify", split=names)[0], model) == [2]
