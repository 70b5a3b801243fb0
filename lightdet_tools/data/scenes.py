"""Generated street scenes: the demo data, drawn from a seed and never downloaded.

Everything is laid out in metres in front of a pinhole camera (x right, y up, z away), so that an
object's size follows from the depth of its ground contact. Shapes are painted far to near, twice:
on the picture and, with the object's number, on an id buffer. The boxes are read from that buffer.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

CLASSES: dict[str, int] = {
    "person": 1, "bicycle": 2, "car": 3, "traffic light": 10, "fire hydrant": 11,
    "stop sign": 13, "dog": 18,
}  # fmt: skip

SUPERSAMPLE = 2
MIN_VISIBLE = 0.25  # objects with a smaller visible fraction are not annotated
MIN_SIDE = 16  # pixels on the longer side; smaller objects are not drawn, smaller rests not kept

Color = tuple[int, int, int]
Painted = tuple[str, int, int]  # name, number in the id buffer, pixels when painted


class SceneObject(NamedTuple):
    """One annotation: class name, xyxy box of the visible pixels, and whether it is a crowd."""

    name: str
    box: tuple[float, float, float, float]
    crowd: bool


def _palette(codes: str) -> list[Color]:
    return [tuple(bytes.fromhex(code)) for code in codes.split()]


PAINT = _palette("b3261e 1f4e8c e8e8e6 2b2d31 9aa0a6 f2c230 2f6b4f 7a1f2b 5fa3c7 c96f2b 6d6875")
# Classes have their typical colours, so that a network learns them from few pictures.
CAR_PAINT = _palette("b3261e 1f4e8c 2b2d31 9aa0a6 5fa3c7 7a1f2b")
CLOTHES = _palette("c0392b 2563a8 f1c40f 27774f 8e44ad e67e22 f5f5f5 23272e d16a8f 4aa3a2 7f5539")
TROUSERS = _palette("22304d 2d2d2d 4b5563 6b5b45 8a8f98 3b4a2f")
SKIN = _palette("f3c9a5 e0a87e c58a5c 8d5a3b 5c3a27")
HAIR = _palette("1c1512 3d2716 6e4a25 b98b46 8c8c8c")
FUR = _palette("8a5a2b c48a45 5b3d28 a9713a")
WALLS = _palette("b08968 a8644d d8cbb2 8d99a6 c9b79c 9c6b5a 7f8c7a bfae9f 6f7a8a dfd6c8")
LEAVES = _palette("3f7d3a 5b8c3e 2f6134 7d9440 b07a2c")
GLASS, GLARE, RUBBER, STEEL = (52, 70, 88), (86, 102, 118), (24, 24, 26), (120, 124, 128)
WHITE_LIGHT, RED_LIGHT = (255, 246, 214), (225, 28, 24)
WARM_LIGHT = (255, 205, 120)


def _pick(rng: np.random.Generator, colors: list[Color], spread: int = 16) -> Color:
    """One of the colours, a little off."""
    color = np.add(colors[rng.integers(len(colors))], rng.integers(-spread, spread + 1, 3))
    return tuple(color.clip(0, 255).tolist())


def _mix(a: Color, b: Color, t: float) -> Color:
    return tuple(round(u + (v - u) * t) for u, v in zip(a, b, strict=True))


def _shade(color: Color, k: float) -> Color:
    return _mix(color, (0, 0, 0), 1 - k) if k <= 1 else _mix(color, (255, 255, 255), k - 1)


class Stage:
    """Camera, light and the two surfaces of a scene. Lengths in metres, pixels supersampled."""

    def __init__(self, rng: np.random.Generator, width: int, height: int):
        self.width, self.height = width * SUPERSAMPLE, height * SUPERSAMPLE
        self.side = math.sqrt(self.width * self.height)
        self.focal = self.side * rng.uniform(0.9, 1.3)
        self.camera = rng.uniform(1.3, 2.1)
        self.horizon = self.height * rng.uniform(0.38, 0.58)
        self.vanish = self.width * rng.uniform(0.25, 0.75)
        self.light = str(rng.choice(["day", "dusk", "night"], p=[0.64, 0.20, 0.16]))
        self.ambient = {"day": (1, 1, 1), "dusk": (0.82, 0.7, 0.72), "night": (0.44, 0.46, 0.6)}[
            self.light
        ]
        self.sight = rng.uniform(9, 25) if rng.random() < 0.10 else 400.0  # fog: metres to 1 / e
        self.haze = self.tone((205, 210, 214))
        self.across = rng.random() < 0.4  # look across the street rather than along it
        self.road = rng.uniform(3.5, 6.0)  # half width
        self.pavement = rng.uniform(2.5, 4.5)
        if self.across:  # z of the road's near edge
            self.kerb = rng.uniform(2.5, 6.0)
        else:  # x of the road's centre
            self.kerb = rng.uniform(-1, 1) * (self.road + 2)
        self.lamps: list[tuple[int, int, float, Color, int]] = []
        self.picture = Image.new("RGB", (self.width, self.height))
        self.ids = Image.new("L", (self.width, self.height))
        self.brushes = ImageDraw.Draw(self.picture), ImageDraw.Draw(self.ids)

    def tone(self, color: Color, z: float = 0.0, lit: bool = False) -> Color:
        """The colour under the scene's light, seen through z metres of air."""
        if not lit:
            color = tuple(round(c * a) for c, a in zip(color, self.ambient, strict=True))
        return _mix(color, self.haze, 1 - math.exp(-z / self.sight)) if z else color

    def point(self, x: float, y: float, z: float) -> tuple[int, int]:
        scale = self.focal / z
        return round(self.vanish + x * scale), round(self.horizon + (self.camera - y) * scale)

    def paint(self, shape: str, where: list, color: Color, owner: int = 0, **style: object) -> None:
        """Draws a shape of ImageDraw on the picture and, as its owner, on the id buffer."""
        key = "outline" if shape == "arc" else "fill"
        for brush, ink in zip(self.brushes, (color, owner), strict=True):
            getattr(brush, "ellipse" if shape == "arc" else shape)(where, **{key: ink}, **style)


