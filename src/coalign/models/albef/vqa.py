"""ALBEF's question answering (Li et al. 2021, section 5): a decoder over answers, which ranks those of a list."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from coalign.layers.heads import MaskedLMHead
from coalign.layers.momentum import momentum_copy
from coalign.layers.transformer import Context
from coalign.models.albef.model import Albef
from coalign.models.albef.trunk import AlbefConfig, Followed
from coalign.objectives.distillation import Distillation
from coalign.objectives.masked_lm import MaskedLM
from coalign.ops.attention import Mask
from coalign.ops.masking import IGNORED, next_tokens
from coalign.trunks.bert import BertTrunk
from coalign.trunks.vit import VitTrunk
from coalign.types import FREE, Batch, Draws, Encoding, Images, InputSpec, Packed, Text


@dataclass(frozen=True)
class AlbefVqaConfig:
    """`decoder_depth`: blocks of the answer decoder, 6 as published. It starts from the fusion half of the encoder."""

    albef: AlbefConfig = field(default_factory=AlbefConfig)
    decoder_depth: int = 6


class VqaTowers(nn.Module):
    """Question and image to states; a causal decoder over answers, every block looking at these states."""

    def __init__(self, config: AlbefVqaConfig) -> None:
        super().__init__()
        text = config.albef.text
        self.image = VitTrunk(config.albef.image)
        self.text = BertTrunk(text)
        self.decoder = BertTrunk(replace(text, depth=config.decoder_depth, cross_from=0, context_dim=text.dim))
        self.words = MaskedLMHead(text.dim, text.vocab_size, eps=text.eps)

    def read(self, question: Text, images: Images) -> Packed:
        image = self.image(images)
        return self.text(question.ids, context=Context(image.values, Mask.between(question.ids, image)))

    def answer(self, ids: Packed, states: Packed, questions: Tensor) -> Packed:
        """Decoder states of answers `ids`; answer i is to question `questions[i]`."""
        context = Context(states.values, Mask.between(ids, states, questions))
        return self.decoder(ids, mask=Mask.within(ids, causal=1), context=context)

    def logits(self, rows: Tensor) -> Tensor:
        return self.words(rows, self.decoder.embedding.word.weight)


class AlbefVqa(Followed[VqaTowers]):
    """VQA as answer generation, answered by ranking candidates (section 5)."""

    def __init__(self, config: AlbefVqaConfig) -> None:
        super().__init__()
        self.config, self.albef = config, config.albef
        self.online = VqaTowers(config)
        self.momentum = momentum_copy(self.online)
        self.each_word, self.each_soft = MaskedLM("none"), Distillation("none")

    @property
    def input_spec(self) -> InputSpec:
        return replace(super().input_spec, targets="answers")

    @staticmethod
    def from_pretraining(albef: Albef, decoder_depth: int = 6) -> AlbefVqa:
        """A model that starts from a pre-trained one."""
        model = AlbefVqa(AlbefVqaConfig(albef.config, decoder_depth))
        model.start_from(albef)
        return model

    @torch.no_grad()
    def start_from(self, pretrained: Albef) -> None:
        """Towers from a pre-trained model's; decoder block i from fusion block i, the word head from the word head."""
        for ours, theirs in ((self.online, pretrained.online), (self.momentum, pretrained.momentum)):
            ours.image.load_state_dict(theirs.image.state_dict())
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
        return Encoding({"fused": self.online.read(batch.text, batch.images)})

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """Σ weight * answer loss / images. Labels: "answers" Packed ids, their "weights", and their "questions" [n]."""
        alpha = draws.choices.get("alpha", self.albef.alpha)
        each = self.answer_losses(batch, alpha)
        return {"vqa": (batch.labels["weights"] * each).sum() / len(batch)}

    def answer_losses(self, batch: Batch, alpha: float | Tensor) -> Tensor:
        """[n] the loss of each answer, summed over its words."""
        assert batch.images is not None and batch.text is not None
        answers, questions = batch.labels["answers"], batch.labels["questions"]
        labels = next_tokens(answers)
        rows = (labels != IGNORED).nonzero().squeeze(1)
        states = self.online.read(batch.text, batch.images)
        logits = self.online.logits(self.online.answer(answers, states, questions).values[rows])
        each = self.each_word(logits, labels[rows])
        if self.albef.distill:
            with torch.no_grad():
                m = self.momentum
                teacher = m.logits(m.answer(answers, m.read(batch.text, batch.images), questions).values[rows])
            each = (1 - alpha) * each + alpha * self.each_soft(logits, teacher)
        return each.new_zeros(len(answers)).index_add(0, answers.layout.item[rows], each)

    @torch.no_grad()
    def rank(self, batch: Batch, candidates: Packed, k: int) -> tuple[Tensor, Tensor]:
        """The `k` likeliest of `candidates` for each question: numbers [B, k] and probabilities [B, k], best first.

        As published, the first word shortlists k candidates and is counted twice: log p(first) is added to the whole
        answer's log-likelihood before the softmax over the shortlist.
        """
        assert batch.images is not None and batch.text is not None
        states, size, k = self.online.read(batch.text, batch.images), len(batch.text.ids), min(k, len(candidates))
        device = states.values.device
        begin = Packed.uniform(candidates.first[:1].expand(size, 1))
        first = self.online.logits(self.online.answer(begin, states, torch.arange(size, device=device)).values)
        words = candidates.values[candidates.layout.first + 1]
        probability, shortlist = first.softmax(1)[:, words].topk(k, 1)
        answers = candidates.select(shortlist.flatten())
        questions = torch.arange(size, device=device).repeat_interleave(k)
        labels = next_tokens(answers)
        rows = (labels != IGNORED).nonzero().squeeze(1)
        logits = self.online.logits(self.online.answer(answers, states, questions).values[rows])
        losses = self.each_word(logits, labels[rows])
        total = losses.new_zeros(size * k).index_add(0, answers.layout.item[rows], losses)
        score, order = (probability.log() - total.view(size, k)).softmax(1).sort(1, descending=True)
        return shortlist.gather(1, order), score


def vqa_of(albef: AlbefConfig) -> AlbefVqaConfig:
    """A decoder of as many blocks as there are fusion blocks to start it from."""
    return AlbefVqaConfig(albef, albef.text.depth - albef.text.cross_from)
