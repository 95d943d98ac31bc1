"""Several processes in one training: who is who, sums over all, and tensors that are whole or in shards."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rsvlm.errors import DataError
from rsvlm.records import files


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """Join the other processes that `torchrun` started, for as long as the context lasts.

    Yields:
        The device of this process: of several GPUs its own.
    """
    if device.type == "cuda" and "LOCAL_RANK" in os.environ:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    joining = int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized()
    if joining:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        if joining:
            dist.destroy_process_group()


def rank() -> int:
    """Return the number of this process, from 0; only process 0 writes files."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """Return how many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def write(path: Path, data: bytes | str) -> None:
    """Write a file in process 0, after all processes have come so far; none goes on before the file is there."""
    if size() > 1:
        dist.barrier()  # what a process decided by the absence of the file is decided by now
    if rank() == 0:
        files.write_atomic(path, data)
    if size() > 1:
        dist.barrier()


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Keep other trainings out of a folder, as `files.sole_writer`, for all processes of this one; all of them call it.

    Raises:
        DataError: Another training writes there; every process raises it.
    """
    with contextlib.ExitStack() as stack:
        problem = None
        if rank() == 0:
            try:
                stack.enter_context(files.sole_writer(folder))
            except DataError as error:
                problem = error
        if size() > 1:
            problems = [problem]
            dist.broadcast_object_list(problems)
            problem = problems[0]
        if problem is not None:
            raise problem
        yield


def add_up(tensor: Tensor) -> Tensor:
    """Replace a tensor, in place, by its sum over all processes."""
    if size() > 1:
        dist.all_reduce(tensor)
    return tensor


def gather(rows: Tensor, share: int) -> tuple[Tensor, int]:
    """Gather rows of all processes.

    Args:
        rows: (n, D) of this process; n may differ between processes.
        share: Upper bound of n, the same in all processes.

    Returns:
        The (N, D) rows of all, by rank, and the index of this process's first.
    """
    if size() == 1:
        return rows, 0
    padded = rows.new_zeros(size(), share, rows.shape[1] + 1)
    padded[rank(), : len(rows), :-1] = rows
    padded[rank(), : len(rows), -1] = 1
    add_up(padded)
    real = padded[..., -1] > 0  # (size, share)
    return padded[real][:, :-1].contiguous(), int(real[: rank()].sum())


def in_shards(tensor: Tensor) -> bool:
    """Return whether a tensor is a DTensor, judged by its methods, because importing the class takes seconds."""
    return hasattr(tensor, "full_tensor")


def shard(model: nn.Module, blocks: Iterable[nn.Module], whole: set[nn.Parameter], methods: Iterable[str]) -> None:
    """Shard a model over the processes, in place (FSDP2): each of the `blocks` is a unit, and so is all the rest.

    Args:
        model: Model to shard.
        blocks: Parts of it that are gathered one at a time.
        whole: Parameters that every process keeps.
        methods: Names of methods other than `forward` that will be called on the model.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    for block in blocks:
        fully_shard(block)
    fully_shard(model, ignored_params=whole, reshard_after_forward=True)
    for method in methods:
        register_fsdp_forward_method(model, method)


def local(tensor: Tensor) -> Tensor:
    """Return this process's shard of a tensor, or the tensor where it is not in shards; writing to it writes to the tensor."""
    return tensor.detach().to_local() if in_shards(tensor) else tensor.detach()


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor put together from its shards, in CPU memory; all processes take part."""
    tensor = tensor.full_tensor() if in_shards(tensor) else tensor
    return tensor.detach().cpu().contiguous()


def like(value: Tensor, example: Tensor | None) -> Tensor:
    """Cut a whole tensor into the shards of another of its shape; unchanged where that is not in shards."""
    if example is None or not in_shards(example) or value.shape != example.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(example.device), example.device_mesh, example.placements, src_data_rank=None)
