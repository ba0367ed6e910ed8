"""Recorded cases of salesforce/BLIP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from coalign.checkpoints import StateMap
from coalign.errors import InputError
from coalign.models.blip.heads import HEADS, BlipCaptioner, BlipMatching, BlipVqa
from coalign.models.blip.model import Blip
from coalign.models.blip.names import original
from coalign.models.blip.sizes import Facts, of_weights
from coalign.models.blip.trunk import BlipConfig, begun
from coalign.objectives.matching import matched_pairs
from coalign.ops.attention import Mask
from coalign.ops.generation import Generation
from coalign.parity.case import Case, Described
from coalign.parity.verify import Adaptor, Outputs
from coalign.parity.vit import images_of
from coalign.types import Batch, Draws, Images, Labels, Packed, Text


def config_of(described: Described) -> BlipConfig:
    """The sizes of the weights, with heads, eps, markers and settings as the description says."""
    c = described.config
    facts = Facts(
        c.get("vision_heads"),
        c.get("num_attention_heads"),
        c.get("vision_eps") or 1e-6,
        c.get("layer_norm_eps") or 1e-12,
        images=images_of(c),
    )
    config = of_weights(described.weights, facts)
    if config is None:
        raise InputError(f"{described.path}: has the names of no known BLIP")
    ids = c.get("ids") or {}
    return replace(
        config,
        momentum=c.get("momentum", config.momentum),
        alpha=c.get("alpha", config.alpha),
        sep_id=ids.get("sep", config.sep_id),
    )


def build(described: Described) -> tuple[nn.Module, StateMap]:
    config, names = config_of(described), described.weights
    if "image_queue" in names:
        if "idx_queue" in names:
            config = HEADS["retrieval"].config(config)
        return Blip(config), original(config)
    reads = "text_encoder.embeddings.word_embeddings.weight" in names
    writes = "text_decoder.cls.predictions.bias" in names
    head = HEADS["matching" if not writes else "vqa" if reads else "caption"]
    wanted = head.config(config)
    layout = "original" if "visual_encoder.pos_embed" in names else "transformers"
    return head.model(wanted), head.weights[layout](wanted)


def packed(case: Case, name: str, mask: str, keep_padding: bool) -> Packed:
    ids = case.inputs[name]
    return Packed.from_padded(ids, case.inputs[mask] if mask in case.inputs else ids != _pad(case), keep_padding)


def _pad(case: Case) -> int:
    return int((case.config.get("ids") or {}).get("pad", 0))


def run(case: Case, model: nn.Module | None, keep_padding: bool) -> Outputs:
    ids = packed(case, "input_ids", "attention_mask", keep_padding)
    batch = Batch(text=Text(ids), images=Images(case.inputs["image"]))
    if isinstance(model, Blip):
        return pretraining(case, model, batch)
    with torch.no_grad():
        if isinstance(model, BlipMatching):
            return matching(model, batch)
        if isinstance(model, BlipCaptioner):
            return captions(case, model, batch)
        assert isinstance(model, BlipVqa)
        return answers(case, model, batch, keep_padding)


def matching(model: BlipMatching, batch: Batch) -> Outputs:
    seen = model.encode(batch)
    return {
        "match_logits": seen.pooled["match_logits"],
        "similarity": seen.vectors["image"] @ seen.vectors["text"].T,
        "fusion_states": seen.tokens["fused"],
        "image_embeds": seen.tokens["image"],
        "text_embeds": seen.tokens["text"],
    }


def pretraining(case: Case, model: Blip, batch: Batch) -> Outputs:
    """One training step."""
    assert batch.text is not None
    drawn = ("neg_image_index", "neg_text_index", "alpha")
    choices = {name: case.inputs[name] for name in drawn if name in case.inputs}
    model.before_step()
    own, momentum, contrast = model.contrast(batch, choices.get("alpha", model.alpha))
    losses = model.losses(batch, Draws(choices=choices))
    texts, images, _ = matched_pairs(choices)
    ids, size = batch.text.ids, len(batch)
    chosen = ids.select(texts)
    fused = model.online.fuse(chosen, own.image, Mask.between(chosen, own.image, images))
    out: dict[str, Tensor | Packed] = {
        "image_embeds": own.image,
        "image_embeds_m": momentum.image,
        "text_embeds": own.text,
        "text_embeds_m": momentum.text,
        "image_feat": own.image_vector,
        "image_feat_m": momentum.image_vector,
        "text_feat": own.text_vector,
        "text_feat_m": momentum.text_vector,
        "fusion_positive": fused.select(torch.arange(size)),
        "fusion_negative": fused.select(torch.arange(size, 3 * size)),
        "itm_logits": model.match_head(fused.first),
        "sim_i2t": contrast.similarity_i2t,
        "sim_t2i": contrast.similarity_t2i,
        "loss_ita": losses["itc"],
        "loss_itm": losses["itm"],
        "temp_after": model.temperature.clone(),
    }
    if model.decoder is not None:
        states = model.decode(begun(ids, model.config.decode_id), own.image)
        out |= {
            "decoder_states": states,
            "decoder_logits": states.with_values(model.predict(states.values)),
            "loss_lm": losses["lm"],
        }
    exported = original(model.config).export(model.state_dict())
    out |= {f"momentum_after/{name}": tensor.clone() for name, tensor in exported.items()}
    model.after_step()
    return out | {
        "image_queue_after": model.queue.get_buffer("image"),
        "text_queue_after": model.queue.get_buffer("text"),
        "queue_ptr_after": model.queue.pointer,
    }


def captions(case: Case, model: BlipCaptioner, batch: Batch) -> Outputs:
    assert batch.text is not None and batch.images is not None
    image = model.memory(batch.images)
    prompt = case.inputs["prompt_ids"]
    states = model.towers.answer(begun(batch.text.ids, model.begin), image)
    out: dict[str, Tensor | Packed] = {
        "image_embeds": image,
        "decoder_states": states,
        "decoder_logits": states.with_values(model.towers.logits(states.values)),
        "loss": model.loss(batch.text.ids, image, prompt.shape[1] - 1),
    }
    begin = prompt.clone().expand(len(image), -1).clone()
    begin[:, 0] = model.begin
    for name, how in generated(case).items():
        out[name] = as_recorded(case, name, model.texts(image, begin, generation(how, 20)))
    return out


def generated(case: Case) -> dict[str, Mapping[str, Any]]:
    """Recorded texts and the settings of each: a setting or a set of them a text, or one set for all."""
    given: Mapping[str, Any] = case.config.get("generate") or {}
    apart = all(isinstance(how, Mapping) for how in given.values())
    return {
        name: (given.get(name.removeprefix("generated_")) or {}) if apart else given
        for name in case.outputs
        if name.startswith("generated")
    }


def generation(described: Mapping[str, Any], longest: int) -> Generation:
    """The settings that a recording writes in the words of Hugging Face's library."""
    return Generation(
        beams=int(described.get("num_beams", 1)),
        max_length=int(described.get("max_length", longest)),
        min_length=int(described.get("min_length", 0)),
        repetition_penalty=float(described.get("repetition_penalty", 1.0)),
        length_penalty=float(described.get("length_penalty", 1.0)),
    )


