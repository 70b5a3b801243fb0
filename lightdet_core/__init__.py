"""LightDet: a light-weight object detector, its losses, and what the notebooks need.

Nothing heavy is imported here, so that `import lightdet_core.config` stays quick.
"""
