"""A Kubernetes cluster for tests, and the container images that run on it.

`python -m cluster` (with `tests` on the path) is the whole interface; the Makefile calls it. The
package knows nothing of the product: it starts clusters and builds images, no more.
Only the standard library is used, so that it runs before any environment exists.
"""
