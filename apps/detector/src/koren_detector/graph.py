"""A TensorFlow.js graph model run as a torch module, without TensorFlow.

Only the operations that the pretrained detector uses are known; any other is refused by name when
the model is loaded. Tensors keep the graph's own layouts (NCHW with NHWC around convolutions):
a permuted view costs nothing, and torch then runs the convolutions in channels-last memory.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class GraphError(Exception):
    """The model files are missing, damaged, or use an operation that is not known here."""


@dataclass(frozen=True)
class Step:
    """One node of the graph: its name, operation, inputs and decoded attributes."""

    name: str
    op: str
    inputs: tuple[str, ...]
    attributes: dict[str, Any]


class GraphModel(torch.nn.Module):
    """The graph in `path` (its weights beside it), from its one placeholder to `outputs`.

    A graph is exported for one input size, `exported_size` (height, width), and holds it in the
    constants of its resize and reshape nodes. Here they follow the input instead: a resize keeps
    its scale, a reshape flattens the grid. Any size that is a multiple of the strides then works.
    """

    def __init__(self, path: Path, outputs: list[str], exported_size: tuple[int, int]) -> None:
        super().__init__()
        try:
            graph = json.loads(path.read_text())
            weights = _weights(graph["weightsManifest"], path.parent)
            nodes = {node["name"]: node for node in graph["modelTopology"]["node"]}
        except (OSError, ValueError, KeyError) as error:
            raise GraphError(f"model {path} cannot be read: {error}") from error
        self.outputs = outputs
        self.steps: list[Step] = []
        self.host: dict[str, Tensor] = {}
        self.scales: dict[str, tuple[float, float]] = {}
        self._names: dict[str, str] = {}
        order = _order(nodes, outputs)
        kernels = {_plain(nodes[name]["input"][1]) for name in order if nodes[name]["op"] == "Conv2D"}
        for name in order:
            node = nodes[name]
            if node["op"] == "Const":
                value = weights[name]
                if value.dtype != torch.float32 or value.numel() == 0:
                    # Sizes, axes and permutations steer Python code, so they stay on the host.
                    self.host[name] = value
                    continue
                if name in kernels:
                    value = value.permute(3, 2, 0, 1)  # HWIO to OIHW
                buffer = f"constant_{len(self._names)}"
                self._names[buffer] = name
                self.register_buffer(buffer, value.contiguous())
            else:
                if node["op"] not in OPERATIONS and node["op"] != "Placeholder":
                    raise GraphError(f"model {path}: operation {node['op']} is not supported")
                self.steps.append(Step(name, node["op"], tuple(node.get("input", ())), _attributes(node)))
        with torch.no_grad():
            self._run(torch.zeros(1, 3, *exported_size), learn=True)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Run the graph on `image` (1, 3, height, width); return its outputs in order."""
        return self._run(image, learn=False)

    def _run(self, image: Tensor, *, learn: bool) -> list[Tensor]:
        values: dict[str, Any] = dict(self.host)
        for buffer, name in self._names.items():
            values[name] = getattr(self, buffer)

        def value(reference: str) -> Tensor:
            name, _, index = reference.partition(":")
            found = values[name]
            return found[int(index or 0)] if isinstance(found, tuple | list) else found

        for step in self.steps:
            if step.op == "Placeholder":
                values[step.name] = image
                continue
            inputs = [value(reference) for reference in step.inputs]
            if step.op == "ResizeBilinear":
                if learn:
                    height, width = (int(n) for n in inputs[1])
                    self.scales[step.name] = (
                        height / inputs[0].shape[1],
                        width / inputs[0].shape[2],
                    )
                values[step.name] = _resize(inputs[0], self.scales[step.name])
            else:
                values[step.name] = OPERATIONS[step.op](inputs, step.attributes)
        return [value(name) for name in self.outputs]


def _plain(reference: str) -> str:
    return reference.partition(":")[0].lstrip("^")


def _order(nodes: dict[str, Any], outputs: list[str]) -> list[str]:
    """Names of all nodes that `outputs` need, each after its inputs."""
    order: dict[str, None] = {}

    def visit(name: str) -> None:
        if name in order:
            return
        for reference in nodes[name].get("input", ()):
            visit(_plain(reference))
        order[name] = None

    for output in outputs:
        visit(output)
    return list(order)


