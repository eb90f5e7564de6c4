"""Doing a task for many items in processes, as all tools for data do."""

import concurrent.futures
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading

from hosts import HostError
from rich.progress import track


def side_by_side(task, items, workers, title):
    """Do a task for each item in processes, with a progress bar.

    Args:
        task (callable): of an item; at a module's top, so that processes know it.
        items (list): its arguments.
        workers (int): processes.
        title (str): of the progress bar.

    Yields:
        what the task returns, in the order of the items.

    Raises:
        HostError: there is no worker.
    """
    if workers < 1:
        raise HostError('--workers must be at least 1')
    if not items:
        return
    # Spawned: a fork of a process with threads, as the bar has, can hang, and it would
    # hold this process's locks.
    pool = concurrent.futures.ProcessPoolExecutor(
        min(workers, len(items)), multiprocessing.get_context('spawn'), start_worker
    )
    # Workers leave Ctrl-C to this process from their start on.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        done = pool.map(task, items)
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        yield from track(done, title, len(items))
    finally:
        pool.shutdown(cancel_futures=True)


def start_worker():
    """A worker has one thread, and ends with its parent, however that ends."""
    import cv2

    def follow_parent():
        parent = multiprocessing.parent_process()
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    cv2.setNumThreads(1)
    threading.Thread(target=follow_parent, daemon=True).start()