class Pen:
    """Draws one sprite in its own metres: x from its middle, y up from its ground contact."""

    def __init__(self, stage: Stage, x: float, z: float, owner: int = 0, flip: int = 1):
        self.stage, self.z, self.owner = stage, z, owner
        self.scale, self.flip = stage.focal / z, flip
        self.x0, self.y0 = stage.point(x, 0, z)

    def at(self, x: float, y: float) -> tuple[int, int]:
        return round(self.x0 + self.flip * x * self.scale), round(self.y0 - y * self.scale)

    def _box(self, x0: float, y0: float, x1: float, y1: float) -> list[tuple[int, int]]:
        (u0, v0), (u1, v1) = self.at(x0, y0), self.at(x1, y1)
        return [(min(u0, u1), min(v0, v1)), (max(u0, u1), max(v0, v1))]

    def _paint(
        self, shape: str, where: list, color: Color, lit: bool = False, **style: object
    ) -> None:
        self.stage.paint(shape, where, self.stage.tone(color, self.z, lit), self.owner, **style)

    def rect(
        self, x0: float, y0: float, x1: float, y1: float, color: Color, lit: bool = False
    ) -> None:
        self._paint("rectangle", self._box(x0, y0, x1, y1), color, lit)

    def oval(
        self, x0: float, y0: float, x1: float, y1: float, color: Color, lit: bool = False
    ) -> None:
        self._paint("ellipse", self._box(x0, y0, x1, y1), color, lit)

    def disc(self, x: float, y: float, r: float, color: Color, lit: bool = False) -> None:
        self.oval(x - r, y - r, x + r, y + r, color, lit)

    def ring(self, x: float, y: float, r: float, thick: float, color: Color) -> None:
        box = self._box(x - r, y - r, x + r, y + r)
        self._paint("arc", box, color, width=max(1, round(thick * self.scale)))

    def poly(self, points: list[tuple[float, float]], color: Color) -> None:
        self._paint("polygon", [self.at(*p) for p in points], color)

    def line(self, points: list[tuple[float, float]], thick: float, color: Color) -> None:
        """A limb or bar: a polyline with round joints and ends."""
        width = max(1, round(thick * self.scale))
        self._paint("line", [self.at(*p) for p in points], color, width=width, joint="curve")
        if width > 3:
            for x, y in (points[0], points[-1]):
                self.disc(x, y, thick / 2, color)

    def lamp(self, x: float, y: float, r: float, color: Color) -> None:
        """A light source: keeps its colour at night and gets a glow there."""
        self.disc(x, y, r, color, lit=True)
        self.stage.lamps.append((*self.at(x, y), r * self.scale, color, self.owner))

    def shadow(self, half: float) -> None:
        """Darkens the ground under the sprite; no part of the object."""
        stage, spot = self.stage, self._box(-half, -0.04 - half / 20, half, 0.04 + half / 20)
        x, y = min(max(self.x0, 0), stage.width - 1), min(max(self.y0, 0), stage.height - 1)
        stage.paint("ellipse", spot, _shade(stage.picture.getpixel((x, y)), 0.6))


# ---------------------------------------------------------------------- objects
# A sprite is drawn by f(pen, rng, front). front: seen along the street, from ahead or behind.
# fmt: off


def _wheel(pen: Pen, x: float, r: float) -> None:
    for part, color in ((1.0, RUBBER), (0.55, (165, 168, 172)), (0.2, (70, 72, 75))):
        pen.disc(x, r, r * part, color)


def _nose(pen: Pen, paint: Color, half: float, top: float, lamp_y: float, lamp: Color) -> None:
    """The end of a car: tyres, body, bumper, plate, two lamps."""
    pen.shadow(half * 1.08)
    for s in (-1, 1):
        pen.rect(s * half * 0.66, 0, s * half * 0.94, 0.4, RUBBER)
    pen.poly([(-half * 0.96, 0.25), (-half, 0.7), (-half * 0.9, top), (half * 0.9, top),
              (half, 0.7), (half * 0.96, 0.25)], paint)
    pen.rect(-half * 0.96, 0.22, half * 0.96, 0.4, _shade(paint, 0.6))
    pen.rect(-0.24, 0.3, 0.24, 0.42, (236, 232, 205))
    for s in (-1, 1):
        pen.lamp(s * half * 0.76, lamp_y, 0.14, lamp)


def _head(pen: Pen, rng: np.random.Generator, x: float, y: float, skin: Color) -> None:
    pen.oval(x - 0.13, y - 0.16, x + 0.13, y + 0.16, skin)
    if rng.random() < 0.6:
        for s in (-1, 1):
            pen.disc(x + s * 0.05, y + 0.01, 0.018, (30, 24, 22))
    hair = _pick(rng, HAIR if rng.random() < 0.75 else CLOTHES)  # hair, or a cap or helmet
    pen.poly([(x - 0.14, y), (x - 0.13, y + 0.12), (x, y + 0.19), (x + 0.13, y + 0.11),
              (x + 0.14, y + 0.05), (x, y + 0.08), (x - 0.07, y - 0.02)], hair)


