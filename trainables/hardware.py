"""What the machine does for a trial: device, precision, threads, memory share, and where compiled code is kept.

`resolve` turns the settings into facts and changes nothing; `prepare_process` is the one place that touches
process-wide state (threads, TF32, the memory cap, Inductor's cache folder), called when an engine is built.
"""

from __future__ import annotations

import logging
import os
import shutil
import sysconfig
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainables.data.cache import cache_folder, mark_used
from trainables.settings import DataSettings, HardwareSettings, require

logger = logging.getLogger(__name__)

PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16}
MAX_COMPILE_THREADS = 8
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The facts behind `HardwareSettings` on this machine."""

    device: torch.device
    """Where the model lives."""
    autocast: torch.dtype | None
    """Type of the model's arithmetic; None for float32 throughout."""
    channels_last: bool
    """Whether channels lie innermost in memory, where that is faster."""
    threads: int
    """CPU threads of this process."""
    memory_fraction: float
    """Share of the GPU memory the process may allocate, in (0, 1]."""
    tf32: bool
    """TF32 matrix products and cudnn.benchmark."""

    @property
    def cuda(self) -> bool:
        """Whether the model lives on a CUDA device."""
        return self.device.type == "cuda"

    def memory_format(self, spatial_dims: int) -> torch.memory_format:
        """Of a network's convolutions and images in 2 or 3 dimensions."""
        channels_last = torch.channels_last if spatial_dims == 2 else torch.channels_last_3d
        return channels_last if self.channels_last else torch.contiguous_format


def resolve(settings: HardwareSettings, *, share: float, cpus: int) -> Hardware:
    """The facts for these settings here. share: part of one GPU the trial owns, cpus: the CPUs it asked for.

    Raises SettingsError for cuda where there is none.
    """
    has_cuda = torch.cuda.is_available()
    require(
        settings.device != "cuda" or has_cuda,
        "hardware.device",
        "cuda",
        "torch sees no CUDA device here",
        "Use hardware=cpu, or install the CUDA build of torch and give the trial a GPU (resources.gpus_per_trial)",
    )
    on_cuda = has_cuda and settings.device != "cpu"
    share = share if 0 < share <= 1 else 1.0
    return Hardware(
        device=torch.device("cuda", torch.cuda.current_device()) if on_cuda else torch.device("cpu"),
        autocast=_autocast(settings.precision, on_cuda),
        channels_last=settings.channels_last,
        threads=settings.threads or max(1, int(cpus)),
        memory_fraction=settings.memory_fraction or share,
        tf32=settings.tf32,
    )


def _autocast(precision: str, on_cuda: bool) -> torch.dtype | None:
    if precision == "auto":
        if not on_cuda:
            return None
        # bf16 needs no loss scaling; the 3090s (8.6) have it too, but published runs there used fp16.
        return torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 9) else torch.float16
    return PRECISIONS.get(precision)


def require_cpu_precision(precision: str, patch: Sequence[int]) -> None:
    """SettingsError for hardware.precision that cannot train on the CPU: fp16, and bf16 of a network in 3D.

    patch: (D, H, W). oneDNN (with torch 2.13, on processors with AVX-512) reads memory that nothing has written in the
    weight gradient of a bfloat16 3D convolution two planes thick, and in its output of one plane: random weights, and
    not a number after a few epochs. 2D, float32 and CUDA do not go that way.
    """
    in_3d, name = patch[0] > 1, "hardware.precision"
    fix = f"Choose {'' if in_3d else 'bf16, '}off or auto on the CPU"
    require(precision != "fp16", name, precision, "float16 training needs a CUDA device", fix)
    rule = "the gradients of bfloat16 convolutions in 3D are wrong on the CPU"
    require(precision != "bf16" or not in_3d, name, precision, rule, f"{fix}, or patches one slice thick")


def prepare_process(hardware: Hardware, data: DataSettings) -> None:
    """Set threads, TF32, memory cap and the compile cache of this process; safe to call again with other facts."""
    torch.set_num_threads(hardware.threads)
    for name in THREAD_VARIABLES:
        os.environ[name] = str(hardware.threads)  # for children: this process has already loaded its libraries
    keep_graphs(data)
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(compile_threads(hardware)))
    if hardware.cuda:
        torch.set_float32_matmul_precision("high" if hardware.tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = hardware.tf32
        torch.backends.cudnn.benchmark = hardware.tf32
        torch.cuda.set_per_process_memory_fraction(hardware.memory_fraction, hardware.device)


def keep_graphs(data: DataSettings) -> None:
    """Have Inductor keep what it compiles in the cache, apart by vector width: it would take another processor's."""
    graphs = cache_folder(data) / "inductor"
    mark_used(graphs)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(graphs / torch.backends.cpu.get_cpu_capability().lower()))


def compile_threads(hardware: Hardware) -> int:
    """Kernels that Inductor compiles at once: the trial's threads on CUDA, all cores (at most 8) on the CPU.

    All slots of a machine compile the same kernels, each of them once, under a lock in the shared cache: with one
    thread per trial they wait for each other, one kernel at a time, while the other cores stand idle.
    """
    if hardware.cuda:
        return hardware.threads
    return max(hardware.threads, min(MAX_COMPILE_THREADS, len(os.sched_getaffinity(0))))


def compiler_problem() -> str:
    """Why torch.compile cannot build code here, with the fix; empty where a C++ compiler and Python.h are found."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler.split()[0]) is None:
        return f"there is no C++ compiler ({compiler}); install one (apt install g++) or set CXX"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        return "Python.h is missing; install Python's development files (apt install python3-dev)"
    return ""


class CompileClock:
    """Counts from its making on, until `torch.compiler.reset`. Both stay 0 where nothing is compiled.

    A backward graph that is compiled when it is first used, and the recording of CUDA graphs, take seconds too; they
    belong to a graph that is counted already.
    """

    seconds: float = 0.0
    graphs: int = 0
    """Graphs traced, those traced again for other shapes or constants included: a network needs two per process."""
    counting: bool = True
    """Whether it is this network that is compiled, where a process has several."""

    def __init__(self, *, running: bool) -> None:
        if running:
            from torch._dynamo import callback_handler  # its import takes seconds

            callback_handler.register_start_callback(self._begin)
            callback_handler.register_end_callback(self._end)

    def _begin(self, what: Any) -> None:
        self._began = time.perf_counter()
        self.graphs += self.counting and what.callback_trigger.name == "DYNAMO"

    def _end(self, what: Any) -> None:
        self.seconds += time.perf_counter() - self._began