def as_recorded(case: Case, name: str, texts: list[Tensor]) -> Tensor:
    """The texts padded to the width of the recording."""
    longest = max(len(text) for text in texts)
    width = max(longest, case.outputs[name].shape[1]) if name in case.outputs else longest
    return Packed.from_items(texts).to_padded(width, fill=_pad(case))


def answers(case: Case, model: BlipVqa, batch: Batch, keep_padding: bool) -> Outputs:
    """Training on answers, ranking of candidates and generation. As published, generated answers look at the padding
    of questions too, so that packed questions give others."""
    inputs, config = case.inputs, model.config
    assert batch.images is not None
    out: dict[str, Tensor | Packed] = {"image_embeds": model.towers.image(batch.images)}
    out["question_states"] = states = model.read(batch)
    if "answer_ids" in inputs:
        ids = packed(case, "answer_ids", "answer_mask", keep_padding)
        counts = _first(inputs, "answers_per_question", "answer_counts", "n")
        questions = torch.arange(len(batch))
        questions = questions if counts is None else questions.repeat_interleave(counts)
        answered = replace(batch, labels=Labels(answers=ids, questions=questions))
        each = model.answer_losses(answered, states)
        weights = _first(inputs, "answer_weights", "weights")
        decoded = model.towers.answer(begun(ids, config.decode_id), states, questions)
        logits = decoded.with_values(model.towers.logits(decoded.values))
        out["loss"] = (each if weights is None else weights * each).sum() / len(batch)
        out |= dict.fromkeys(("loss_per_answer", "answer_loss", "answer_losses", "decoder_loss_per_answer"), each)
        out |= dict.fromkeys(("decoder_states", "answer_states"), decoded)
        out |= dict.fromkeys(("decoder_logits", "answer_logits"), logits)
    if "candidate_ids" in inputs:
        wanted = {n: t for n, t in case.outputs.items() if n not in out and not n.startswith("generated")}
        candidates = packed(case, "candidate_ids", "candidate_mask", keep_padding)
        out |= ranking(case, model, states, candidates, wanted)
    if keep_padding:
        seen = Packed(states.values, replace(states.layout, hidden=None))
        for name, described in generated(case).items():
            how = generation({"num_beams": 3, "min_length": 1, **described}, 10)
            out[name] = as_recorded(case, name, model.answers(seen, how))
    return out


def ranking(
    case: Case, model: BlipVqa, states: Packed, candidates: Packed, wanted: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The candidates that the first word proposes, their probabilities of it and log-likelihoods [questions, k], and
    the numbers of the best [questions]: which, `wanted` says by its names and the form of what they name."""
    given = _first({**case.inputs}, "k_test", "k")
    k = int(given) if given is not None else case.config.get("k_test") or case.config.get("k")
    k = k or next((t.shape[1] for t in wanted.values() if t.dim() == 2), len(candidates))
    candidates = begun(candidates, model.config.decode_id)
    first, chosen = model.towers.shortlist(states, candidates, int(k))
    total = -model.towers.candidate_losses(states, candidates, chosen, model.each)
    best = chosen.gather(1, total.argmax(1, keepdim=True)).squeeze(1)
    out: dict[str, Tensor] = {}
    for name, recorded in wanted.items():
        if recorded.shape not in (best.shape, chosen.shape):
            continue
        if not recorded.is_floating_point():
            out[name] = best if recorded.dim() == 1 else chosen
        else:
            out[name] = first if bool((recorded >= 0).all()) else total
    return out


def _first(tensors: Mapping[str, Tensor], *names: str) -> Tensor | None:
    return next((tensors[name] for name in names if name in tensors), None)


ADAPTOR = Adaptor(lambda d: d.system.lower().startswith("blip"), build, run)
