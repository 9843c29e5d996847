"""A process that holds a folder's lock, and has a worker: ``holder.py FOLDER``."""

import multiprocessing
import sys
import time
from pathlib import Path

from zfcuda.storage.ranks import Shard
from zfcuda.storage.run_folder import claimed


def main(folder):
    with claimed(folder, Shard()):
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        worker.start()
        time.sleep(0.2)  # so that it has begun
        print(worker.pid, flush=True)
        worker.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
