"""The nouns: schedule, denoiser, operator, likelihood, h-transform, sampler, and what joins them. Every room above
imports this one."""