def _person(pen: Pen, rng: np.random.Generator, front: bool) -> None:
    pen.scale *= rng.choice([0.68, 0.95, 1.0, 1.06], p=[0.12, 0.26, 0.36, 0.26])  # child, adults
    skin, top, legs = _pick(rng, SKIN, 8), _pick(rng, CLOTHES), _pick(rng, TROUSERS, 10)
    stride = rng.uniform(0.06, 0.12) if front else rng.uniform(0.12, 0.34)
    pen.shadow(0.32)
    for foot, shade in ((-stride, 0.8), (stride, 1.0)):
        knee = (foot * 0.5 + (0.0 if front else 0.07), 0.46)
        pen.line([(foot * 0.3, 0.86), knee, (foot, 0.08)], 0.15, _shade(legs, shade))
        pen.oval(foot - 0.08, 0, foot + (0.08 if front else 0.16), 0.1, (40, 34, 32))
    wide = 0.21 if front else 0.16
    arms = rng.choice(["swing", "wave", "carry", "hips"], p=[0.55, 0.12, 0.2, 0.13])
    for s in (-1, 1):
        shoulder, low = (s * wide * 0.95, 1.36), (s * (wide + 0.07 + stride * 0.35), 0.84)
        elbow = (s * (wide + 0.08), 1.1)
        if arms == "wave" and s > 0:
            elbow, low = (wide + 0.17, 1.45), (wide + 0.24, 1.76)
        elif arms == "hips":
            elbow, low = (s * (wide + 0.22), 1.1), (s * wide, 0.92)
        pen.line([shoulder, elbow, low], 0.11, _shade(top, 0.86))
        pen.disc(*low, 0.065, skin)
    if arms == "carry":
        bag = _pick(rng, CLOTHES)
        pen.rect(wide + 0.02, 0.42, wide + 0.32, 0.78, bag)
        pen.line([(wide + 0.08, 0.78), (wide + 0.17, 0.9), (wide + 0.26, 0.78)], 0.03, bag)
    hem, flare = (0.5, 0.1) if rng.random() < 0.25 else (0.78, 0.0)  # coat or dress, or shirt
    pen.poly([(-wide, 1.4), (-0.1, 1.46), (0.1, 1.46), (wide, 1.4), (wide * 0.9, 0.95),
              (wide * 0.9 + flare, hem), (-wide * 0.9 - flare, hem), (-wide * 0.9, 0.95)], top)
    pen.rect(-0.05, 1.42, 0.05, 1.5, _shade(skin, 0.85))
    _head(pen, rng, 0.0, 1.6, skin)


def _rider(pen: Pen, rng: np.random.Generator, front: bool) -> None:
    """A person on a bicycle."""
    hip, hand = 0.92, 0.4  # height of the saddle, reach of the handlebar
    skin, top, legs = _pick(rng, SKIN, 8), _pick(rng, CLOTHES), _pick(rng, TROUSERS, 10)
    if front:
        for s in (-1, 1):
            pen.line([(s * 0.1, hip), (s * 0.2, hip - 0.28), (s * 0.14, 0.24)], 0.14, legs)
            pen.line([(s * 0.18, hip + 0.5), (s * 0.33, hip + 0.26), (s * 0.3, 1.04)], 0.1, top)
        pen.poly([(-0.2, hip + 0.55), (0.2, hip + 0.55), (0.16, hip), (-0.16, hip)], top)
        return _head(pen, rng, 0.0, hip + 0.72, skin)
    neck = (hand * 0.25, hip + 0.55)
    pen.line([(-0.2, hip), (0.14, hip - 0.2), (-0.02, 0.26)], 0.15, legs)
    pen.oval(-0.08, 0.16, 0.18, 0.26, (40, 34, 32))
    pen.line([(-0.2, hip + 0.05), neck], 0.27, top)
    pen.line([neck, (hand * 0.62, hip + 0.22), (hand, 1.03)], 0.1, _shade(top, 0.8))
    pen.disc(hand, 1.03, 0.06, skin)
    _head(pen, rng, neck[0] + 0.07, neck[1] + 0.26, skin)


def _bicycle(pen: Pen, rng: np.random.Generator, front: bool) -> None:
    paint = _pick(rng, PAINT)
    pen.shadow(0.25 if front else 0.8)
    if front:
        pen.oval(-0.045, 0, 0.045, 0.68, RUBBER)
        pen.line([(0, 0.36), (0, 0.98)], 0.07, paint)
        pen.line([(-0.3, 0.98), (-0.1, 1.04), (0.1, 1.04), (0.3, 0.98)], 0.05, (60, 60, 62))
        return pen.lamp(0, 0.9, 0.06, WHITE_LIGHT)
    for x in (-0.53, 0.53):
        pen.ring(x, 0.35, 0.35, 0.055, RUBBER)
        for dx, dy in ((0.3, 0), (0, 0.3), (0.21, 0.21), (0.21, -0.21)):
            pen.line([(x - dx, 0.35 - dy), (x + dx, 0.35 + dy)], 0.008, (150, 152, 155))
    crank, seat, steer, rear = (-0.06, 0.32), (-0.2, 0.8), (0.36, 0.82), (-0.53, 0.35)
    pen.line([rear, crank, steer, (-0.18, 0.76), rear], 0.05, paint)
    pen.line([crank, seat, (-0.22, 0.9)], 0.05, paint)
    pen.line([(0.53, 0.35), steer, (0.33, 1.0), (0.46, 1.03)], 0.045, _shade(paint, 0.75))
    pen.line([(-0.36, 0.92), (-0.1, 0.91)], 0.07, RUBBER)
    pen.disc(*crank, 0.09, STEEL)


