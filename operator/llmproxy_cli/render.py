"""`llmproxy render`: the objects that the operator creates for an LLMProxy, as YAML."""

import yaml

from llmproxy_api import SpecError
from llmproxy_cli.manifests import FileError, ManifestBundle
from llmproxy_operator.render import Inputs, digested, render, revision
from llmproxy_operator.render.inputs import DEFAULT_STORE_IMAGE

IMAGE = "localhost/llmproxy:dev"
"""Placeholder of the operator's default image."""


def render_text(bundle: ManifestBundle, *, image: str = IMAGE, store_image: str = DEFAULT_STORE_IMAGE) -> str:
    """Return the child objects as YAML documents, with the images of an operator's settings; raise FileError."""
    digests = dict.fromkeys(digested(bundle.proxy), "unknown")
    try:
        inputs = Inputs(image=image, secret_digests=digests, store_image=store_image)
        rendered = render(bundle.proxy, revision(bundle.proxy, inputs))
    except SpecError as exc:
        raise FileError("\n".join(str(problem) for problem in exc.problems)) from exc
    # A ControllerRevision repeats template and document.
    objects = [item for item in rendered if item["kind"] != "ControllerRevision"]
    for item in objects:
        item["metadata"].pop("ownerReferences", None)  # the owner is in no cluster
    return yaml.dump_all(objects, Dumper=_BlockStyleDumper, sort_keys=False, allow_unicode=True, explicit_start=True)


class _BlockStyleDumper(yaml.SafeDumper):
    """Writes multi-line text in block style."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_BlockStyleDumper.add_representer(str, _represent_text)
