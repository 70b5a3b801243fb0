"""LightDet: a light-weight object detector, and what trains it. To be read in this order:

config      params.yaml -> settings; the errors of all commands
boxes       cells, distances, overlaps, decoding, NMS: what every detector can do
model       backbone, PAN, GFL head; weights files
activations dead channels, flat slopes
assign      ATSS, valuable region
losses      QFL, DFL, GIoU
distill     localization and class distillation
sparsity    2:4 masks
augment     warp, colour, Mosaic, MixUp, CutMix
evaluate    COCO metrics
engine      one training step and its state
train       the loop

machinery/ is what any training needs: files, packs, processes, checkpoints. Nothing heavy is
imported here, so that `import lightdet_core.config` stays quick.
"""
