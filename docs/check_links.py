"""Whether every relative link and anchor in the Markdown of this project leads somewhere: python docs/check_links.py

Prints those that do not and ends with exit code 1 if there are any. Anchors are made of headings as GitHub makes them.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ("*.md", "docs/**/*.md")
CODE = re.compile(r"^(```|~~~).*?^\1\s*$|`[^`\n]+`", flags=re.MULTILINE | re.DOTALL)
LINK = re.compile(r'\]\(<?([^)\s>]+)[^)]*\)|(?:href|src)="([^"]+)"')


def broken_links(root: Path) -> Iterator[str]:
    """One line per link to a file that is not there, or to a heading that its page lacks; pages under `root`."""
    for page in sorted({path for pattern in PAGES for path in root.glob(pattern)}):
        for match in LINK.finditer(CODE.sub("", page.read_text(encoding="utf-8"))):
            link = next(filter(None, match.groups()))
            if re.match(r"[a-z]+:", link):
                continue
            name, _, anchor = link.partition("#")
            target = (page.parent / name).resolve() if name else page
            if not target.exists():
                yield f"{page.relative_to(root)}: {link}: there is no such file"
            elif anchor and target.suffix == ".md" and anchor not in anchors(target.read_text(encoding="utf-8")):
                yield f"{page.relative_to(root)}: {link}: the page has no such heading"


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings; a heading that comes again gets -1, -2, …"""
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#{1,6}\s+(.+?)\s*#*$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M):
        plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


if __name__ == "__main__":
    broken = list(broken_links(ROOT))
    print("\n".join(broken) or "all links lead somewhere")
    sys.exit(1 if broken else 0)
