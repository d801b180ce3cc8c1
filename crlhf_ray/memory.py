"""What a learner rank, a replica and a weight transfer need, from a model's configuration alone.

Counted are the bytes of tensors. What a process takes before it holds any (`PROCESS_GIB`) is added by `crlhf plan`.
Rounding of allocators, fragments and the libraries' own buffers are not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from crlhf_ray.config import Config
from crlhf_ray.errors import ConfigError
from crlhf_ray.learner.batching import deal
from crlhf_ray.learner.settings import LearnerSettings
from crlhf_ray.learner.zero import reduce_bucket
from crlhf_ray.policy.model import adapt
from crlhf_ray.policy.settings import LoraSettings, ModelSettings
from crlhf_ray.policy.support import EXPERTS, check_decoder

GIB = 2**30
#: vLLM, torch and Ray before any weight is loaded, measured as resident memory on CPU.
PROCESS_GIB = 0.6
#: DeepSpeed's limits for ZeRO-3, in elements: what it gathers ahead and keeps whole.
LIVE = 1_000_000_000
WIDTH = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Item:
    """One line of the arithmetic: what it is, its formula in words, its bytes, and whether they lie in host memory."""

    name: str
    formula: str
    bytes: int
    on_host: bool = False


Memory = list[tuple[str, int, list[Item]]]


@dataclass(frozen=True)
class Shape:
    """A model in numbers; no weight is loaded.

    parameters: of the model without adapters, tied ones once. trained: those that gradients reach, without the value
    head's. adapters: of LoRA. largest: of the largest single tensor. queries, keys: a token's elements of all heads.
    norms: elements a token that the layer's norms keep in fp32, and keep in the model's type. widened: elements a token
    that the MLP keeps in a layer. adapted: outputs of LoRA's first matrices a token in a layer.
    """

    parameters: int
    trained: int
    adapters: int
    largest: int
    layers: int
    hidden: int
    heads: int
    queries: int
    keys: int
    vocabulary: int
    norms: tuple[int, int]
    widened: int
    adapted: int

    @property
    def head(self) -> int:
        """Parameters of the value head."""
        return self.hidden * self.hidden + 2 * self.hidden + 1


@dataclass(frozen=True)
class Row:
    """One packed forward pass: tokens in all, tokens scored, and prompts that each answer's attention copies.

    copied: sum over answers of prompt and answer; squared: sum over answers of answer x (prompt + answer).
    """

    tokens: int
    scored: int
    copied: int
    squared: int

    @classmethod
    def of(cls, trees: Iterable[tuple[int, ...]], scored: int) -> Row:
        """trees: as `batching.Packed` has them, lengths of (prompt, answer, ...)."""
        pairs = [(tree[0], answer) for tree in trees for answer in tree[1:] if answer]
        return cls(
            sum(map(sum, trees)),
            scored,
            sum(p + a for p, a in pairs),
            sum(answer * (p + answer) for p, answer in pairs),
        )


def shape_of(config: Any, lora: LoraSettings | None) -> Shape:
    """The numbers of a transformers configuration. Raises ConfigError where it does not say what is needed."""
    check_decoder(config, f"a model of type {config.model_type}")
    text = config.get_text_config()
    try:
        hidden, layers, vocabulary = text.hidden_size, text.num_hidden_layers, text.vocab_size
        heads = text.num_attention_heads
    except AttributeError as error:
        raise ConfigError(f"the configuration of {config.model_type} does not say its size: {error}") from None
    with torch.device("meta"):
        try:
            model: Any = AutoModelForCausalLM.from_config(config)
        except ValueError:
            raise ConfigError(f"a model of type {config.model_type} is not a causal language model") from None
        parameters = sum(parameter.numel() for parameter in model.parameters())
        largest = max(parameter.numel() for parameter in model.parameters())
        rms = [
            type(module).__name__.endswith("RMSNorm") for module in model.modules() if "Norm" in type(module).__name__
        ]
        gated = any(name.endswith(("gate_proj", "gate_up_proj")) for name, _ in model.named_modules())
        if lora is not None:
            model = adapt(model, lora)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    first = {name: module for name, module in model.named_modules() if "lora_A" in name and hasattr(module, "weight")}
    wide = getattr(text, "head_dim", None) or hidden // heads
    # An RMSNorm in transformers computes in fp32 and keeps its output where its weight is trained; LayerNorm does not
    keys = (getattr(text, "num_key_value_heads", None) or heads) * wide
    normed = 2 * hidden + (heads * wide + keys) * any(name.endswith("q_norm") for name, _ in model.named_modules())
    norm = (normed, normed * (lora is None)) if rms and rms[0] else (0, normed)
    return Shape(
        parameters=parameters,
        trained=trained,
        adapters=trained if lora is not None else 0,
        largest=largest,
        layers=layers,
        hidden=hidden,
        heads=heads,
        queries=heads * wide,
        keys=keys,
        vocabulary=vocabulary,
        norms=norm,
        widened=_widened(text, gated),
        adapted=sum(module.out_features for module in first.values()) // layers,
    )


def _widened(text: Any, gated: bool) -> int:
    """A gated MLP keeps both products, the activation and its product; a plain one its input and output."""
    inner = next(
        (found for name in ("intermediate_size", "n_inner", "ffn_dim") if (found := getattr(text, name, None))),
        4 * text.hidden_size,
    )
    experts = max((getattr(text, name, None) or 0) for name in EXPERTS)
    if experts < 2:
        return (4 if gated else 2) * inner
    each, chosen = getattr(text, "moe_intermediate_size", None) or inner, text.num_experts_per_tok
    shared = getattr(text, "shared_expert_intermediate_size", None) or 0
    return chosen * (4 * each + 3 * text.hidden_size) + 4 * shared + 2 * experts


def layer_bytes(shape: Shape, row: Row, width: int) -> int:
    """What the backward pass of one layer needs of its forward pass: activations of a packed row."""
    token = (
        4 * shape.norms[0]
        + width * shape.norms[1]
        + width * (2 * shape.hidden)  # inputs of attention and of the MLP
        + width * (3 * shape.queries + 2 * shape.keys)  # queries, outputs by answer and as one, keys, values
        + 4 * shape.heads  # of each score's normaliser
        + width * (shape.widened + shape.adapted)
    )
    return row.tokens * token + width * (2 * shape.keys * row.copied + row.squared)


def activations(shape: Shape, row: Row, learner: LearnerSettings, width: int) -> list[Item]:
    """What lives between the forward pass of a row and the end of its backward pass."""
    layer = layer_bytes(shape, row, width)
    logits = row.scored * shape.vocabulary * 4
    if learner.checkpoint_activations:
        kept = shape.layers * row.tokens * shape.hidden * width + layer
        how = f"{shape.layers} layers' inputs of {row.tokens} tokens x {shape.hidden}, and one layer computed again"
    else:
        kept = shape.layers * layer
        how = f"{shape.layers} layers x {row.tokens} tokens x {_size(layer / row.tokens)}"
    # The largest passing pair: the gradients of the MLP's inner values beside those values, or logits with their copy
    passing = max(logits, row.tokens * width * (shape.widened // 2 + 2 * shape.hidden))
    return [
        Item("activations", how, kept),
        Item("logits", f"{row.scored} scored tokens x {shape.vocabulary} x 4, or one layer's gradients", passing),
    ]


def rank_items(shape: Shape, row: Row, model: ModelSettings, learner: LearnerSettings, answers: int) -> list[Item]:
    """One learner rank while it learns. answers: tokens that are scored in a batch, over all ranks."""
    width, ranks, stage = WIDTH[model.dtype], learner.ranks, learner.zero_stage
    bf16, full = width == 2, model.lora is None
    away, all_away = learner.offload != "none", learner.offload == "all"
    trained = shape.trained + shape.head
    sharded = ranks if stage == 3 else 1
    by = f" / {ranks} ranks" if ranks > 1 else ""
    policy = shape.parameters + shape.adapters + shape.head
    items = [
        Item(
            "weights",
            f"{policy:,} x {width}{by if stage == 3 else ''}: model, adapters, value head",
            policy * width // sharded,
            all_away,
        ),
        Item(
            "reference",
            f"{shape.parameters:,} x {width}{by if stage == 3 else ''}" if full else "the model without its adapters",
            shape.parameters * width // sharded * full,
            all_away,
        ),
        Item(
            "gradients",
            f"{trained:,} trained x {width}{by if stage > 1 else ''}" + (", and in fp32 at the step" if bf16 else ""),
            trained * width // (ranks if stage > 1 else 1) + bf16 * trained * 4 // (ranks if stage else 1),
            away,
        ),
        Item(
            "optimizer",
            f"{trained:,} x 8{by if stage else ''}: two moments in fp32",
            trained * 8 // _over(learner),
            away,
        ),
        *_master_weights(trained, width, learner),
    ]
    if stage:
        bucket = reduce_bucket(trained)
        items.append(Item("bucket", f"{bucket:,} x {width}: gradients on their way to other ranks", bucket * width))
    if stage == 3:
        live = min(shape.parameters, max(LIVE, shape.largest))
        items.append(Item("gathered weights", f"at most {live:,} x {width}: whole while they are used", live * width))
    states = answers // ranks * shape.hidden * width
    items += activations(shape, row, learner, width)
    items.append(
        Item("reference's states", f"{answers // ranks:,} tokens of a batch x {shape.hidden} x {width}", states)
    )
    return items


def _master_weights(trained: int, width: int, learner: LearnerSettings) -> list[Item]:
    """The fp32 copy that DeepSpeed trains, where there is one: at stage 3 in fp32 only if it lies elsewhere."""
    away = learner.offload != "none"
    if width == 4 and learner.zero_stage in (0, 3) and not away:
        return []
    by = f" / {learner.ranks} ranks" if learner.zero_stage and learner.ranks > 1 else ""
    return [Item("master weights", f"{trained:,} x 4{by}: fp32", trained * 4 // _over(learner), away)]


def start_items(shape: Shape, model: ModelSettings, learner: LearnerSettings) -> list[Item]:
    """A rank at its start, when stages below 3 hold everything whole; the optimizer's state is made at the first
    step."""
    width, full = WIDTH[model.dtype], model.lora is None
    weights, beside = shape.parameters * (1 + full), shape.adapters + shape.head
    what = ": model and reference" if full else ""
    master = _master_weights(shape.trained + shape.head, width, learner)
    if learner.zero_stage < 3:
        return [Item("whole model", f"{weights + beside:,} x {width}{what}", (weights + beside) * width), *master]
    return [
        Item(
            "weights",
            f"{weights:,} x {width} / {learner.ranks} rank(s){what}",
            weights * width // learner.ranks,
            learner.offload == "all",
        ),
        Item("beside them", f"{beside:,} x {width}: adapters, value head", beside * width),
        Item("largest weight", f"{shape.largest:,} x {width}: whole while it is read", shape.largest * width),
        *master,
    ]


def cached_token(shape: Shape, config: Config) -> int:
    """Bytes of the KV cache that a token takes in one process of a replica. Where there are more processes than heads
    of keys, each holds a copy of one."""
    head = shape.queries // shape.heads
    each = max(shape.keys // head // config.rollout.tensor_parallel, 1) * head
    return 2 * shape.layers * each * WIDTH[config.rollout.dtype]


def replica_items(shape: Shape, config: Config) -> list[Item]:
    """One process of a rollout replica; `rollout.tensor_parallel` of them make a replica."""
    rollout = config.rollout
    width, parts = WIDTH[rollout.dtype], rollout.tensor_parallel
    token = cached_token(shape, config)
    held = int(rollout.kv_cache_gib * GIB / token)
    by = f" / {parts} processes" if parts > 1 else ""
    return [
        Item("weights", f"{shape.parameters:,} x {width}{by}", shape.parameters * width // parts),
        Item("KV cache", f"rollout.kv_cache_gib: {held:,} tokens of {_size(token)}", int(rollout.kv_cache_gib * GIB)),
        Item(
            "logits",
            f"{rollout.max_num_seqs} sequences x {shape.vocabulary:,} x 4, twice",
            rollout.max_num_seqs * shape.vocabulary * 8,
        ),
    ]


def sync_items(shape: Shape, config: Config) -> list[Item]:
    """What a weight transfer sends: one copy to each replica, one tensor at a time."""
    rollout, width = config.rollout, WIDTH[config.model.dtype]
    once, replicas, parts = shape.parameters * width, rollout.most_replicas, rollout.tensor_parallel
    items = [Item("from rank 0", f"{shape.parameters:,} x {width} x {replicas} replica(s)", once * replicas)]
    if parts > 1:
        items.append(Item("within replicas", f"to {parts - 1} more process(es) of each", once * replicas * (parts - 1)))
    if config.learner.zero_stage == 3 and config.learner.ranks > 1:
        ranks = config.learner.ranks
        items.append(
            Item(
                "gathered by each rank",
                f"{ranks - 1} of {ranks} parts come from the others",
                once * (ranks - 1) // ranks,
            )
        )
    return items


def memory_of(shape: Shape, config: Config) -> Memory:
    """Of each kind of process: its name, how many there are, and what one holds.

    A rank's memory is that of its highest point: its start, or the backward pass of its largest row. What it offloads
    is apart, before the last entry.
    """
    process = Item("process", "Python, torch, Ray, vLLM or DeepSpeed before any weight", int(PROCESS_GIB * GIB))
    run, rollout, learner = config.run, config.rollout, config.learner
    answers = run.problems_per_round * run.samples_per_problem * rollout.max_tokens
    learning = rank_items(shape, expected_row(config), config.model, learner, answers)
    starting = start_items(shape, config.model, learner)
    away = [item for item in learning if item.on_host]
    parts = rollout.tensor_parallel
    of_replica = "rollout replica" if parts == 1 else f"of {parts} processes of a rollout replica"
    return [
        (of_replica, rollout.most_replicas * parts, [*replica_items(shape, config), process]),
        ("learner rank, learning", learner.ranks, [*_on_device(learning), process]),
        ("learner rank, at its start", learner.ranks, [*_on_device(starting), process]),
        *([("offloaded part of the learner, in host memory", learner.ranks, away)] if away else []),
        ("driver, aggregation actor, Ray", 3, [process]),
    ]


def expected_row(config: Config) -> Row:
    """The largest row of a minibatch whose answers are all of rollout.max_tokens, and prompts as long, as the learner
    deals them: no more than a rank's part of the minibatch, however large learner.micro_batch_tokens is."""
    learner, run, answer = config.learner, config.run, config.rollout.max_tokens
    prompt = max(1, min(answer, config.rollout.context - answer))
    most, samples = learner.minibatch_samples, run.samples_per_problem

    def tokens(piece: Sequence[int]) -> int:
        return prompt + len(piece) * (answer - 1)  # the last one predicts nothing

    dealt = [
        deal(
            [range(size)] * min(run.problems_per_round, most // size), tokens, learner.ranks, learner.micro_batch_tokens
        )
        for size in {min(samples, most), samples % most} - {0}  # a problem of more samples is cut, and leaves a rest
    ]
    row = max((row for ranks in dealt for rows in ranks for row in rows), key=lambda row: sum(map(tokens, row)))
    return Row.of([(prompt, *[answer - 1] * len(piece)) for piece in row], answer * sum(map(len, row)))


def _on_device(items: Iterable[Item]) -> list[Item]:
    return [item for item in items if not item.on_host]


def _over(learner: LearnerSettings) -> int:
    """Ranks over which the optimizer's state is divided."""
    return learner.ranks if learner.zero_stage else 1


def _size(count: float) -> str:
    return f"{count / 1024:,.1f} KiB"


def total(items: Iterable[Item]) -> int:
    """Bytes in all."""
    return sum(item.bytes for item in items)
