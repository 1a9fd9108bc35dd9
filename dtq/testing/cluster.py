"""A real cluster for one test or several: a coordinator and a worker as processes, on a free port.

Testing, a thin layer over `client.local`: the same processes that `Executor.local` and `TaskQueue` run for a program.
"""

from __future__ import annotations

from typing import Any

from dtq.client.aio import AsyncClient
from dtq.client.local import LocalCluster
from dtq.client.sync import Client


class Cluster(LocalCluster):
    """A coordinator and a worker of this test's, used as a context manager.

    The worker can import the modules that this program can: ``sys.path`` as it is, and the current directory.
    Everything is kept in memory, unless ``db`` names a file; when the block ends, running tasks are killed.

    Args:
        slots: how many tasks run at once.
        options: as for `LocalCluster`: ``db``, ``durability``, ``highest_first``, ``queues``, ``imports``, ``paths``,
            ``name``.

    Raises:
        InvalidValue: ``slots`` is not at least 1.
    """

    def __init__(self, slots: int = 2, **options: Any) -> None:
        super().__init__(slots, **options)

    def client(self, **options: Any) -> Client:
        """A client of this cluster; its user closes it.

        Args:
            options: as for `Client`, except its address and key.

        Raises:
            ClusterEnded: the cluster does not run.
        """
        return Client(self.address, authkey_file=self.authkey_file, **options)

    def async_client(self, **options: Any) -> AsyncClient:
        """A client for coroutines of this cluster; its user closes it.

        Args:
            options: as for `AsyncClient`, except its address and key.

        Raises:
            ClusterEnded: the cluster does not run.
        """
        return AsyncClient(self.address, authkey_file=self.authkey_file, **options)

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables with which any program finds this cluster: ``Client()`` and ``dtq`` in a process of its
        own.

        Raises:
            ClusterEnded: the cluster does not run.
        """
        return {"DTQ_ADDRESS": self.address, "DTQ_AUTHKEY_FILE": str(self.authkey_file)}

    def __exit__(self, *_: object) -> None:
        self.close(drain=False)
