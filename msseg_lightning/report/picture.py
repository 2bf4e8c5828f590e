"""Pictures of lesions at both visits."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from msseg_lightning.core.volume import Affine, Volume

CROP_MM = 60.0
PIXEL_MM = 0.3
"""200 pixels per panel: a voxel of 1 mm is 3.3 pixels, a line of one pixel stays thin."""
LINE_PIXELS = 2
LOCATOR_PIXEL_MM = 1.25
HEADROOM = 1.25
"""Factor above the brain's 99.8th percentile that is shown as white."""

# Okabe and Ito's colours, told apart with every common colour deficiency.
REFERENCE_COLOUR = (86, 180, 233)  # sky blue
PREDICTION_COLOUR = (240, 150, 0)  # orange
OVERLAP_COLOUR = (0, 158, 115)  # bluish green
BRIGHTER_COLOUR = (255, 160, 50)
DARKER_COLOUR = (70, 150, 255)
DIFFERENCE_RANGE = 3.0
"""Difference at which colours saturate, in interquartile ranges of the brain."""

PLANES = ("axial", "coronal", "sagittal")
COLUMNS = ("Baseline", "Follow-up", "Difference", "Overlay")

Float = NDArray[np.float32]
RGB = NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class CaseVolumes:
    """Volumes of one pair, each with its own affine.

    Args:
        baseline: first visit, in the space of the follow-up.
        followup: second visit.
        prediction: predicted new lesions, 0 or 1.
        reference: true new lesions, 0 or 1; None where unknown.
        probability: in [0, 1]; None where a system has none.
        brain: mask. Without one no picture is made: a head scan shows a face.
        uncertainty: standard deviation of the system's answers; None where it has one answer.
        steps: name -> map of a system of rules on the way to its mask, in order: masks of the
            candidates that were left, and images.
    """

    baseline: Volume
    followup: Volume
    prediction: Volume
    reference: Volume | None = None
    probability: Volume | None = None
    brain: Volume | None = None
    uncertainty: Volume | None = None
    steps: Mapping[str, Volume] = dataclasses.field(default_factory=dict)


def anatomical_axes(affine: Affine) -> NDArray[np.float64]:
    """Unit vectors (rows) along the edges of a grid, ordered and signed towards R, A and S.

    Pictures follow the edges of the scan rather than the scanner's world, so that an oblique
    acquisition with thick slices is shown slice by slice and not blurred across slices.
    """
    edges = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    best, order = -1.0, (0, 1, 2)
    for candidate in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        fit = sum(abs(edges[world, edge]) for world, edge in enumerate(candidate))
        if fit > best:
            best, order = fit, candidate
    axes = edges[:, order].T
    signs = np.sign(np.diag(axes))
    return np.asarray(axes * np.where(signs == 0, 1, signs)[:, None])


def side_letter(direction: NDArray[np.float64]) -> str:
    """Letter of an anatomical direction: R, L, A, P, S or I."""
    axis = int(np.argmax(np.abs(direction)))
    return ("RL", "AP", "SI")[axis][0 if direction[axis] > 0 else 1]


@dataclasses.dataclass(frozen=True)
class Plane:
    """A plane of pixels in world space.

    Args:
        centre_mm: (3,) world position of the middle.
        across: (3,) unit vector from the left to the right of the picture.
        down: (3,) unit vector from top to bottom.
        size_mm: width and height.
        pixel_mm: edge of a pixel.
    """

    centre_mm: NDArray[np.float64]
    across: NDArray[np.float64]
    down: NDArray[np.float64]
    size_mm: tuple[float, float] = (CROP_MM, CROP_MM)
    pixel_mm: float = PIXEL_MM

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        width, height = self.size_mm
        return round(height / self.pixel_mm), round(width / self.pixel_mm)

    def letters(self) -> dict[str, str]:
        """Anatomical directions at the edges of the picture."""
        return {
            "left": side_letter(-self.across),
            "right": side_letter(self.across),
            "top": side_letter(-self.down),
            "bottom": side_letter(self.down),
        }

    def sample(self, volume: Volume, nearest: bool = False) -> Float:
        """(height, width) values of a volume; 0 outside of it."""
        height, width = self.shape
        x = (np.arange(width) - (width - 1) / 2) * self.pixel_mm
        y = (np.arange(height) - (height - 1) / 2) * self.pixel_mm
        inverse = np.linalg.inv(volume.affine)
        start = inverse[:3, :3] @ self.centre_mm + inverse[:3, 3]
        column, row = inverse[:3, :3] @ self.across, inverse[:3, :3] @ self.down
        voxels = (
            start[:, None, None]
            + column[:, None, None] * x[None, None, :]
            + row[:, None, None] * y[None, :, None]
        )
        data = volume.data if volume.data.dtype != bool else volume.data.view(np.uint8)
        return np.asarray(
            ndimage.map_coordinates(
                data, voxels, output=np.float32, order=0 if nearest else 1, prefilter=False
            )
        )


