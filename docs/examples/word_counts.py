"""The words that Python's own documentation uses most, counted with an asyncio queue.

    python docs/examples/word_counts.py [NUMBER_OF_FILES]

Needs dtq alone. The text is real: every docstring of the standard library. Each task parses one file.
"""

from __future__ import annotations

import ast
import asyncio
import re
import sys
import sysconfig
from collections import Counter
from pathlib import Path

from dtq import TaskQueue

FILES = 150
#: Words that say nothing.
STOPWORDS = re.compile("an?|and|are|as|be|by|for|from|if|in|is|it|not|of|on|or|that|the|this|to|with")


def count(path: str) -> Counter[str]:
    """The words of all docstrings of one file."""
    tree = ast.parse(Path(path).read_bytes())
    words: Counter[str] = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node) or ""
            words.update(word for word in re.findall(r"[a-z]{2,}", text.lower()) if not STOPWORDS.fullmatch(word))
    return words


def files(number: int) -> list[str]:
    """Some files of the standard library, always the same."""
    return [str(path) for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:number]]


async def main() -> None:
    paths = files(int(sys.argv[1]) if len(sys.argv) > 1 else FILES)
    async with TaskQueue(num_workers=2) as queue:
        # What is wanted soon goes first: in this queue a higher number is more urgent.
        urgent = await queue.submit(count, paths[0], priority=10)

        total: Counter[str] = Counter()
        async for words in queue.client.map(count, paths):  # one batch; results as they come, in order
            total += words

        assert await queue.result(urgent) == count(paths[0])
        print(f"{sum(total.values())} words in {len(paths)} files; {queue.get_stats()['completed']} tasks")
        for word, times in sorted(total.items(), key=lambda item: (-item[1], item[0]))[:10]:
            print(f"{times:6} {word}")


if __name__ == "__main__":
    from word_counts import main  # by its name: the workers import `count` from there

    asyncio.run(main())
