"""Every option of a run, in one place: four frozen dataclasses, one flat YAML, the same names on the command line.

`RunConfig` is `data`, `model`, `train` and `test`; `--train.epochs 30` on the command line, `train: {epochs: 30}` in
YAML and `TrainConfig(epochs=30)` in Python are the same thing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias, get_args

from mdtnet.errors import ConfigError, nearest

Plain: TypeAlias = "bool | int | float | str | Sequence[Plain] | Mapping[str, Plain] | None"
"""A plain value, fit for YAML and JSON."""
Values = dict[str, Plain]
"""Plain values by name."""
System = Literal["tsn", "tsm", "tea", "tdn", "actionnet", "mdtnet1", "mdtnet2"]
TrunkName = Literal[
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "mobilenet_v2",
    "mobilenet_v4_small",
    "mobilenet_v4_medium",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
]
TRUNKS: tuple[TrunkName, ...] = get_args(TrunkName)


@dataclass(frozen=True)
class SystemInfo:
    """A system in tables, charts and help; `models.build` has its maker under the same name."""

    title: str
    """Its name as papers write it."""
    colour: str
    """Of its lines in charts, on light paper (#rrggbb)."""
    colour_dark: str
    """The same on dark paper."""
    parts: tuple[Literal["mdtnet", "saliency", "tsm"], ...] = ()
    """Groups of `model` options that it looks at."""


SYSTEMS: dict[System, SystemInfo] = {
    "tsn": SystemInfo("TSN", "#6b737e", "#aab2bd"),
    "tsm": SystemInfo("TSM", "#b0700c", "#e0a546", ("tsm",)),
    "tea": SystemInfo("TEA", "#18836a", "#4fc0a2"),
    "tdn": SystemInfo("TDN", "#7a5cc0", "#b09aec"),
    "actionnet": SystemInfo("ACTION-Net", "#b8456f", "#ec8fb0"),
    "mdtnet1": SystemInfo("MDT-Net1", "#4f9bd9", "#8cc4f0", ("mdtnet",)),
    "mdtnet2": SystemInfo("MDT-Net2", "#1f5fbf", "#5b9bf5", ("mdtnet", "saliency")),
}
"""Every system, in the order of tables. A new one is a file in `models`, a row here, and a maker in `models.build`."""


@dataclass(frozen=True)
class TSMConfig:
    """The variant of TSM."""

    causal: bool = False
    """Shift from the segment before alone, for streams (online TSM)."""


@dataclass(frozen=True)
class MDTNetConfig:
    """Components of MDT-Net, and what the paper leaves open, one field per choice (docs/method.md)."""

    frames_per_segment: int = 5
    """K, the frames per segment."""
    key_frame: int = 3
    """Index of the key frame in its segment, from 0 (the paper's 4th frame)."""
    fine: bool = True
    """Fine temporal differences (inside segments) at the stem."""
    fine_fusion: Literal["norm", "average"] = "norm"
    """How fine differences join: added through a batch norm, or half and half with the appearance (TDN)."""
    fine_start: float = 0.5
    """Scale of that batch norm at the start; 0 starts without the path."""
    fine_stage1: bool = True
    """A copy of stage 1 on the difference path, added again after stage 1."""
    spatial_difference: Literal["none", "sobel", "gradient"] = "gradient"
    """Spatial difference of the fine differences. `gradient`: the absolute horizontal and vertical Sobel responses,
    added and averaged over a segment's differences, are three more channels; `sobel` adds the signed sum to them."""
    gate_start: float = 0.25
    """Scale at the start of the layers that open the gates of coarse differences, DCME and STCE; 0: closed."""
    coarse: bool = True
    """Coarse temporal differences (between segments) in stages 2 to 4."""
    dcme: bool = True
    """Motion excitation by deformable convolutions of two scales."""
    dcme_kernels: tuple[int, ...] = (3, 3)
    """Kernel sizes of the deformable convolutions, one per scale."""
    dcme_dilations: tuple[int, ...] = (1, 2)
    """Distance of their taps, in cells: kernels of 3 at 1 and 2 span 3 and 5 cells."""
    dcme_deformable: bool = True
    """Deformable convolutions; false: plain ones in their place (ablation)."""
    dcme_reach: float = 2.0
    """Furthest that a deformable tap may be moved, in cells (by tanh); 0: without a limit."""
    dcme_backward: bool = False
    """Add the mirrored backward difference."""
    dcme_low_level: bool = False
    """Add pooled stem features of the difference path to the reduced features (needs `fine`)."""
    stce: bool = True
    """Spatio-temporal channel excitation."""
    excite_every: int = 2
    """Coarse differences, DCME and STCE are at every so many places of a stage, the temporal convolution at all."""
    excite_counts: Literal["places", "blocks"] = "places"
    """What `excite_every` counts: the places of a stage, or its blocks, also those without a place (the first of every
    stage of a MobileNet or EfficientNet), as in the first versions."""
    temporal: Literal["shift", "identity", "none"] = "shift"
    """Start of the depthwise temporal convolution after the excitation; `none` leaves it out."""
    reduction: int = 16
    """Channels are reduced by this factor in every module, to 8 at least."""
    causal: bool = False
    """Look only at the past (for streams)."""


@dataclass(frozen=True)
class SaliencyConfig:
    """The motion salience map: what the paper leaves open, one field per choice (docs/method.md)."""

    variant: Literal["amplitude", "phase", "spectral_residual", "difference", "without_scene"] = "amplitude"
    """Measure of motion at a pixel: Fourier amplitude, phase, spectral residual, plain frame difference; or the
    difference to the clip's static part, which a transform over the clip has at u = 0."""
    window: Literal["segment", "clip"] = "segment"
    """Frames a transform spans: the K frames of a segment, or all T*K frames."""
    normalise: Literal["segment", "clip"] = "clip"
    """Whether median, high quantile and confidence are those of each segment or of the whole clip. Of each segment, a
    calm one passes unchanged beside one that is masked, and the map flickers."""
    to: Literal["action", "appearance", "both"] = "both"
    """Which path sees the enhanced frames: the difference path, the key frames, or both."""
    floor: float = 0.5
    """g: what a motionless place is weakened to, 0 to 1; 1 leaves the frames as they are."""
    drop: float = 0.0
    """Share of clips that training shows without salience, 0 to 1, drawn anew each time: salience as an augmentation.
    Tests always have it."""
    quantile: float = 0.98
    """High quantile of the map that counts as full salience, 0 to 1."""
    noise: float = 2 / 255
    """Amplitude per frame, on luma in [0, 1], below which a segment counts as motionless (tau = K * noise)."""
    pool: int = 4
    """Area pooling before everything else, in pixels; in a network an even number."""
    scene: float = 0.0
    """g of the inputs without the scene (`model.input`): share of the static part that is left, 0 to 1; 1 leaves the
    frames as they are."""
    frequency_weights: tuple[float, ...] = ()
    """w_u for u = 1, 2, ... up to half the window, for `amplitude`; empty: all 1."""


Reading = Literal["raw", "without_scene", "median", "learned"]
ReadingTo = Literal["frames", "stem", "differences"]
Part = Literal["fine", "coarse", "dcme", "stce", "motion", "reading"]
"""A part of a network that can be silenced in a test; `reading` is its salience map or its change of key frames."""
PARTS: tuple[Part, ...] = get_args(Part)
GATE_FIGURES = ("e_coarse", "e_dcme", "e_stce", "e_motion", "fine_share", "taps_inside")
"""Columns of `log.csv`: mean |E| of coarse differences, DCME, STCE and TEA's motion excitation; size of the path of
fine differences where it joins first, as a share of the appearance's; share of DCME's taps inside the picture."""
Sampling = Literal["consecutive", "random"]
ClipRule = Literal["uniform", "random", "dense", "tsm_twice", "tdn"]
Exposure = Literal["none", "gain", "gamma"]


@dataclass(frozen=True)
class DataConfig:
    """The videos, and how clips are drawn from them."""

    train: str = ""
    """Training videos: a folder of class folders, or a list file (CSV, TSV or space separated)."""
    val: str = ""
    """Validation videos, the same forms. Empty: split off from `train`, whole groups at a time."""
    root: str = ""
    """Folder that the paths in list files are relative to. Empty: the list file's own folder."""
    classes: str = ""
    """File with one class name per line, in label order. Empty: names come from folders or lists, sorted."""
    multi_label: bool = False
    """Rows of lists have several labels (`jump|wave`), one or none: learned by binary cross-entropy, judged by mAP."""
    group: str = ""
    """Regular expression on the path: its first (...) names a video's group, which never crosses the split."""
    val_fraction: float = 0.2
    """Share of the groups that is split off when `val` is empty, 0 to 1."""
    folds: int = 0
    """Cross-validation when `val` is empty: groups are dealt out to this many folds, 2 or more; 0: `val_fraction`."""
    fold: int = 0
    """The fold, from 0, that is the validation part."""
    num_segments: int = 8
    """T, the number of segments per clip."""
    frame_stride: int = 1
    """Distance in frames between the neighbouring frames of a segment."""
    sampling: Literal["consecutive", "random"] = "consecutive"
    """How a segment's frames are drawn: neighbours from a random start, or sorted random frames."""
    short_side: int = 256
    """Frames are resized to this short side, in pixels, before cropping."""
    size: int = 224
    """Side of the square crop the network sees, in pixels."""
    crop: Literal["random", "multiscale"] = "random"
    """Training crop: a random place, or TSN's multi-scale corner crops (1, .875, .75, .66)."""
    flip: Literal[True, False, "swap"] = True
    """Mirror a training clip with probability 1/2. Where labels name left and right, `swap` gives a mirrored clip the
    label of its mirror image, and false never mirrors."""
    color_jitter: float = 0.0
    """Strength of brightness, contrast and saturation jitter in training, 0 to 1; one draw per clip."""
    randaugment: int = 0
    """Strength of RandAugment, 0 (off) to 30 (9 is usual): two random changes of place or colour, one draw per clip."""
    exposure: Exposure = "none"
    """For dark videos: each clip is brought to medium brightness, in training and tests, by one factor (`gain`) or one
    exponent (`gamma`) that its own frames give."""
    cache: str = ""
    """Folder to keep decoded, resized frames in (uint8), so that a video is decoded once. Empty: no cache."""
    on_unreadable: Literal["error", "skip"] = "error"
    """Unreadable training videos: stop with an error, or leave them out, counted and reported."""
    workers: int = 0
    """Data loader processes; 0 decodes in the main process."""
    decode_threads: int = 0
    """Threads that decode one video; 0: one, or in the main process several where frames are large."""
    backend: Literal["auto", "pyav", "torchcodec"] = "auto"
    """Video decoder; `auto` is PyAV. torchcodec's frames are resized by another filter: half a level of difference."""
    fps: float = 0.0
    """Frames per second that clips are drawn from, whatever the rate of the file: frames equally far apart in time;
    0: the frames of the file."""
    frame_pattern: str = ""
    """Names of the frames in folders of frames (`img_*.jpg`); empty: a folder's only sequence of colour pictures."""
    on_damaged: Literal["use", "skip"] = "use"
    """Training videos with damaged or missing frames: use what decodes, or leave them out; counted and reported."""


@dataclass(frozen=True)
class ModelConfig:
    """The network that is built."""

    name: System = "mdtnet2"
    """The system: tsn, tsm, tea, tdn, actionnet, mdtnet1 (without salience) or mdtnet2 (with)."""
    trunk: TrunkName = "resnet50"
    """The 2D network that every key frame goes through."""
    width: float = 1.0
    """Channel multiplier of the trunk; pre-trained weights fit 1.0 only."""
    weights: str = ""
    """Start: `imagenet` (torchvision or timm), a checkpoint file or a name of the zoo, or empty
    for a random start."""
    dropout: float = 0.5
    """Dropout before the classifier, 0 to 1."""
    freeze: Literal["none", "stem", "stages", "trunk"] = "none"
    """Part of the trunk that is not trained: nothing, the stem, the stem and stages 1 to 3, or all of it."""
    tsm: TSMConfig = field(default_factory=TSMConfig)
    """The variant of TSM; used by tsm."""
    input: Reading = "raw"
    """How key frames are seen: `raw`; `without_scene`, less their mean over the clip; `median`, less their median;
    `learned`, through a learned gain per frequency in time. In mdtnet2 `raw` frames are weighted by the map of
    `saliency`."""
    input_to: ReadingTo = "frames"
    """Where key frames that are not raw go: in the place of the raw ones (`frames`); beside them into a stem of six
    channels (`stem`); or as three more channels into the path of `differences`, the trunk seeing raw ones."""
    mdtnet: MDTNetConfig = field(default_factory=MDTNetConfig)
    """Components of MDT-Net; other systems ignore them."""
    saliency: SaliencyConfig = field(default_factory=SaliencyConfig)
    """The motion salience map of mdtnet2 with `input: raw`; its noise, quantile, pool and scene are for other inputs
    too."""


@dataclass(frozen=True)
class TrainConfig:
    """How it is trained. The defaults are the paper's recipe (docs/method.md)."""

    epochs: int = 70
    """Passes over the training videos."""
    batch_size: int = 64
    """Global batch: clips per optimiser step over all processes and accumulation steps."""
    accumulate: int = 1
    """Gradient accumulation: a global batch is computed in this many parts."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum, or AdamW."""
    lr: float = 0.01
    """Learning rate for a global batch of 64; it scales with the batch, and the log says to what."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 1e-4
    """Weight decay of weights; batch-norm parameters and biases are not decayed, as in the official recipes of TSN, TSM
    and TEA."""
    decay_norms: bool = False
    """Decay batch-norm parameters and biases too."""
    schedule: Literal["steps", "cosine"] = "steps"
    """Learning-rate schedule after the warm-up."""
    steps: tuple[int, ...] = (30, 40, 50)
    """Epochs after which the learning rate is multiplied by `decay` (schedule `steps`)."""
    decay: float = 0.1
    """Factor at each of `steps`."""
    warmup_epochs: float = 0.0
    """Epochs of linear warm-up from 0."""
    clip_grad: float = 0.0
    """Largest norm of the gradient; 0 does not clip (20 in the official TSN, TSM and TDN recipes)."""
    classifier_lr: float = 1.0
    """Multiplier of the learning rate for the classifier (5 when fine-tuning in the official recipes)."""
    temporal_lr: float = 1.0
    """Multiplier of the learning rate for new layers: what is neither trunk nor a copy of its layers nor classifier."""
    offset_lr: float = 0.1
    """Multiplier, beside `temporal_lr`, for the layers that move the taps of deformable convolutions."""
    exchange: float = 0.0
    """Share of training clips, 0 to 1, that get another clip's scene: their static part is exchanged."""
    label_smoothing: float = 0.0
    """Label smoothing, 0 to 1."""
    class_balance: Literal["none", "sampling", "weights"] = "none"
    """Rare classes: drawn as often as others (`sampling`), or counted more in the loss (`weights`)."""
    mixup: float = 0.0
    """Mixup of clips: alpha of the Beta distribution that the shares are drawn from; 0 is off."""
    cutmix: float = 0.0
    """CutMix of clips, one box for all frames: alpha as of `mixup`; with both, a coin decides for each batch."""
    segments: tuple[int, ...] = ()
    """Smaller numbers of segments to train with as well, for a network that is tested with any of them: every step
    draws one of these or `data.num_segments`, and leaves out segments that were read."""
    teacher: str = ""
    """A checkpoint, or a name of the zoo, whose scores are learned beside the labels (distillation); it sees all
    segments that are read, also where `segments` leaves some out."""
    teacher_weight: float = 0.5
    """Share of the teacher in the loss, 0 to 1; the labels have the rest."""
    partial_bn: bool = False
    """Freeze the statistics and parameters of every batch norm of the trunk but the first."""
    sync_bn: bool = True
    """Synchronise batch norm over processes; takes effect on CUDA."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights, which is then what is tested; 0: none."""
    early_stopping: int = 0
    """Stop after this many epochs without a better validation top-1 (`multi_label`: mAP); 0 never stops early."""
    amp: Literal["no", "fp16", "bf16"] = "no"
    """Automatic mixed precision."""
    channels_last: bool = True
    """Channels-last memory format for convolutions."""
    checkpoint_activations: bool = False
    """Compute each block of the trunk again in the backward pass instead of keeping its activations: less memory, more
    time, the same result."""
    device: str = "auto"
    """`auto`, or `cpu` to keep off an accelerator."""
    seed: int = 0
    """Seed of initialisation, order of samples, augmentation and dropout."""
    save_every: int = 0
    """Also write the last checkpoint every this many optimiser steps; 0: only after each epoch."""
    val_every: int = 1
    """Validate after every this many epochs, and after the last."""
    trackers: tuple[Literal["csv", "tensorboard", "wandb"], ...] = ("csv", "tensorboard")
    """Where curves are logged."""


@dataclass(frozen=True)
class EvalConfig:
    """How it is tested; stored with every result. `PROTOCOLS` has the named ones."""

    clips: int = 1
    """Clips per video."""
    rule: ClipRule = "uniform"
    """How clips are drawn: spread evenly; random with `seed`; TSM's dense or twice; TDN's (docs/protocols.md)."""
    seed: int = 0
    """Of rule `random`: the same clips of a video every time, whatever list it is in."""
    crops: Literal[1, 3, 5] = 1
    """1: the centre crop. 3: left, centre and right (or top, centre and bottom) of the short side. 5: the corners and
    the centre; mirrored too (`flip`) they are the ten crops of published tests."""
    crop_size: int = 0
    """Side of the test crop in pixels; 0: `data.size` for 1 and 5 crops, `data.short_side` for 3."""
    flip: bool = False
    """Also test each view mirrored: twice the views. With `data.flip` swap a mirrored view's scores go to the mirror
    labels; a network trained with `data.flip` false is refused."""
    segments: int = 0
    """T in tests; 0: `data.num_segments`."""
    batch_size: int = 8
    """Views per forward pass."""
    fusion: Literal["logits", "softmax"] = "softmax"
    """Averaged over the views of a video: scores or probabilities (with `data.multi_label`, sigmoids)."""
    on_unreadable: Literal["wrong", "exclude"] = "wrong"
    """Unreadable test videos count as wrong, or are left out; both figures are always shown."""
    on_damaged: Literal["use", "wrong", "exclude"] = "use"
    """Test videos with damaged or missing frames: use what decodes, count as wrong, or leave out."""


BACKGROUND = "background"
"""Name of the class of time in which nothing happens."""


@dataclass(frozen=True)
class TimelineConfig:
    """How a long video is cut into windows, and how scores become segments."""

    length: float = 0.0
    """Seconds of a window; 0: as long as the clips that the network was trained on."""
    stride: float = 0.0
    """Seconds from one window to the next; 0: about a quarter of the length."""
    high: float = 0.5
    """A segment has this score at one place at least, 0 to 1."""
    low: float = 0.3
    """A segment goes on while the score is at least this, 0 to `high`."""
    min_length: float = -1.0
    """Shorter segments are left out, in seconds; -1: half a window."""
    background: str = BACKGROUND
    """The class, if there is one of this name, that means that nothing happens: it gives no segments."""
    batch_size: int = 2
    """Windows that the network sees at a time: they are what needs memory. More is quicker on a GPU."""


PROTOCOLS: dict[str, EvalConfig] = {
    "efficient": EvalConfig(),
    "accurate": EvalConfig(clips=10, crops=3),
    "tsm_kinetics": EvalConfig(rule="dense", clips=10, crops=3, fusion="logits"),
    "tsm_something": EvalConfig(rule="tsm_twice", clips=2, crops=3, fusion="logits"),
    "tea": EvalConfig(rule="random", clips=10, crops=3, fusion="logits"),
    "tdn_kinetics": EvalConfig(rule="random", clips=10, crops=3),
    "tdn": EvalConfig(rule="tdn"),
}
"""Named protocols (docs/protocols.md): the paper's two, then those of the official code of TSM, TEA and TDN. Three
crops are `data.short_side` pixels wide, 256 by default."""


PUBLISHED = "published"
"""Name of the protocol of a checkpoint's published figure, which the checkpoint knows."""


def protocol_named(name: str) -> EvalConfig:
    """A named protocol.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in PROTOCOLS:
        known = [*PROTOCOLS, PUBLISHED]
        raise ConfigError(f"protocol is '{name}', expected one of {', '.join(known)}{nearest(name, known)}")
    return PROTOCOLS[name]


def protocol_name(test: EvalConfig) -> str:
    """The name of a protocol, or "" where it is none of the named ones."""
    alike = replace(
        EvalConfig(), clips=test.clips, crops=test.crops, rule=test.rule, fusion=test.fusion, flip=test.flip
    )
    other = test.crop_size or test.segments
    return next((name for name, named in PROTOCOLS.items() if named == alike and not other), "")


def eval_crop_size(data: DataConfig, test: EvalConfig) -> int:
    """Side of the test crops in pixels."""
    return test.crop_size or (data.short_side if test.crops == 3 else data.size)


@dataclass(frozen=True)
class RunConfig:
    """One run: data, model, training and testing."""

    out: str = ""
    """Folder of the run: config, logs, checkpoints, scores, report. Empty: a new one in `runs/`, named by the time."""
    data: DataConfig = field(default_factory=DataConfig)
    """Data and sampling."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """System and trunk."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Training recipe."""
    test: EvalConfig = field(default_factory=EvalConfig)
    """Test protocol."""


Format = Literal["onnx", "openvino", "torch"]


Precision = Literal["float32", "half", "int8"]


Layer = Literal["pool", "logits"]
FeatureFormat = Literal["npy", "bmn"]


@dataclass(frozen=True)
class FeatureConfig:
    """Windows of a video, and what is kept of each."""

    window: float = 0.0
    """Seconds of a window; 0: as long as the clips of the training, or where that is not known 64 frames at its rate,
    or at 25 a second where that was the files' own."""
    stride: float = 0.0
    """Seconds from the beginning of a window to that of the next; 0: a quarter of the window."""
    layer: Layer = "pool"
    """`pool`: what the classifier sees, the mean over segments; `logits`: scores of the classes, before softmax."""
    format: FeatureFormat = "npy"
    """`npy`: float32 [windows, channels]; `bmn`: a CSV table of 100 rows, the video rescaled, with a header."""
