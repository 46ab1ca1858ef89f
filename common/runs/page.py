"""The look that all pages share: a run's report.html, that of a comparison, verify.py's table. They load nothing."""

import base64
import hashlib
import re
from pathlib import Path

LOOK = Path(__file__).with_name("look.css")


def page(template: Path, **texts: str) -> str:
    """Return the page in the file `template`, with the shared head and look, and each NAME of `texts` for "THE NAME".

    Its styles and its scripts are allowed by their hashes, and nothing else is: whatever gets into a page by a name or
    a caption does nothing there.
    """
    text = template.read_text(encoding="utf-8").replace("THE LOOK\n", LOOK.read_text(encoding="utf-8"))
    allowed = {kind: _hashes(text, kind) or "'none'" for kind in ("style", "script")}
    policy = (
        f"default-src 'none'; img-src data:; style-src {allowed['style']}; script-src {allowed['script']}; "
        "base-uri 'none'; form-action 'none'"
    )
    head = (
        '<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">'
    )
    # All at once: what is put in may hold such words, too.
    given = {"HEAD": head} | texts
    return re.sub(f"THE ({'|'.join(given)})", lambda found: given[found[1]], text)


def _hashes(text: str, kind: str) -> str:
    blocks = re.findall(f"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(block.encode()).digest()).decode() for block in blocks)
    return " ".join(f"'sha256-{digest}'" for digest in digests)
