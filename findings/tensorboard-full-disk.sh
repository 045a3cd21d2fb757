#!/usr/bin/env bash
# TensorBoard's event writer after a full disk: one refused write, and it is dead for the rest of the training.
#
# tensorboard 2.20.0, numpy 2.2.6, Python 3.11, Linux, 2026-11. (tensorboard.summary.writer is what
# torch.utils.tensorboard.SummaryWriter and accelerate's tracker write with.)
#
# Expected: the call that meets the full disk raises, and once there is room again the writer goes on, or can be
# flushed; at worst the events in between are lost.
# Seen: the write happens in a thread, so the call that caused it returns as if nothing had happened, and the thread
# ends with a traceback of its own on stderr. Every later add_event and flush (which SummaryWriter.close calls as well)
# raises the stored OSError of that first refusal, also long after there is room again: the rest of the curve is lost,
# and a training that does not catch it everywhere, at its close included, ends. A new writer in the same folder works.
#
# The full disk is a limit of the file size (RLIMIT_FSIZE), so no rights are needed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip install --quiet --no-cache-dir --target "$work/site" tensorboard==2.20.0 numpy==2.2.6
PYTHONPATH="$work/site" python3 - "$work/logs" <<'PY'
import resource, sys, time
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.event_file_writer import EventFileWriter

def write(writer, step):
    writer.add_event(Event(step=step, wall_time=time.time(), file_version="x" * 1000))
    writer.flush()

def refused(action, *args):
    try:
        action(*args)
    except OSError as error:
        return str(error)
    return None

writer = EventFileWriter(sys.argv[1])
write(writer, 0)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # the disk is full
found = [refused(write, writer, step) for step in range(1, 40)]
assert any(found), "the full disk was not noticed"
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))  # there is room again
later = refused(write, writer, 40)
flushing = refused(writer.flush)
print("with room again: add_event", later, "- flush", flushing)
assert later and flushing, "the writer has recovered: the behaviour has changed"
another = EventFileWriter(sys.argv[1], filename_suffix=".2")
assert refused(write, another, 41) is None and refused(another.close) is None
print("a new writer in the same folder works")
PY
