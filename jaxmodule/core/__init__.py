"""The bridge between objects and pytrees: boxes, structure and flatten, overlay. See README.md; knows nothing of nn."""