def _car(pen: Pen, rng: np.random.Generator, front: bool) -> None:
    paint, roof = _pick(rng, CAR_PAINT), rng.uniform(1.38, 1.68)
    if front:
        behind = rng.random() < 0.5
        pen.poly([(-0.8, 0.9), (-0.62, roof), (0.62, roof), (0.8, 0.9)], paint)
        pen.poly([(-0.7, 0.92), (-0.55, roof - 0.1), (0.55, roof - 0.1), (0.7, 0.92)], GLASS)
        pen.poly([(-0.45, 0.92), (-0.3, roof - 0.1), (0, roof - 0.1), (-0.15, 0.92)], GLARE)
        for s in (-1, 1):
            pen.rect(s * 0.78, 0.92, s * 0.98, 1.06, _shade(paint, 0.7))
        _nose(pen, paint, 0.91, 0.94, 0.66, RED_LIGHT if behind else WHITE_LIGHT)
        return None if behind else pen.rect(-0.42, 0.48, 0.42, 0.64, RUBBER)
    pen.shadow(2.25)
    tail = rng.choice([-1.95, -1.6, -1.2])  # estate, hatchback, saloon
    pen.rect(-2.0, 0.2, 2.0, 0.5, (34, 34, 37))
    pen.poly([(tail - 0.1, 0.88), (tail + 0.25, roof), (0.35, roof), (1.05, 0.88)], paint)
    pen.poly([(tail + 0.12, 0.92), (tail + 0.36, roof - 0.1), (-0.42, roof - 0.1),
              (-0.42, 0.92)], GLASS)
    pen.poly([(-0.32, 0.92), (-0.32, roof - 0.1), (0.28, roof - 0.1), (0.85, 0.92)], GLASS)
    pen.poly([(-2.12, 0.34), (-2.15, 0.8), (-2.0, 0.94), (1.1, 0.94), (1.95, 0.8), (2.15, 0.6),
              (2.12, 0.3)], paint)
    pen.rect(-2.1, 0.3, 2.1, 0.42, _shade(paint, 0.62))
    pen.line([(-2.0, 0.76), (1.9, 0.7)], 0.03, _shade(paint, 1.25))
    pen.line([(-0.37, 0.4), (-0.37, 0.92)], 0.025, _shade(paint, 0.6))
    for x in (-1.32, 1.32):
        pen.disc(x, 0.36, 0.42, (30, 30, 33))
        _wheel(pen, x, 0.33)
    pen.lamp(2.02, 0.66, 0.1, WHITE_LIGHT)
    pen.lamp(-2.06, 0.74, 0.09, RED_LIGHT)


def _traffic_light(pen: Pen, rng: np.random.Generator, front: bool) -> None:
    base, owner = rng.uniform(2.0, 2.9), pen.owner
    pen.owner = 0
    pen.rect(-0.06, 0, 0.06, base + 0.1, (84, 88, 92))
    pen.owner = owner
    case = _pick(rng, _palette("24282c 2d3a34 c9a227"), 6)
    pen.rect(-0.24, base, 0.24, base + 1.25, case)
    on = int(rng.choice(3, p=[0.45, 0.15, 0.4]))
    for i, color in enumerate([(255, 52, 40), (255, 190, 30), (40, 225, 120)]):
        y = base + 1.02 - 0.4 * i
        pen.disc(0, y, 0.17, (12, 12, 14))
        if i == on:
            pen.lamp(0, y, 0.16, color)
        else:
            pen.disc(0, y, 0.14, _shade(color, 0.22))


def _hydrant(pen: Pen, rng: np.random.Generator, front: bool) -> None:
    paint = _pick(rng, _palette("d0261c d0261c e0b020 e06a1c"), 12)
    dark = _shade(paint, 0.65)
    pen.shadow(0.28)
    pen.rect(-0.22, 0, 0.22, 0.1, dark)
    pen.rect(-0.16, 0.1, 0.16, 0.68, paint)
    pen.rect(-0.16, 0.1, -0.08, 0.68, _shade(paint, 1.25))
    pen.rect(-0.3, 0.42, 0.3, 0.58, dark)
    pen.oval(-0.2, 0.58, 0.2, 0.9, paint)
    pen.rect(-0.21, 0.64, 0.21, 0.71, dark)
    pen.rect(-0.05, 0.86, 0.05, 0.96, dark)
    pen.disc(0, 0.5, 0.1, _shade(paint, 1.35))
    pen.disc(0, 0.5, 0.05, dark)


def _stop_sign(pen: Pen, rng: np.random.Generator, front: bool) -> None:
    y, owner = rng.uniform(1.7, 2.3), pen.owner
    pen.owner, pen.flip = 0, 1  # writing is never mirrored
    pen.rect(-0.045, 0, 0.045, y, (150, 153, 156))
    pen.owner = owner
    red, white = _pick(rng, [(200, 24, 30)], 14), (244, 244, 240)
    turns = [math.pi * (k + 0.5) / 4 for k in range(8)]
    for r, color in ((0.5, white), (0.45, red)):
        pen.poly([(r * math.cos(a), y + r * math.sin(a)) for a in turns], color)
    d = 0.13
    letters = {-0.285: [(0.07, d), (-0.07, d), (-0.07, 0), (0.07, 0), (0.07, -d), (-0.07, -d)],
               -0.095: [(-0.08, d), (0.08, d), (0, d), (0, -d)],
               0.095: [(-0.06, -d), (-0.06, d), (0.06, d), (0.06, -d), (-0.06, -d)],
               0.285: [(-0.06, -d), (-0.06, d), (0.07, d), (0.07, 0), (-0.06, 0)]}
    for x, stroke in letters.items():
        pen.line([(x + u, y + v) for u, v in stroke], 0.045, white)


def _dog(pen: Pen, rng: np.random.Generator, front: bool) -> None:
    fur = _pick(rng, FUR, 12)
    dark, step = _shade(fur, 0.7), rng.uniform(0.0, 0.12)
    pen.shadow(0.42)
    for x, swing, shade in ((-0.3, -step, dark), (0.22, step, dark), (-0.26, step, fur),
                            (0.26, -step, fur)):
        pen.line([(x, 0.38), (x + swing * 0.3, 0.2), (x + swing, 0.04)], 0.09, shade)
    pen.line([(-0.36, 0.5), (-0.5, 0.62), (-0.54, 0.76)], 0.06, fur)
    pen.oval(-0.42, 0.28, 0.38, 0.58, fur)
    if rng.random() < 0.4:
        pen.oval(-0.2, 0.38, 0.08, 0.58, _pick(rng, FUR))
    pen.line([(0.26, 0.46), (0.42, 0.68)], 0.19, fur)
    pen.oval(0.3, 0.6, 0.58, 0.84, fur)
    pen.line([(0.5, 0.68), (0.66, 0.66)], 0.11, fur)
    pen.disc(0.71, 0.68, 0.035, (20, 18, 18))
    pen.disc(0.5, 0.75, 0.022, (20, 18, 18))
    pen.oval(0.32, 0.58, 0.44, 0.82, dark)
    pen.line([(0.3, 0.6), (0.42, 0.53)], 0.05, _pick(rng, PAINT))  # collar


