"""Decoding beside the network: threads that work ahead, and who waits for whom.

Threads, not processes: PyAV and OpenCV let go of Python's lock, and images
need no copy from one process to another.
"""

import collections
import concurrent.futures
import contextlib
import queue
import threading
import time


def ahead(function, items, workers, lookahead):
    """Call a function for items in threads, some ahead of what is taken.

    Args:
        function (callable): of an item.
        items (iterable): taken as they are needed.
        workers (int): threads.
        lookahead (int): results, at most, that wait to be taken.

    Yields:
        what the function returns, in the order of the items.

    Raises:
        what it raises, where its result would stand.
    """
    items = iter(items)
    pool = concurrent.futures.ThreadPoolExecutor(workers)
    waiting = collections.deque()
    try:
        while True:
            while len(waiting) < lookahead:
                try:
                    waiting.append(pool.submit(function, next(items)))
                except StopIteration:
                    break
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def in_thread(items, size, drop_oldest=False):
    """Take items in a thread, some ahead.

    Args:
        items (iterable): taken in the thread.
        size (int): items, at most, that wait.
        drop_oldest (bool): where that many wait, the oldest gives way, so
            that the thread is never held up; for live cameras.

    Yields:
        the items.

    Raises:
        what taking them raises, after those before.
    """
    waiting = queue.Queue(size)
    stop = threading.Event()
    end = object()

    def put(item):
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                return waiting.put(item, timeout=0.1)
        return None

    def work():
        fault = None
        try:
            for item in items:
                if drop_oldest and waiting.full():
                    with contextlib.suppress(queue.Empty):
                        waiting.get_nowait()
                put(item)
                if stop.is_set():
                    return
        except BaseException as error:  # for the thread that takes the items
            fault = error
        put((end, fault))

    # A daemon: a camera may keep it for ever.
    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            item = waiting.get()
            if isinstance(item, tuple) and item[0] is end:
                if item[1] is not None:
                    raise item[1]
                return
            yield item
    finally:
        stop.set()


class Times:
    """The seconds that decoding, the network and writing files took.

    Clips are decoded beside the network: whichever takes longer is the limit.
    """

    PARTS = ('decoding', 'network', 'files')

    def __init__(self):
        self.seconds = dict.fromkeys(self.PARTS, 0.0)
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def of(self, part, share=1):
        """What the block takes is added to a part's seconds.

        Args:
            part (str): one of PARTS.
            share (int): blocks that run side by side.
        """
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[part] += (time.perf_counter() - start) / share

    def decoding(self, items):
        """Take items in the thread that decodes.

        Args:
            items (iterable): of decoded clips.

        Yields:
            the items.
        """
        items, end = iter(items), object()
        while True:
            with self.of('decoding'):
                item = next(items, end)
            if item is end:
                return
            yield item

    @property
    def limit(self):
        """str: the part that took longest: 'the decoder' and so on."""
        names = dict(decoding='the decoder', network='the network', files='writing')
        return names[max(self.seconds, key=self.seconds.get)]

    def __str__(self):
        text = ', '.join(
            f'{part} {seconds:.1f} s'
            for part, seconds in self.seconds.items()
            if part != 'files' or seconds >= 0.1
        )
        return f'{text}: {self.limit} is the limit'
