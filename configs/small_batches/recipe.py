# The recipe of the study of small batches, for the configs beside this one: the arrow
# study's clips and networks, long enough for BatchNorm to learn the processes. The rate
# follows a cosine from step to step, since the number of epochs differs.
_base_ = '../arrow/recipe.py'
data = dict(workers_per_gpu=1)
amp = 'bf16'
channels_last = True
lr_config = dict(by_epoch=False)
checkpoint_config = dict(interval=1, max_keep_ckpts=1)
log_config = dict(interval=500)
