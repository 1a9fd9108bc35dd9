"""A module that sets something up in its process when it is imported, as numpy, six and others do."""

from __future__ import annotations

import os
import sys
import warnings


class Finder:
    """Finds nothing."""

    @staticmethod
    def find_spec(*_: object) -> None:
        """Nothing."""
        return


os.environ["LAZY"] = "1"
warnings.filterwarnings("ignore", message="lazy")
sys.meta_path.append(Finder())  # type: ignore[arg-type]
