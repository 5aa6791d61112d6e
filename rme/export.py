"""Writes a model's encoder and decoder as files that run without this package: ONNX, or a torch.export program."""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import rme
from rme import plain_modules
from rme.checkpoint import write_atomically
from rme.errors import first_line
from rme.methods.base import Method
from rme.plain_modules import Decoder, NoPlainModule, PlainModule

if TYPE_CHECKING:
    from rme.model import Model

FORMATS = {"onnx": ".onnx", "torch": ".pt2"}
"""The formats, and their files' suffixes."""
PARTS = ("encoder", "decoder")
ABOUT = "about.json"
"""The file beside the parts: the run, and each part's inputs and outputs with their shapes and units."""

ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
NOT_IN_ONNX = ("cholesky", "triangular")
"""Parts of the names of torch's operations that ONNX lacks."""

TOLERANCE = 1e-3
"""How much an output may differ from the model's own, relative to the largest, or absolutely if that is below 1."""


class ExportError(ValueError):
    """A model cannot be exported; the message says why, and what would work."""


def export(model: Model | Method, folder: str | Path, format: str = "onnx", parts: Sequence[str] = PARTS) -> list[Path]:
    """Write the parts of a model into a folder, and what is known about them; returns the files' paths.

    The encoder takes images (N, C, H, W), float32 in [0, 1], and returns the parameters of q(z|x) (for a flow a draw
    of it and its log-density, from standard normal noise as a second input). The decoder takes latents (N, p) and
    returns the mean of p(x|z) as images. N is any number from 1, and all arithmetic is float32. `about.json` describes
    inputs and outputs and has the decoder's variance. Before anything is written, each part is compared with the model
    on random inputs.

    Args:
        model: a model, or an array of one member.
        folder: created if missing; one for each format. Files of the same names are replaced.
        format: 'onnx' (`encoder.onnx`, for any ONNX runtime), or 'torch' (`encoder.pt2`, for `torch.export.load`).
        parts: 'encoder', 'decoder' or both.

    Raises:
        ExportError: the format or a part is unknown, a package is missing, or the model cannot be exported so.
        OSError: the folder cannot be written.
    """
    if format not in FORMATS:
        raise ExportError(f"format {format!r}: valid values are {', '.join(FORMATS)}")
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise ExportError(f"parts {', '.join(map(repr, unknown)) or 'none'}: valid values are {', '.join(PARTS)}")
    if format == "onnx":
        _require_onnx()
    method = model if isinstance(model, Method) else model.method
    if method.members != 1:
        raise ExportError(f"an array of {method.members} models; expected one model")
    name = method.spec.run_name
    modules = {part: _modules(method, part) for part in dict.fromkeys(parts)}
    about = _about(method, format, {part: plain for part, (plain, _) in modules.items()})
    contents = {}
    for part, (plain, own) in modules.items():
        try:
            content, run = (_onnx if format == "onnx" else _program)(plain, about)
        except ExportError as error:
            raise ExportError(f"{name}: the {part} {error}") from error
        _compare(f"{name}: the {part}", own, run)
        contents[about["parts"][part]["file"]] = content
    contents[ABOUT] = (json.dumps(about, indent=2) + "\n").encode()
    return [_write(Path(folder) / file, content) for file, content in contents.items()]


def _write(path: Path, content: bytes) -> Path:
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
    return path


