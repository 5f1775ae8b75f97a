"""Several processes, one batch: embeddings are gathered before the loss.

    python distributed.py [PROCESSES]

Every process computes the loss of the whole batch. `all_gather` of torch.distributed.nn sends the gradients back to the
process of each row and adds them, and DistributedDataParallel takes the mean over the processes. So the update is that
of one process with the whole batch.
"""

import sys
import tempfile

import torch
import torch.distributed as dist
from torch.distributed.nn.functional import all_gather
from torch.nn.parallel import DistributedDataParallel

from wgoal.torch import Loss


class Towers(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.image, self.text = torch.nn.Linear(64, 32), torch.nn.Linear(48, 32)

    def forward(self, images, texts):
        return self.image(images), self.text(texts)


def train(rank, processes):
    torch.manual_seed(0)
    common = torch.randn(256, 16)
    images, texts = (common @ torch.randn(16, width) for width in (64, 48))
    own = torch.arange(rank, len(images), processes)
    model = DistributedDataParallel(Towers())
    # gloo is for processes on CPUs.
    loss = Loss("cir:sig-ms", device="cpu")
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(41):
        x, y = (torch.cat(all_gather(side)) for side in model(images[own], texts[own]))
        value = loss(x, y)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if rank == 0 and step % 10 == 0:
            print(f"step {step:2}  loss {float(value):9.2f}  of {len(x)} pairs in {processes} processes", flush=True)


def process(rank, processes, store):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=processes)
    train(rank, processes)
    # The model holds the group and is gone here, so the threads of the group end in destroy_process_group. That function
    # releases the GIL, which these threads may need to end; a model that goes later would wait for them with the GIL held.
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    processes = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(process, (processes, f"{folder}/store"), nprocs=processes)
