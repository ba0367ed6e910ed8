"""`coalign extract regions`: detector regions or grid features of pictures, once, into shards that training reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor
from torchvision.transforms import v2
from tyro.conf import Positional, arg

from coalign.data.core.parts import Part
from coalign.data.core.quarantine import Quarantine
from coalign.data.core.samples import Problem, Where
from coalign.data.images.decode import BadSample, ImageLike, decode_image
from coalign.data.pairs.sources import open_source
from coalign.data.questions.pictures import image_of, picture_files
from coalign.data.regions.files.shards import write_shard
from coalign.data.regions.regions import RegionSet
from coalign.errors import InputError, redacted, without_secrets
from coalign.files import locked, read_json, replace_file, shared, sync
from coalign.progress import Bars

SETTINGS = "regions.json"
BROKEN = 0.1
"""The largest share of pictures that may be broken."""


@dataclass(frozen=True, kw_only=True)
class Extract:
    """Detector regions or grid features of pictures, into files that training reads.

    One shard of safetensors a thousand pictures: features, boxes, class probabilities, confidence. A stopped extraction
    goes on with the shard that it was at. Ids are the pictures' paths without their endings.
    """

    data: Annotated[Positional[str], arg(metavar="PICTURES")]
    """A folder of pictures, or pairs as `coalign train` reads them."""
    out: Path
    """A new folder, or that of a stopped extraction."""
    network: Literal["faster-rcnn", "resnet50", "efficientnet-lite0"] = "faster-rcnn"
    """faster-rcnn gives regions (torchvision's ResNet-50-FPN v2, 1024 wide); the others the cells of a grid (2048 and
    320 wide)."""
    weights: str = "torchvision"
    """A file of the network's tensors; "torchvision" downloads torchvision's (EfficientNet-lite0: its package's);
    "random" is for trying things out."""
    most: int = 36
    """Regions a picture at most, the surest ones."""
    least: int = 10
    """Regions a picture at least, however unsure."""
    confidence: float = 0.2
    """How sure the detector must be of those beyond."""
    side: int | None = None
    """Pixels of the shorter side that the detector sees (800), or of the square that the grid is of (224)."""
    half: bool = True
    """Keep features in half precision."""
    batch_size: int = 4
    """Pictures at a time."""
    shard: int = 1000
    """Pictures a shard."""
    seed: int = 0
    """Of random weights."""
    part: str | None = None
    """I/N: the shards of the I-th of N parts alone, I from 0. By default each process of torchrun has its part."""

    def run(self) -> None:
        """Writes the shards that are not there yet.

        Raises:
            InputError: there are no pictures, too many are broken, or the folder holds something else.
        """
        if self.most < 1 or self.shard < 1 or self.batch_size < 1:
            raise InputError("--most, --shard and --batch-size must be at least 1")
        pictures = self._pictures()
        self._begin([id for id, _ in pictures])
        with shared(self.out):
            self._extract(pictures)

    def _extract(self, pictures: Sequence[tuple[str, ImageLike]]) -> None:
        quarantine, network = Quarantine(self.out / "quarantine.jsonl"), self._network()
        shards = [pictures[start : start + self.shard] for start in range(0, len(pictures), self.shard)]
        own = Part.chosen(self.part) or Part(0, 1)
        todo = [(n, shards[n]) for n in own.span(len(shards)) if not self._is_there(n)]
        total = sum(len(part) for _, part in todo)
        with Bars(transient=True) as bar:
            task = bar.add_task("extracting", total=total)
            for number, part in todo:
                regions: list[tuple[str, RegionSet]] = []
                for entry in self._regions(part, network, quarantine):
                    regions.append(entry)
                    bar.advance(task)
                if quarantine.path is not None and quarantine.path.exists():
                    sync(quarantine.path)  # before a shard that is there says that these pictures are done
                self._write(number, regions)
        if quarantine.broken > BROKEN * len(pictures):
            raise InputError(f"{self.data}: {quarantine.summary()}; see {quarantine.path}")
        missing = sum(not self._is_there(number) for number in range(len(shards)))
        if missing:
            done = f"part {own.number} of {own.of} is done"
            print(f"{self.out}: {done}; {missing} of {len(shards)} shards are missing")
            return
        note = f"; {quarantine.broken} broken pictures are left out, see {quarantine.path}" if quarantine.broken else ""
        print(f"{self.out}: regions of {len(pictures) - quarantine.broken} pictures in {len(shards)} shards{note}")

    def _pictures(self) -> list[tuple[str, ImageLike]]:
        """Each picture once, with its id."""
        folder = Path(self.data)
        if folder.is_dir():
            pictures: list[tuple[str, ImageLike]] = [
                (file.relative_to(folder).with_suffix("").as_posix(), file) for file in picture_files(folder)
            ]
        else:
            source = open_source(self.data).grouped()
            samples = (source[index] for index in range(len(source)))
            pictures = [(str(image_of(sample)), sample.image) for sample in samples]
        if not pictures:
            raise InputError(f"{self.data}: holds no pictures")
        if len({id for id, _ in pictures}) < len(pictures):
            raise InputError(f"{self.data}: two pictures have one name but for its ending; rename one of them")
        return pictures

    def _begin(self, ids: Sequence[str]) -> None:
        """Writes what the folder holds; of one that is there already it must be the same."""
        settings: dict[str, Any] = {**asdict(self), "out": None, "batch_size": None, "part": None, "pictures": len(ids)}
        settings = {
            "settings": {name: value for name, value in settings.items() if value is not None},
            "ids": list(ids),
        }
        settings = without_secrets(settings)
        file = self.out / SETTINGS
        others = self.out.exists() and any(not file.name.startswith(".") for file in self.out.iterdir())
        if others and not file.exists():
            raise InputError(f"{self.out}: exists already and is no stopped extraction; give a new folder")
        with locked(self.out, "is beginning", wait=True):  # of several parts that begin at once one writes
            if not file.exists():
                replace_file(file, lambda part: part.write_text(json.dumps(settings) + "\n", "utf-8"))
            elif read_json(file) != settings:
                raise InputError(f"{self.out}: holds regions of other pictures or settings; give another folder")

    def _network(self) -> Any:
        from coalign.extraction.detector import Detector, faster_rcnn, grid_network

        device = "cuda" if torch.cuda.is_available() else "cpu"
        if self.network == "faster-rcnn":
            model = faster_rcnn(self.weights, self.seed, self.side).to(device)
            return Detector(model, most=self.most, least=self.least, confidence=self.confidence)
        grid = grid_network(self.network, self.weights, self.side or 224, self.seed)
        grid.network.to(device)
        return grid

    def _regions(
        self, pictures: Sequence[tuple[str, ImageLike]], network: Any, quarantine: Quarantine
    ) -> Iterator[tuple[str, RegionSet]]:
        for start in range(0, len(pictures), self.batch_size):
            opened: list[tuple[str, Tensor, tuple[int, int]]] = []
            for id, picture in pictures[start : start + self.batch_size]:
                try:
                    image = decode_image(picture)
                except BadSample as error:
                    quarantine.add(Problem(Where(redacted(self.data), id), error.reason, id))
                    continue
                pixels = v2.functional.to_dtype(v2.functional.pil_to_tensor(image), torch.float32, scale=True)
                opened.append((id, pixels, image.size))
            if opened:
                for (id, _, size), regions in zip(opened, network([pixels for _, pixels, _ in opened]), strict=True):
                    kept = {**regions, "features": regions["features"].half()} if self.half else regions
                    yield id, {**kept, "size": size}

    def _file(self, number: int) -> Path:
        return self.out / f"regions-{number:05d}.safetensors"

    def _none(self, number: int) -> Path:
        return self.out / f"regions-{number:05d}.none"

    def _is_there(self, number: int) -> bool:
        return self._file(number).exists() or self._none(number).exists()

    def _write(self, number: int, written: Sequence[tuple[str, RegionSet]]) -> None:
        """Writes a shard; where none of its pictures can be read, an empty file that says so."""
        if written:
            write_shard(self._file(number), [id for id, _ in written], [regions for _, regions in written])
        else:
            replace_file(self._none(number), lambda part: part.touch())