def _require_onnx() -> None:
    missing = [package for package in ONNX_PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise ExportError(f"format 'onnx' needs {', '.join(missing)}: pip install 'rme[export]'")


def _modules(method: Method, part: str) -> tuple[PlainModule, PlainModule]:
    """The part with plain networks, and the same with the model's own. ExportError if there is no such module."""
    own = plain_modules.on_cpu(method)
    try:
        if part == "decoder":
            return Decoder(plain_modules.with_plain_networks(method, "decoder")), Decoder(own)
        return plain_modules.encoder(plain_modules.with_plain_networks(method)), plain_modules.encoder(own)
    except NoPlainModule as error:
        other = "; --only decoder exports the decoder alone" if part == "encoder" else ""
        raise ExportError(f"{method.spec.run_name}: the {part} cannot be exported: {error}{other}") from None


def _about(method: Method, format: str, parts: Mapping[str, PlainModule]) -> dict[str, Any]:
    spec = method.spec
    return {
        "rme": rme.__version__,
        "run": spec.run_name,
        "key": spec.key,
        "spec": spec.model_dump(mode="json"),
        "format": format,
        "decoder_variance": plain_modules.variance(method),
        "decoder_variance_meaning": "s^2 of p(x|z) = N(decoder(z), s^2 I), of pixels / 255",
        "prior": f"N(0, I) of dimension {spec.dim}",
        "parts": {
            name: {
                "file": name + FORMATS[format],
                "inputs": [asdict(port) | {"dtype": "float32"} for port in part.inputs],
                "outputs": [asdict(port) | {"dtype": "float32"} for port in part.outputs],
            }
            for name, part in parts.items()
        },
    }


# ---------------------------------------------------------------------- the two formats
Run = Callable[..., Mapping[str, Tensor]]
"""Runs an exported part: from its inputs in order to its outputs by name."""


def _program(part: PlainModule, about: Mapping[str, Any]) -> tuple[bytes, Run]:
    """The content of the file for `torch.export.load`, and the program in it."""
    buffer = io.BytesIO()
    torch.export.save(_traced(part), buffer, extra_files={ABOUT: json.dumps(about)})
    content = buffer.getvalue()
    return content, torch.export.load(io.BytesIO(content)).module()


def _onnx(part: PlainModule, about: Mapping[str, Any]) -> tuple[bytes, Run]:
    """The content of the ONNX file, and a session of onnxruntime with it. ExportError for what ONNX cannot compute."""
    import onnxruntime
    from onnxscript import ir

    program = _traced(part)
    lacking = [
        str(node.target) for node in program.graph.nodes if any(name in str(node.target) for name in NOT_IN_ONNX)
    ]
    if lacking:
        raise ExportError(f"computes {lacking[0]}, which ONNX lacks; --format torch exports it")
    inputs, outputs = [port.name for port in part.inputs], [port.name for port in part.outputs]
    try:
        with _quiet():
            made = torch.onnx.export(program, input_names=inputs, output_names=outputs, verbose=False, dynamo=True)
    except torch.onnx.errors.OnnxExporterError as error:
        reason = first_line(error.__cause__ or error)
        raise ExportError(f"cannot become ONNX ({reason}); --format torch may export it") from error
    assert made is not None
    values = (*made.model.graph.inputs, *made.model.graph.outputs)
    for value, port in zip(values, (*part.inputs, *part.outputs), strict=True):
        value.shape = ir.Shape(port.shape)  # with N for torch's own name of that axis
    for node in made.model.graph:
        node.metadata_props.clear()  # stack traces with this machine's paths
    made.model.metadata_props["about"] = json.dumps(about)
    content = made.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(*values: Tensor) -> dict[str, Tensor]:
        found = session.run(outputs, {name: value.numpy() for name, value in zip(inputs, values, strict=True)})
        return dict(zip(outputs, map(torch.as_tensor, found), strict=True))

    return content, run


def _traced(part: PlainModule) -> torch.export.ExportedProgram:
    """The part as a program for any number of images, without the parameters that it does not use."""
    program = _trace(part)
    used = {node.name for node in program.graph.nodes if node.op == "placeholder" and node.users}
    signature = program.graph_signature
    unused = [
        target
        for name, target in {**signature.inputs_to_parameters, **signature.inputs_to_buffers}.items()
        if name not in used
    ]
    for target in unused:
        owner, _, name = target.rpartition(".")
        setattr(part.get_submodule(owner), name, None)
    return _trace(part) if unused else program


def _trace(part: PlainModule) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("N")
    values = tuple(_example(part, 3))
    try:
        with torch.no_grad(), _quiet():
            return torch.export.export(part, values, dynamic_shapes=tuple({0: batch} for _ in values), strict=False)
    except Exception as error:  # a method's own code can raise anything
        raise ExportError(f"cannot be traced by torch.export ({type(error).__name__}: {first_line(error)})") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warnings and progress about the export itself."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


# ---------------------------------------------------------------------- comparison
def _example(part: PlainModule, count: int) -> list[Tensor]:
    """Random inputs for `count` images: images in [0, 1], latents and noise standard normal."""
    generator = torch.Generator().manual_seed(count)
    return [
        (torch.rand if port.name == "images" else torch.randn)(count, *map(int, port.shape[1:]), generator=generator)
        for port in part.inputs
    ]


def _compare(name: str, own: nn.Module, run: Run) -> None:
    """ExportError if a part's outputs differ from the model's by more than `TOLERANCE`."""
    assert isinstance(own, PlainModule)
    for count in (1, 4):
        values = _example(own, count)
        with torch.no_grad():
            expected, found = own(*values), run(*values)
        for output, value in expected.items():
            difference = (found[output] - value).abs().max().item()
            allowed = TOLERANCE * max(1.0, value.abs().max().item())
            if not difference <= allowed:  # also if NaN
                raise ExportError(
                    f"{name} would return another {output}: it differs by {difference:.2g}, allowed is {allowed:.2g}"
                )
