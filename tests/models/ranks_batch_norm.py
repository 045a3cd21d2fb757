"""Run by test_batch_norm.py on every rank: synchronised batch norm against one process, values, gradients, buffers."""

import os

import torch
import torch.distributed as dist

from fastvarcon.models.batch_norm import synchronise

dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)
x = torch.randn(4 * world, 3, 5, 5, dtype=torch.float64) * 3 + 10
weight = torch.randn_like(x)
single, shared = (torch.nn.Sequential(torch.nn.BatchNorm2d(3)).double() for _ in range(2))
synchronise(shared, torch.device("cpu"), dist.group.WORLD)
mine = slice(4 * rank, 4 * rank + 4)
whole, local = x.clone().requires_grad_(), x[mine].clone().requires_grad_()
(single(whole) * weight).sum().backward()
(shared(local) * weight[mine]).sum().backward()
torch.testing.assert_close(shared(local), single(whole)[mine], rtol=0, atol=1e-12)
torch.testing.assert_close(local.grad, whole.grad[mine], rtol=0, atol=1e-11)
for p in shared.parameters():
    dist.all_reduce(p.grad)
for (name, one), other in zip(single.named_parameters(), shared.parameters(), strict=True):
    torch.testing.assert_close(other.grad, one.grad, rtol=0, atol=1e-10, msg=name)
torch.testing.assert_close(dict(shared.named_buffers()), dict(single.named_buffers()), rtol=0, atol=1e-12)
assert list(shared.state_dict()) == list(single.state_dict())
dist.destroy_process_group()
print("agrees", flush=True)
os._exit(0)  # threads of gloo that are ending as well may abort an interpreter that ends
