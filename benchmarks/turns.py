"""Contenders that take turns, ours in one process and the others in another; while one works, the other waits.

A process learns from what it has done: how much freed memory to keep, for one. Nobody profits from what ours did.
"""

import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from statistics import median, quantiles
from traceback import print_exc

import numpy as np
import torch
from torch import Tensor


Contenders = dict[str, Callable[[], Tensor | None]]


class Side:
    """A process of its own with the contenders that `make(*options)` returns there; a context manager that ends it."""

    def __init__(self, make: Callable[..., Contenders], *options: object) -> None:
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, options))
        self._process.start()
        theirs.close()  # so that the end of the process is seen here
        self.names: list[str] = self._receive()

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._process.join()

    def seconds(self, name: str, times: int) -> float:
        """Of each of so many calls of a contender, on the average."""
        self._connection.send((name, times))
        return self._receive()

    def result(self, name: str) -> np.ndarray:
        """What a call returns."""
        self._connection.send((name, None))
        return self._receive()

    def _receive(self) -> object:
        try:
            return self._connection.recv()
        except EOFError:
            raise SystemExit("A process of contenders has ended; above stands why.") from None


def take_turns(sides: Sequence[Side], rounds: int, times: int = 1) -> dict[str, list[float]]:
    """Seconds of a call in each turn of `times` calls, by name; a first turn of each is not counted.

    Every other round goes backwards, so that none is always after the same one.
    """
    contenders = [(name, side) for side in sides for name in side.names]
    seconds: dict[str, list[float]] = {name: [] for name, _ in contenders}
    for turn in range(rounds + 1):
        for name, side in contenders[:: -1 if turn % 2 else 1]:
            taken = side.seconds(name, times)
            if turn:
                seconds[name].append(taken)
    return seconds


def times_as_fast(own: Sequence[float], reference: Sequence[float]) -> str:
    """Median and quartiles of the ratios of neighbouring turns, as a cell of a table."""
    if own is reference:
        return "1"
    ratios = [theirs / mine for mine, theirs in zip(own, reference, strict=True)]
    low, _, high = quantiles(ratios, n=4)
    digits = 2 if median(ratios) < 10 else 1
    return f"{median(ratios):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _serve(connection: Connection, make: Callable[..., Contenders], options: Sequence[object]) -> None:
    try:
        _obey(connection, make(*options))
    except EOFError:  # there is nobody left to ask
        return
    except Exception:
        print_exc(file=sys.__stderr__)  # stderr itself may be a file that nobody reads
        raise SystemExit(1) from None


def _obey(connection: Connection, contenders: Contenders) -> None:
    connection.send(list(contenders))
    while True:
        name, times = connection.recv()
        if times is None:
            connection.send(contenders[name]().cpu().numpy())
            continue
        began = time.perf_counter()
        for _ in range(times):
            contenders[name]()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        connection.send((time.perf_counter() - began) / times)
