"""`condiff export`: write the graphs that let a model run without torch."""

import json
from pathlib import Path
from typing import Annotated

import typer

from condiff.cli import options


def export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model folder, or an embedded model's name.")
    ],
    out: Annotated[
        Path | None,
        typer.Argument(
            metavar="OUT",
            help="Write a copy of the model with graphs to this new folder (default: write the "
            "graphs into MODEL).",
            show_default=False,
        ),
    ] = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> None:
    """Write the ONNX graphs that run a model without torch.

    The engines onnx and openvino run them. They contain no weights, but refer to the model's
    safetensors files, and are checked against torch at two sizes. The folder's path is printed on
    stdout.
    """
    options.quiet_libraries()
    from condiff.backends.onnx_export import CALL_TOLERANCE, compare_engines, write_graphs

    folder = write_graphs(model, out)
    differences = compare_engines(folder)
    for found in differences:
        height, width = found.size
        options.report(
            f"{found.engine} against torch, condition {width}x{height}: encoder "
            f"{found.encoder:.1e}, U-Net {found.unet:.1e} (at most {CALL_TOLERANCE:g})",
            quiet=quiet,
        )
    record = {"target": str(folder), "differences": [found._asdict() for found in differences]}
    print(json.dumps(record) if as_json else folder)
