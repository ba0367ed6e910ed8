"""Recorded cases of salesforce/ALBEF."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from coalign.checkpoints import StateMap
from coalign.layers.embeddings import resize_positions
from coalign.models.albef.heads import (
    AlbefClassifier,
    AlbefClassifierConfig,
    AlbefTextAssignment,
)
from coalign.models.albef.model import Albef
from coalign.models.albef.names import assignment_original, classifier_original, original, vqa_original
from coalign.models.albef.trunk import AlbefConfig
from coalign.models.albef.vqa import AlbefVqa, AlbefVqaConfig
from coalign.objectives.matching import matched_pairs
from coalign.ops.attention import Mask
from coalign.parity.case import Case, Described
from coalign.parity.verify import Adaptor, Outputs
from coalign.trunks.bert import BertConfig
from coalign.trunks.vit import VitConfig, sides
from coalign.types import Batch, Draws, Images, Labels, Packed, Text


def config_of(described: Described) -> AlbefConfig:
    """Our configuration from the authors' two: the run's, and BERT's."""
    c = described.config
    bert = c.get("bert") or c["bert_config"]
    vit = c.get("vit", {})
    width = c["vision_width"]
    (height, image_width), patch = sides(c["image_res"]), sides(c.get("patch_size") or vit["patch_size"])
    image = VitConfig(
        image_size=height,
        patch_size=patch[0],
        dim=width,
        depth=c.get("vit_depth") or vit["depth"],
        heads=c.get("vit_heads") or vit["num_heads"],
        hidden_dim=int(width * (c.get("mlp_ratio") or vit["mlp_ratio"])),
        image_width=image_width,
        patch_width=patch[1],
    )
    text = BertConfig(
        vocab_size=bert["vocab_size"],
        dim=bert["hidden_size"],
        depth=bert["num_hidden_layers"],
        heads=bert["num_attention_heads"],
        hidden_dim=bert["intermediate_size"],
        positions=bert["max_position_embeddings"],
        types=bert["type_vocab_size"],
        eps=bert["layer_norm_eps"],
        context_dim=bert["encoder_width"],
        cross_from=bert["fusion_layer"],
    )
    return AlbefConfig(
        image=image,
        text=text,
        embed_dim=c["embed_dim"],
        queue_size=c["queue_size"],
        momentum=c["momentum"],
        temperature=c["temp"],
        alpha=c["alpha"],
        distill=c["distill"],
    )


def build(described: Described) -> tuple[nn.Module, StateMap]:
    config, names = config_of(described), described.weights
    if not {"temp", "image_queue"} & set(names):
        config = replace(config, momentum=0.995)  # a constant in the original's task models, whatever the config says
    if "text_decoder.cls.predictions.bias" in names:
        vqa = AlbefVqaConfig(config, described.count("text_decoder.bert.encoder.layer.{}."))
        return AlbefVqa(vqa), vqa_original(vqa)
    if "ta_head.weight" in names:
        pair = AlbefClassifierConfig(config)
        return AlbefTextAssignment(pair), assignment_original(pair)
    if "cls_head.2.weight" in names:
        images = 2 if described.count("text_encoder.encoder.layer.{}.") > config.text.depth else 1
        classifier = AlbefClassifierConfig(config, described.shape("cls_head.2.bias")[0], images)
        return AlbefClassifier(classifier), classifier_original(classifier)
    if "idx_queue" in described.weights:
        config = replace(config, targets="ids", objectives=("itc", "itm"), clamp_temperature=False)
    return Albef(config), original(config)


def packed(case: Case, name: str, keep_padding: bool, mask: str = "attention_mask") -> Packed:
    return Packed.from_padded(case.inputs[name], case.inputs[mask], keep_padding)


