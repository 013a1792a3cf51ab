"""Finds vehicles and people in a frame with a pretrained network (nanodet, COCO's classes)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch

from .boxes import Array, Ints, Picture, suppress
from .graph import GraphModel
from .people import on_foot
from .tracking import Detections

_EXPORTED = (416, 416)
_STRIDES = (8, 16, 32)
_BINS = 11  # a side's distance is a distribution over 0..10 strides
_OUTPUTS = ["Identity", *(f"Identity_{number}" for number in range(1, 6))]
_MEAN_BGR = np.array([103.53, 116.28, 123.675], np.float32)
_STD_BGR = np.array([57.375, 57.12, 58.395], np.float32)
_PERSON, _BICYCLE = 0, 1
# COCO's number of each class here, to boxes.KINDS: car, motorcycle, bus, truck. COCO has no van.
_VEHICLES = {2: 0, 3: 4, 5: 3, 7: 2}
_OVERLAP = 0.6
_LEAST_VEHICLE = 0.2
_LEAST_PERSON = 0.2
"""Low on purpose: a shape wrongly taken for a person costs a blurred patch, a missed one a face."""


@dataclass(frozen=True)
class Found:
    """What a frame shows: vehicles, boxes (n, 4) px of people, and those of them who neither ride nor sit in one."""

    vehicles: Detections
    people: Array
    on_foot: Detections = field(default_factory=Detections.none)


class VehicleFinder:
    """The network on a GPU where torch has one, else on the CPU.

    `width` is how wide, in pixels, frames are made for the network: a multiple of 32; the height
    follows from the frame, so that a wide frame costs less than a square one.
    """

    def __init__(self, model: Path, width: int = 384) -> None:
        if width % 32 or width < 128:
            raise ValueError(f"network width {width} must be a multiple of 32, at least 128")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._width = width
        self._model = GraphModel(model, _OUTPUTS, _EXPORTED).eval().to(self.device)
        self._compiled: dict[int, torch.jit.ScriptModule] = {}
        self._bins = torch.arange(_BINS, dtype=torch.float32, device=self.device)

    def find(self, frame: Picture, top: int = 0) -> Found:
        """Find vehicles and people below row `top`; boxes are in pixels of the whole frame."""
        height, width = frame.shape[:2]
        scale = self._width / width
        padded = -(-round((height - top) * scale) // 32) * 32
        # What the padding would leave empty shows some more of the frame instead.
        top = max(min(top, height - int(padded / scale)), 0)
        rows = round((height - top) * scale)
        small = cv2.resize(frame[top:], (self._width, rows), interpolation=cv2.INTER_AREA)
        image = np.zeros((padded, self._width, 3), np.float32)
        image[:rows] = (small - _MEAN_BGR) / _STD_BGR
        tensor = torch.from_numpy(image).permute(2, 0, 1)[None].contiguous().to(self.device)
        with torch.no_grad():
            outputs = self._for_height(padded, tensor)(tensor)
            classes, scores, boxes = self._decode(outputs, padded)
        boxes = np.clip(boxes / scale + [0, top, 0, top], 0, [width, height, width, height])
        vehicles = _vehicles(classes, scores, boxes)
        people, sure = _of_class(_PERSON, classes, scores, boxes)
        bicycles, _ = _of_class(_BICYCLE, classes, scores, boxes)
        return Found(vehicles, people, on_foot(people, sure, vehicles, bicycles))

    def _for_height(self, height: int, example: torch.Tensor) -> torch.jit.ScriptModule:
        if height not in self._compiled:
            with warnings.catch_warnings():
                # Sizes become constants, as they may: there is one trace a size.
                warnings.simplefilter("ignore", torch.jit.TracerWarning)
                traced = torch.jit.trace(self._model, example, check_trace=False)
            self._compiled[height] = torch.jit.freeze(traced)
        return self._compiled[height]

    def _decode(self, outputs: list[torch.Tensor], height: int) -> tuple[Ints, Array, Array]:
        """Classes, scores and boxes (in the network's pixels) above the least score of interest."""
        least = min(_LEAST_PERSON, _LEAST_VEHICLE)
        interesting = [_PERSON, _BICYCLE, *_VEHICLES]
        found_classes, found_scores, found_boxes = [], [], []
        for level, stride in enumerate(_STRIDES):
            across = self._width // stride
            likely = outputs[level][0]
            best, classes = likely.max(1)
            wanted = (best > least) & sum(classes == number for number in interesting).bool()
            cells = wanted.nonzero()[:, 0]
            sides = outputs[level + 3][0][cells].view(-1, 4, _BINS)
            distance = (sides.softmax(2) * self._bins).sum(2) * stride
            x = (cells % across + 0.5) * stride
            y = (torch.div(cells, across, rounding_mode="floor") + 0.5) * stride
            left, top, right, bottom = distance.unbind(1)
            found_boxes.append(torch.stack([x - left, y - top, x + right, y + bottom], 1))
            found_scores.append(best[cells])
            found_classes.append(classes[cells])
        return (
            torch.cat(found_classes).cpu().numpy(),
            torch.cat(found_scores).cpu().numpy().astype(float),
            torch.cat(found_boxes).cpu().numpy().astype(float),
        )


def _vehicles(classes: Ints, scores: Array, boxes: Array) -> Detections:
    which = np.isin(classes, list(_VEHICLES)) & (scores > _LEAST_VEHICLE)
    classes, scores, boxes = classes[which], scores[which], boxes[which]
    # One vehicle may look like a car and a truck at once, so kinds suppress each other.
    keep = suppress(boxes, scores, _OVERLAP)
    kinds = np.array([_VEHICLES[int(number)] for number in classes[keep]], np.int64)
    return Detections(boxes[keep], scores[keep], kinds)


def _of_class(number: int, classes: Ints, scores: Array, boxes: Array) -> tuple[Array, Array]:
    """Boxes of a class, and their scores."""
    which = (classes == number) & (scores > _LEAST_PERSON)
    boxes, scores = boxes[which], scores[which]
    keep = suppress(boxes, scores, _OVERLAP)
    return boxes[keep], scores[keep]
