"""What the operator would make of a file, as text for people."""

import yaml

from llmproxy_api import SpecError
from llmproxy_cli.manifests import Bundle, FileError
from llmproxy_operator.render import Inputs, digested, render, revision
from llmproxy_operator.render.inputs import DEFAULT_STORE_IMAGE

IMAGE = "localhost/llmproxy:dev"
"""Stands for the image that an operator was installed with."""


def render_text(bundle: Bundle, *, image: str = IMAGE, store_image: str = DEFAULT_STORE_IMAGE) -> str:
    """Return the child objects as YAML documents, with the images of an operator's settings; raise FileError."""
    digests = dict.fromkeys(digested(bundle.proxy), "unknown")
    try:
        inputs = Inputs(image=image, secret_digests=digests, store_image=store_image)
        rendered = render(bundle.proxy, revision(bundle.proxy, inputs))
    except SpecError as exc:
        raise FileError("\n".join(str(problem) for problem in exc.problems)) from exc
    # What a cluster keeps of the template and the document says the same once more.
    objects = [item for item in rendered if item["kind"] != "ControllerRevision"]
    for item in objects:
        item["metadata"].pop("ownerReferences", None)  # the owner is in no cluster
    return yaml.dump_all(objects, Dumper=_Readable, sort_keys=False, allow_unicode=True, explicit_start=True)


class _Readable(yaml.SafeDumper):
    """Writes text of several lines as it stands."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Readable.add_representer(str, _text)
