"""Names of MulT's tensors in its authors' files."""

from __future__ import annotations

from coalign.checkpoints import Carry, Rename, Reshape, Split, StateMap
from coalign.checkpoints.statemap import Rule
from coalign.models.mult.config import MulTConfig

_LETTERS = {"text": "l", "audio": "a", "vision": "v"}


def _encoder_rules(file: str, ours: str, attention: str) -> list[Rule]:
    layer, block = f"{file}layers.{{i}}.", f"{ours}blocks.{{i}}."
    parts = tuple(f"{block}{attention}.{part}.{{p}}" for part in ("query", "key", "value"))
    return [
        Split(f"{layer}self_attn.in_proj_{{p}}", parts),
        Rename(f"{layer}self_attn.out_proj.{{p}}", f"{block}{attention}.out.{{p}}"),
        Rename(f"{layer}layer_norms.0.{{p}}", f"{block}{attention}_norm.{{p}}"),
        Rename(f"{layer}layer_norms.1.{{p}}", f"{block}feed_forward_norm.{{p}}"),
        Rename(f"{layer}fc1.{{p}}", f"{block}feed_forward.up.{{p}}"),
        Rename(f"{layer}fc2.{{p}}", f"{block}feed_forward.down.{{p}}"),
        Rename(f"{file}layer_norm.{{p}}", f"{ours}norm.{{p}}"),
    ]


def original(config: MulTConfig) -> StateMap:
    """The authors' MULTModel: the state dict of the module that their training script pickles whole.

    Such a pickle holds code and is refused, with the line that re-saves it in a checkout of their code.
    """
    letters = {stream.name: _LETTERS.get(stream.name, stream.name) for stream in config.streams}
    targets = {stream.name for stream in config.target_streams}
    rules: list[Rule] = [Carry("{e}.embed_positions._float_tensor"), Carry("{e}.version")]
    for stream in config.streams:
        name, letter = stream.name, letters[stream.name]
        if stream.width == config.dim:  # there, and never used
            rules.append(Carry(f"proj_{letter}.weight"))
        else:
            shape = (config.dim, stream.width)
            rules.append(Reshape(f"proj_{letter}.weight", f"projections.{name}.weight", (*shape, 1), shape))
        if name not in targets:  # likewise
            rules.append(Carry(f"trans_{letter}_mem.{{rest}}"))
            continue
        for other in config.sources(name):
            file = f"trans_{letter}_with_{letters[other.name]}."
            rules += _encoder_rules(file, f"cross.{name}.{other.name}.", "cross_attention")
        rules += _encoder_rules(f"trans_{letter}_mem.", f"memory.{name}.", "attention")
    for name in config.aligned:  # the authors keep these modules beside the model
        rules.append(
            Rename(
                f"ctc_{letters[name]}2{letters[config.align_to]}_module.pred_output_position_inclu_blank.{{p}}",
                f"align.{name}.place.{{p}}",
            )
        )
    for theirs, mine in (("proj1", "hidden"), ("proj2", "residual"), ("out_layer", "head")):
        rules.append(Rename(f"{theirs}.{{p}}", f"{mine}.{{p}}"))
    return StateMap(rules)
