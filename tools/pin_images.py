"""Pin the images of others in deploy/ by digest, as registries tell it. Reads and writes files; calls registries.

    python tools/pin_images.py --registry URL            # write the digests that the tags have now
    python tools/pin_images.py --registry URL --check    # change nothing; exit status 1 if a digest lacks or differs

An image that names no registry is asked for at URL, as container engines ask their default one: `redis` is
`library/redis` there. The digest is that of the tag's own manifest, which for an image of several platforms is their
list. Exit status 2: a registry cannot be asked; nothing is written. Only the standard library is needed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
OWN = "lookalike/"  # Built from the Dockerfile.
TIMEOUT_S = 30
MAX_BYTES = 4 << 20  # Of a manifest: what the specification asks registries to accept.
MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
# How images are written in a Dockerfile, in a manifest, and in the `images` of a kustomization.
FORMS = (
    re.compile(r"(?m)^FROM (?P<name>[\w./:-]+?):(?P<tag>[\w.-]+)(?:@(?P<digest>\S+))?(?= AS |$)"),
    re.compile(r"(?m)^\s*(?:- )?image: (?P<name>[\w./:-]+?):(?P<tag>[\w.-]+)(?:@(?P<digest>\S+))?$"),
    re.compile(r"\{name: (?P<name>[\w./:-]+), newTag: (?P<tag>[\w.-]+)(?:, digest: (?P<digest>[^}]+))?\}"),
)


class RegistryError(Exception):
    """A registry cannot be asked, or its answer is none."""


@dataclass(frozen=True)
class Image:
    """An image at a tag."""

    name: str
    tag: str

    def location(self, default_registry: str) -> tuple[str, str]:
        """The URL of the registry, and the name of the repository there."""
        host, slash, rest = self.name.partition("/")
        if slash and ("." in host or ":" in host or host == "localhost"):
            return f"https://{host}", rest
        return default_registry.rstrip("/"), self.name if slash else f"library/{self.name}"


def digest_of(image: Image, default_registry: str) -> str:
    """The digest of an image's manifest, of which the bytes are verified."""
    registry, repository = image.location(default_registry)
    url = f"{registry}/v2/{repository}/manifests/{urllib.parse.quote(image.tag)}"
    headers = {"Accept": ", ".join(MANIFESTS)}
    try:
        try:
            told, body = _get(url, headers)
        except urllib.error.HTTPError as refusal:
            if refusal.code != 401:
                raise
            token = _token(refusal.headers.get("WWW-Authenticate", ""), repository)
            told, body = _get(url, headers | {"Authorization": f"Bearer {token}"})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RegistryError(f"{image.name}:{image.tag}: {url}: {error}") from error
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    if told.get("Docker-Content-Digest", digest) != digest:
        raise RegistryError(f"{image.name}:{image.tag}: {url}: the manifest is not that of its Docker-Content-Digest")
    if told.get("Content-Type", "").partition(";")[0] not in MANIFESTS:
        raise RegistryError(f"{image.name}:{image.tag}: {url}: no manifest, but {told.get('Content-Type')}")
    return digest


def _get(url: str, headers: Mapping[str, str]) -> tuple[Mapping[str, str], bytes]:
    if not url.startswith(("https://", "http://")):
        raise ValueError("no URL of http or https")
    with urllib.request.urlopen(urllib.request.Request(url, headers=dict(headers)), timeout=TIMEOUT_S) as answer:  # noqa: S310
        body: bytes = answer.read(MAX_BYTES + 1)
        if len(body) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        return answer.headers, body


def _token(challenge: str, repository: str) -> str:
    """An anonymous token, from the service that the registry's challenge names."""
    scheme, _, rest = challenge.partition(" ")
    fields = dict(re.findall(r'(\w+)="([^"]*)"', rest))
    if scheme.lower() != "bearer" or "realm" not in fields:
        raise ValueError(f"asks for {challenge or 'nothing that is understood'}")
    query = {"service": fields.get("service", ""), "scope": fields.get("scope", f"repository:{repository}:pull")}
    _, body = _get(f"{fields['realm']}?{urllib.parse.urlencode(query)}", {})
    answer = json.loads(body)
    return str(answer.get("token") or answer["access_token"])


def images_in(text: str) -> dict[Image, set[str | None]]:
    """The images of others that a file names, with the digests that it pins them by."""
    found: dict[Image, set[str | None]] = {}
    for form in FORMS:
        for match in form.finditer(text):
            if not match["name"].startswith(OWN):
                found.setdefault(Image(match["name"], match["tag"]), set()).add(match["digest"])
    return found


def pinned(text: str, digests: Mapping[Image, str]) -> str:
    """The file with these digests."""

    def replaced(match: re.Match[str]) -> str:
        digest = digests.get(Image(match["name"], match["tag"]))
        if digest is None:
            return match[0]
        if match["digest"]:
            return match[0].replace(match["digest"], digest)
        return f"{match[0][:-1]}, digest: {digest}}}" if match[0].endswith("}") else f"{match[0]}@{digest}"

    for form in FORMS:
        text = form.sub(replaced, text)
    return text


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--registry", required=True, metavar="URL", help="of the images that name no registry")
    parser.add_argument("--deploy", type=Path, default=DEPLOY, metavar="DIR", help="whose files are pinned")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a digest lacks or differs")
    options = parser.parse_args(argv)
    files = sorted(path for path in options.deploy.rglob("*") if path.name == "Dockerfile" or path.suffix == ".yaml")
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    images = sorted({image for text in texts.values() for image in images_in(text)}, key=str)
    try:
        digests = {image: digest_of(image, options.registry) for image in images}
    except RegistryError as error:
        print(f"pin_images: {error}; nothing was changed", file=sys.stderr)
        return 2
    for image, digest in digests.items():
        print(f"{image.name}:{image.tag} is {digest}")
    stale = {path: new for path, text in texts.items() if (new := pinned(text, digests)) != text}
    for path, text in stale.items():
        print(f"{path.relative_to(options.deploy)}: {'not pinned by these digests' if options.check else 'pinned'}")
        if not options.check:
            path.write_text(text, encoding="utf-8")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
