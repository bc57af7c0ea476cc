# Copyright (c) monai-sa2va contributors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.


"""``monai-sa2va verify``: whether results are where their sources are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

__all__ = ["verify"]


def verify(
    output: Annotated[Path, typer.Argument(help="Output folder of a run, or a SEG that came back from a server.")],
    source: Annotated[
        Optional[list[Path]],  # noqa: UP045 - typer evaluates it, and Python 3.10 has to as well
        typer.Option(
            metavar="PATH",
            help="Folder, zip or file in which the sources are looked for by their UIDs; may be given several times. "
            "Without it results are compared with each other and with their reports.",
        ),
    ] = None,
    tolerance: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            metavar="MM",
            min=0,
            help="How far a corner may be from its place. [default: 0.05, and in NIfTI and NRRD a hundredth of a step "
            "where that is more]",
        ),
    ] = None,
) -> None:
    """Check positions, orientation, spacing, frame of reference, voxels and hashes of results; merge shards' tables.

    Needs no model. Exit codes: 0 all is right, 1 something differs, 2 there is nothing to verify.
    """
    from monai_sa2va.verify.run import verify_results
    from monai_sa2va.verify.shards import merge_tables

    verdicts = []
    for verdict in verify_results(output, source or [], tolerance):
        verdicts.append(verdict)
        for problem in verdict.problems:
            typer.echo(f"{verdict.folder}: {problem}", err=True)
    merged = merge_tables(output) if output.is_dir() else []
    for table in merged:
        if table.missing:
            typer.echo(f"tables are missing, so they are not merged: {', '.join(table.missing)}", err=True)
        else:
            typer.echo(f"wrote {table.name}: {table.rows} rows of {table.shards} shards")
    wrong = sum(bool(verdict.problems) for verdict in verdicts)
    errors = [verdict.corner_mm for verdict in verdicts if verdict.corner_mm is not None]
    typer.echo(
        f"{len(verdicts) - wrong} of {len(verdicts)} results verified"
        f"{f', {sum(v.against_source for v in verdicts)} against their sources' if source else ', without sources'}; "
        f"{sum(verdict.files for verdict in verdicts)} files as they were written; "
        + (f"largest corner error {max(errors):.2g} mm" if errors else "no places to compare")
    )
    if wrong or any(table.missing for table in merged):
        raise typer.Exit(1)