def _weights(manifest: list[dict[str, Any]], folder: Path) -> dict[str, Tensor]:
    """Read every constant; quantized ones (here 16-bit floats) become 32-bit floats."""
    blob = b"".join((folder / file).read_bytes() for group in manifest for file in group["paths"])
    result: dict[str, Tensor] = {}
    offset = 0
    for entry in (entry for group in manifest for entry in group["weights"]):
        stored = np.dtype(entry.get("quantization", {}).get("dtype", entry["dtype"]))
        count = int(np.prod(entry["shape"]))
        array = np.frombuffer(blob, stored, count, offset).reshape(entry["shape"])
        offset += count * stored.itemsize
        result[entry["name"]] = torch.from_numpy(array.astype(entry["dtype"]))
    if offset != len(blob):
        raise ValueError(f"weights hold {len(blob)} bytes, the graph names {offset}")
    return result


def _attributes(node: dict[str, Any]) -> dict[str, Any]:
    decoded: dict[str, Any] = {}
    for key, value in node.get("attr", {}).items():
        if "s" in value:
            decoded[key] = base64.b64decode(value["s"]).decode()
        elif "f" in value:
            decoded[key] = value["f"]
        elif "i" in value.get("list", {}):
            decoded[key] = [int(item) for item in value["list"]["i"]]
    return decoded


def _resize(image: Tensor, scale: tuple[float, float]) -> Tensor:
    size = (round(int(image.shape[1]) * scale[0]), round(int(image.shape[2]) * scale[1]))
    moved = F.interpolate(image.permute(0, 3, 1, 2), size, mode="bilinear", align_corners=False)
    return moved.permute(0, 2, 3, 1)


def _convolution(inputs: list[Tensor], attributes: dict[str, Any]) -> Tensor:
    image, kernel = inputs
    strides = attributes["strides"][1:3]
    same = attributes["padding"] == "SAME"
    padding = [side // 2 if same else 0 for side in kernel.shape[2:]]
    if any(padding) and strides != [1, 1]:
        raise GraphError("a strided convolution with SAME padding is not supported")
    groups = image.shape[3] // kernel.shape[1]
    moved = _convolve(image.permute(0, 3, 1, 2), kernel, strides, padding, groups)
    return moved.permute(0, 2, 3, 1)


def _convolve(image: Tensor, kernel: Tensor, strides: list[int], padding: list[int], groups: int) -> Tensor:
    if image.device.type == "cpu" and torch.backends.mkldnn.is_available():
        # For one small image torch would choose a matrix product, which takes a third of the whole
        # forward pass where torch is built on a plain BLAS, as Debian's is.
        return torch.mkldnn_convolution(image, kernel, None, padding, strides, [1, 1], groups)
    return F.conv2d(image, kernel, None, strides, padding, 1, groups)


def _pad(inputs: list[Tensor], _: dict[str, Any]) -> Tensor:
    widths = [int(width) for row in reversed(inputs[1].tolist()) for width in row]
    return F.pad(inputs[0], widths, value=float(inputs[2]) if len(inputs) > 2 else 0.0)


def _max_pool(inputs: list[Tensor], attributes: dict[str, Any]) -> Tensor:
    image = inputs[0].permute(0, 3, 1, 2)
    pooled = F.max_pool2d(image, attributes["ksize"][1:3], attributes["strides"][1:3])
    return pooled.permute(0, 2, 3, 1)


def _sparse_to_dense(inputs: list[Tensor], _: dict[str, Any]) -> Tensor:
    indices, shape, values, default = inputs
    dense = torch.zeros([int(side) for side in shape], dtype=default.dtype) + default
    if indices.numel():
        dense[tuple(indices.T.long())] = values
    return dense


def _split(inputs: list[Tensor], _: dict[str, Any]) -> tuple[Tensor, ...]:
    parts: tuple[Tensor, ...] = torch.split(inputs[0], [int(size) for size in inputs[1]], int(inputs[2]))
    return parts


OPERATIONS: dict[str, Callable[[list[Tensor], dict[str, Any]], Any]] = {
    "Add": lambda inputs, _: inputs[0] + inputs[1],
    "AddV2": lambda inputs, _: inputs[0] + inputs[1],
    "ConcatV2": lambda inputs, _: torch.cat(inputs[:-1], int(inputs[-1])),
    "Conv2D": _convolution,
    "Identity": lambda inputs, _: inputs[0],
    "LeakyRelu": lambda inputs, attributes: F.leaky_relu(inputs[0], attributes["alpha"]),
    "MaxPool": _max_pool,
    "Pad": _pad,
    "PadV2": _pad,
    # The only reshapes flatten (1, channels, height, width) to (1, channels, cells).
    "Reshape": lambda inputs, _: inputs[0].flatten(2),
    "ResizeBilinear": lambda inputs, _: inputs[0],
    "Sigmoid": lambda inputs, _: torch.sigmoid(inputs[0]),
    "SparseToDense": _sparse_to_dense,
    "SplitV": _split,
    "Transpose": lambda inputs, _: inputs[0].permute([int(axis) for axis in inputs[1]]),
}
