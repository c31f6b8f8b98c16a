"""deft inside diffusers: a pipeline with the conventions that users of diffusers know (docs/pipeline.md).

Needs the extra `diffusers`. `import deft` does not import this package.
"""

from __future__ import annotations

from deft.diffusers.pipeline import DeftPipeline, DeftPipelineOutput

__all__ = ["DeftPipeline", "DeftPipelineOutput"]
