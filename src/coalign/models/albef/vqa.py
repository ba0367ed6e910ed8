"""ALBEF's question answering (Li et al. 2021, section 5): a decoder over answers, which ranks those of a list."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from coalign.layers.momentum import momentum_copy
from coalign.models.albef.model import Albef
from coalign.models.albef.trunk import AlbefConfig, Followed
from coalign.objectives.causal_lm import CausalLM
from coalign.objectives.distillation import Distillation
from coalign.ops.masking import next_tokens, predicted_rows
from coalign.trunks.decoding import DecodingTowers, summed
from coalign.types import FREE, AnswerSpec, Batch, Draws, Encoding, InputSpec, Packed


@dataclass(frozen=True)
class AlbefVqaConfig:
    """`decoder_depth`: blocks of the answer decoder, 6 as published. It starts from the fusion half of the encoder."""

    albef: AlbefConfig = field(default_factory=AlbefConfig)
    decoder_depth: int = 6


class VqaTowers(DecodingTowers):
    """Question and image to states; a causal decoder over answers, every block looking at these states."""

    def __init__(self, config: AlbefVqaConfig) -> None:
        text = config.albef.text
        decoder = replace(text, depth=config.decoder_depth, cross_from=0, context_dim=text.dim)
        super().__init__(config.albef.image, decoder, text)


class AlbefVqa(Followed[VqaTowers]):
    """VQA as answer generation, answered by ranking candidates (section 5)."""

    def __init__(self, config: AlbefVqaConfig) -> None:
        super().__init__()
        self.config, self.albef = config, config.albef
        self.online = VqaTowers(config)
        self.momentum = momentum_copy(self.online)
        self.each_word, self.each_soft = CausalLM("none"), Distillation("none")

    @property
    def input_spec(self) -> InputSpec:
        return replace(super().input_spec, answers=AnswerSpec("answers"))

    @torch.no_grad()
    def start_from(self, pretrained: Albef) -> None:
        """Towers from a pre-trained model's; decoder block i from fusion block i, the word head from the word head."""
        for ours, theirs in ((self.online, pretrained.online), (self.momentum, pretrained.momentum)):
            ours.image.load_state_dict(theirs.image.state_dict())
            assert ours.text is not None
            ours.text.load_state_dict(theirs.text.state_dict())
            ours.decoder.embedding.load_state_dict(theirs.text.embedding.state_dict())
            for i in range(self.config.decoder_depth):
                fusion = theirs.text.encoder.blocks[self.albef.text.cross_from + i]
                own, given = ours.decoder.encoder.blocks[i].state_dict(), fusion.state_dict()
                # the decoder looks at text states: where these differ in width from image states, it starts anew
                kept = {n: t if t.shape == own[n].shape else own[n] for n, t in given.items()}
                ours.decoder.encoder.blocks[i].load_state_dict(kept)
            if theirs.words is not None:
                ours.words.load_state_dict(theirs.words.state_dict())

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """Question states with the image in view."""
        del record
        assert batch.images is not None and batch.text is not None
        return Encoding({"fused": self.online.read(batch.text.ids, batch.images)})

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """Σ weight * answer loss / images. Reads `labels.answers`, their `weights` and their `questions`."""
        alpha = draws.choices.get("alpha", self.albef.alpha)
        each = self.answer_losses(batch, alpha)
        return {"vqa": (batch.labels.require("weights") * each).sum() / len(batch)}

    def answer_losses(self, batch: Batch, alpha: float | Tensor) -> Tensor:
        """[n] the loss of each answer, summed over its words."""
        assert batch.images is not None and batch.text is not None
        answers, questions = batch.labels.require("answers"), batch.labels.require("questions")
        labels = next_tokens(answers)
        rows = predicted_rows(labels)
        states = self.online.read(batch.text.ids, batch.images)
        logits = self.online.logits(self.online.answer(answers, states, questions).values[rows])
        each = self.each_word(logits, labels[rows])
        if self.albef.distill:
            with torch.no_grad():
                m = self.momentum
                teacher = m.logits(m.answer(answers, m.read(batch.text.ids, batch.images), questions).values[rows])
            each = (1 - alpha) * each + alpha * self.each_soft(logits, teacher)
        return summed(each, answers.layout.item[rows], len(answers))

    @torch.no_grad()
    def rank(self, batch: Batch, candidates: Packed, k: int) -> tuple[Tensor, Tensor]:
        """The `k` likeliest of `candidates` for each question: numbers [B, k] and probabilities [B, k], best first.

        As published, the first word shortlists k candidates and is counted twice: log p(first) is added to the whole
        answer's log-likelihood before the softmax over the shortlist.
        """
        assert batch.images is not None and batch.text is not None
        states = self.online.read(batch.text.ids, batch.images)
        probability, shortlist = self.online.shortlist(states, candidates, k)
        total = self.online.candidate_losses(states, candidates, shortlist, self.each_word)
        score, order = (probability.log() - total).softmax(1).sort(1, descending=True)
        return shortlist.gather(1, order), score


def vqa_of(albef: AlbefConfig) -> AlbefVqaConfig:
    """A decoder of as many blocks as there are fusion blocks to start it from."""
    return AlbefVqaConfig(albef, albef.text.depth - albef.text.cross_from)
