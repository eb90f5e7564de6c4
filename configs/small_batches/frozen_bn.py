# BatchNorm whose running statistics stay those of the checkpoint that training begins
# from; scale and shift are learned. That is mmaction2's norm_eval.
_base_ = './bn.py'
model = dict(backbone=dict(bn_eval=True))
work_dir = './work_dirs/small_batches/frozen_bn'
