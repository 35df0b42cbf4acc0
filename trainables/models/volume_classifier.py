"""A label for a volume: an encoder, and a head on the mean of what it puts out.

The encoder is one of MONAI's, trained from scratch: a residual one (Myronenko 2018, arXiv:1810.11654) behind a
convolution that makes the volume smaller. Or it is V-JEPA 2 (Assran et al. 2025, arXiv:2506.09985) from a local folder,
the slices being its frames: model.options.encoder=FOLDER. Only the pretrained one knows anything while it is frozen;
`trainer.unfreeze_epoch` and `trainer.lr_encoder` are about the encoder.

Shapes: N batch, D H W space, E channels that the encoder puts out, C classes.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainables.settings import ModelSettings, from_mapping, require, require_choice, require_in

HEADS = ("linear", "mlp")
PIXEL_MEAN, PIXEL_SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What V-JEPA 2 was trained with, of red, green and blue in [0, 1]: its own processor needs torchvision."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """model.options of this architecture; model.width and model.depth are those of the encoder from scratch."""

    encoder: str = ""
    """A folder with a V-JEPA 2 as transformers saves it; empty: an encoder from scratch."""
    head: str = "linear"
    """linear, or mlp: 256 units, GELU, dropout."""
    hidden: int = 256
    """Units of the mlp."""
    dropout: float = 0.2
    """Share of them that is dropped in training."""
    stem: int = 2
    """Stride in y and x of the first convolution of the encoder from scratch."""
    blocks: Sequence[int] = ()
    """Residual blocks of each of its levels; empty: one each, model.depth + 1 levels."""

    def __post_init__(self) -> None:
        section = "model.options."
        require_choice(f"{section}head", self.head, HEADS)
        require_in(self, section, hidden="[1, 65536]", dropout="[0, 1)", stem="[1, 8]")
        rule = "a list of whole numbers of at least 1 is needed"
        fits = isinstance(self.blocks, Sequence) and all(type(n) is int and n >= 1 for n in self.blocks)
        require(fits, f"{section}blocks", self.blocks, rule, f"For example {section}blocks=[1,2,2,4]")


class Scratch(nn.Module):
    """A residual encoder: images (N, K, D, H, W) to the mean of its last level, (N, E)."""

    def __init__(self, in_channels: int, width: int, stem: int, blocks: Sequence[int]) -> None:
        super().__init__()
        from monai.networks.nets.segresnet_ds import SegResEncoder  # seconds to import

        side = 2 + stem
        self.stem = nn.Conv3d(
            in_channels, width, (3, side, side), stride=(1, stem, stem), padding=(1, 1, 1), bias=False
        )
        act = ("relu", {"inplace": False})
        self.levels = SegResEncoder(
            spatial_dims=3, in_channels=width, init_filters=width, blocks_down=tuple(blocks), norm="INSTANCE", act=act
        )
        self.channels = width * 2 ** (len(blocks) - 1)

    def forward(self, image: Tensor) -> Tensor:
        found: Tensor = self.levels(self.stem(4 * (image - 0.5)))[-1].mean((2, 3, 4))
        return found


class VideoEncoder(nn.Module):
    """V-JEPA 2: images (N, 1, D, H, W), the slices as frames and grey as three equal colours, to the mean of its
    tokens, (N, E)."""

    mean: Tensor
    sd: Tensor

    def __init__(self, network: nn.Module, channels: int) -> None:
        super().__init__()
        self.network, self.channels = network, channels
        for name, values in (("mean", PIXEL_MEAN), ("sd", PIXEL_SD)):
            self.register_buffer(name, torch.tensor(values).view(1, 1, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        frames = (image.transpose(1, 2).expand(-1, -1, 3, -1, -1) - self.mean) / self.sd
        tokens: Tensor = self.network(pixel_values_videos=frames, skip_predictor=True).last_hidden_state
        return tokens.mean(1)


class VolumeClassifier(nn.Module):
    """Images (N, K, D, H, W) to logits (N, C, 1, 1, 1)."""

    spatial_dims, stride, per_image = 3, 1, True

    def __init__(self, encoder: Any, num_classes: int, options: Options, patch: Sequence[int]) -> None:
        super().__init__()
        self.encoder, self.fixed_size = encoder, tuple(patch)
        first: list[nn.Module] = []
        if options.head == "mlp":
            first = [nn.Linear(encoder.channels, options.hidden), nn.GELU(), nn.Dropout(options.dropout)]
        self.head = nn.Sequential(*first, nn.Linear(options.hidden if first else encoder.channels, num_classes))

    @property
    def output_layer(self) -> nn.Module:
        return self.head[-1]

    def train(self, mode: bool = True) -> VolumeClassifier:
        """As nn.Module's; a frozen encoder stays in evaluation mode, so that it gives the same each time."""
        super().train(mode)
        self.encoder.train(mode and any(p.requires_grad for p in self.encoder.parameters()))
        return self

    def forward(self, image: Tensor) -> Tensor:
        return self.classified(self.encoder(image))

    def classified(self, embedding: Tensor) -> Tensor:
        """Logits (N, C, 1, 1, 1) of what the encoder has made of images, (N, E)."""
        logits: Tensor = self.head(embedding)
        return logits[:, :, None, None, None]