# ------------------------------------------------------------ clutter, never annotated


def _tree(pen: Pen, rng: np.random.Generator) -> None:
    height, leaf = rng.uniform(3.5, 7.0), _pick(rng, LEAVES)
    pen.shadow(0.8)
    pen.line([(0, 0), (0, height * 0.6)], 0.26, (84, 62, 44))
    for k in (0.75, 0.9, 1.0, 1.18):
        for _ in range(3):
            x, y = rng.uniform(-0.2, 0.2) * height, height * rng.uniform(0.55, 0.95)
            pen.disc(x, y + 0.15 * k, height * 0.17, _shade(leaf, k))


def _lamp_post(pen: Pen, rng: np.random.Generator) -> None:
    pen.rect(-0.06, 0, 0.06, 4.6, (74, 78, 82))
    pen.line([(0, 4.6), (0.8, 4.8)], 0.09, (74, 78, 82))
    if pen.stage.light == "day":
        pen.disc(0.85, 4.75, 0.14, (210, 210, 205))
    else:
        pen.lamp(0.85, 4.75, 0.16, WARM_LIGHT)


def _bin(pen: Pen, rng: np.random.Generator) -> None:
    paint = _pick(rng, _palette("3c5a46 4a4f55 35557a 7a4a32"))
    pen.poly([(-0.26, 0), (0.26, 0), (0.32, 0.85), (-0.32, 0.85)], paint)
    pen.rect(-0.35, 0.85, 0.35, 0.98, _shade(paint, 0.7))


def _boxes(pen: Pen, rng: np.random.Generator) -> None:
    for x, y in ((-0.35, 0), (0.3, 0), (-0.05, 0.5)):
        paint = _pick(rng, [(176, 132, 84)])
        pen.rect(x - 0.3, y, x + 0.3, y + 0.5, paint)
        pen.rect(x - 0.05, y, x + 0.05, y + 0.5, _shade(paint, 0.8))


def _billboard(pen: Pen, rng: np.random.Generator) -> None:
    for x in (-1.2, 1.2):
        pen.rect(x - 0.06, 0, x + 0.06, 2.0, (92, 92, 96))
    pen.rect(-1.7, 1.6, 1.7, 3.4, (236, 236, 232))
    pen.rect(-1.6, 1.7, 1.6, 3.3, _pick(rng, PAINT))
    pen.disc(rng.uniform(-0.9, 0.9), 2.5, 0.55, _pick(rng, CLOTHES))
    pen.rect(-1.3, 1.85, 1.3, 2.05, _pick(rng, CLOTHES))


def _clutter(pen: Pen, rng: np.random.Generator, front: bool) -> None:
    sorts = [_tree, _tree, _lamp_post, _lamp_post, _bin, _boxes, _billboard]
    sorts[rng.integers(len(sorts))](pen, rng)


def _crowd(pen: Pen, rng: np.random.Generator, front: bool) -> None:
    """Many small people who overlap, under one owner."""
    for depth in np.sort(rng.uniform(0, 2.5, rng.integers(14, 30)))[::-1].tolist():
        x = pen.flip * rng.uniform(-2.6, 2.6) + (pen.x0 - pen.stage.vanish) / pen.scale
        _person(Pen(pen.stage, x, pen.z + depth, pen.owner), rng, bool(rng.random() < 0.5))


# fmt: on


class Kind(NamedTuple):
    """How a class is drawn and how often; lengths in metres, seen from the side or the front."""

    draw: Callable[[Pen, np.random.Generator, bool], None]
    weight: float
    zone: str  # the ground it stands on: "road", "pavement" or "any"
    side: float  # its longer side
    front: float
    wide: float  # its width from the front
    middle: float  # height of its middle, which is always in the picture
    largest: float  # longer side, as a fraction of the image's mean side


KINDS = {
    "person": Kind(_person, 0.13, "any", 1.78, 1.78, 0.6, 0.95, 1.2),
    "bicycle": Kind(_bicycle, 0.11, "any", 1.76, 1.05, 0.6, 0.5, 0.9),
    "car": Kind(_car, 0.19, "road", 4.3, 1.9, 1.9, 0.75, 1.0),
    "traffic light": Kind(_traffic_light, 0.08, "pavement", 1.25, 1.25, 0.48, 2.9, 0.4),
    "fire hydrant": Kind(_hydrant, 0.07, "pavement", 0.96, 0.96, 0.6, 0.45, 0.55),
    "stop sign": Kind(_stop_sign, 0.07, "pavement", 1.0, 1.0, 1.0, 2.0, 0.4),
    "dog": Kind(_dog, 0.10, "any", 1.25, 1.25, 1.25, 0.45, 0.6),
    # Weight 0: a far group, annotated as a crowd of persons, and things that nobody annotates.
    "crowd": Kind(_crowd, 0.0, "any", 5.0, 5.0, 5.0, 0.9, 0.35),
    "clutter": Kind(_clutter, 0.0, "pavement", 2.0, 2.0, 0.8, 1.0, 0.3),
}


# ------------------------------------------------------------------- background


