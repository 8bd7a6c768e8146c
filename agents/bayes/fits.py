"""Fits: hyperparameters that were fitted already, found by what they were fitted to.

A fit takes a second where conditioning takes milliseconds, and an agent that is shown a run again
needs every one.  It depends on the windows alone, so it is kept by a hash of them, in memory
and in `fits.jsonl`: a cache, which can be deleted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from agents.bayes.gp import Hyperparameters
from agents.bayes.surrogate import Observations
from agents.core.encoding import Encoding
from agents.core.files import LineFile

FITS = "fits.jsonl"


class Fits:
    """See the module.

    Args:
        folder: fits are kept there; None: in memory only.
        kept: another folder with fits of an earlier process, to read only.

    Raises:
        OSError: fits of an earlier process cannot be read.
    """

    def __init__(self, folder: Path | None = None, kept: Path | None = None) -> None:
        self._known: dict[str, dict[str, Hyperparameters]] = {}
        self._file: LineFile | None = None
        if kept is not None:
            self._read(LineFile(kept / FITS))
        if folder is not None:
            self._file = LineFile(folder / FITS)
            self._file.mend()
            self._read(self._file)

    def get(self, key: str) -> dict[str, Hyperparameters] | None:
        """Of every process, by name; None: nothing was fitted to that yet."""
        return self._known.get(key)

    def put(self, key: str, hyperparameters: Mapping[str, Hyperparameters]) -> None:
        """Keep a fit.

        Raises:
            OSError: it cannot be written.
        """
        self._known[key] = dict(hyperparameters)
        if self._file is not None:
            plain = {
                name: [h.lengthscales.tolist(), float(h.signal), float(h.floor)]
                for name, h in hyperparameters.items()
            }
            self._file.append({"key": key, "fit": plain})

    def _read(self, file: LineFile) -> None:
        """Know what an earlier process kept; what a damaged line held is fitted again."""
        for line in file.lines():
            try:
                row = json.loads(line)
                fit = {name: _tensors(*parts) for name, parts in row["fit"].items()}
                self._known[str(row["key"])] = fit
            except (ValueError, KeyError, TypeError, AttributeError):
                continue


def key_of(observations: Observations, encoding: Encoding) -> str:
    """16 hex digits of everything that decides a fit."""
    names = sorted(observations.margins)
    arrays = [
        encoding.to_inputs(observations.points),
        observations.contexts,
        observations.rewards,
        observations.standard_errors,
        observations.halvings,
        *(observations.margins[name] for name in names),
    ]
    digest = hashlib.sha256(repr((names, list(encoding.minor))).encode())
    for array in arrays:
        digest.update(repr(array.shape).encode() + np.ascontiguousarray(array, float).tobytes())
    return digest.hexdigest()[:16]


def _tensors(lengthscales: list[float], signal: float, floor: float) -> Hyperparameters:
    return Hyperparameters(
        torch.tensor(lengthscales, dtype=torch.float64),
        torch.tensor(signal, dtype=torch.float64),
        torch.tensor(floor, dtype=torch.float64),
    )