def build(settings: ModelSettings, *, in_channels: int, num_classes: int, patch: Sequence[int]) -> VolumeClassifier:
    """SettingsError for a patch of one slice or of sides that the encoder cannot take, and for a folder without a
    usable encoder."""
    options = from_mapping(Options, settings.options, "model.options")
    need = "a volume is classified as a whole, in 3D"
    require(patch[0] > 1, "data.patch", list(patch), need, "For example data.patch=[16,64,64]")
    if options.encoder:
        encoder: nn.Module = pretrained(Path(options.encoder).expanduser(), in_channels, patch)
    else:
        blocks = options.blocks or [1] * (settings.depth + 1)
        halved = 2 ** (len(blocks) - 1)
        need = f"instance norm needs more than one voxel at the encoder's lowest level, a depth above {halved}"
        require(patch[0] > halved, "data.patch", list(patch), need, f"For example data.patch=[{2 * halved},64,64]")
        encoder = Scratch(in_channels, settings.width, options.stem, blocks)
    return VolumeClassifier(encoder, num_classes, options, patch)


def pretrained(folder: Path, in_channels: int, patch: Sequence[int]) -> VideoEncoder:
    """The V-JEPA 2 of a folder. On the meta device its shapes alone. SettingsError."""
    setting, fix = "model.options.encoder", "Give a folder that save_pretrained of transformers has written"
    require(folder.is_dir(), setting, folder, "no such folder", fix)
    require((folder / "config.json").is_file(), setting, folder, "holds no config.json", fix)
    weights = [*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]
    require(bool(weights), setting, folder, "holds no weights: an encoder that knows nothing would be frozen", fix)
    installed = importlib.util.find_spec("transformers") is not None
    require(installed, setting, folder, "the package transformers is not installed", "pip install -e .[encoders]")
    from transformers import AutoConfig, AutoModel  # seconds to import

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        require(False, setting, folder, f"its config.json cannot be used ({str(error).splitlines()[0]})", fix)
    require(config.model_type == "vjepa2", setting, folder, f"holds a {config.model_type}, needed is a vjepa2", fix)
    require(in_channels == 1, setting, folder, f"takes grey volumes, and these have {in_channels} channels", fix)
    depth, height, width = patch
    tubelet, side, frames = config.tubelet_size, config.patch_size, config.frames_per_clip
    require(
        depth % tubelet == 0 and depth <= frames,
        "data.patch",
        list(patch),
        f"the encoder takes a multiple of {tubelet} slices, at most {frames}; it would leave out what is over",
        f"Write for example data.patch=[{max(tubelet, min(frames, depth // tubelet * tubelet))},{height},{width}]",
    )
    require(
        height % side == 0 and width % side == 0,
        "data.patch",
        list(patch),
        f"y and x must be multiples of {side}, the patches of the encoder",
        f"For example data.patch=[{depth},{max(side, height // side * side)},{max(side, width // side * side)}]",
    )
    if torch.get_default_device().type == "meta":
        return VideoEncoder(AutoModel.from_config(config), config.hidden_size)
    try:
        network = AutoModel.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers and safetensors raise what they like
        told = f"its weights cannot be read ({type(error).__name__}: {str(error).splitlines()[0]})"
        require(False, setting, folder, told, fix)
    for name, parameter in network.named_parameters():
        if name.startswith("predictor."):
            parameter.requires_grad_(False)  # never asked
    return VideoEncoder(network.eval(), config.hidden_size)