def plane_through(
    name: str,
    point_mm: NDArray[np.float64],
    axes: NDArray[np.float64],
    size_mm: tuple[float, float] = (CROP_MM, CROP_MM),
    pixel_mm: float = PIXEL_MM,
) -> Plane:
    """An axial, coronal or sagittal plane in radiological convention.

    Seen from the feet (axial) or from the front (coronal): the patient's right is on the left of
    the picture. Sagittal: anterior is on the left.
    """
    right, anterior, superior = axes
    across, down = {
        "axial": (-right, -anterior),
        "coronal": (-right, -superior),
        "sagittal": (-anterior, -superior),
    }[name]
    return Plane(point_mm, across, down, size_mm, pixel_mm)


@dataclasses.dataclass(frozen=True)
class Window:
    """Grey scale for both visits.

    Args:
        baseline: median and interquartile range of the first visit in the brain.
        followup: the same of the second.
        low: black, in interquartile ranges from the median.
        high: white.
    """

    baseline: tuple[float, float]
    followup: tuple[float, float]
    low: float
    high: float


def window_of(volumes: CaseVolumes, brain: Volume) -> Window:
    """Grey scale from percentiles of both visits in the brain."""
    scaled, scales = [], []
    for volume in (volumes.baseline, volumes.followup):
        values = _inside(volume, brain)
        median, low, high = np.percentile(values, (50, 25, 75))
        spread = float(high - low) or float(values.std()) or 1.0
        scales.append((float(median), spread))
        scaled.append((values - median) / spread)
    low, high = np.percentile(np.concatenate(scaled), (1, 99.8))
    high = max(high * HEADROOM, low + 1e-6)  # the median is 0
    return Window(scales[0], scales[1], float(low), float(high))


