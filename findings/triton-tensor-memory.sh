#!/usr/bin/env bash
# Triton 3.8.0 compiling ahead of time for sm_100 (Blackwell), no GPU. Checked 2026-11.
#
# Expected: a kernel that needs more than the 512 columns of tensor memory that a program can have is refused by
#   triton.compile, as an unknown dtype or a wrong shape is.
# Seen: triton.compile succeeds. The machine code is one `trap`, so the resource usage of the cubin is the best of all:
#   no stack, a handful of registers. Only metadata.tmem_size (1024) tells; the launcher, which raises OutOfResources for
#   it, never runs without a GPU. A gate on spilled bytes or registers passes such a kernel, and a search over tiles by
#   those figures prefers it: check tmem_size, or that the PTX has a tcgen05.mma.
# Two accumulators of 128 x N float32 take 2 N columns: N = 256 just fits, N = 512 does not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --root-user-action ignore --no-deps --target "$folder/packages" triton==3.8.0
cat > "$folder/compile.py" <<'EOF'
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def products(a, b, out, N: tl.constexpr):
    i, j, k = tl.arange(0, 128), tl.arange(0, N), tl.arange(0, 64)
    x = tl.load(a + i[:, None] * 64 + k[None, :])
    y = tl.load(b + k[:, None] * N + j[None, :])
    one = tl.zeros([128, N], tl.float32)
    other = tl.zeros([128, N], tl.float32)
    for _ in range(4):
        one = tl.dot(x, y, one)
        other = tl.dot(x, y, other)
    tl.store(out + i[:, None] * N + j[None, :], one * other)


def compiled(columns):
    signature = {"a": "*fp16", "b": "*fp16", "out": "*fp32", "N": "constexpr"}
    source = ASTSource(fn=products, signature=signature, constexprs={(3,): columns}, attrs={})
    kernel = triton.compile(source, target=GPUTarget("cuda", 100, 32), options={"num_warps": 8})
    ptx = kernel.asm["ptx"]
    return kernel.metadata.tmem_size, "tcgen05.mma" in ptx, "st.global" in ptx, "trap;" in ptx


fits, does_not = compiled(256), compiled(512)
print("tensor memory, products, stores, trap:", fits, does_not)
assert fits == (512, True, True, False), fits
assert does_not == (1024, False, False, True), does_not
EOF
PYTHONPATH="$folder/packages" TRITON_CACHE_DIR="$folder/cache" TRITON_INTERPRET=0 python3 "$folder/compile.py"
