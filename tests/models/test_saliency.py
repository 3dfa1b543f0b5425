"""Motion salience: still and noisy clips pass unchanged, motion lights up, shake and flicker do not take over."""

import av
import numpy as np
import pytest
import torch

from mdtnet.config import SaliencyConfig
from mdtnet.models.saliency import amplitude_energy, dft, enhance, floored, frames_saliency, inverse_dft, saliency_map

VARIANTS = ("amplitude", "phase", "spectral_residual", "difference", "without_scene")
WINDOWS = ("segment", "clip")


def texture(size: int = 64, seed: int = 0) -> torch.Tensor:
    coarse = torch.rand(1, 1, size // 4, size // 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 1)[0, 0] * 0.6 + 0.2


def still(segments: int = 4, frames: int = 5) -> torch.Tensor:
    return texture().expand(1, segments, frames, 64, 64).clone()


def moving_square(background: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """A 12-pixel square that moves 2 pixels a frame; luma [1, 2, 5, 64, 64] and where it has been [1, 2, 64, 64]."""
    luma = still(2) if background is None else background
    seen = torch.zeros(1, 2, 64, 64, dtype=torch.bool)
    for t in range(2):
        for k in range(5):
            x = 6 + 2 * (5 * t + k)
            luma[0, t, k, 26:38, x : x + 12] = 1.0
            seen[0, t, 26:38, x : x + 12] = True
    return luma, seen


@pytest.mark.parametrize("normalise", ["segment", "clip"])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_still_clip_passes_unchanged(variant, window, normalise):
    s = saliency_map(still(), SaliencyConfig(variant=variant, window=window, normalise=normalise))
    assert s.shape == (1, 4, 64, 64)
    torch.testing.assert_close(s, torch.ones_like(s), atol=1e-5, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_a_threshold_of_noise_a_still_clip_passes_too(variant):
    s = saliency_map(still(), SaliencyConfig(variant=variant, noise=0.0))
    torch.testing.assert_close(s, torch.ones_like(s), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("normalise", "bound"), [("segment", 0.97), ("clip", 0.93)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_noisy_still_h264_clip_passes_unchanged(variant, normalise, bound, tmp_path):
    path = tmp_path / "still.mp4"
    noise = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "18"}
        for _ in range(40):
            image = texture().numpy()[..., None] * 255 + noise.normal(0, 3, (64, 64, 3))
            frame = av.VideoFrame.from_ndarray(image.clip(0, 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        frames = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    clip = torch.from_numpy(frames).permute(0, 3, 1, 2).unflatten(0, (8, 5))[None]
    assert (clip[0, :, :1] != clip[0, :, 1:]).any(), "the clip should not be perfectly still"
    s = frames_saliency(clip, SaliencyConfig(variant=variant, normalise=normalise))
    mask = floored(s, 0.5)
    assert mask.min() > 0.9, "compression noise must not fade the picture"
    assert mask.mean() > bound


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_energy_is_on_the_moving_square(variant, window):
    luma, seen = moving_square()
    s = saliency_map(luma, SaliencyConfig(variant=variant, window=window))
    if window == "clip" or variant == "without_scene":  # which leaves a trace where the square is at other times
        seen = seen.any(1, keepdim=True).expand_as(seen)
    near = torch.nn.functional.max_pool2d(seen.float(), 17, 1, 8).bool()
    assert s[seen].mean() > 0.4
    assert s[~near].max() < 0.1
    assert s[seen].mean() > 8 * s[~near].mean()


@pytest.mark.parametrize("variant", VARIANTS)
def test_slow_camera_shake_does_not_hide_the_square(variant):
    background = still(2)
    for k in range(5):
        background[:, :, k] = torch.roll(background[:, :, k], (k % 2, (k + 1) % 2), (-2, -1))
    luma, seen = moving_square(background)
    s = saliency_map(luma, SaliencyConfig(variant=variant))
    assert s[seen].mean() > 2 * s[~seen].mean()


@pytest.mark.parametrize("variant", VARIANTS)
def test_uniform_flicker_passes_unchanged(variant):
    luma = still() + torch.tensor([0.0, 0.05, -0.05, 0.03, 0.0]).view(1, 1, 5, 1, 1)
    s = saliency_map(luma, SaliencyConfig(variant=variant))
    torch.testing.assert_close(s, torch.ones_like(s), atol=1e-2, rtol=0)


def test_floor_one_leaves_frames_exactly_as_they_are():
    x = torch.randn(2, 3, 5, 3, 32, 32)
    s = frames_saliency(x, SaliencyConfig(), std=(0.2, 0.2, 0.2))
    assert torch.equal(enhance(x, s, floor=1.0), x)


def test_floor_is_reached_in_the_background():
    luma, _ = moving_square()
    frames = luma[:, :, :, None].expand(-1, -1, -1, 3, -1, -1)
    s = frames_saliency(frames, SaliencyConfig(floor=0.5))
    faded = enhance(frames, s, floor=0.5)
    torch.testing.assert_close(faded[..., -8:, :], frames[..., -8:, :] * 0.5, atol=1e-3, rtol=0)


def test_uint8_and_normalised_frames_give_the_same_map():
    frames = torch.randint(0, 256, (1, 2, 5, 3, 40, 40), dtype=torch.uint8)
    mean, std = (
        torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1),
        torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1),
    )
    normalised = (frames / 255 - mean) / std
    for variant in VARIANTS:
        config = SaliencyConfig(variant=variant)
        torch.testing.assert_close(
            frames_saliency(frames, config),
            frames_saliency(normalised, config, std=(0.229, 0.224, 0.225)),
            atol=2e-3,
            rtol=0,
        )


@pytest.mark.parametrize("num_frames", [2, 4, 5, 8, 40])
def test_dft_is_the_fft_and_its_inverse_inverts(num_frames):
    luma = torch.rand(2, 3, num_frames, 4, 6, dtype=torch.float64)
    real, imaginary = dft(luma)
    expected = torch.fft.rfft(luma, dim=2)[:, :, 1:]
    torch.testing.assert_close(torch.complex(real, imaginary), expected)
    without_mean = luma - luma.mean(2, keepdim=True)
    torch.testing.assert_close(inverse_dft(real, imaginary, num_frames), without_mean)


def test_parseval():
    luma = torch.rand(1, 1, 5, 3, 3, dtype=torch.float64)
    real, imaginary = dft(luma)
    power = 2 * (real.square() + imaginary.square()).sum(2)  # u = 1, 2 stand for 4, 3 too
    torch.testing.assert_close(power, 25 * luma.var(2, unbiased=False))


def test_frequency_weights_select_frequencies():
    luma = torch.rand(1, 1, 5, 2, 2, dtype=torch.float64)
    first, second = amplitude_energy(luma, (1.0, 0.0)), amplitude_energy(luma, (0.0, 1.0))
    torch.testing.assert_close(first + second, amplitude_energy(luma))
    torch.testing.assert_close(amplitude_energy(luma, (1.0,)), first)


@pytest.mark.parametrize("variant", VARIANTS)
def test_maps_are_finite_in_range_and_batch_invariant(variant):
    luma = torch.cat([still(2), moving_square()[0], torch.zeros(1, 2, 5, 64, 64), torch.rand(1, 2, 5, 64, 64)])
    config = SaliencyConfig(variant=variant)
    s = saliency_map(luma, config)
    assert torch.isfinite(s).all()
    assert s.min() >= 0
    assert s.max() <= 1
    torch.testing.assert_close(s[1:2], saliency_map(luma[1:2], config))


def test_clip_normalisation_fades_the_quieter_segment():
    luma = still(2)
    luma[0, 0, :, 16:40, 16:40] += torch.tensor([0.0, 0.3, 0.0, 0.3, 0.0]).view(5, 1, 1)
    luma[0, 1, :, 16:40, 16:40] += torch.tensor([0.0, 0.1, 0.0, 0.1, 0.0]).view(5, 1, 1)
    per_segment = saliency_map(luma, SaliencyConfig(normalise="segment"))[0, :, 25, 25]
    per_clip = saliency_map(luma, SaliencyConfig(normalise="clip"))[0, :, 25, 25]
    assert per_segment[1] > 0.9
    assert per_clip[1] < 0.6 * per_clip[0]


@pytest.mark.parametrize("size", [1, 2, 7, 33])
def test_any_size(size):
    s = saliency_map(torch.rand(1, 2, 5, size, size + 3), SaliencyConfig())
    assert s.shape == (1, 2, size, size + 3)
    assert torch.isfinite(s).all()