def run(case: Case, model: nn.Module | None, keep_padding: bool) -> Outputs:
    ids = packed(case, "input_ids", keep_padding)
    batch = Batch(text=Text(ids), images=Images(case.inputs["image"]), ids=case.inputs.get("idx"))
    if isinstance(model, AlbefVqa):
        return vqa(case, model, batch, keep_padding)
    if isinstance(model, AlbefTextAssignment):
        fused, logits = model.assign(batch, case.inputs["left_image_index"], case.inputs["right_image_index"])
        loss = model.losses(batch, Draws(choices=case.inputs))["text_assignment"]
        return {"last_hidden_state": fused, "logits": logits, "loss": loss}
    if isinstance(model, AlbefClassifier):
        batch = replace(batch, labels=Labels(label=case.inputs["targets"]))
        model.before_step()
        seen = model.encode(batch)
        loss = model.losses(batch, Draws(choices=case.inputs))["classification"]
        return {"last_hidden_state": seen.tokens["fused"], "logits": seen.pooled["logits"], "loss": loss}
    assert isinstance(model, Albef)
    if case.task == "grounding":
        return grounding(case, model, batch)
    return pretraining(case, model, batch, keep_padding)


def vqa(case: Case, model: AlbefVqa, batch: Batch, keep_padding: bool) -> Outputs:
    answers = packed(case, "answer_ids", keep_padding, "answer_mask")
    counts = case.inputs["answers_per_question"]
    questions = torch.arange(len(counts)).repeat_interleave(counts)
    labels = Labels(answers=answers, weights=case.inputs["answer_weights"], questions=questions)
    batch = replace(batch, labels=labels)
    model.before_step()
    out: dict[str, Tensor | Packed] = {"loss": model.losses(batch, Draws(choices=case.inputs))["vqa"]}
    out["decoder_loss_per_answer"] = model.answer_losses(batch, case.inputs["alpha"])
    assert batch.text is not None and batch.images is not None
    out["image_embeds"] = model.online.image(batch.images)
    out["question_states"] = states = model.online.read(batch.text.ids, batch.images)
    logits = model.online.logits(model.online.answer(answers, states, questions).values)
    out["decoder_logits"] = answers.with_values(logits)
    states_m = model.momentum.read(batch.text.ids, batch.images)
    logits_m = model.momentum.logits(model.momentum.answer(answers, states_m, questions).values)
    mask = case.inputs["answer_mask"]
    shifted = answers.with_values(logits_m).to_padded(mask.shape[1])[:, :-1]
    out["decoder_logits_m_shifted"] = Packed.from_padded(shifted, mask[:, :-1], keep_padding)
    candidates = packed(case, "candidate_ids", keep_padding, "candidate_mask")
    out["rank_topk_ids"], out["rank_topk_probs"] = model.rank(batch, candidates, int(case.inputs["k_test"]))
    return out


def grounding(case: Case, model: Albef, batch: Batch) -> Outputs:
    block, width = case.config["itm_block"], case.inputs["input_ids"].shape[1]
    return {
        "gradcam_itm": model.ground(batch, "match", block, padded_width=width),
        "gradcam_itc": model.ground(batch, "contrast", case.config["itc_block"]),
    }


