"""Synthetic scenes: framed discs on a small canvas, each in its own cells.

A framed disc is a square frame of one colour (its *name*: no two frames of a scene share a colour) around a disc of
another colour (the *answer*; discs may repeat). Exactly one object of a scene is large and so the salient one. Scenes
also contain clutter: a crowd of small grey dots that no question asks about.

Objects differ in colour because a small vision tower learns colours from scratch in minutes, but not shapes.
"""

from dataclasses import dataclass

import numpy as np

CELL = 16
"""Side in pixels of the cells that scenes are laid out on (a visual token of the toy policy)."""
CELLS = 4  # along a side of a scene
SIDE = CELLS * CELL
"""Width and height of every picture in pixels."""

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 30),
    "green": (30, 160, 40),
    "blue": (40, 60, 220),
    "yellow": (240, 225, 40),
    "purple": (150, 40, 180),
    "orange": (250, 140, 20),
    "cyan": (40, 210, 220),
    "white": (255, 255, 255),
}
DOT_COLOR = (90, 90, 90)
USUAL = dict(zip(COLORS, [*list(COLORS)[3:], *list(COLORS)[:3]], strict=True))
"""A frame's colour -> its disc's in pictures that follow the prior."""

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class FramedDisc:
    """One object: a square frame around a disc."""

    frame: str  # colour word of the frame, unique in the scene
    disc: str  # colour word of the disc, never the frame's
    box: Box  # the frame, xyxy in pixels, end-exclusive
    large: bool  # whether it spans about 2 x 2 cells instead of one

    @property
    def disc_box(self) -> Box:
        """The disc, xyxy in pixels: it touches the inside of the frame."""
        x1, y1, x2, y2 = self.box
        bar = max(2, round((x2 - x1) * 0.18))
        return x1 + bar, y1 + bar, x2 - bar, y2 - bar


@dataclass(frozen=True)
class Scene:
    """One picture."""

    background: int  # grey level
    objects: tuple[FramedDisc, ...]  # in no particular order
    dots: tuple[Box, ...]  # of the clutter, xyxy in pixels; possibly none


def make_scene(seed: int, index: int, prior: float | None = None) -> Scene:
    """Scene `index` of the world `seed`; the same arguments always give the same scene.

    With a `prior`, each disc has its frame's `USUAL` colour with this probability, and never otherwise.
    """
    rng = np.random.default_rng([seed, index])
    count = int(rng.integers(3, 6))
    free = np.ones((CELLS, CELLS), dtype=bool)
    objects: list[FramedDisc] = []
    for frame in rng.permutation(list(COLORS))[:count]:
        large = not objects
        disc = _disc_color(rng, str(frame), [item.disc for item in objects], prior)
        objects.append(FramedDisc(str(frame), disc, _place(rng, free, large), large))
    dots = _dots(rng, free) if rng.random() < 0.5 else ()
    order = rng.permutation(len(objects))
    background = int(rng.integers(120, 170))
    return Scene(background, tuple(objects[i] for i in order), dots)


def _disc_color(rng: np.random.Generator, frame: str, used: list[str], prior: float | None) -> str:
    """A colour other than the frame's, often one that another disc already has; or as the prior says."""
    if prior is not None:
        usual = USUAL[frame]
        return usual if rng.random() < prior else str(rng.choice([c for c in COLORS if c not in (frame, usual)]))
    again = [c for c in used if c != frame]
    return str(rng.choice(again if again and rng.random() < 0.35 else [c for c in COLORS if c != frame]))


def _place(rng: np.random.Generator, free: np.ndarray, large: bool) -> Box:
    """A box inside one free cell (small) or one free block of 2 x 2 cells (large); marks the cells as taken."""
    span = 2 if large else 1
    spots = np.argwhere(np.lib.stride_tricks.sliding_window_view(free, (span, span)).all(axis=(2, 3)))
    r, c = spots[rng.integers(len(spots))]
    free[r : r + span, c : c + span] = False
    side = int(rng.integers(24, 33)) if large else int(rng.integers(12, 17))
    x, y = c * CELL + rng.integers(span * CELL - side + 1), r * CELL + rng.integers(span * CELL - side + 1)
    return int(x), int(y), int(x + side), int(y + side)


def _dots(rng: np.random.Generator, free: np.ndarray) -> tuple[Box, ...]:
    """Three to six dots of 2 x 2 pixels on a 4 x 4 lattice inside one free cell."""
    spots = np.argwhere(free)
    r, c = spots[rng.integers(len(spots))]
    lattice = rng.permutation(16)[: rng.integers(3, 7)]
    corners = [(int(c * CELL + 1 + 4 * (k % 4)), int(r * CELL + 1 + 4 * (k // 4))) for k in sorted(lattice)]
    return tuple((x, y, x + 2, y + 2) for x, y in corners)


def draw(scene: Scene) -> np.ndarray:
    """`(H, W, 3)` uint8 RGB picture of the scene."""
    picture = np.full((SIDE, SIDE, 3), scene.background, dtype=np.uint8)
    for x1, y1, x2, y2 in scene.dots:
        picture[y1:y2, x1:x2] = DOT_COLOR
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5  # centres of the pixels
    for item in scene.objects:
        (left, top, right, bottom), (x1, y1, x2, y2) = item.box, item.disc_box
        picture[top:bottom, left:right] = COLORS[item.frame]
        picture[y1:y2, x1:x2] = scene.background
        in_disc = (x - (x1 + x2) / 2) ** 2 + (y - (y1 + y2) / 2) ** 2 <= ((x2 - x1) / 2) ** 2
        picture[in_disc] = COLORS[item.disc]
    return picture