def _inside(volume: Volume, brain: Volume) -> Float:
    """A sample of about 200 000 intensities in the brain."""
    places = np.argwhere(brain.data != 0)
    if len(places) == 0:
        return np.zeros(1, np.float32)
    places = places[:: max(1, len(places) // 200_000)]
    to_voxel = np.linalg.inv(volume.affine) @ brain.affine
    voxels = places @ to_voxel[:3, :3].T + to_voxel[:3, 3]
    return np.asarray(
        ndimage.map_coordinates(
            volume.data, voxels.T, output=np.float32, order=1, prefilter=False, mode="nearest"
        )
    )


class CasePictures:
    """Draws pictures of the lesions of one pair.

    Args:
        volumes: the pair; must have a brain mask with at least one voxel.

    Raises:
        ValueError: there is no brain mask, so no picture may be made.
    """

    def __init__(self, volumes: CaseVolumes) -> None:
        if volumes.brain is None or not (volumes.brain.data != 0).any():
            raise ValueError("pictures need a brain mask: a head scan shows a face")
        self.volumes, self.brain = volumes, volumes.brain
        self.axes = anatomical_axes(volumes.followup.affine)
        self.window = window_of(volumes, self.brain)
        self._extent = self._brain_extent()

    def _brain_extent(self) -> NDArray[np.float64]:
        """(2, 3) smallest and largest position of the brain along R, A, S in mm."""
        places = np.argwhere(self.brain.data[::2, ::2, ::2] != 0) * 2
        if len(places) == 0:
            places = np.argwhere(self.brain.data != 0)
        world = places @ self.brain.affine[:3, :3].T + self.brain.affine[:3, 3]
        along = world @ self.axes.T
        return np.stack([along.min(0) - 4, along.max(0) + 4])

    def lesion(self, point_mm: NDArray[np.float64]) -> RGB:
        """(600, 800, 3): a row per plane, columns baseline, follow-up, difference, overlay."""
        rows = []
        for name in PLANES:
            plane = plane_through(name, point_mm, self.axes)
            panels = self._panels(plane)
            for panel in panels:
                _write_letters(panel, plane.letters())
            rows.append(np.concatenate([np.asarray(panel) for panel in panels], axis=1))
        whole = Image.fromarray(np.concatenate(rows, axis=0))
        _draw_scale(whole)
        _draw_gaps(whole)
        return np.asarray(whole)

    def _panels(self, plane: Plane) -> list[Image.Image]:
        inside = plane.sample(self.brain, nearest=True) > 0
        first, second = self._scaled(plane)
        overlay = self._grey(second, inside)
        self._draw_outlines(overlay, plane)
        return [
            Image.fromarray(picture)
            for picture in (
                self._grey(first, inside),
                self._grey(second, inside),
                _difference(second - first, inside),
                overlay,
            )
        ]

    def _scaled(self, plane: Plane) -> tuple[Float, Float]:
        first, second = (
            (plane.sample(volume) - median) / spread
            for volume, (median, spread) in (
                (self.volumes.baseline, self.window.baseline),
                (self.volumes.followup, self.window.followup),
            )
        )
        return first, second

    def _grey(self, scaled: Float, inside: NDArray[np.bool_]) -> RGB:
        low, high = self.window.low, self.window.high
        level = np.clip((scaled - low) / (high - low), 0, 1) * inside
        return np.repeat((level * 255).astype(np.uint8)[..., None], 3, axis=2)

    def _draw_outlines(self, picture: RGB, plane: Plane) -> None:
        """Draw the outline of the reference outside and that of the prediction inside."""
        predicted = plane.sample(self.volumes.prediction, nearest=True) > 0
        if self.volumes.reference is not None:
            reference = plane.sample(self.volumes.reference, nearest=True) > 0
            both = reference & predicted
            picture[both] = 0.72 * picture[both] + 0.28 * np.array(OVERLAP_COLOUR)
            around = ndimage.binary_dilation(reference, iterations=LINE_PIXELS)
            picture[around & ~reference] = REFERENCE_COLOUR
        core = ndimage.binary_erosion(predicted, iterations=LINE_PIXELS)
        picture[predicted & ~core] = PREDICTION_COLOUR

    def steps(self, point_mm: NDArray[np.float64]) -> RGB | None:
        """Axial planes with the map of every step, four in a row; None where there is none.

        Masks are filled on the follow-up in the colour of the prediction, images have the colours
        of the difference and saturate at their own largest value in the brain.
        """
        plane = plane_through("axial", point_mm, self.axes)
        inside = plane.sample(self.brain, nearest=True) > 0
        panels = []
        for name, volume in self.volumes.steps.items():
            values = plane.sample(volume, nearest=True)
            if volume.kind == "mask":
                picture = self._grey(self._scaled(plane)[1], inside)
                left = inside & (values > 0)
                picture[left] = 0.4 * picture[left] + 0.6 * np.array(PREDICTION_COLOUR)
            else:
                top = float(np.abs(_inside(volume, self.brain)).max()) or 1.0
                picture = _difference(values * DIFFERENCE_RANGE / top, inside)
            panel = Image.fromarray(picture)
            _write_letters(panel, {"top": name.replace("_", " ")})
            panels.append(np.asarray(panel))
        if not panels:
            return None
        panels += [np.zeros_like(panels[0])] * (-len(panels) % len(COLUMNS))
        rows = [
            np.concatenate(panels[first : first + len(COLUMNS)], axis=1)
            for first in range(0, len(panels), len(COLUMNS))
        ]
        return np.concatenate(rows, axis=0)

    def locator(self, point_mm: NDArray[np.float64]) -> RGB:
        """Picture of the whole brain in two planes, with a frame around the crop."""
        low, high = self._extent
        size = high - low
        middle = self.axes.T @ ((low + high) / 2)
        pictures = []
        for name, normal, wide, tall in (("axial", 2, 0, 1), ("sagittal", 0, 1, 2)):
            offset = float(self.axes[normal] @ (point_mm - middle))
            plane = plane_through(
                name,
                middle + offset * self.axes[normal],
                self.axes,
                (float(size[wide]), float(size[tall])),
                LOCATOR_PIXEL_MM,
            )
            inside = plane.sample(self.brain, nearest=True) > 0
            image = Image.fromarray(self._grey(self._scaled(plane)[1], inside))
            _write_letters(image, plane.letters(), size=11)
            _draw_frame(image, plane, point_mm)
            pictures.append(np.asarray(image))
        height = max(picture.shape[0] for picture in pictures)
        padded = [
            np.pad(picture, ((0, height - picture.shape[0]), (0, 4), (0, 0)))
            for picture in pictures
        ]
        return np.concatenate(padded, axis=1)


def _difference(change: Float, inside: NDArray[np.bool_]) -> RGB:
    """Colours of a difference: orange where the follow-up is brighter, blue where darker."""
    share = np.clip(change / DIFFERENCE_RANGE, -1, 1) * inside
    brighter = np.clip(share, 0, 1)[..., None] * np.array(BRIGHTER_COLOUR)
    darker = np.clip(-share, 0, 1)[..., None] * np.array(DARKER_COLOUR)
    return np.asarray(brighter + darker, np.uint8)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _write_letters(image: Image.Image, letters: dict[str, str], size: int = 13) -> None:
    width, height = image.size
    places = {
        "left": ((3, height / 2), "lm"),
        "right": ((width - 4, height / 2), "rm"),
        "top": ((width / 2, 2), "ma"),
        "bottom": ((width / 2, height - 3), "md"),
    }
    draw = ImageDraw.Draw(image)
    for edge, text in letters.items():
        place, anchor = places[edge]
        draw.text(
            place,
            text,
            fill=(255, 255, 255),
            font=_font(size),
            anchor=anchor,
            stroke_width=1,
            stroke_fill=(0, 0, 0),
        )


def _draw_scale(image: Image.Image) -> None:
    """Draw a scale of 10 mm."""
    draw = ImageDraw.Draw(image)
    bottom, length = image.size[1] - 8, 10 / PIXEL_MM
    draw.rectangle((8, bottom - 2, 8 + length, bottom), fill=(255, 255, 255))
    draw.text((8, bottom - 5), "10 mm", fill=(255, 255, 255), font=_font(11), anchor="ld")


def _draw_gaps(image: Image.Image) -> None:
    draw = ImageDraw.Draw(image)
    width, height = image.size
    for column in range(1, len(COLUMNS)):
        x = column * width // len(COLUMNS)
        draw.line((x, 0, x, height), fill=(70, 70, 70))
    for row in range(1, len(PLANES)):
        y = row * height // len(PLANES)
        draw.line((0, y, width, y), fill=(70, 70, 70))


def _draw_frame(image: Image.Image, plane: Plane, point_mm: NDArray[np.float64]) -> None:
    width, height = image.size
    shift = point_mm - plane.centre_mm
    x = width / 2 + float(plane.across @ shift) / plane.pixel_mm
    y = height / 2 + float(plane.down @ shift) / plane.pixel_mm
    half = CROP_MM / 2 / plane.pixel_mm
    ImageDraw.Draw(image).rectangle((x - half, y - half, x + half, y + half), outline=(230, 230, 0))


def data_uri(picture: RGB) -> str:
    """A picture as ``data:`` URI of a PNG with 256 colours."""
    image = Image.fromarray(picture).quantize(palette=_palette(), dither=Image.Dither.NONE)
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _palette() -> Image.Image:
    """Palette of greys, difference colours and outline colours."""
    colours: list[tuple[int, int, int]] = [
        REFERENCE_COLOUR,
        PREDICTION_COLOUR,
        (230, 230, 0),
    ]
    colours += [(level, level, level) for level in np.linspace(0, 255, 160).astype(int).tolist()]
    for colour in (BRIGHTER_COLOUR, DARKER_COLOUR):
        for share in np.linspace(0.03, 1, 32):
            colours.append(tuple(int(part * share) for part in colour))  # type: ignore[arg-type]  # three parts
    for grey in np.linspace(0, 255, 256 - len(colours)):
        tinted = 0.72 * grey + 0.28 * np.array(OVERLAP_COLOUR)
        colours.append(tuple(int(part) for part in tinted))  # type: ignore[arg-type]  # three parts
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for colour in colours for part in colour])
    return palette