def _sky(stage: Stage, rng: np.random.Generator) -> None:
    low, high = {
        "day": [((222, 232, 238), (96, 158, 220)), ((226, 228, 228), (168, 178, 188))],
        "dusk": [((255, 196, 140), (104, 104, 160)), ((240, 170, 150), (80, 90, 140))],
        "night": [((48, 52, 78), (10, 14, 34)), ((60, 50, 66), (16, 16, 28))],
    }[stage.light][rng.integers(2)]
    y = np.linspace(1, 0, round(stage.horizon) + 1)[:, None, None] ** 1.2
    rows = np.array(low) + (np.array(high, float) - low) * y
    if stage.sight < 100:
        rows = rows * 0.25 + np.array(stage.haze) * 0.75
    rows = np.broadcast_to(rows, (len(rows), stage.width, 3))
    stage.picture.paste(Image.fromarray(rows.astype(np.uint8)))
    for _ in range(rng.integers(0, 5) if stage.sight > 100 else 0):
        x, y, r = stage.width * rng.random(), stage.horizon * rng.uniform(0, 0.7), stage.side / 22
        color = stage.picture.getpixel((min(int(x), stage.width - 1), int(y)))
        for dx in (-1.6, -0.5, 0.7, 1.7):
            u, v = x + dx * r, y - rng.random() * r * 0.5
            spot = [u - r, v - r * 0.4, u + r, v + r * 0.4]
            stage.paint("ellipse", spot, _mix(color, stage.tone((250, 250, 250)), 0.4))
    for x in range(-20, stage.width, max(8, stage.width // 22)):  # the town's far outline
        top = stage.horizon - stage.side * rng.uniform(0.02, 0.1)
        spot = [x, top, x + stage.width // 14, stage.horizon + 2]
        stage.paint("rectangle", spot, stage.tone(_pick(rng, [(128, 140, 152)], 10), 60))


def _slab(stage: Stage, x: tuple[float, float], z: tuple[float, float], color: Color) -> None:
    """A rectangle of ground, in bands when there is fog, so that it fades with the distance."""
    near, far = max(z[0], 1.0), max(z[1], 1.0)
    while near < far:
        edge = far if stage.sight > 100 else min(far, near * 1.25)
        corners = [(x[0], near), (x[1], near), (x[1], edge), (x[0], edge)]
        points = [stage.point(u, 0, w) for u, w in corners]
        stage.paint("polygon", points, stage.tone(color, (near * edge) ** 0.5))
        near = edge


def _ground(stage: Stage, rng: np.random.Generator) -> None:
    base = _pick(rng, _palette("6f8f4e 8a8a80 7d9457"), 10)  # grass or bare ground
    stone = _pick(rng, _palette("a9a49b b7afa3 989aa0"), 8)
    tar, white = _pick(rng, _palette("55575c 626469 4a4c52"), 6), (226, 226, 220)
    wide = (-150.0, 150.0)

    def strip(a: float, b: float, along: tuple[float, float], color: Color) -> None:
        """From a to b across the road, over a range along it."""
        if stage.across:
            _slab(stage, along, (a, b), color)
        else:
            _slab(stage, (a, b), along, color)

    middle = stage.kerb + stage.road if stage.across else stage.kerb
    reach = wide if stage.across else (1.0, 250.0)
    low, high = middle - stage.road, middle + stage.road
    _slab(stage, (-5000.0, 5000.0), (1.0, 4000.0), base)
    strip(low - stage.pavement - 5 * stage.across, high + stage.pavement, reach, stone)
    strip(low - 0.18, high + 0.18, reach, _shade(stone, 1.2))
    strip(low, high, reach, tar)
    for _ in range(rng.integers(2, 6)):  # patches and puddles
        z, x = rng.uniform(6, 20), rng.uniform(-6, 6)
        (u0, v0), (u1, v1) = stage.point(x, 0, z + 0.6), stage.point(x + rng.uniform(1, 3), 0, z)
        patch = _mix(tar, _pick(rng, [(40, 42, 46), (130, 150, 170)]), 0.35)
        stage.paint("ellipse", [u0, v0, u1, v1], stage.tone(patch, z))
    dash, start = rng.uniform(1.5, 3.0), -60.0 if stage.across else 1.0
    for k in range(20):
        a = start + (2 * k + 1) * dash * (1.5 if stage.across else 1)
        strip(middle - 0.08, middle + 0.08, (a, a + dash), white)
    for edge in (low + 0.3, high - 0.4):
        strip(edge, edge + 0.1, reach, white)
    if rng.random() < 0.4:  # zebra crossing
        a = rng.uniform(-6, 3) if stage.across else rng.uniform(5, 16)
        for x in np.arange(low + 0.5, high - 0.5, 1.0).tolist():
            strip(x, x + 0.5, (a, a + 2.6), white)


def _facade(
    stage: Stage, rng: np.random.Generator, corner: Callable, length: float, height: float, z: float
) -> None:
    """A wall with rows of windows; corner(u, v) maps metres along and up the wall to a pixel."""
    wall, shop = _pick(rng, WALLS), rng.random() < 0.5
    glow = {"day": 0.0, "dusk": 0.25, "night": 0.45}[stage.light]

    def quad(u0: float, v0: float, u1: float, v1: float, color: Color, lit: bool = False) -> None:
        points = [corner(u0, v0), corner(u1, v0), corner(u1, v1), corner(u0, v1)]
        stage.paint("polygon", points, stage.tone(color, z, lit))

    quad(0, 0, length, height, wall)
    quad(0, height - 0.5, length, height, _shade(wall, 0.8))
    columns = int(length / rng.uniform(1.9, 3.0))
    step = length / columns
    for v in np.arange(3.6, height - 2.0, 2.9).tolist():
        for k in range(columns):
            lit = rng.random() < glow
            pane = WARM_LIGHT if lit else _shade(GLASS, rng.uniform(0.8, 1.35))
            quad((k + 0.25) * step, v, (k + 0.75) * step, v + 1.6, pane, lit)
    if shop:
        lit = stage.light != "day"
        quad(0.4, 0.5, length - 0.4, 2.3, WARM_LIGHT if lit else _shade(GLASS, 1.2), lit)
        quad(0.2, 2.3, length - 0.2, 2.9, _pick(rng, CLOTHES))
    door = rng.uniform(0.5, length - 1.8)
    quad(door, 0, door + 1.2, 2.2, _pick(rng, _palette("5a3a28 2f4a3c 3a3f4a")))


def _buildings(stage: Stage, rng: np.random.Generator) -> None:
    if stage.across:
        z = stage.kerb + 2 * stage.road + stage.pavement
        x, end = -stage.vanish / stage.focal * z, (stage.width - stage.vanish) / stage.focal * z
        x -= rng.uniform(0, 5)
        while x < end:
            length, height = rng.uniform(6, 13), rng.uniform(5, 16)
            if rng.random() < 0.8:
                _facade(stage, rng, lambda u, v, x=x: stage.point(x + u, v, z), length, height, z)
            x += length
        return
    for side in (-1, 1):
        if rng.random() < 0.3:  # a park on this side
            for z in range(60, 6, -9):
                x = stage.kerb + side * (stage.road + stage.pavement + rng.uniform(2, 9))
                _tree(Pen(stage, x, z + rng.uniform(0, 5)), rng)
            continue
        x = stage.kerb + side * (stage.road + stage.pavement)
        for z in range(74, 1, -12):
            height = rng.uniform(5, 19)
            gable = [stage.point(x, 0, z), stage.point(x + side * 12, 0, z),
                     stage.point(x + side * 12, height, z), stage.point(x, height, z)]  # fmt: skip
            if rng.random() < 0.85:
                stage.paint("polygon", gable, stage.tone(_shade(_pick(rng, WALLS), 0.7), z))
                _facade(stage, rng, lambda u, v, z=z, x=x: stage.point(x, v, z + u), 12, height, z)


# ------------------------------------------------------------------ composition


class _Item(NamedTuple):
    """Something placed on the ground."""

    z: float
    x: float
    half: float  # half its width, metres
    name: str  # in KINDS
    front: bool


def _span(
    stage: Stage, zone: str, z: float, margin: float, rng: np.random.Generator
) -> list[float] | None:
    """The x range of a zone at depth z that the camera sees, less a margin in metres, or None."""
    left, right = -stage.vanish / stage.focal * z, (stage.width - stage.vanish) / stage.focal * z
    left, right = left + margin, right - margin
    if stage.across:
        on_road = stage.kerb < z < stage.kerb + 2 * stage.road
        last = stage.kerb + 2 * stage.road + stage.pavement - 0.3
        fits = z < last and (zone == "any" or on_road == (zone == "road"))
        return [left, right] if fits and left < right else None
    low, high = stage.kerb - stage.road, stage.kerb + stage.road
    if zone == "road":
        low, high = low + 1, high - 1
    elif zone == "any":
        low, high = low - stage.pavement, high + stage.pavement
    else:
        side = rng.random() < 0.5
        low, high = (high, high + stage.pavement) if side else (low - stage.pavement, low)
    low, high = max(low, left), min(high, right)
    return [low, high] if low < high else None


def _hidden(a: _Item, b: _Item) -> float:
    """Share of the farther one's width that the nearer one covers in the picture."""
    near, far = sorted((a, b))
    low = max((near.x - near.half) / near.z, (far.x - far.half) / far.z)
    high = min((near.x + near.half) / near.z, (far.x + far.half) / far.z)
    return max(high - low, 0) / (2 * far.half / far.z)


def _place(stage: Stage, rng: np.random.Generator, name: str, items: list[_Item]) -> _Item | None:
    """Finds room for an object: a size in the picture gives its depth, its zone gives x."""
    kind = KINDS[name]
    limit = 0.7 if rng.random() < 0.2 else 0.25  # most objects stand rather free
    inside = 0.0 if rng.random() < 0.1 else 0.8  # share of half the width that the frame keeps
    for _ in range(24):
        front = bool(rng.random() < (0.25 if stage.across else 0.5))
        half = 0.45 * (kind.wide if front else kind.side)
        size = 0.08 * (kind.largest / 0.08) ** (rng.random() ** 0.38) * stage.side
        z = max(stage.focal * (kind.front if front else kind.side) / size, 1.6)
        span = _span(stage, kind.zone, z, inside * half, rng)
        if span is None or not 0 < stage.point(0, kind.middle, z)[1] < stage.height:
            continue
        x = rng.uniform(*span)
        item = _Item(z, x, half, name, front)
        apart = (abs(x - it.x) > half + it.half or abs(z - it.z) > 0.08 * z + 0.5 for it in items)
        if all(apart) and all(_hidden(item, it) < limit for it in items):
            return item
    return None


def _layout(stage: Stage, rng: np.random.Generator) -> list[_Item]:
    """What stands where, far to near."""
    names = ["clutter"] * int(rng.integers(2, 6))
    if rng.random() > 0.05:
        if rng.random() < 0.12:
            names.append("crowd")
        weights = np.array([kind.weight for kind in KINDS.values()])
        count = int(rng.integers(4, 15))  # not all find room
        names += rng.choice(list(KINDS), count, p=weights / weights.sum()).tolist()
    items: list[_Item] = []
    for name in reversed(names):  # objects choose their place before the clutter
        item = _place(stage, rng, name, items)
        if item:
            items.append(item)
    return sorted(items, reverse=True)


def _paint_items(stage: Stage, rng: np.random.Generator, items: list[_Item]) -> list[Painted]:
    """Paints the items; returns what is known of each object before others hide it."""
    painted: list[Painted] = []

    def own(name: str, draw: Callable, front: bool) -> None:
        owner = len(painted) + 1
        pen.owner = owner
        draw(pen, rng, front)
        painted.append((name, owner, int(np.count_nonzero(np.asarray(stage.ids) == owner))))

    for item in items:
        pen = Pen(stage, item.x, item.z, flip=int(rng.choice([-1, 1])))
        if item.name == "clutter":
            _clutter(pen, rng, item.front)
            continue
        own(item.name, KINDS[item.name].draw, item.front)
        if item.name == "bicycle" and rng.random() < 0.35:
            own("person", _rider, item.front)
    return painted


def _annotate(ids: np.ndarray, painted: list[Painted]) -> list[SceneObject]:
    """Hulls of the visible pixels of the supersampled id buffer (H, W), in image pixels."""
    objects = []
    for name, owner, pixels in painted:
        mask = ids == owner
        visible = int(np.count_nonzero(mask))
        if visible == 0 or visible < MIN_VISIBLE * pixels:
            continue
        xs, ys = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        edges = (xs[0], ys[0], xs[-1] + 1, ys[-1] + 1)
        box = tuple(float(edge) / SUPERSAMPLE for edge in edges)
        if max(box[2] - box[0], box[3] - box[1]) >= MIN_SIDE:
            crowd = name == "crowd"
            objects.append(SceneObject("person" if crowd else name, box, crowd))
    return objects


def _blur(stage: Stage, rng: np.random.Generator, painted: list[Painted]) -> Image.Image:
    """The picture at its final size, in one of ten scenes with motion or out of focus."""
    picture = stage.picture.reduce(SUPERSAMPLE)
    chance, length = rng.random(), stage.side / SUPERSAMPLE * rng.uniform(0.004, 0.011)
    if chance < 0.04 and painted:  # one object moves
        mask = np.asarray(stage.ids) == painted[rng.integers(len(painted))][1]
        motion = ImageFilter.BoxBlur((length * 1.5, 0))
        soft = Image.fromarray(mask.astype(np.uint8) * 255).reduce(SUPERSAMPLE).filter(motion)
        picture.paste(picture.filter(motion), mask=soft)
    elif chance < 0.07:  # the camera moves
        return picture.filter(ImageFilter.BoxBlur((length, 0)))
    elif chance < 0.10:  # out of focus
        return picture.filter(ImageFilter.GaussianBlur(length * 0.45))
    return picture


def _add_glow(pixels: np.ndarray, stage: Stage) -> None:
    """Adds a halo to every light source that nothing hides; pixels (H, W, 3) float, in place."""
    for x, y, radius, color, owner in stage.lamps:
        inside = 0 <= x < stage.width and 0 <= y < stage.height
        if not inside or stage.ids.getpixel((x, y)) != owner:
            continue
        reach = int(2 + radius * (2.5 if stage.light == "night" else 1.2))
        u, v = x // SUPERSAMPLE, y // SUPERSAMPLE
        x0, y0 = max(u - reach, 0), max(v - reach, 0)
        spot = pixels[y0 : v + reach + 1, x0 : u + reach + 1]
        dy, dx = np.ogrid[y0 : y0 + spot.shape[0], x0 : x0 + spot.shape[1]]
        fall = np.clip(1 - ((dx - u) ** 2 + (dy - v) ** 2) / reach**2, 0, 1) ** 2
        spot += fall[..., None].astype(np.float32) * np.array(color, np.float32) * 0.55


def _rain(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """How much streaks of rain cover, (H, W, 1) float in 0..1."""
    veil = Image.new("L", (width, height))
    brush, slant = ImageDraw.Draw(veil), rng.uniform(-0.3, 0.3)
    for _ in range(width * height // 400):
        x, y, length = rng.random(3) * (width, height, height * 0.08)
        brush.line([x, y, x + slant * length, y + length], fill=int(rng.integers(40, 110)))
    return np.asarray(veil, np.float32)[..., None] / 255


def _conditions(stage: Stage, rng: np.random.Generator, painted: list[Painted]) -> np.ndarray:
    """Lens, weather and sensor: blur, glow, rain, exposure and noise; (H, W, 3) uint8."""
    picture = _blur(stage, rng, painted)
    pixels = np.asarray(picture).astype(np.float32)
    if stage.light != "day":
        _add_glow(pixels, stage)
    if rng.random() < 0.10:
        pixels = pixels * 0.9 + (215 - pixels) * _rain(rng, *picture.size)
    noise = rng.standard_normal(pixels.shape, np.float32) * np.float32(rng.uniform(1, 6))
    pixels = pixels * np.float32(rng.uniform(0.82, 1.15)) + noise
    return pixels.clip(0, 255).astype(np.uint8)


def _render(
    seed: int, index: int, width: int, height: int
) -> tuple[np.ndarray, list[SceneObject], np.ndarray]:
    """`draw_scene` with the supersampled id buffer (2H, 2W) in which every object has a number."""
    if min(width, height) < 96:
        raise ValueError(f"a scene needs at least 96 x 96 pixels, got {width} x {height}")
    rng = np.random.default_rng([seed, index])
    stage = Stage(rng, width, height)
    _sky(stage, rng)
    _ground(stage, rng)
    _buildings(stage, rng)
    painted = _paint_items(stage, rng, _layout(stage, rng))
    ids = np.asarray(stage.ids)
    return _conditions(stage, rng, painted), _annotate(ids, painted), ids


def draw_scene(
    seed: int, index: int, width: int = 320, height: int = 240
) -> tuple[np.ndarray, list[SceneObject]]:
    """Draws scene number `index` of the series `seed`; the same arguments give the same bytes.

    Args:
        seed: the series, for example one per split; not negative.
        index: the number of the scene in its series; not negative.
        width: pixels, at least 96.
        height: pixels, at least 96.

    Returns:
        The image, (H, W, 3) uint8 RGB, and its objects, far to near.

    Raises:
        ValueError: if the image is smaller than 96 pixels on a side.
    """
    image, objects, _ = _render(seed, index, width, height)
    return image, objects