def pretraining(case: Case, model: Albef, batch: Batch, keep_padding: bool) -> Outputs:
    """One training step: pre-training, or retrieval fine-tuning with its evaluation afterwards."""
    choices = {name: case.inputs[name] for name in ("neg_image_index", "neg_text_index", "alpha")}
    if "mlm_labels" in case.inputs:
        for name in ("mlm_input_ids", "mlm_labels"):
            choices[name] = packed(case, name, keep_padding).values
    model.before_step()
    own, momentum, contrast = model.contrast(batch, choices["alpha"])
    losses = model.losses(batch, Draws(choices=choices))
    texts, images, _ = matched_pairs(choices)
    text = own.text.select(texts)
    fused = model.online.fuse(text, own.image, Mask.between(text, own.image, images))
    size = len(own.text)
    out: dict[str, Tensor | Packed] = {
        "image_embeds": own.image,
        "image_embeds_m": momentum.image,
        "text_embeds": own.text,
        "text_embeds_m": momentum.text,
        "image_feat": own.image_vector,
        "image_feat_m": momentum.image_vector,
        "text_feat": own.text_vector,
        "text_feat_m": momentum.text_vector,
        "sim_i2t": contrast.similarity_i2t,
        "sim_t2i": contrast.similarity_t2i,
        "soft_targets_i2t": contrast.target_i2t,
        "soft_targets_t2i": contrast.target_t2i,
        "loss_i2t": model.itc(contrast.similarity_i2t, contrast.target_i2t),
        "loss_t2i": model.itc(contrast.similarity_t2i, contrast.target_t2i),
        "loss_ita": losses["itc"],
        "loss_itm": losses["itm"],
        "fusion_positive": fused.select(torch.arange(size)),
        "fusion_negative": fused.select(torch.arange(size, 3 * size)),
        "itm_logits": model.match_head(fused.first),
    }
    if "mlm" in losses:
        out |= masked_words(model, batch, own.image, momentum.image, choices)
        out["loss_mlm"] = losses["mlm"]
    rows, columns = model.config.image.grid_size
    table = model.online.image.get_parameter("positions")[0]
    out["pos_embed_resized_grid_plus_2"] = resize_positions(table, (rows + 2, columns + 2), old_grid=(rows, columns))[
        None
    ]
    out |= {
        f"momentum_after/{name}": tensor for name, tensor in original(model.config).export(model.state_dict()).items()
    }
    model.after_step()
    out |= {
        "image_queue_after": model.queue.get_buffer("image"),
        "text_queue_after": model.queue.get_buffer("text"),
        "queue_ptr_after": model.queue.pointer,
        "idx_queue_after": model.queue.ids,
    }
    if "eval_input_ids" in case.inputs:
        out |= evaluation(case, model, batch, keep_padding)
    return out


def masked_words(model: Albef, batch: Batch, image: Packed, image_m: Packed, choices: dict[str, Tensor]) -> Outputs:
    assert batch.text is not None
    hidden, labels = batch.text.ids.with_values(choices["mlm_input_ids"]), choices["mlm_labels"]
    every = torch.arange(hidden.values.shape[0])
    logits = [
        model.predict_words(towers, hidden, seen, every)
        for towers, seen in ((model.online, image), (model.momentum, image_m))
    ]
    rows = labels != -100
    return {
        "mlm_logits": hidden.with_values(logits[0]),
        "mlm_logits_m": hidden.with_values(logits[1]),
        "loss_mlm_hard": model.mlm(logits[0][rows], labels[rows]),
        "loss_mlm_distill": model.distillation(logits[0][rows], logits[1][rows]),
    }


@torch.no_grad()
def evaluation(case: Case, model: Albef, batch: Batch, keep_padding: bool) -> Outputs:
    """Retrieval.evaluation: a shortlist by cosine, scored by the matching logit, -100 elsewhere."""
    texts = Text(packed(case, "eval_input_ids", keep_padding, "eval_attention_mask"))
    images = model.encode(Batch(images=batch.images))
    words = model.encode(Batch(text=texts))
    similarity = images.vectors["image"] @ words.vectors["text"].T
    k = int(case.inputs["k_test"])
    out: dict[str, Tensor] = {}
    for name, rows, flip in (("i2t", similarity, False), ("t2i", similarity.T, True)):
        top = rows.topk(min(k, rows.shape[1]), 1).indices
        queries = torch.arange(rows.shape[0])[:, None].expand_as(top)
        pairs = torch.stack([queries.flatten(), top.flatten()], 1)
        logits = model.match(images.tokens["image"], words.tokens["text"], pairs.flip(1) if flip else pairs)
        scores = torch.full(rows.shape, -100.0)
        scores[pairs[:, 0], pairs[:, 1]] = logits
        out[f"rerank_score_{name}"] = scores
    return out


ADAPTOR = Adaptor(lambda d: d.system.lower() == "albef", build, run)
